"""Weights & Biases as a view of the ledger: one run a lineage, drawn over ``generation``.

Three things go wrong where W&B meets a loop, and each has its answer here. *It waits*: for a key,
a server, an upload; so the mode is decided before anything is asked, and every wait is bounded.
*It forgets or repeats*: an offline run cannot be continued, so one that nobody has synced yet is
dropped and drawn anew from the ledger, under its old id; an online run gets what its server lacks.
*It fails*: then one line says so and the lineage goes on, because no number depends on it.

Keys of a run:

    <section>/<metric>, as the metric states: fidelity, diversity, distance, copies, other
    floor/<metric>  data/{n_real,n_fresh,n_synthetic}  seconds/<phase>  samples    over generation
    train/<what the generator logs>           over train/images, counted through all generations
"""

from __future__ import annotations

import math
import netrc
import os
import re
import secrets
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from mad_lightning.callbacks.base import LineageCallback, LineageInfo
from mad_lightning.callbacks.console import say
from mad_lightning.files import read_json, write_json
from mad_lightning.lineage.ledger import GenerationRecord
from mad_lightning.lineage.quantities import SECTIONS, Quantity
from mad_lightning.policies import Mix
from mad_lightning.refusal import Refused

__all__ = ["WandB", "history_row"]


def history_row(record: GenerationRecord) -> dict[str, Any]:
    """What W&B gets for one generation, without its picture."""
    quantities = record.quantities
    return {
        "generation": record.generation,
        **{f"{quantities[name].section}/{name}": v for name, v in record.metrics.items()},
        **{f"floor/{name}": v for name, v in record.floor.items()},
        **{f"data/{name}": getattr(record, name) for name in ("n_real", "n_fresh", "n_synthetic")},
        **{f"seconds/{name}": v for name, v in record.seconds.items()},
    }


class WandB(LineageCallback):
    """Shows a lineage in W&B: online where there is a key and a network, else offline.

    Args:
        project: W&B project.
        entity: W&B user or team; None takes the default of the account.
        group: Runs to draw together; None takes the lineage's name without its seed.
        mode: ``auto`` goes by ``WANDB_MODE``, else online if a key is found (``WANDB_API_KEY``,
            ``wandb login``), else offline.
        init_timeout: Seconds to wait for the server at the start; then the run is offline.
        finish_timeout: Seconds to wait for the upload at the end; the rest can be synced later.
        tags: W&B tags.
    """

    def __init__(
        self,
        project: str = "mad-lightning",
        entity: str | None = None,
        group: str | None = None,
        mode: Literal["auto", "online", "offline", "disabled"] = "auto",
        init_timeout: float = 20.0,
        finish_timeout: float = 120.0,
        tags: list[str] | None = None,
    ) -> None:
        self.project, self.entity, self.group, self.tags = project, entity, group, tags
        self.mode, self.init_timeout, self.finish_timeout = mode, init_timeout, finish_timeout
        self.failure: Exception | None = None  # what ended the view early
        self._run: Any = None

    def check(self, quantities: Mapping[str, Quantity]) -> None:
        """Refuses a wait without end."""
        for name in ("init_timeout", "finish_timeout"):
            if getattr(self, name) <= 0:
                raise Refused(
                    name,
                    f"{getattr(self, name):g} seconds would be a wait without end",
                    "take e.g. 20",
                )

    # hooks

    def on_lineage_start(self, lineage: LineageInfo, records: Sequence[GenerationRecord]) -> None:
        """Opens the run and logs what it lacks; does nothing if it lacks nothing."""
        self._lineage, self._records = lineage, list(records)
        self._run, self.failure = None, None
        with self._view("starting"):
            self._notes = _Notes.read(lineage.directory.wandb_notes)
            if not self._notes.complete or self._notes.reached("generation") < len(records):
                self._open()

    def on_generation_start(self, t: int, mix: Mix) -> None:
        """Opens the run again for a lineage that was complete and shall be longer now."""
        if self._run is None and self.failure is None:
            with self._view("starting"):
                self._open()

    def on_generation_curves(self, t: int, images: int, values: dict[str, float]) -> None:
        """Training curves, live."""
        if self._run is not None:
            with self._view("logging curves"):
                self._log_curves(t, before=images)
                self._log_curve(images, values)

    def on_generation_end(self, record: GenerationRecord, directory: Path) -> None:
        """One row a generation."""
        self._records.append(record)
        if self._run is not None:
            with self._view("logging a generation"):
                self._log_generation(record)

    def on_lineage_end(self, records: Sequence[GenerationRecord], finished: bool) -> None:
        """Closes the run, within ``finish_timeout``, and says where it is."""
        run, self._run = self._run, None
        if run is None:
            return
        with self._view("finishing"):
            uploaded, what = not run.offline, "this offline run"
            try:
                run.finish(exit_code=0 if finished else 1)
            except TimeoutError:
                uploaded, what = False, f"what {self.finish_timeout:g} s were too short for"
            self._notes.complete = finished
            self._notes.write()
            folder = shlex.quote(str(self._folder / Path(run.dir).parent.name))
            say(f"W&B: {run.url if uploaded else f'to upload {what}: wandb sync {folder}'}")

    # opening

    def _open(self) -> None:
        mode = self.mode if self.mode != "auto" else os.environ.get("WANDB_MODE", "auto")
        if mode == "disabled":
            return
        os.environ["WANDB_SILENT"] = "true"  # a setting would not silence wandb's own setup
        online = mode not in ("offline", "dryrun") and _has_key()
        if mode == "online" and not online:
            say("W&B: the run is offline, since there is no API key (see `wandb login`)")
        self._notes.complete = False
        self._notes.write()  # the id comes before the run, so that no kill leaves an orphan
        run = self._start_online() if online else None
        self._run = run or self._start_offline()
        self._notes.id = self._run.id  # a sweep chooses its own
        self._run.define_metric("generation", hidden=True)
        sections = (*SECTIONS, "floor", "data", "seconds")
        for key in (*(f"{section}/*" for section in sections), "samples"):
            self._run.define_metric(key, step_metric="generation")
        self._run.define_metric("train/images", hidden=True)
        self._run.define_metric("train/*", step_metric="train/images")
        self._images_before = 0  # of the generations before the current one
        for record in self._records:
            if record.generation > self._generation:
                self._log_generation(record)
            else:
                self._images_before += record.images

    def _start_online(self) -> Any:
        """A run that continues from what the server has; None if the server cannot be had."""
        import wandb

        older = set(self._folder.glob("run-*"))
        try:
            run = wandb.init(mode="online", **self._arguments())
        except Exception as error:
            say(f"W&B: the run is offline, since the server did not take it ({_line(error)})")
            for empty in set(self._folder.glob("run-*")) - older:
                shutil.rmtree(empty, ignore_errors=True)
            if wandb.run is None:  # else it is someone else's, and would end with this
                wandb.teardown()  # without it the id stays in use
            return None
        on_server = run.summary if run.resumed else {}  # rows of a killed run may not have arrived
        self._generation = int(on_server.get("generation") or 0)
        self._images = int(on_server.get("train/images") or 0)
        self._drop_unsynced()
        say(f"W&B: {run.url}")
        return run

    def _start_offline(self) -> Any:
        """A run that begins after what was synced, which mostly is nothing."""
        import wandb

        self._drop_unsynced()
        self._generation = self._notes.reached("generation")
        self._images = self._notes.reached("images")
        return wandb.init(mode="offline", **self._arguments())

    def _drop_unsynced(self) -> None:
        """Removes offline directories of this run; `wandb sync` leaves a marker in its own."""
        for run in self._folder.glob(f"offline-run-*-{self._notes.id}*"):
            if not any(run.glob("*.wandb.sync*")):  # .synced, or .syncstate of a sync cut short
                self._notes.logged.pop(run.name, None)
                shutil.rmtree(run, ignore_errors=True)

    def _arguments(self) -> dict[str, Any]:
        import wandb

        lineage = self._lineage
        return {
            "project": self.project,
            "entity": self.entity,
            "group": self.group or re.sub(r"_seed\d+$", "", lineage.name),
            "job_type": "lineage",
            "name": lineage.name,
            "tags": self.tags,
            "id": self._notes.id,
            "resume": "allow",
            "reinit": "create_new",  # share no run with a logger inside a Trainer
            "dir": str(lineage.directory.path.resolve()),
            "config": {
                "policy": lineage.policy,
                "sampling_bias": lineage.sampling_bias,
                "seed": lineage.seed,
                "protocol": lineage.protocol,
                "floor": {k: v for k, v in lineage.floor.items() if math.isfinite(v)},
                "config": lineage.config,
            },
            "settings": wandb.Settings(
                init_timeout=self.init_timeout,
                finish_timeout=self.finish_timeout,
                finish_timeout_raises=True,
                silent=True,
                console="off",
                disable_code=True,
                disable_git=True,
                save_code=False,
                symlink=False,
                use_dot_wandb=False,
            ),
        }

    @property
    def _folder(self) -> Path:
        return self._lineage.directory.wandb_folder

    # logging

    def _log_generation(self, record: GenerationRecord) -> None:
        """The curves that are still missing, then the row."""
        import wandb

        t = record.generation
        self._log_curves(t)
        picture = self._lineage.directory.picture(t)
        row = history_row(record)
        if picture.exists():
            row["samples"] = wandb.Image(str(picture), caption=f"generation {t}")
        self._run.log(row)
        self._generation, self._images_before = t, self._images_before + record.images
        self._note()

    def _log_curves(self, t: int, before: float = math.inf) -> None:
        """What the curves of generation ``t`` hold, written perhaps by an earlier process."""
        for row in self._lineage.directory.curves(t):
            if row["images"] < before:
                values = {name: v for name, v in row.items() if name not in ("epoch", "images")}
                self._log_curve(int(row["images"]), values)

    def _log_curve(self, images: int, values: dict[str, float]) -> None:
        images += self._images_before
        if images > self._images:  # else it is there already
            curves = {f"train/{name.removeprefix('train/')}": v for name, v in values.items()}
            self._run.log({"train/images": images, **curves})
            self._images = images
            self._note()

    def _note(self) -> None:
        reached = {"generation": self._generation, "images": self._images}
        self._notes.logged[Path(self._run.dir).parent.name] = reached
        self._notes.write()

    @contextmanager
    def _view(self, doing: str) -> Iterator[None]:
        """Whatever goes wrong inside ends the view, not the lineage."""
        try:
            yield
        except Exception as error:
            self.failure, self._run = error, None
            say(f"W&B: {doing} failed ({_line(error)}); the lineage goes on without it")


@dataclass
class _Notes:
    """The run's id, and how far each of its directories goes.

    Attributes:
        path: The file.
        id: W&B's name of the run.
        complete: Whether the run was closed with nothing left to log.
        logged: By directory, the last ``generation`` and the cumulative ``images`` it holds.
    """

    path: Path
    id: str = field(default_factory=lambda: secrets.token_hex(4))
    complete: bool = False
    logged: dict[str, dict[str, int]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> _Notes:
        """The notes of an earlier process, or those of a new run."""
        return cls(path, **read_json(path))

    def write(self) -> None:
        """Keeps them."""
        notes = {"id": self.id, "complete": self.complete, "logged": self.logged}
        write_json(self.path, notes)

    def reached(self, what: str) -> int:
        """The furthest ``generation`` or ``images`` of all directories."""
        return max((reached[what] for reached in self.logged.values()), default=0)


def _has_key() -> bool:
    """Whether wandb would find a key; where it would not, it would ask for one and wait."""
    import wandb

    settings = wandb.setup().settings
    if settings.api_key or settings.identity_token_file:
        return True
    host = urlsplit(settings.base_url).netloc
    named = os.environ.get("NETRC")
    files = [Path(name).expanduser() for name in ([named] if named else ["~/.netrc", "~/_netrc"])]
    try:
        entries = netrc.netrc(next(file for file in files if file.exists()))
    except (StopIteration, OSError, netrc.NetrcParseError):
        return False
    # wandb 0.31 asks another host than the one that `wandb login` used to write down
    hosts = [host, "api.wandb.ai"] if host == "api.forge.coreweave.com" else [host]
    return any(entry and entry[2] for entry in map(entries.authenticators, hosts))


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0].rstrip(": ")
