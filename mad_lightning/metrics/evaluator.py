"""The evaluator: one feature pass over a shard feeds every metric.

A number means something beside its protocol and its floor. The protocol says what it depends on
(n, k, extractor, weight hash, resize). The floor is the same metric between the reference and as
many *other real* samples: what a perfect generator would score. One such reading is chance for the
most part, so both sets are shuffled and parted several times, without replacement (drawing with
replacement doubles samples, which biases every distance); the mean is the floor, and the standard
deviation how far one reading may lie from it. All go with every value into the ledger, and so does
what the value means.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from statistics import fmean, stdev
from typing import Any, Literal, get_args

import torch

from mad_lightning.identity import Described
from mad_lightning.lineage.quantities import MeasurementError, Quantity
from mad_lightning.metrics.base import Metric, View
from mad_lightning.metrics.distances import Frechet, Kernel
from mad_lightning.metrics.features.base import FeatureExtractor
from mad_lightning.metrics.neighbours import Neighbours
from mad_lightning.refusal import Refused, check_one_of, check_within
from mad_lightning.samples import Parts
from mad_lightning.seeds import permutation

__all__ = ["Evaluator"]

Preset = Literal["held_out", "fid50k_full"]

_PART = 2000
"""Samples that tell an error well enough, whatever their number."""


class Evaluator(Described):
    """Measures shards against the reference.

    Args:
        extractor: Makes the features that all metrics share.
        metrics: What to report. None: precision, recall, density and coverage, the kernel distance
            and the Fréchet distance.
        n_errors: Samples of each side, at least, from which measurement errors are estimated: a
            quarter of large sets, up to 2,000, is. 0 tells no errors.
        preset: ``held_out``, samples against as many real ones that were held out, beside a floor;
            or ``fid50k_full``, 50,000 samples against all of the training data, with k = 3, as
            tables of other papers have it. Whoever copies the data does best by the latter, and
            there are no other real samples that could tell its floor or its errors.
        n_drawn: Samples that ``fid50k_full`` measures, should it be others than 50,000.
        device: Where sets are compared: ``cpu``, or ``cuda``, which pays from 50,000 samples on.
    """

    resplits = 8
    """Times that real samples are parted in two for the floor."""

    def __init__(
        self,
        extractor: FeatureExtractor,
        metrics: list[Metric] | None = None,
        n_errors: int = 300,
        preset: Preset = "held_out",
        n_drawn: int | None = None,
        device: Literal["cpu", "cuda"] = "cpu",
    ) -> None:
        check_one_of(("cpu", "cuda"), device=device)
        check_within("[0, 20000]", "e.g. 300", n_errors=n_errors)
        check_within("[4, 10000000]", "e.g. 50000", n_drawn=n_drawn)
        if preset not in get_args(Preset):
            raise Refused("preset", f"{preset!r}", f"choose {' or '.join(get_args(Preset))}")
        if n_drawn is not None and preset == "held_out":
            problem = "held out are as many as are measured, which the data says"
            raise Refused("n_drawn", problem, "leave it out, or take `preset: fid50k_full`")
        self.preset, self.n_drawn, self.device = preset, n_drawn, device
        self.extractor, self.n_errors = extractor, n_errors
        usual = [Neighbours(3 if self.is_full else 5), Kernel(), Frechet()]
        self.metrics: list[Metric] = usual if metrics is None else metrics

    @property
    def is_full(self) -> bool:
        """Whether samples are compared with all that could be trained on."""
        return self.preset == "fid50k_full"

    def n_measured(self, n_reference: int) -> int:
        """Samples of a generation that are measured, where so many real ones are held out."""
        return (self.n_drawn or 50_000) if self.is_full else n_reference

    @property
    def needs_training(self) -> bool:
        """Whether a metric wants features of what the generator was trained on."""
        return any(metric.needs_training for metric in self.metrics)

    @property
    def needs_stored(self) -> bool:
        """Whether a metric wants the samples themselves."""
        return any(metric.needs_stored for metric in self.metrics)

    def quantities(self) -> dict[str, Quantity]:
        """What the values mean, by name, as far as metrics say."""
        quantities: dict[str, Quantity] = {}
        for metric in self.metrics:
            stated = metric.quantities(self.extractor.name)
            with _mounted(metric):
                if not isinstance(stated, Mapping):
                    problem = f"its quantities are a {type(stated).__name__}"
                    raise Refused("", problem, "let them be a dict of names and Quantity")
            quantities |= stated
        return quantities

    def protocol(self, n: int) -> dict[str, Any]:
        """What the values depend on, with n synthetic samples."""
        protocol: dict[str, Any] = {"n": n, **self.extractor.protocol()}
        if self.is_full:
            protocol |= {"preset": self.preset, "floor": "not available"}
        if self.device != "cpu":
            protocol["compared_on"] = self.device
        for metric in self.metrics:
            protocol |= metric.protocol()
        return protocol

    def check(self, n: int) -> None:
        """Refuses what a metric cannot work with, before there is anything to measure.

        Args:
            n: Samples of the reference.

        Raises:
            Refused: With the field ``n``, or ``device``, or a metric (``metrics.Neighbours``) or
                its parameter.
        """
        if self.device == "cuda" and not torch.cuda.is_available():
            raise Refused("device", "cuda, and there is none", "take `device: cpu`")
        for metric in self.metrics:
            with _mounted(metric):
                metric.check(n, self.extractor.name)
            k = getattr(metric, "k", 3)
            if self.is_full and (not metric.takes_unequal_sets or k != 3):
                problem = f"fid50k_full has no {type(metric).__name__}"
                problem += f" with k = {k}" if metric.takes_unequal_sets else ""
                remedy = "take Frechet, Kernel, and Neighbours with `k: 3`, or leave `metrics` out"
                raise Refused("preset", problem, remedy)

    def compare(self, real: View, synthetic: View) -> dict[str, float]:
        """All values by name.

        Args:
            real: The reference.
            synthetic: The other set. Both hold features of this evaluator's extractor.

        Raises:
            Refused: If a metric needs something of the sets that they do not have.
        """
        values = dict[str, float]()
        for metric in self.metrics:
            values |= self._compare(metric, real, synthetic)
        return values

    def errors(self, real: View, synthetic: View) -> dict[str, MeasurementError]:
        """How far the values of :meth:`compare` may lie from those of other samples.

        Args:
            real: The reference.
            synthetic: As many samples.
        """
        n = min(len(real.features), len(synthetic.features))
        m = min(n, max(self.n_errors, min(n // 4, _PART))) if self.n_errors else 0
        told = dict[str, MeasurementError]()
        real, synthetic = self._seen(real), self._seen(synthetic)
        for metric in self.metrics if m > 2 else ():
            told |= metric.errors(real, synthetic, m)
        return {k: error for k, error in told.items() if math.isfinite(error.both)}

    def floor(self, real: View, others: View) -> tuple[dict[str, float], dict[str, float]]:
        """What real samples score against real ones: mean and standard deviation over resplits.

        Metrics that ask what a generator was trained on, which some of these are, are not resplit
        and have no deviation.

        Args:
            real: The reference.
            others: As many other real samples, the same number of each class where there are some.

        Raises:
            Refused: As :meth:`compare`.
        """
        values, errors = dict[str, float](), dict[str, float]()
        parted = [_parted(real, others, turn) for turn in range(self.resplits)]
        for metric in self.metrics:
            if metric.needs_training:
                values |= self._compare(metric, real, others)
                continue
            readings = [self._compare(metric, *sides) for sides in parted]
            for name in readings[0]:
                series = [reading[name] for reading in readings]
                values[name], errors[name] = fmean(series), _deviation(series)
        return values, errors

    def _compare(self, metric: Metric, real: View, synthetic: View) -> dict[str, float]:
        with _mounted(metric):
            sides = (self._seen(side).to(self.device) for side in (real, synthetic))
            values = metric(*sides)
            return _numbers(values, type(metric).__name__, metric.quantities(self.extractor.name))

    def _seen(self, side: View) -> View:
        """With what the extractor says of it."""
        seen = None if side.labels is None else self.extractor.seen(side.features)
        return replace(side, extractor=self.extractor.name, seen=seen)


def _numbers(values: Any, name: str, explained: Mapping[str, Quantity]) -> dict[str, float]:
    """Values by name, as a metric of anybody's should give them.

    Raises:
        Refused: If they are something else, or have other names than the metric explains.
    """
    remedy = "let its values be a dict of names and floats"
    if not isinstance(values, Mapping):
        raise Refused("", f"{name} returns a {type(values).__name__}", remedy)
    numbers = dict[str, float]()
    for key, value in values.items():
        try:
            numbers[str(key)] = value if isinstance(value, int | float) else float(value)
        except (TypeError, ValueError, RuntimeError):
            raise Refused("", f"{name} returns {key}: {value!r}"[:200], remedy) from None
    if (unknown := numbers.keys() - explained) and (absent := explained.keys() - numbers):
        problem = f"{name} returns {', '.join(unknown)}, and explains {', '.join(absent)}"
        raise Refused("", problem, "let its values and its quantities agree on the names")
    return numbers


def _deviation(series: Sequence[float]) -> float:
    """Sample standard deviation; NaN if a number is missing."""
    return stdev(series) if all(map(math.isfinite, series)) else math.nan


def _parted(real: View, others: View, turn: int) -> tuple[View, View]:
    """Both sets, shuffled and parted in two, class by class where there are classes."""
    features, labels = torch.cat([real.features, others.features]), None
    order = permutation(len(features), "floor", turn)
    if real.labels is not None and others.labels is not None:
        labels = torch.cat([real.labels, others.labels])
        order = order[labels[order].argsort(stable=True)]
    stored = None
    if real.stored is not None and others.stored is not None:
        stored = Parts([real.stored, others.stored])
    sides = (
        replace(
            side,
            features=features[rows],
            labels=None if labels is None else labels[rows],
            stored=None if stored is None else stored[rows],
        )
        for side, rows in ((real, order[::2]), (others, order[1::2]))
    )
    first, second = sides
    return first, second


@contextmanager
def _mounted(metric: Metric) -> Iterator[None]:
    """Says which metric refuses; n, the number of samples, is the parameter of none of them."""
    place = f"metrics.{type(metric).__name__}"

    def rename(name: str) -> str:
        return name if name == "n" else f"{place}.{name}" if name else place

    try:
        yield
    except Refused as refused:
        raise refused.renamed(rename) from refused.__cause__
    except ValueError as error:
        if not type(metric).__module__.startswith("mad_lightning."):
            raise
        remedy = "measure such samples with another extractor, or leave the metric out"
        raise Refused(place, str(error), remedy) from error
