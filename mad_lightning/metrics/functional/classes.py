"""Class by class: what an average over samples hides.

A generator that forgets a rare class loses little of any average. Here each class counts as much as
any other, whatever its share of the data.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mad_lightning.metrics.functional.neighbours import Balls, recalled

__all__ = ["class_recall", "class_share"]


def class_share(real_labels: Tensor, synthetic_labels: Tensor) -> float:
    """How much of each class's real share is left among synthetic samples, averaged over classes.

    A class with real share r and synthetic share s keeps ``min(1, s / r)``.

    Args:
        real_labels: Classes of real samples (N,), integers >= 0, N >= 1. They say which classes
            there are.
        synthetic_labels: Classes of synthetic samples (M,), M >= 1, as drawn or as classified.

    Returns:
        1 if no class lost share, less 1 / C for each of C equal classes that vanished, 0 if all
        did.

    Raises:
        ValueError: If labels are not vectors of integers >= 0, or there are none.
    """
    for name, labels in (("real", real_labels), ("synthetic", synthetic_labels)):
        _check(name, labels)
    size = int(max(real_labels.max(), synthetic_labels.max())) + 1
    real, synthetic = (
        labels.bincount(minlength=size).double() / len(labels)
        for labels in (real_labels, synthetic_labels)
    )
    there = real > 0
    return float((synthetic[there] / real[there]).clamp(max=1.0).mean())


def class_recall(
    real: Tensor, real_labels: Tensor, synthetic: Tensor, k: int = 5, balls: Balls = "closed"
) -> float:
    """Recall of each class's real samples, averaged over classes.

    Only real samples need labels: a class that vanished has nobody to carry them, and its real
    samples then lie in no synthetic ball.

    Args:
        real: Features (N, D), floats, N > k.
        real_labels: Their classes (N,), integers >= 0.
        synthetic: Features (M, D), floats, M > k.
        k: Neighbour that sets the radius of a ball.
        balls: As for :func:`.two_sample`.

    Returns:
        A number in [0, 1]; the recall itself where classes are equally common.

    Raises:
        ValueError: As :func:`.two_sample`, or if there is not one label for each real sample.
    """
    _check("real", real_labels)
    if len(real_labels) != len(real):
        raise ValueError(f"real has {len(real)} samples and {len(real_labels)} labels")
    labels = real_labels.to(real.device)
    hit = recalled(real, synthetic, k, balls).to(labels.device)
    count = labels.bincount()
    hits = labels[hit].bincount(minlength=len(count))
    there = count > 0
    return float((hits[there].double() / count[there]).mean())


def _check(name: str, labels: Tensor) -> None:
    if labels.ndim != 1 or labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(
            f"{name} has labels of {labels.dtype} and shape {tuple(labels.shape)}, "
            f"not integers (N,)"
        )
    if not len(labels) or int(labels.min()) < 0:
        raise ValueError(f"{name} has {len(labels)} labels; classes are numbers from 0 on")
