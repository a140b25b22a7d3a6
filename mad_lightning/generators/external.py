"""Somebody's own trainer in this loop: two commands, one that trains and one that draws.

Laboratories have trainers, and a self-consuming loop around one is usually a shell script. Here the
two commands of that script are a family like any other. The mix of a generation is written for the
first command as a folder, an archive or arrays; all that it leaves in its directory *is* the
generator: its files are kept byte by byte as the weights, so that digests, checkpoints, branches
and verification mean what they mean elsewhere. For the second command the files are laid out again,
and what it draws is read back, counted and checked.

What is asked of the programs is what is asked of every generator. The same data and seed train the
same generator, as far as the program can; and a sample is decided by its own seed, whichever others
are drawn with it, or a lineage that was killed could not go on as it began. The latter is tried on
each generator before it is kept. A training that is killed starts anew, from nothing; one that has
ended is kept, also if the second command fails. Drawing goes on block by block.
"""

from __future__ import annotations

import fnmatch
import io
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor

from mad_lightning.exchange import (
    natural,
    read_written,
    write_archive,
    write_arrays,
    write_folder,
)
from mad_lightning.files import folder_passing
from mad_lightning.generators.base import Generator
from mad_lightning.programs import Command, last_words, run
from mad_lightning.refusal import Refused, at, check_one_of, check_within
from mad_lightning.samples import Samples, SampleSpec, to_floats

__all__ = ["External"]

Format = Literal["folder", "zip", "npz"]

_OF_KIND = ("classes", "resolution", "channels")
_OF_TRAINING = ("data", "out", "seed", "n", *_OF_KIND)
_OF_DRAWING = (
    *("out", "samples", "seeds", "seeds_file", "labels", "label", "n", "bias", "guidance"),
    *_OF_KIND,
)
_WRITE: dict[str, tuple[str, Callable[[Samples, Path], None]]] = {
    "folder": ("data", write_folder),
    "zip": ("data.zip", write_archive),
    "npz": ("data.npz", write_arrays),
}
_SEEDS = 2**28
"""Trainers multiply their seed by the number of GPUs, and numpy takes 32 bits."""
_AT_ONCE = 8192
"""Samples of one command: Linux takes 128 KiB of an argument."""
_GREY_LEVEL = 1.0
"""By how much, on average, a sample may differ when it is drawn alone: other batches round so."""


class External(Generator):
    """Two commands, without a shell, started where the lineage is started.

    λ is handed on: as ``{bias}`` to a program that truncates, or as ``{guidance}`` = 1 / λ, as the
    paper biases diffusion. A command that takes neither is refused for λ < 1.

    Args:
        train: Trains on ``{data}`` and leaves the generator in the directory ``{out}``. May take
            ``{seed}`` (below 2^28), ``{n}`` samples, ``{classes}`` (0: none), ``{resolution}``,
            ``{channels}``, and ``{python}``, the Python that runs this.
        draw: Draws from ``{out}`` one sample for each of ``{seeds}``, ascending numbers of 32 bits
            parted by commas (or of ``{seeds_file}``, one a line), into the directory ``{samples}``,
            as pictures whose names are in that order, or into ``{samples}.npz``. Classes are a list
            ``{labels}`` in the same order; or one ``{label}``, then it runs once a class. (Samples
            without classes are of class 0.) May also take ``{n}``, ``{bias}``, ``{guidance}`` and
            the kind of samples as above. A ``*`` after ``{out}`` stands for the last file of such a
            name.
        format: What ``{data}`` is: a folder of PNGs with a folder a class, a zip as StyleGAN's
            ``dataset_tool.py`` writes it, or arrays ``values`` (N, C, H, W) or (N, D) and
            ``labels``.
        keep: Pattern of the files of ``{out}`` that are the generator, e.g. ``*.pkl``: a log with
            times in it is another one each time, and snapshots are large.
        patience: Seconds after which a command is ended; None waits as long as it takes.
        logs: Where to keep what the commands say; None keeps only what one says that fails, in the
            system's directory for temporary files.

    Example:
        >>> External(
        ...     train="python train.py --outdir {out} --data {data} --seed {seed}",
        ...     draw="python generate.py --network {out}/*.pkl --seeds {seeds} --class {label} "
        ...     "--trunc {bias} --outdir {samples}",
        ...     format="zip",
        ... ).sampler()["lambda"]
        '{bias}'
    """

    has_gradients = False
    exact_pass = is_alone = True  # no one-pass: a Trainer keeps what was trained before it draws
    batches_at_once = 8

    files: Tensor

    def __init__(
        self,
        train: str,
        draw: str,
        format: Format = "folder",
        keep: str = "*",
        patience: float | None = None,
        logs: str | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        check_one_of(get_args(Format), format=format)
        check_within("(0, inf)", patience=patience)
        with at("train"):
            self._trains = Command(train, _OF_TRAINING, needed=("data", "out"))
        with at("draw"):
            seeds = "seeds_file" if "{seeds_file}" in draw else "seeds"
            self._draws = Command(draw, _OF_DRAWING, needed=("out", "samples", seeds))
        self.format, self.keep, self.patience, self.logs = format, keep, patience, logs
        self._taken: list[Samples] = []
        self._seed = 0
        self._is_new = False
        self._laid_out: TemporaryDirectory[str] | None = None

    def build(self, spec: SampleSpec) -> Self:
        """Makes room for files, of which there are none yet."""
        if self.format != "npz" and (spec.kind != "image" or spec.shape[0] not in (1, 3)):
            problem = f"samples of shape {spec.shape} are no pictures"
            raise Refused("format", problem, "take `format: npz`")
        if spec.classes is not None and not {"label", "labels"} & self._draws.names:
            remedy = "add {label} (it runs once a class) or {labels}, or train on samples without"
            raise Refused("draw", f"it does not say which of {spec.classes} classes", remedy)
        self.spec = spec
        self.register_buffer("files", torch.empty(0, dtype=torch.uint8))
        return self

    def check_training(self, counts: Sequence[int], batch_size: int) -> None:
        """Both programs must be there before the first of them is started."""
        for field, command in (("train", self._trains), ("draw", self._draws)):
            with at(field):
                command.check()

    def check_bias(self, sampling_bias: float) -> None:
        """λ < 1 must reach the program."""
        super().check_bias(sampling_bias)
        if sampling_bias < 1.0 and self.sampler()["lambda"] is None:
            raise Refused(
                "sampling_bias",
                f"λ = {sampling_bias}, and the command that draws takes no bias: "
                f"{self._draws.line}",
                "add {bias}, or {guidance} for 1 / λ, to it; or take 1",
            )

    def configure_optimizers(self) -> None:
        """The program has its own."""

    # training

    def on_fit_start(self) -> None:
        """The seed of the program comes from the address of the training, which ends in a trial."""
        self._seed, self._is_new = self.common_seed() % _SEEDS, True

    def training_step(self, batch: Samples, batch_idx: int) -> None:
        """Takes samples up; in later epochs they are the same."""
        if not len(self.files):
            self._taken.append(Samples(**batch.to("cpu").tensors()))

    def on_train_epoch_end(self) -> None:
        """Trains, once.

        Raises:
            Refused: If the program fails, takes too long, or leaves nothing.
        """
        if len(self.files):
            return
        samples, self._taken = Samples.joined(self._taken), []
        with folder_passing("train") as folder, self._told("train", f"train-{self._seed}") as log:
            place = Path(folder)
            name, write = _WRITE[self.format]
            data, out = place / name, place / "out"
            out.mkdir()
            write(Samples(samples.values.to(self.spec.dtype), samples.labels), data)
            facts = {"data": data, "out": out, "seed": self._seed, "n": len(samples)}
            arguments = self._trains.filled(facts | self._kind())
            run(arguments, log, self.patience, "train")
            self.files = _archive(out, self.keep)

    # sampling

    def draw(self, seeds: Tensor, sampling_bias: float, labels: Tensor | None) -> Tensor:
        """Lets the program draw; of a generator that is new, one sample twice."""
        classes = torch.zeros_like(seeds) if labels is None else labels
        rows = torch.stack([seeds.bitwise_and(2**32 - 1), classes], dim=1).cpu()
        with self._told("draw", "draw") as log:
            values = self._drawn(rows, sampling_bias, log)
            if self._is_new and len(rows[:, 0].unique()) > 1:
                self._check_company(rows, values, sampling_bias, log)
                self._is_new = False
        return to_floats(values).to(self.device)

    def _drawn(self, rows: Tensor, sampling_bias: float, log: Path) -> Tensor:
        """Samples by seed and class (N, 2).

        Seeds ascend: pictures that are named by place, and such as are named by seed, are then in
        one order. What is wanted twice is drawn once.
        """
        wanted, place = rows.unique(dim=0, return_inverse=True)
        if "label" in self._draws.names:
            groups = [wanted[:, 1] == k for k in wanted[:, 1].unique()]
        else:  # in one folder a seed must not come twice, as it may in two classes
            is_again = torch.zeros(len(wanted), dtype=torch.bool)
            is_again[1:] = wanted[1:, 0] == wanted[:-1, 0]
            groups = [~is_again, is_again]
        values = torch.empty(len(wanted), *self.spec.shape, dtype=self.spec.dtype)
        for group in groups:
            for part in filter(len, group.nonzero()[:, 0].split(_AT_ONCE)):
                values[part] = self._asked(wanted[part], sampling_bias, log)
        return values[place]

    def _asked(self, rows: Tensor, sampling_bias: float, log: Path) -> Tensor:
        """What the program draws when it is run once."""
        seeds, labels = (list(map(str, column)) for column in rows.T.tolist())
        with folder_passing("draw") as folder:
            samples, listed = Path(folder, "samples"), Path(folder, "seeds.txt")
            samples.mkdir()
            listed.write_text("\n".join([*seeds, ""]))
            out = self._out()
            facts = {
                "out": out,
                "samples": samples,
                "seeds": ",".join(seeds),
                "seeds_file": listed,
                "labels": ",".join(labels),
                "label": labels[0],
                "n": len(seeds),
                "bias": sampling_bias,
                "guidance": 1.0 / sampling_bias,
            }
            arguments = self._draws.filled(facts | self._kind())
            run([_found(argument, out) for argument in arguments], log, self.patience, "draw")
            return read_written(samples, len(seeds), self.spec)

    def _check_company(self, rows: Tensor, values: Tensor, sampling_bias: float, log: Path) -> None:
        """A sample must be the same whichever others are drawn with it.

        The last one of a command is drawn again, alone; one that was alone, after another.
        """
        last = int(rows[:, 0].argmax())
        company = rows[rows[:, 1] == rows[last, 1]] if "label" in self._draws.names else rows
        again = rows[[last]]
        if len(company) == 1:
            before = torch.stack([rows[:, 0].min(), rows[last, 1]])
            again = torch.stack([before, rows[last]])
        twice = self._drawn(again, sampling_bias, log)[-1]
        apart = float((values[last].double() - twice.double()).abs().mean())
        scale = 1e-3 * float(values.double().std()) if self.spec.kind == "vector" else _GREY_LEVEL
        if apart > scale:
            raise Refused(
                "",
                f"seed {int(rows[last, 0])} draws another sample when other seeds are drawn with "
                f"it (on average {apart:.3g} away): a lineage that is killed could not go on",
                "let each sample take its noise from its own seed, not from its place in a batch",
            )

    def sampler(self) -> dict[str, Any]:
        """Both commands, and how λ reaches the program."""
        bias = [f"{{{name}}}" for name in ("bias", "guidance") if name in self._draws.names]
        return {
            "train": self._trains.line,
            "draw": self._draws.line,
            "format": self.format,
            "keep": self.keep,
            "lambda": " ".join(bias) or None,
        }

    # its files

    def _kind(self) -> dict[str, object]:
        """What samples are like, in words that trainers have."""
        channels = self.spec.shape[0] if self.spec.kind == "image" else 1
        resolution = self.spec.shape[-1]
        return {
            "classes": self.spec.classes or 0,
            "resolution": resolution,
            "channels": channels,
        }

    def lay_out(self, place: Path | str) -> None:
        """Writes the files that are the generator, as the program left them, into a directory."""
        with zipfile.ZipFile(io.BytesIO(self.files.numpy().tobytes())) as archive:
            archive.extractall(place)

    def _out(self) -> Path:
        """Where they are laid out for the program that draws; once a process."""
        if self._laid_out is None:
            self._laid_out = folder_passing("generator")
            self.lay_out(self._laid_out.name)
        return Path(self._laid_out.name)

    @contextmanager
    def _told(self, field: str, name: str) -> Iterator[Path]:
        """A log, whose end a refusal shows, and which it leaves behind."""
        if self.logs is None:
            directory = Path(tempfile.mkdtemp(prefix="mad-log-"))
        else:
            directory = Path(self.logs)
            directory.mkdir(parents=True, exist_ok=True)
        log, is_kept = directory / f"{name}.log", self.logs is not None
        log.touch()
        try:
            with at(field):
                yield log
        except Refused as refused:
            is_kept = True
            words = last_words(log)
            problem = f"{refused.problem}\n  its last words, of all in {log}:\n{words}"
            raise type(refused)(refused.field, problem, refused.remedy) from refused.__cause__
        finally:
            if not is_kept:
                log.unlink()
                directory.rmdir()

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Bytes of files have no device and no precision."""
        return self

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        """However many bytes there are; nobody knows before they are loaded."""
        if (files := state_dict.get(f"{prefix}files")) is not None:
            self.files = torch.empty_like(files, device="cpu")
            self._laid_out = None
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _archive(out: Path, keep: str) -> Tensor:
    """Files as one, which depends on their names and contents alone: a zip without times."""
    files = {path.relative_to(out).as_posix(): path for path in out.rglob("*") if path.is_file()}
    names = sorted(fnmatch.filter(files, keep))
    if not names:
        some = f", but {', '.join(sorted(files)[:3])}" if files else ""
        raise Refused(
            "",
            f"it ended well and left no file {keep} in {{out}}{some}",
            "let it write the generator there, or say by `keep` what that is",
        )
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_STORED) as archive:
        for name in names:
            entry = zipfile.ZipInfo(name)  # of 1980
            with files[name].open("rb") as source, archive.open(entry, "w", force_zip64=True) as to:
                while chunk := source.read(2**20):
                    to.write(chunk)
    return torch.frombuffer(whole.getbuffer(), dtype=torch.uint8)


def _found(argument: str, out: Path) -> str:
    """An argument; of a pattern below the generator's directory, the last file that it names."""
    before, is_below, pattern = argument.partition(f"{out}/")
    if not is_below or "*" not in pattern:
        return argument
    names = (path.relative_to(out).as_posix() for path in out.glob(pattern))
    found = sorted(names, key=natural)
    if not found:
        raise Refused("", f"no file of the generator is called {pattern}", "name one that it has")
    return f"{before}{out / found[-1]}"
