r"""Negative guidance: what a training on its own samples does to a generator, undone beforehand.

A generator that is trained on its own samples moves, and on average in the wrong direction: that is
what makes a loop go MAD. Whoever tries it out, on a copy and for a small budget, has the direction,
and can go the other way. Such is a generation's *second phase*: an *auxiliary* generator is trained
for a while, and the generator draws from then on by both. Let r be the generator, s its auxiliary
and w the *weight*.

================  ======================  =======================  ==============================
class             auxiliary is trained    from                     drawn by
                  on
================  ======================  =======================  ==============================
``SIMS``          r's own samples         r's averaged weights     the score
                                                                   :math:`(1+w)\,s_r - w\,s_s`
``Neon``          r's own samples         r's averaged weights     the weights :math:`\theta_r -
                                                                   w(\theta_s-\theta_r)`
``Autoguidance``  the generation's mix    new weights              the score
                                                                   :math:`(1+w)\,s_r - w\,s_s`
================  ======================  =======================  ==============================

SIMS is by Alemohammad et al. (2024, arXiv 2408.16333), Neon by Alemohammad et al. (2025, arXiv
2510.03597). Autoguidance (Karras et al., 2024, arXiv 2406.02507, whose weight is 1 + w) leads away
from a generator that has learned the same for a shorter time. It sharpens, as λ does: it is a bias.

The predictions of a diffusion network, be it noise or velocity, are affine in the score with the
same coefficients at the same point, so that to extrapolate one is to extrapolate the other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch

from mad_lightning.generators.base import Generator
from mad_lightning.identity import Described
from mad_lightning.refusal import Refused, check_within

__all__ = ["AUTO", "SIMS", "Autoguidance", "Improvement", "Neon"]

AUTO = (0.0, 0.25, 0.5, 1.0, 1.5)
"""Weights that ``auto`` chooses from; the first lets the generator be."""


class Improvement(Described, ABC):
    """Abstract second phase of a generation.

    Args:
        weight: w, at least 0; 0 leaves the generator as it was. Of several, or of those that
            ``auto`` stands for, each generation takes the one whose samples come nearest, by the
            Fréchet distance of the evaluator's features, to ``validation`` real samples that
            neither a generation nor a treatment learns from, and that are not of the reference.
        images: Images that the auxiliary is trained on, counted as often as they are seen.
        samples: How many samples the generator draws (without bias) for its auxiliary; None: as
            many as it was trained on.
        lr: Learning rate of the auxiliary, without warm-up; None: the generator's own way.
        validation: Real samples that a weight is chosen by.
    """

    on_own_samples: ClassVar[bool] = True
    """Whether the auxiliary learns from what the generator draws, or from the generation's mix."""
    from_scratch: ClassVar[bool] = False
    """Whether it starts from new weights, or from those that the generator draws with."""

    def __init__(
        self,
        weight: float | list[float] | Literal["auto"] = 0.5,
        images: int = 3840,
        samples: int | None = None,
        lr: float | None = 1e-3,
        validation: int = 256,
    ) -> None:
        _check_weight(weight)
        _check_count("images", images, 1, "e.g. a tenth of what the generator was trained on")
        if samples is not None:
            _check_count("samples", samples, 2, "leave it out for as many as it was trained on")
        _check_count("validation", validation, 2, "e.g. 256")
        if lr is not None:
            _check_number("lr", lr)
        check_within("(0, inf)", "e.g. 1e-3", lr=lr)
        self.weight, self.images, self.samples = weight, images, samples
        self.lr, self.validation = lr, validation

    @property
    def weights(self) -> tuple[float, ...]:
        """Those to choose from; one if there is no choice."""
        if self.weight == "auto":
            return AUTO
        listed = self.weight if isinstance(self.weight, Sequence) else [self.weight]
        return tuple(map(float, listed))

    def check(self, generator: Generator) -> None:
        """Refuses a family that this cannot be done to.

        Raises:
            Refused: With the reason.
        """
        family, name = type(generator).__name__, type(self).__name__
        if not generator.has_gradients:
            raise Refused(
                "",
                f"{name} trains an auxiliary step by step along gradients, {family} has none",
                "take a family that is trained so, or leave it out",
            )
        if self.lr is not None and not hasattr(generator, "lr"):
            raise Refused("lr", f"{family} has no learning rate of that name", "set `lr: null`")

    def prepare(self, auxiliary: Generator) -> None:
        """Makes a copy of the generator ready to be trained as its auxiliary."""
        if not self.from_scratch:
            auxiliary.from_average()
        if self.lr is not None:
            for name, value in (("lr", self.lr), ("warmup", 0)):
                if hasattr(auxiliary, name):
                    setattr(auxiliary, name, value)

    @abstractmethod
    def apply(self, generator: Generator, auxiliary: Generator, weight: float) -> None:
        """Lets a generator draw by both, from now on.

        Args:
            generator: As it was trained.
            auxiliary: Another one of its family, size and kind of samples; it may become a part of
                the generator.
            weight: w, at least 0.
        """

    def facts(self, weight: float) -> dict[str, Any]:
        """What the ledger tells of it, beside the sampler."""
        name = type(self).__name__
        return {"improve": name, "improve_weight": weight, "improve_images": self.images}


class _OfScores(Improvement):
    """Extrapolates the score."""

    def check(self, generator: Generator) -> None:
        """The family must have one."""
        super().check(generator)
        if not generator.has_score:
            name, family = type(self).__name__, type(generator).__name__
            raise Refused(
                "",
                f"{name} extrapolates scores, {family} draws without one",
                "take Neon, which extrapolates weights, or a family with a score, e.g. Diffusion",
            )

    def apply(self, generator: Generator, auxiliary: Generator, weight: float) -> None:
        """Both networks are asked at every step: each sample costs twice."""
        generator.guide(auxiliary, weight)


class SIMS(_OfScores):
    """Extrapolates the score away from what a training on own samples would make of it.

    Example:
        >>> improve:
        ...   class_path: SIMS
        ...   init_args: {weight: .5, images: 3840}
    """


class Autoguidance(_OfScores):
    """Extrapolates the score away from a generator that has learned the same for a shorter time.

    Args:
        weight: w, see :class:`Improvement`; Karras et al. (2024) count from 1: 1 + w.
        images: What the weaker one is trained on.
        lr: Its learning rate; None: the generator's own way, warm-up included.
        validation: See :class:`Improvement`.
    """

    on_own_samples = False
    from_scratch = True

    def __init__(
        self,
        weight: float | list[float] | Literal["auto"] = 0.5,
        images: int = 3840,
        lr: float | None = None,
        validation: int = 256,
    ) -> None:
        super().__init__(weight, images, None, lr, validation)


class Neon(Improvement):
    """Extrapolates the weights away from where a training on own samples leads.

    All parameters are merged, averaged ones included; buffers stay the generator's. Drawing costs
    as much as before.
    """

    @torch.no_grad()
    def apply(self, generator: Generator, auxiliary: Generator, weight: float) -> None:
        """Each parameter p becomes p - w (p_s - p)."""
        others = dict(auxiliary.named_parameters())
        for name, parameter in generator.named_parameters():
            other = others[name].to(parameter)
            parameter.copy_(parameter - weight * (other - parameter))
        generator.settle()


def _check_weight(weight: Any) -> None:
    """w, several of them, or ``auto``."""
    if isinstance(weight, str):
        if weight != "auto":
            raise Refused("weight", f"{weight!r}", "give a number, several, or auto")
        return
    listed = list(weight) if isinstance(weight, Sequence) else [weight]
    for one in listed:
        _check_number("weight", one)
    check_within("[0, 100]", "e.g. 0.5; 0 changes nothing", weight=listed)
    if len({*map(float, listed)}) < len(listed):
        raise Refused("weight", f"{listed} has one twice", "name each once")


def _check_number(field: str, given: Any) -> None:
    """Nothing is no number, and a truth value, which counts as one in Python, is none here."""
    if given is None or isinstance(given, bool):
        raise Refused(field, f"{given} is no number", "give a number")


def _check_count(field: str, n: Any, least: int, remedy: str) -> None:
    _check_number(field, n)
    check_within(f"[{least}, 10000000000]", remedy, **{field: n})
    if int(n) != n:
        raise Refused(field, f"{n} is no whole number", remedy)
