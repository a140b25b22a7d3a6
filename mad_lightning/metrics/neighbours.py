"""Who lies near whom: fidelity and diversity, over all samples and class by class."""

from __future__ import annotations

from typing import Any, get_args

from torch import Tensor

from mad_lightning.lineage.quantities import MeasurementError, Quantity, quantities_of
from mad_lightning.metrics.base import Metric, View
from mad_lightning.metrics.functional import class_recall, class_share, squared_radii, two_sample
from mad_lightning.metrics.functional.checks import check_features
from mad_lightning.metrics.functional.errors import neighbour_variances, scatter
from mad_lightning.metrics.functional.neighbours import Balls
from mad_lightning.refusal import Refused, check_one_of, check_within

__all__ = ["Classes", "Neighbours"]


def _check_balls(k: int, balls: str) -> None:
    check_within("[1, inf)", "the paper takes 5", k=k)
    check_one_of(get_args(Balls), balls=balls)


def _check_count(n: int, k: int) -> None:
    if n <= k:
        raise Refused(
            "n",
            f"{n} samples have no {k}-th neighbour each",
            f"hold out more than {k} samples, or lower `k`",
        )


class Neighbours(Metric):
    """Precision, recall (Kynkäänniemi et al., 2019), density and coverage (Naeem et al., 2020).

    Args:
        k: Neighbour that sets the radius of a ball; the paper uses 5.
        balls: ``closed`` counts a sample on the surface as inside, as the definition does; ``open``
            is the convention of the package prdc.
    """

    takes_unequal_sets = True

    def __init__(self, k: int = 5, balls: Balls = "closed") -> None:
        super().__init__()
        _check_balls(k, balls)
        self.k, self.balls = k, balls

    def values(self, real: View, synthetic: View) -> dict[str, float]:
        """``precision``, ``recall``, ``density``, ``coverage``; all but density lie in [0, 1]."""
        x = check_features(real.features, "real", self.k + 1, f"more than k = {self.k}")
        radii = self._of_real(x, lambda: squared_radii(x, self.k, team=self.team))
        return two_sample(
            x, synthetic.features, k=self.k, balls=self.balls, real_radii=radii, team=self.team
        )

    def errors(self, real: View, synthetic: View, m: int) -> dict[str, MeasurementError]:
        """From halves of both sets; nothing if these hold too few neighbours."""
        if m < 4 * self.k:
            return {}
        (x, of_x), (y, of_y) = real.first(m), synthetic.first(m)
        told = neighbour_variances(x, y, self.k, of_x, of_y, n=len(real.features))
        told.pop("class_recall", None)
        return {name: variances.error() for name, variances in told.items()}

    def quantities(self, extractor: str) -> dict[str, Quantity]:
        """Fidelity and diversity."""
        return quantities_of(("precision", "recall", "density", "coverage"))

    def protocol(self) -> dict[str, Any]:
        """k and the kind of balls."""
        return {"k": self.k, "balls": self.balls}

    def check(self, n: int, extractor: str) -> None:
        """n must exceed k."""
        _check_count(n, self.k)


class Classes(Metric):
    """What is left of each class, averaged over classes: its share, and its recall.

    Recall sees a class that fades where precision and the trace of the covariance do not. With an
    extractor that tells classes apart it says as well how many samples look like the class that was
    asked for.

    Args:
        k: Neighbour that sets the radius of a ball.
        balls: As for :class:`Neighbours`.
    """

    sets = ("real", "synthetic", "real_labels", "synthetic_labels")

    def __init__(self, k: int = 5, balls: Balls = "closed") -> None:
        super().__init__()
        _check_balls(k, balls)
        self.k, self.balls = k, balls

    def update(self, features: Tensor, real: bool, labels: Tensor) -> None:  # type: ignore[override]
        """Takes in a batch.

        Args:
            features: Features (N, D), floats.
            real: Whether they are real, else synthetic.
            labels: Classes (N,), integers from 0 on.
        """
        name = "real" if real else "synthetic"
        if labels.shape != features.shape[:1] or labels.is_floating_point():
            raise ValueError(
                f"{name} has {len(features)} samples and labels of {labels.dtype} "
                f"and shape {tuple(labels.shape)}"
            )
        self._take(name, features)
        self._take(f"{name}_labels", labels[:, None].float())  # exact up to 2^24 classes

    def values(self, real: View, synthetic: View) -> dict[str, float]:
        """``class_share``, ``class_recall``, with a classifier ``class_agreement``; in [0, 1]."""
        if real.labels is None or synthetic.labels is None:
            raise Refused(
                "",
                "Classes compares class by class, and these samples have no labels",
                "leave it out, or take a labelled source and a class-conditional generator",
            )
        values = {
            "class_share": class_share(real.labels, synthetic.labels),
            "class_recall": class_recall(
                real.features, real.labels, synthetic.features, self.k, self.balls
            ),
        }
        if synthetic.seen is not None:
            as_asked = synthetic.seen == synthetic.labels.to(synthetic.seen.device)
            values["class_agreement"] = float(as_asked.double().mean())
        return values

    def errors(self, real: View, synthetic: View, m: int) -> dict[str, MeasurementError]:
        """Of recall from halves; of agreement, which asks for no reference, as of any share.

        Shares of classes have none: classes are asked for, in numbers that leave nothing to chance.
        Where those of the reference came by chance, no error of the recall is told.
        """
        told = {"class_share": MeasurementError(0.0, 0.0)}
        if m >= 4 * self.k and real.labels is not None:
            (x, of_x), (y, of_y) = real.first(m), synthetic.first(m)
            variances = neighbour_variances(x, y, self.k, of_x, of_y, n=len(real.features))
            told["class_recall"] = variances["class_recall"].error()
        if synthetic.seen is not None and synthetic.labels is not None:
            as_asked = synthetic.seen == synthetic.labels.to(synthetic.seen.device)
            variance = scatter(as_asked, synthetic.labels) / len(as_asked)
            told["class_agreement"] = MeasurementError(variance**0.5, 0.0)
        return told

    def quantities(self, extractor: str) -> dict[str, Quantity]:
        """Diversity, and the fidelity of samples to their class."""
        names = ["class_share", "class_recall"]
        return quantities_of([*names, "class_agreement"] if extractor == "classifier" else names)

    def protocol(self) -> dict[str, Any]:
        """k and the kind of balls."""
        return {"k": self.k, "balls": self.balls}

    def check(self, n: int, extractor: str) -> None:
        """n must exceed k."""
        _check_count(n, self.k)

    def _views(self) -> tuple[View, View]:
        real, synthetic = (
            View(self._rows(name), labels=self._rows(f"{name}_labels").squeeze(1).long())
            for name in ("real", "synthetic")
        )
        return real, synthetic
