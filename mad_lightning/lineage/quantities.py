"""What a measured name means: fidelity, diversity, distance, copies; which way is worse.

A number is drawn, worded and judged by its meaning, and the meaning is stated once: by the metric
that measures it (:meth:`mad_lightning.metrics.Metric.quantities`). The ledger carries it, so that
console, report, W&B and verdict read what a metric of your own means as they read ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from mad_lightning.files import finite

__all__ = [
    "SECTIONS",
    "MeasurementError",
    "Quantity",
    "Section",
    "distance_name",
    "known",
    "of_kept",
    "quantities_of",
]

Section = Literal["fidelity", "diversity", "distance", "copies", "other", "kept"]
SECTIONS: tuple[Section, ...] = get_args(Section)


@dataclass(frozen=True)
class Quantity:
    """What the values under one name are.

    Attributes:
        section: ``fidelity`` (are samples like real ones?), ``diversity`` (are real ones like
            samples?), ``distance`` (how far from the real law), ``copies`` (of training samples),
            ``other``; or ``kept``, whatever it is, but of what a treatment left.
        worse: Which way is worse, ``lower`` or ``higher``; None if neither is.
        low: Least possible value.
        high: Largest possible value.
        floor: What its floor is, the value that no generator is expected to better.
        unbiased: Of a distance: whether it is 0 in expectation where samples are real. One that is
            not holds an error of its own at finite n, which its floor tells.
    """

    section: Section = "other"
    worse: Literal["lower", "higher"] | None = None
    low: float = -math.inf
    high: float = math.inf
    floor: str = "real samples against other real samples"
    unbiased: bool = False

    def __post_init__(self) -> None:
        if self.section not in SECTIONS or self.worse not in ("lower", "higher", None):
            raise ValueError(
                f"a quantity of section {self.section!r}, worse {self.worse!r}: the section is one "
                f"of {', '.join(SECTIONS)}, worse is lower, higher or None"
            )
        if not self.low < self.high:
            raise ValueError(f"a quantity between {self.low} and {self.high} has no room")

    @property
    def is_share(self) -> bool:
        """Whether its values lie in [0, 1]."""
        return (self.low, self.high) == (0.0, 1.0)

    @property
    def words(self) -> str:
        """In words, e.g. ``diversity, worse if lower``."""
        return self.section if self.worse is None else f"{self.section}, worse if {self.worse}"

    def to_plain(self) -> dict[str, Any]:
        """What differs from a quantity of which nothing is known, as JSON has it."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {k: finite(v) for k, v in plain.items() if v != getattr(UNKNOWN, k)}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Quantity:
        """Inverse of :meth:`to_plain`; keys of later versions are ignored."""
        return cls(**{k: v for k, v in plain.items() if k in cls.__dataclass_fields__})


class MeasurementError(NamedTuple):
    """Standard error of a measured value, by its source.

    Attributes:
        samples: What other samples of the same generator would change.
        reference: What another reference would; the same for all who are measured against it.
    """

    samples: float
    reference: float

    @property
    def both(self) -> float:
        """Of samples and reference together."""
        return math.hypot(self.samples, self.reference)


UNKNOWN = Quantity()

_OURS: dict[str, Quantity] = {
    "precision": Quantity("fidelity", "lower", low=0.0, high=1.0),
    "density": Quantity("fidelity", "lower", low=0.0),
    "recall": Quantity("diversity", "lower", low=0.0, high=1.0),
    "coverage": Quantity("diversity", "lower", low=0.0, high=1.0),
    "class_share": Quantity("diversity", "lower", low=0.0, high=1.0),
    "class_recall": Quantity("diversity", "lower", low=0.0, high=1.0),
    "class_agreement": Quantity("fidelity", "lower", low=0.0, high=1.0),
    "tail_mass": Quantity("diversity", "lower", low=0.0),
    "tail_mass_low": Quantity("diversity", "lower", low=0.0),
    "tail_mass_high": Quantity("diversity", "lower", low=0.0),
    "modes": Quantity("diversity", "lower", low=0.0),
    "mode_variance": Quantity("diversity", "lower", low=0.0),
    "trace_*": Quantity("diversity", "lower", low=0.0),
    "log_det_*": Quantity("diversity", "lower"),
    "fid": Quantity("distance", "higher", low=0.0),
    "fd_*": Quantity("distance", "higher", low=0.0),
    "w2_squared": Quantity(
        "distance", "higher", low=0.0, floor="moments of real samples against the real law"
    ),
    "kid_std": UNKNOWN,
    "kd_*_std": UNKNOWN,
    "kid": Quantity("distance", "higher", unbiased=True),
    "kd_*": Quantity("distance", "higher", unbiased=True),
    "nearest_ratio": Quantity("copies", "lower", low=0.0),
    "nearest_synthetic": Quantity("copies", "lower", low=0.0),
    "nearest_real": Quantity("copies", None, low=0.0),
    "memorised": Quantity("copies", "higher", low=0.0, high=1.0),
}


def of_kept(name: str) -> str:
    """Under which name a value stands that was measured of what a treatment left."""
    return f"kept_{name}"


def known(name: str) -> Quantity:
    """What a name of this package's own metrics means; ``*`` stands for an extractor.

    Metrics of this package state their quantities through this table, and ledgers that were begun
    before ledgers carried any are read by it.
    """
    for pattern, quantity in _OURS.items():
        start, star, end = pattern.partition("*")
        if name == pattern or (star and name.startswith(start) and name.endswith(end)):
            return quantity
    return UNKNOWN


def quantities_of(names: Iterable[str], *stated: Mapping[str, Quantity]) -> dict[str, Quantity]:
    """What names mean: what a ledger states, else what :func:`known` says."""
    return {
        name: next((meanings[name] for meanings in stated if name in meanings), known(name))
        for name in names
    }


def distance_name(quantities: Mapping[str, Quantity]) -> str | None:
    """The distance to judge a lineage by; None if none was measured.

    ``w2_squared``, which knows the real law, else a kernel distance, which is unbiased, else
    ``fid`` or a Fréchet distance, else any that a metric of your own states.
    """
    distances = [
        name
        for name, quantity in quantities.items()
        if quantity.section == "distance" and quantity.worse == "higher"
    ]
    for start in ("w2_squared", "kid", "kd_", "fid", "fd_", ""):
        for name in distances:
            if name.startswith(start):
                return name
    return None
