"""Weights & Biases as a view of the ledger: one run a lineage, drawn over ``generation``.

Three things go wrong where W&B meets a loop, and each has its answer here. *It waits*: for a key,
a server, an upload; so the mode is decided before anything is asked, and every wait is bounded.
*It forgets or repeats*: what counts is what is there, in an offline run's own file or in the
history on the server, and never a note of it. An offline run cannot be continued, so one that
nobody has synced yet is dropped and drawn anew from the ledger; an online run gets what it lacks.
*It fails*: then one line says so and the lineage goes on, because no number depends on it.

What a run carries, and under which words, is in :mod:`mad_lightning.callbacks.wandb_keys`. All is
drawn over ``generation``; what the generator logs is ``train/<name>``, over ``train/images``, which
are counted through all generations.
"""

from __future__ import annotations

import math
import netrc
import os
import re
import secrets
import shlex
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from mad_lightning.callbacks.base import LineageCallback, LineageInfo
from mad_lightning.callbacks.console import say
from mad_lightning.callbacks.wandb_files import Notes, Shown, history, is_closed, is_unsynced
from mad_lightning.callbacks.wandb_graph import draw, steps
from mad_lightning.callbacks.wandb_keys import AXIS, PICTURE, arm, history_row, outcome, settings
from mad_lightning.files import Damaged
from mad_lightning.lineage.ledger import GenerationRecord
from mad_lightning.lineage.quantities import SECTIONS, Quantity
from mad_lightning.policies import Mix
from mad_lightning.refusal import Refused

__all__ = ["WandB", "has_key"]

_MODES = ("auto", "online", "offline", "disabled", "dryrun", "run")
"""What ``WANDB_MODE`` may say; W&B takes dryrun for offline, and run for online."""


class WandB(LineageCallback):
    """Shows a lineage in W&B: online where there is a key and a network, else offline.

    Args:
        project: W&B project; None takes ``WANDB_PROJECT``, else ``mad-lightning``.
        entity: W&B user or team; None takes ``WANDB_ENTITY``, else the default of the account.
        group: Runs to draw together; None takes ``WANDB_RUN_GROUP``, else the lineage's name
            without its seed.
        mode: ``auto`` goes by ``WANDB_MODE``, else online if a key is found (``WANDB_API_KEY``,
            ``wandb login``), else offline.
        init_timeout: Seconds to wait for the server at the start; then the run is offline.
        finish_timeout: Seconds to wait for the upload at the end; the rest can be synced later.
        tags: W&B tags; None takes ``WANDB_TAGS``, which commas part.
        name: Name of the run; None takes ``WANDB_NAME``, else the lineage's name.
        artifacts: Whether W&B's lineage graph shall show the loop, shard → generator → shard: two
            small runs more a generation, and no samples or weights.
    """

    alone = True

    def __init__(
        self,
        project: str | None = None,
        entity: str | None = None,
        group: str | None = None,
        mode: Literal["auto", "online", "offline", "disabled"] = "auto",
        init_timeout: float = 20.0,
        finish_timeout: float = 120.0,
        tags: list[str] | None = None,
        name: str | None = None,
        artifacts: bool = False,
    ) -> None:
        self.project = project or os.environ.get("WANDB_PROJECT") or "mad-lightning"
        self.entity = entity or os.environ.get("WANDB_ENTITY")
        self.group = group or os.environ.get("WANDB_RUN_GROUP")
        self.name = name or os.environ.get("WANDB_NAME")
        self.artifacts = artifacts
        self.tags = tags  # W&B itself takes WANDB_TAGS where none are told
        self.mode, self.init_timeout, self.finish_timeout = mode, init_timeout, finish_timeout
        self.failure: Exception | None = None  # what ended the view early
        self._run: Any = None

    def check(self, quantities: Mapping[str, Quantity]) -> None:
        """Refuses a wait without end, a mode that is none, and names that W&B does not take."""
        for name in ("init_timeout", "finish_timeout"):
            if getattr(self, name) <= 0:
                raise Refused(
                    name,
                    f"{getattr(self, name):g} seconds would be a wait without end",
                    "take e.g. 20",
                )
        if self._chosen not in _MODES:
            here = "" if self.mode == self._chosen else "WANDB_MODE is "
            remedy = "WANDB_MODE and `mode` are online, offline or disabled"
            raise Refused("mode", f"{here}{self._chosen!r}", remedy)
        if self._chosen == "disabled":
            return
        import wandb

        try:
            wandb.Settings().update_from_env_vars(os.environ)
        except (ValueError, wandb.errors.UsageError) as error:
            problem = f"W&B does not take what the environment says: {_reason(error)}"
            raise Refused("", problem, "mend or unset that WANDB_ variable") from None
        for name, setting in (("project", "project"), ("tags", "run_tags")):
            try:
                wandb.Settings(**{setting: getattr(self, name)})
            except (ValueError, wandb.errors.UsageError) as error:
                problem = f"{getattr(self, name)!r} is not what W&B takes: {_reason(error)}"
                raise Refused(name, problem, f"choose another `{name}`") from None

    @property
    def _chosen(self) -> str:
        """The mode that was asked for, here or in the environment."""
        return os.environ.get("WANDB_MODE") or "auto" if self.mode == "auto" else self.mode

    # hooks

    def on_lineage_start(self, lineage: LineageInfo, records: Sequence[GenerationRecord]) -> None:
        """Opens the run and logs what it lacks; does nothing if it lacks nothing."""
        self._lineage, self._records = lineage, list(records)
        self._run, self.failure = None, None
        if self._chosen != "disabled":
            with self._view("starting"):
                self._notes = Notes.read(lineage.directory.wandb_notes, self._folder)
                if not self._is_complete():
                    self._open()

    def rebuild(
        self,
        lineage: LineageInfo,
        records: Sequence[GenerationRecord],
        bar: Callable[[Iterable[GenerationRecord]], Iterable[GenerationRecord]] = iter,
    ) -> None:
        """Draws a finished lineage anew, whole, from its ledger.

        An offline run that nobody has synced is replaced. One that W&B has stays as it is, and the
        new one gets a name of its own.

        Args:
            lineage: The lineage.
            records: Its finished generations.
            bar: Passes them on, and shows how far that is.

        Raises:
            RuntimeError: If W&B fails.
        """
        self._lineage, self._records = lineage, list(records)
        self._run, self.failure = None, None
        if self._chosen == "disabled":
            raise RuntimeError("W&B is disabled")
        self._notes = Notes.read(lineage.directory.wandb_notes, self._folder)
        self._drop_unsynced()
        self._drop_unsynced(self._graph)
        if [*self._runs()] or self._notes.online:
            self._notes.id = secrets.token_hex(4)
        with self._view("drawing"):
            self._open(bar)
        self.on_lineage_end(records, finished=True)
        if self.failure is not None:
            raise RuntimeError(_line(self.failure)) from self.failure

    def on_generation_start(self, t: int, mix: Mix) -> None:
        """Opens the run again for a lineage that was complete and shall be longer now."""
        if self._run is None and self.failure is None and self._chosen != "disabled":
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
                self._summarise()

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
            if run.offline:
                self._wait_for_file(Path(run.dir).parent)
            self._notes.complete, self._notes.online = finished, uploaded
            self._notes.generations = len(records)
            self._notes.write()
            folder = shlex.quote(str(self._folder / Path(run.dir).parent.name))
            say(f"W&B: {run.url if uploaded else f'to upload {what}: wandb sync {folder}'}")
            if self.artifacts and run.offline:
                graph = shlex.quote(str(self._graph))
                say(f"W&B: to upload its graph: wandb sync {graph}/offline-*")

    def _wait_for_file(self, directory: Path) -> None:
        """Until an offline run is on disk: W&B closes it in another process, a moment later."""
        deadline = time.monotonic() + min(self.finish_timeout, 10.0)
        while time.monotonic() < deadline and not is_closed(directory):
            time.sleep(0.05)

    # opening

    def _is_complete(self) -> bool:
        """Whether W&B, or what lies on disk for it, shows each row of the lineage once."""
        notes, records = self._notes, self._records
        if not notes.complete or (notes.online and notes.generations < len(records)):
            return False
        if notes.online:
            return True
        images, before = Counter[int](), 0
        for record in records:
            rows = self._lineage.directory.curves(record.generation)
            images.update({before + int(row["images"]) for row in rows})
            before += record.images
        expected = Shown(Counter(record.generation for record in records), images)
        return self._on_disk() == expected

    def _open(
        self, bar: Callable[[Iterable[GenerationRecord]], Iterable[GenerationRecord]] = iter
    ) -> None:
        os.environ["WANDB_SILENT"] = "true"  # a setting would not silence wandb's own setup
        online = self._chosen not in ("offline", "dryrun") and has_key()
        if self._chosen == "online" and not online:
            say("W&B: the run is offline, since there is no API key (see `wandb login`)")
        self._notes.complete = False
        self._notes.write()  # the id comes before the run, so that no kill leaves an orphan
        run = self._start_online() if online else None
        self._run = run or self._start_offline()
        self._notes.id = self._run.id  # a sweep chooses its own
        self._run.define_metric(AXIS, hidden=True)
        sections = (*SECTIONS, "data", "seconds")
        for key in (*(f"{section}/*" for section in sections), PICTURE):
            self._run.define_metric(key, step_metric=AXIS)
        self._run.define_metric("train/images", hidden=True)
        self._run.define_metric("train/*", step_metric="train/images")
        self._images_before = 0  # of the generations before the current one
        for record in bar(self._records):
            self._log_generation(record)
        self._summarise()

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
        self._shown = self._on_server(run) if run.resumed else Shown()
        self._drop_unsynced()
        say(f"W&B: {run.url}")
        return run

    def _on_server(self, run: Any) -> Shown:
        """What the server has; rows of a killed run may not have arrived."""
        import wandb

        shown = Shown()
        try:
            api = wandb.Api(timeout=math.ceil(self.init_timeout))
            there = api.run(f"{run.entity}/{run.project}/{run.id}")
            for key in ("generation", "train/images"):  # a scan gives rows that have all its keys
                for row in there.scan_history(keys=[key]):
                    shown.add(row)
        except Exception:  # without its history, how far it goes has to do
            generation = int(run.summary.get("generation") or 0)
            images = int(run.summary.get("train/images") or 0)
            shown = Shown(Counter(range(1, generation + 1)), Counter(range(1, images + 1)))
        return shown

    def _start_offline(self) -> Any:
        """A run that begins after what was synced, which mostly is nothing."""
        import wandb

        self._drop_unsynced()
        self._shown = self._on_disk()
        return wandb.init(mode="offline", **self._arguments())

    def _runs(self, folder: Path | None = None) -> Iterator[Path]:
        """Directories of this run, the first one first; W&B numbers those of one second."""
        runs = (folder or self._folder).glob(f"*run-*-{self._notes.id}*")
        yield from sorted(runs, key=lambda run: run.name.removeprefix("offline-"))

    def _on_disk(self) -> Shown:
        """What its directories show, one after the other."""
        shown = Shown()
        for directory in self._runs():
            for row in history(directory):
                shown.add(row)
        return shown

    def _drop_unsynced(self, folder: Path | None = None) -> None:
        """Removes offline directories of this run, but for what was sent, even in part."""
        for run in filter(is_unsynced, self._runs(folder)):
            shutil.rmtree(run, ignore_errors=True)

    def _arguments(self) -> dict[str, Any]:
        import wandb

        lineage = self._lineage
        told = lineage.config, lineage.policy, lineage.sampling_bias
        return {
            "project": self.project,
            "entity": self.entity,
            "group": self.group or re.sub(r"_seed\d+$", "", lineage.name),
            "job_type": "lineage",
            "name": self.name or lineage.name,
            "tags": self.tags,
            "id": self._notes.id,
            "resume": "allow",
            "reinit": "create_new",  # share no run with a logger inside a Trainer
            "dir": str(lineage.directory.path.resolve()),
            "config": {
                **settings(*told, lineage.seed),
                "arm": arm(*told, name=lineage.name, data=lineage.data, records=self._records),
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

    @property
    def _graph(self) -> Path:
        return self._folder / "graph" / "wandb"  # W&B makes a folder of this name in any other

    # logging

    def _log_generation(self, record: GenerationRecord) -> None:
        """The curves that are still missing, then the row."""
        import wandb

        t = record.generation
        self._log_curves(t)
        if not self._shown.generations[t]:
            row = history_row(record)
            try:
                picture = self._lineage.directory.sound_picture(t)
            except Damaged as damaged:
                say(f"W&B: generation {t} goes without its picture: {damaged}")
                picture = None
            if picture is not None:
                row[PICTURE] = wandb.Image(str(picture), caption=f"generation {t}")
            self._run.log(row)
            self._shown.generations[t] += 1
        if self.artifacts:
            self._draw_graph(t)
        self._images_before += record.images

    def _draw_graph(self, t: int) -> None:
        """What W&B's lineage graph lacks of generation ``t``; a kill may have left half of it."""
        import wandb

        lineage = self._lineage
        mix = lineage.directory.mix(t)
        for step in [] if mix is None else steps(lineage.name, self._records, t, mix):
            name = f"{self._notes.id}-{step.phase}-{t:03d}"
            if any(is_closed(run) for run in self._graph.glob(f"*run-*-{name}*")):
                continue
            told = {
                "mode": "offline" if self._run.offline else "online",
                "id": name,
                "name": f"{lineage.name} {step.phase} {t}",
                "job_type": step.phase,
                "dir": str(self._graph.parent.resolve()),
                "config": {"lineage": lineage.name, "generation": t},
            }
            draw(step, wandb.init(**self._arguments() | told), self._graph.parent)

    def _log_curves(self, t: int, before: float = math.inf) -> None:
        """What the curves of generation ``t`` hold, written perhaps by an earlier process."""
        try:
            rows = self._lineage.directory.curves(t)
        except Damaged as damaged:
            say(f"W&B: generation {t} goes without its curves: {damaged}")
            rows = []
        for row in rows:
            if row["images"] < before:
                values = {name: v for name, v in row.items() if name not in ("epoch", "images")}
                self._log_curve(int(row["images"]), values)

    def _log_curve(self, images: int, values: dict[str, float]) -> None:
        images += self._images_before
        if not self._shown.images[images]:
            curves = {f"train/{name.removeprefix('train/')}": v for name, v in values.items()}
            self._run.log({"train/images": images, **curves})
            self._shown.images[images] += 1

    def _summarise(self) -> None:
        """What came out so far, beside the last row, which W&B keeps there by itself."""
        self._run.summary.update(outcome(self._records))

    @contextmanager
    def _view(self, doing: str) -> Iterator[None]:
        """Whatever goes wrong inside ends the view, not the lineage."""
        try:
            yield
        except Exception as error:
            self.failure, self._run = error, None
            say(f"W&B: {doing} failed ({_line(error)}); the lineage goes on without it")


def has_key() -> bool:
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


def _reason(error: Exception) -> str:
    """What is wrong, of a message that may go on with where to read about it."""
    head, *lines = str(error).splitlines()
    return ": ".join(line.strip() for line in lines[:2]).partition(" [type=")[0] or head


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0].rstrip(": ")
