"""What two sets of features must be before anything is computed from them."""

from __future__ import annotations

from torch import Tensor

__all__ = ["check_features", "check_pair"]

_LARGEST = 1e50
"""Of a feature; float32 ends before."""


def check_features(x: Tensor, name: str, at_least: int, why: str = "") -> Tensor:
    """The features where they can be computed with: float64 as they are, any other kind as float32.

    Args:
        x: Features (N, D).
        name: What messages call the set.
        at_least: Fewest samples that will do.
        why: What needs as many.

    Raises:
        ValueError: If ``x`` is not a matrix of finite floats, at most 1e50, with enough rows. The
            message names the set and the count.
    """
    if x.ndim != 2 or not x.is_floating_point() or x.shape[1] == 0:
        raise ValueError(f"{name} is {x.dtype} of shape {tuple(x.shape)}, not floats (N, D)")
    if len(x) < at_least:
        raise ValueError(f"{name} has {len(x)} samples, {why or f'at least {at_least}'} are needed")
    if not all(edge.isfinite() for edge in x.aminmax()):
        unusable = int((~x.isfinite()).any(dim=1).sum())
        raise ValueError(f"{name} has {unusable} of {len(x)} samples with NaN or infinite features")
    if x.itemsize == 8 and max(abs(float(edge)) for edge in x.aminmax()) > _LARGEST:
        beyond = int((x.abs() > _LARGEST).any(dim=1).sum())
        raise ValueError(
            f"{name} has {beyond} of {len(x)} samples with features beyond {_LARGEST:g}, "
            "whose cubes are no numbers any more"
        )
    x = x.detach()
    if x.device.type == "mps":  # which has no float64
        x = x.cpu()
    return x if x.itemsize == 8 else x.float()


def check_pair(
    real: Tensor, synthetic: Tensor, at_least: int, why: str = ""
) -> tuple[Tensor, Tensor]:
    """Both sets, which must agree in the number of features.

    Raises:
        ValueError: As :func:`check_features`, or if the sets differ in D.
    """
    real = check_features(real, "real", at_least, why)
    synthetic = check_features(synthetic, "synthetic", at_least, why)
    if real.shape[1] != synthetic.shape[1]:
        raise ValueError(
            f"real has {real.shape[1]} features a sample, synthetic has {synthetic.shape[1]}"
        )
    return real, synthetic
