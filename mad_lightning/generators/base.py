"""The contract of a generator family.

A generator is an ordinary LightningModule that can also be sampled from. What it draws is decided
by the seeds it is given, one a sample, and by its weights: not by the batch, the device count or
what was drawn before. It sees stored samples (uint8 images, float32 vectors) at its two borders
and converts at both with :mod:`mad_lightning.samples`. It never writes a file and never logs to
Weights & Biases.

Life of a generator: ``__init__`` takes what the configuration says, :meth:`Generator.build` what
the kind of data says, :meth:`Generator.initialise` what the first batch says; then Lightning trains
it, then :meth:`Generator.sample` draws. It is used for one generation and thrown away.

Any Lightning Trainer will do, and any loader of tensors: a batch is x, ``(x,)``, ``(x, y)`` or
:class:`~mad_lightning.samples.Samples`. Images x (N, C, H, W) are uint8, or floats in [-1, 1];
vectors x are (N, D); y are classes (N,) from 0. Each family's docstring has an example, with
``torch``, ``lightning as L`` and torch's ``DataLoader`` and ``TensorDataset`` imported.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import deepcopy
from hashlib import sha256
from typing import Any, Self

import lightning as L
import torch
from torch import Tensor, nn

from mad_lightning.generators.means import Means
from mad_lightning.identity import Described
from mad_lightning.precision import true_float32
from mad_lightning.processes import know_devices, take_from_first
from mad_lightning.refusal import Diverged, Refused, check_sampling_bias
from mad_lightning.samples import Law, Samples, SampleSpec, SeedBlock, to_stored

__all__ = ["Generator", "digest_of"]

_STEADIER = {
    "lr": "a lower",
    "warmup": "a longer",
    "clip_norm": "a smaller",
    "gradient_penalty": "a larger",
    "r1": "a larger",
}
"""What keeps a training from diverging, by the names that families have for it."""
FUSED_ON = ("cpu", "cuda")
"""Devices on which an optimiser's step is one pass."""


class Generator(Described, L.LightningModule, ABC):
    """Abstract generator family."""

    spec: SampleSpec

    weighs: bool = False
    """Whether it weighs samples itself, by ``batch.weights``, where an epoch is one exact pass. To
    all others, samples of twice the weight are shown twice as often."""

    exact_pass: bool = False
    """Whether an epoch must be one exact pass over the mix (families with a closed form)."""

    is_one_pass: bool = False
    """Whether its hooks ask nothing of a Trainer, log nothing, and one pass is the whole fit: then
    a process that is alone fits it without one."""

    is_alone: bool = False
    """Whether it can be trained and drawn from by one process only."""

    batches_at_once: int = 1
    """Batches that it likes to be given in one training step, by a loader that can."""

    precisions: tuple[str, ...] = ("32-true", "16-mixed", "bf16-mixed", "64-true")
    """Lightning's precisions that it can be trained in. Weights in half precision are none of them:
    the small steps of an average, or of moments, would be rounded away."""

    needs_float64: bool = False
    """Whether it computes in float64, which Apple's GPUs do not have."""

    has_gradients: bool = True
    """Whether its weights are found step by step along gradients, so that two of them span a line
    on which there are others."""

    has_score: bool = False
    """Whether it draws by an estimate of the score, which :meth:`guide` can correct."""

    compiles: bool | None = None
    """Whether :meth:`to_compile` is compiled when training starts."""

    improvement: Mapping[str, Any] = {}
    """What a second phase has made of it, for :meth:`sampler`'s reader; nothing without one."""

    def __init__(self) -> None:
        super().__init__()
        self._noted = Means()

    @abstractmethod
    def build(self, spec: SampleSpec) -> Self:
        """Makes the networks for samples of this kind, sets ``self.spec`` and returns itself.

        Raises:
            Refused: If the family cannot model them.
        """

    def initialise(self, samples: Samples) -> None:
        """Sets initial weights that depend on data (ActNorm's, for one).

        Called once before training, on every process with the same samples: were it left to the
        first training step, each process would start from its own share of a batch.

        Args:
            samples: The first batch of the generation, of all processes together.
        """

    # what is refused before training

    def check_precision(self, precision: str) -> None:
        """Refuses a Trainer's precision that this family cannot be trained in."""
        if precision not in self.precisions:
            raise Refused(
                "precision",
                f"{type(self).__name__} cannot be trained in {precision}",
                f"choose {', '.join(self.precisions)}",
            )

    def check_device(self, kind: str, precision: str = "32-true") -> None:
        """Refuses a kind of device, e.g. ``mps``, that cannot train this family in a precision."""
        if kind == "mps" and (self.needs_float64 or precision == "64-true"):
            problem = f"{kind} has no float64, in which {type(self).__name__} computes"
            raise Refused("accelerator", problem, "set `accelerator: cpu`")

    def check_training(self, counts: Sequence[int], batch_size: int) -> None:
        """Refuses a training set that this family cannot learn from.

        Args:
            counts: Samples of each class, or of all if samples have none.
            batch_size: Samples of a batch on each process.
        """

    # training

    def setup(self, stage: str) -> None:
        """Stops a Trainer before it meets a generator without networks.

        Raises:
            RuntimeError: If :meth:`build` was not called.
            Refused: If the family cannot be trained in the Trainer's precision.
        """
        if not hasattr(self, "spec"):
            raise RuntimeError(
                f"this {type(self).__name__} does not know what samples look like: call "
                "build(SampleSpec.of(x)) before it is trained or sampled from"
            )
        self.check_precision(str(self.trainer.precision))
        know_devices()

    def to_compile(self) -> Sequence[nn.Module]:
        """Networks that may be compiled; ``torch.compile`` cannot differentiate a call twice."""
        return ()

    def on_fit_start(self) -> None:
        """Compiles them if asked to, in place: names in checkpoints stay."""
        for network in self.to_compile() if self.compiles else ():
            network.compile()

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Makes samples of what an ordinary loader gives; see :meth:`Samples.of`."""
        if isinstance(batch, Samples) or self.trainer.predicting:
            return batch
        return Samples.of(batch, self.spec)

    def common_seed(self) -> int:
        """Draws a seed from the global random numbers; all processes get the first one's."""
        seed = torch.randint(2**62, ()).to(self.device)
        take_from_first(seed)
        return int(seed)

    def note(self, **values: Tensor) -> None:
        """Adds to the means that are logged once an epoch: ``self.log`` is dear in small steps."""
        for name, value in values.items():
            self._noted.add(name, value, self.batches)

    def epoch_means(self) -> dict[str, Tensor]:
        """Means of what was noted in this epoch, over all processes; forgets it.

        Raises:
            Diverged: On all processes alike, if one of them is not finite.
        """
        means, broken = self._noted.taken()
        for name, step in broken.items():
            of_epoch = f"the mean of {name} in epoch {self.current_epoch} is {float(means[name])}"
            raise self.diverged(f"{of_epoch}, from step {step} on")
        return means

    @property
    def batches(self) -> int:
        """Batches that training has begun with, over all starts; 0 without a Trainer."""
        loop = getattr(self._trainer, "fit_loop", None)
        return 0 if loop is None else int(loop.epoch_loop.total_batch_idx) + 1

    def broken_weights(self) -> list[str]:
        """Names of parameters that are not finite, and of buffers that are no numbers."""
        parts = {
            **{name: p.isfinite().all() for name, p in self.named_parameters()},
            **{name: ~b.isnan().any() for name, b in self.named_buffers()},
        }
        whole = torch.stack([part.to(self.device) for part in parts.values()]).tolist()
        return [name for name, is_whole in zip(parts, whole, strict=True) if not is_whole]

    def diverged(self, what: str) -> Diverged:
        """What is raised when a training has broken.

        Args:
            what: What is broken, e.g. ``the mean of loss is nan``.
        """
        remedies = [
            f"{change} `{name}` (now {getattr(self, name)})"
            for name, change in _STEADIER.items()
            if getattr(self, name, None) is not None
        ]
        precision = "32-true" if self._trainer is None else self._trainer.precision
        if precision not in ("32-true", "64-true"):
            remedies.append(f"a Trainer's precision 32-true (now {precision})")
        remedy = ", ".join(remedies) or "samples of a smaller scale"
        return Diverged("", f"{type(self).__name__} has diverged: {what}", remedy)

    def fuses(self, network: nn.Module) -> bool | None:
        """What an Adam takes as ``fused``: its step is then one pass over all weights of a network.

        None leaves it to torch, where a device has no such step; and where gradients are scaled:
        a fused step scales them back itself, after they are clipped.
        """
        scales = getattr(getattr(self._trainer, "precision_plugin", None), "scaler", None)
        floats = all(
            p.device.type in FUSED_ON and p.is_floating_point() for p in network.parameters()
        )
        return True if floats and scales is None else None

    def after_step(self) -> None:
        """Called after each step of the optimiser; averaged weights follow here.

        Not at the end of a batch: ``accumulate_grad_batches`` makes one step of several. (A family
        that steps by hand knows its steps.)
        """

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """A step of the optimiser, as Lightning calls it."""
        super().optimizer_step(*args, **kwargs)
        self.after_step()

    def on_train_epoch_end(self) -> None:
        """Logs the means of the epoch."""
        for name, mean in self.epoch_means().items():
            self.log(name, mean)

    # a second phase (mad_lightning.generators.guidance)

    def from_average(self) -> None:
        """Lets another training begin from the weights that are drawn with.

        A family that draws with averaged weights makes them its trained ones.
        """

    def settle(self) -> None:
        """Called when weights were changed by hand: finds anew what follows from them."""

    def guide(self, weaker: Self, weight: float) -> None:
        """Draws from now on by (1 + w) times its own score minus w times that of a weaker one.

        Args:
            weaker: Another generator of the same family, size and kind of samples.
            weight: w, at least 0.

        Raises:
            Refused: If the family has no score.
        """
        problem = f"{type(self).__name__} draws without a score"
        raise Refused("", problem, "take a family that has one, e.g. Diffusion, or Neon")

    def network_calls(self, sampling_bias: float) -> int:
        """How often a sample asks networks of the trained one's size."""
        return 1

    # sampling

    @abstractmethod
    def draw(self, seeds: Tensor, sampling_bias: float, labels: Tensor | None) -> Tensor:
        """Draws one sample for each seed, as floats.

        Args:
            seeds: Sample seeds with shape (N,), int64, on the generator's device.
            sampling_bias: λ in (0, 1].
            labels: Classes (N,), int64, or None.

        Returns:
            Images in [-1, 1] with shape (N, C, H, W), or vectors (N, D).
        """

    def check_bias(self, sampling_bias: float) -> None:
        """Refuses a λ that this family cannot translate."""
        check_sampling_bias(sampling_bias)

    def sampler(self) -> dict[str, Any]:
        """What besides λ shapes the samples (sampler, steps, clipping, whose weights)."""
        return {}

    def law(self) -> Law | None:
        """Mean and covariance of the unbiased generator, where the family knows them exactly."""
        return None

    @torch.no_grad()
    def sample(
        self, seeds: Tensor, sampling_bias: float = 1.0, labels: Tensor | None = None
    ) -> Samples:
        """Draws stored samples, computed in float32 whatever the precision of a Trainer.

        Args:
            seeds: One seed a sample, with shape (N,), int64.
            sampling_bias: λ in (0, 1]; 1 is unbiased.
            labels: Classes to draw (N,), int64; None for unlabelled data.

        Returns:
            N samples on the CPU.

        Raises:
            Refused: If λ is out of range, or :meth:`draw` returns something else than it should.
            Diverged: If samples are not finite. They are counted, never filtered: a hidden filter
                would be a sampling bias.
        """
        self.check_bias(sampling_bias)
        training = self.training
        self.eval()
        try:
            seeds = seeds.to(self.device)
            given = None if labels is None else labels.to(self.device)
            with true_float32(seeds.device):
                floats = self.draw(seeds, sampling_bias, given)
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined] # not in its stubs
            raise self.diverged(f"no samples can be drawn ({error})") from error
        finally:
            self.train(training)
        check_floats(f"{type(self).__name__}.draw", floats, (len(seeds), *self.spec.shape))
        kept = floats.flatten(1).float()  # in which more is infinite than in float64
        if not kept.sum().isfinite() and (broken := int((~kept.isfinite()).any(dim=1).sum())):
            raise self.diverged(f"{broken} of {len(seeds)} samples are not finite")
        return Samples(to_stored(floats, self.spec).cpu(), None if labels is None else labels.cpu())

    def predict_step(self, batch: SeedBlock, batch_idx: int) -> Samples:
        """Draws one block; Lightning brings devices, precision and processes."""
        return self.sample(batch.seeds, batch.sampling_bias, batch.labels)

    def digest(self) -> str:
        """SHA-256 of all weights and buffers."""
        return digest_of(self.state_dict())


def digest_of(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of weights and buffers by name."""
    digest = sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_floats(name: str, out: Any, shape: tuple[int, ...]) -> None:
    """Refuses what is not a tensor of floats of this shape.

    Raises:
        Refused: With both shapes, and the kind of numbers.
    """
    if not isinstance(out, Tensor):
        problem = f"{name} returns a {type(out).__name__}"
    elif tuple(out.shape) != shape or not out.is_floating_point():
        problem = f"{name} returns {out.dtype} of shape {tuple(out.shape)}"
    else:
        return
    raise Refused("", problem, f"let it return a tensor of floats of shape {shape}")


def try_network(network: Any, form: str, shape: tuple[int, ...], *inputs: Tensor | None) -> None:
    """Calls a network once, in evaluation: one that does not fit is refused before training.

    Args:
        network: Any module.
        form: How it is called, for the message, e.g. ``net(x, t, labels)``.
        shape: What it should return, beside the number of samples.
        inputs: Two samples of each argument, or None.

    Raises:
        Refused: With the shapes, or with what the network raised.
    """
    name = type(network).__name__
    if not isinstance(network, nn.Module):
        raise Refused("", f"it makes a {name}, not a network", "name what makes a torch.nn.Module")
    like = next(network.parameters(), torch.zeros(()))
    given = [x if x is None or not x.is_floating_point() else x.to(like.dtype) for x in inputs]
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            tried = deepcopy(network).eval()  # a network may count or keep what it sees
            out = tried(*[x if x is None else x.to(like.device) for x in given])
    except Exception as error:  # whatever a network raises that is called in a way it does not know
        shapes = ", ".join("None" if x is None else str(tuple(x.shape)) for x in inputs)
        raise Refused(
            "",
            f"{name}, called as {form} on {shapes}, raises {type(error).__name__}: {error}",
            "take a network that is made from a SampleSpec and called so",
        ) from error
    check_floats(name, out, (2, *shape))


def refuse_vectors(family: str, spec: SampleSpec) -> None:
    """Refuses vector data, for families that need images."""
    if spec.kind != "image":
        raise Refused(
            "",
            f"{family} needs images, these samples are vectors {spec.shape}",
            "take a family that models vectors, or train on images",
        )


def warmed_adamw(
    network: nn.Module,
    lr: float,
    warmup: int,
    steps: int,
    weight_decay: float = 0.0,
    fused: bool | None = None,
) -> dict[str, Any]:
    """AdamW, and a schedule that rises over ``warmup`` steps, then falls to 0 as a cosine of all.

    Args:
        network: What is trained.
        lr: Peak learning rate.
        warmup: Steps until the peak.
        steps: Steps of the whole training.
        weight_decay: AdamW's.
        fused: See :meth:`Generator.fuses`.

    Returns:
        What ``configure_optimizers`` returns.
    """
    optimizer = torch.optim.AdamW(network.parameters(), lr, weight_decay=weight_decay, fused=fused)
    steps = max(2, steps)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 + 0.5 * math.cos(math.pi * min(1.0, step / steps))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
