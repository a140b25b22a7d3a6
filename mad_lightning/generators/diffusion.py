r"""The diffusion family: class-conditional denoising diffusion (DDPM).

A network :math:`\epsilon_\theta(x_t, t, c)` learns the noise in
:math:`x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\epsilon` (Ho et al., 2020, equation
14). The class is dropped for a tenth of the training samples, so that one network knows both the
conditional and the unconditional noise, and classifier-free guidance (Ho & Salimans, 2022) can be
the sampling bias.

The sampler is a bias of its own: few solver steps, clipping and averaged weights all change what
the next generation sees. They are therefore recorded beside λ. The solvers are in
:mod:`mad_lightning.generators.solvers`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.nn import functional as F

from mad_lightning.generators.base import (
    Generator,
    refuse_vectors,
    try_network,
    warmed_adamw,
)
from mad_lightning.generators.solvers import BETAS, SOLVERS, Solver
from mad_lightning.nets.ema import EMA
from mad_lightning.nets.unet import UNet, UNet2D
from mad_lightning.refusal import Refused, at, check_one_of, check_within
from mad_lightning.samples import Samples, SampleSpec, to_floats
from mad_lightning.seeds import normal

__all__ = ["Diffusion"]

_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")
_PREDICTIONS = {"epsilon": "epsilon", "velocity": "v_prediction", "sample": "sample"}
"""What a network's output can be, and what diffusers calls it."""


class Diffusion(Generator):
    r"""Denoising diffusion with classifier-free guidance, sampled from averaged weights.

    λ is the reciprocal guidance scale, ``guidance_scale = 1/λ`` (Alemohammad et al., 2023, section
    2.3: λ = 1/(1+w)): :math:`\epsilon = \epsilon_\varnothing + \lambda^{-1}(\epsilon_c -
    \epsilon_\varnothing)`. λ = 1 is the conditional model itself.

    Args:
        network: Makes the network from a :class:`SampleSpec`; called as ``net(x, t, labels)``,
            with class index ``spec.classes`` for "no class".
        timesteps: T of the forward process; the paper's MNIST experiments use 500.
        beta_schedule: Noise schedule, as diffusers names it: ``linear``, ``scaled_linear``,
            ``squaredcos_cap_v2`` or ``sigmoid``.
        prediction: What the network's output is: the noise ``epsilon``, or the ``velocity``
            :math:`\sqrt{\bar\alpha_t}\epsilon - \sqrt{1-\bar\alpha_t}x_0` (Salimans & Ho, 2022),
            from which the same noise follows without dividing by a vanishing signal; or the clean
            image itself, ``sample``.
        sampler: ``ddpm`` draws ancestral samples (Ho et al., 2020, algorithm 2), ``ddpm_large``
            with the larger of the two variances there; ``ddim`` (Song et al., 2021) without any
            noise but the first; in a few steps,
            ``sde_dpm_solver`` solves the reverse stochastic equation (SDE-DPM-Solver++ 2M, Lu et
            al., 2022), ``dpm_solver`` (DPM-Solver++ 2M) and ``unipc`` (Zhao et al., 2023) the
            probability-flow equation, without further noise.
        sampling_steps: Steps of the sampler; None takes all T, which is meant for ``ddpm``. 15 of
            ``sde_dpm_solver``, or 8 of ``unipc``, come about as near to the data as 500 of
            ``ddpm`` (``benchmarks/solvers.py``).
        clip: Clip the estimate of x_0 to [-1, 1] at every step.
        first_noise_within: Another bias: c, at which the noise that samples start from is cut,
            :math:`z \to \Phi^{-1}(\Phi(-c) + (1 - 2\Phi(-c))\,\Phi(z))`, as a truncated normal law
            has it. None cuts nothing. It counts where no further noise comes, in ``dpm_solver`` and
            ``unipc``.
        condition_drop: Share of training samples whose class is dropped; the paper drops 0.1.
        lr: Peak learning rate of AdamW; warms up over ``warmup`` steps, then falls as a cosine.
        warmup: Steps until the peak.
        weight_decay: AdamW's.
        ema_decay: Decay of the averaged weights; they, not the trained ones, are sampled from.
        beta_start: First β of the schedules ``linear``, ``scaled_linear`` and ``sigmoid``.
        beta_end: Their last β.
        compile: Compile the network when training starts.

    Example:
        >>> x, y = 2.0 * torch.rand(64, 1, 8, 8) - 1.0, torch.arange(64) % 10
        >>> diffusion = Diffusion(sampling_steps=5).build(SampleSpec.of(x, y))
        >>> L.Trainer(max_epochs=1).fit(diffusion, DataLoader(TensorDataset(x, y), batch_size=32))
        >>> samples = diffusion.sample(torch.arange(5), sampling_bias=0.5, labels=torch.arange(5))
        >>> samples.values.shape, samples.values.dtype
        (torch.Size([5, 1, 8, 8]), torch.uint8)
    """

    has_score = True

    def __init__(
        self,
        network: Callable[[SampleSpec], nn.Module] = UNet,
        timesteps: int = 1000,
        beta_schedule: str = "linear",
        prediction: Literal["epsilon", "velocity", "sample"] = "epsilon",
        sampler: Literal[
            "ddpm", "ddpm_large", "ddim", "dpm_solver", "sde_dpm_solver", "unipc"
        ] = "sde_dpm_solver",
        sampling_steps: int | None = 15,
        clip: bool = True,
        first_noise_within: float | None = None,
        condition_drop: float = 0.1,
        lr: float = 1e-3,
        warmup: int = 50,
        weight_decay: float = 0.0,
        ema_decay: float = 0.995,
        beta_start: float = BETAS[0],
        beta_end: float = BETAS[1],
        compile: bool | None = None,
    ) -> None:
        super().__init__()
        check_one_of(SOLVERS, sampler=sampler)
        check_one_of(_SCHEDULES, beta_schedule=beta_schedule)
        check_one_of(_PREDICTIONS, prediction=prediction)
        check_within("[1, 100000]", "the paper takes 500", timesteps=timesteps)
        check_within("(0, 100]", "e.g. 1.5", first_noise_within=first_noise_within)
        check_within("[0, 1)", "the paper takes 0.1", condition_drop=condition_drop)
        check_within("(0, inf)", "e.g. 1e-3", lr=lr)
        check_within("[0, 1000000]", warmup=warmup)
        check_within("[0, 10]", weight_decay=weight_decay)
        check_within("[0, 1)", "e.g. 0.995", ema_decay=ema_decay)
        check_within("(0, 1)", "e.g. 1e-4", beta_start=beta_start)
        check_within("(0, 1)", "e.g. 0.02", beta_end=beta_end)
        if sampling_steps is not None and not 1 <= sampling_steps <= timesteps:
            raise Refused(
                "sampling_steps",
                f"{sampling_steps} steps for `timesteps: {timesteps}`",
                f"choose 1 to {timesteps}",
            )
        self.network = network
        self.timesteps, self.beta_schedule = timesteps, beta_schedule
        self.prediction = prediction
        self.sampler_name, self.sampling_steps, self.clip = sampler, sampling_steps, clip
        self.first_noise_within = first_noise_within
        self.condition_drop = condition_drop
        self.lr, self.warmup, self.weight_decay = lr, warmup, weight_decay
        self.ema_decay, self.compiles = ema_decay, compile
        self.beta_start, self.beta_end = beta_start, beta_end
        self.weaker: EMA | None = None
        self.weight = 0.0

    def build(self, spec: SampleSpec) -> Self:
        """Makes the network, its average and the noise schedule."""
        refuse_vectors("Diffusion", spec)
        self.spec = spec
        steps = self.sampling_steps or self.timesteps
        self.solver = Solver(
            self.sampler_name,
            self.beta_schedule,
            self.timesteps,
            steps,
            self.clip,
            self.beta_start,
            self.beta_end,
        )
        self._check_schedule()
        with at("network"):
            self.net = self.network(spec)
            self._try_network()
        self.ema = EMA(self.net, self.ema_decay)
        return self

    @property
    def alphas_cumprod(self) -> Tensor:
        r""":math:`\bar\alpha_t` with shape (T,)."""
        return self.solver.alphas_cumprod

    def _check_schedule(self) -> None:
        """Warns of a schedule that is too short.

        Samples start from pure noise, whose mean is 0 and not what is left of the images'. It is
        not rescaled: T = 500 with linear betas is the usual MNIST code, and probably the paper's.
        """
        left = float(self.alphas_cumprod[-1].sqrt())
        if left > 0.05:
            rank_zero_warn(
                f"beta_schedule {self.beta_schedule} with {self.timesteps} timesteps leaves "
                f"{left:.2f} of the signal, and samples start from pure noise: even an exact "
                "network would drift from generation to generation (more timesteps, or "
                "squaredcos_cap_v2, end in noise)"
            )

    def _try_network(self) -> None:
        """Calls it once, with a class and with none."""
        times = torch.tensor([0, self.timesteps - 1])
        classes = self.spec.classes
        labels = None if classes is None else torch.tensor([0, classes])
        shape = self.spec.shape
        try_network(self.net, "net(x, t, labels)", shape, torch.zeros(2, *shape), times, labels)

    def check_bias(self, sampling_bias: float) -> None:
        """Guidance needs classes, and a network that has seen none dropped cannot be guided."""
        super().check_bias(sampling_bias)
        if sampling_bias < 1.0 and (self.spec.classes is None or self.condition_drop == 0.0):
            raise Refused(
                "sampling_bias",
                f"λ = {sampling_bias} guides by class, "
                + ("samples have none" if self.spec.classes is None else "none is ever dropped"),
                "train with classes and drop some of them, or take `sampling_bias: 1`",
            )

    def sampler(self) -> dict[str, Any]:
        """The biases besides λ."""
        cut = self.first_noise_within
        return {
            **self.solver.facts(),
            "prediction": self.prediction,
            "weights": f"ema {self.ema_decay}",
            **({} if cut is None else {"first_noise_within": cut}),
        }

    # a second phase

    def from_average(self) -> None:
        """Starts from the averaged network."""
        self.ema.restart(self.net)

    def guide(self, weaker: Self, weight: float) -> None:
        """Asks the averages of both networks; noise and velocity are affine in the score alike."""
        self.weaker, self.weight = weaker.ema, weight
        self.register_buffer("guidance", torch.tensor(weight))  # the digest of all weights tells it

    def network_calls(self, sampling_bias: float) -> int:
        """One a step of the solver, twice that with classes guided, twice with a weaker one."""
        by_class = sampling_bias < 1.0 and self.spec.classes is not None
        by_weaker = self.weaker is not None and self.weight > 0.0
        return self.solver.steps * (1 + by_class) * (1 + by_weaker)

    # training

    def to_compile(self) -> Sequence[nn.Module]:
        """The network that is trained; its average draws uncompiled."""
        return (self.net,)

    def training_step(self, batch: Samples, batch_idx: int) -> Tensor:
        """Mean squared error of what the network predicts (Ho et al., 2020, equation 14)."""
        x_0, labels = to_floats(batch.values).to(self.dtype), batch.labels
        if labels is not None and self.spec.classes is not None:
            drop = torch.rand(len(labels), device=self.device) < self.condition_drop
            labels = labels.masked_fill(drop, self.spec.classes)
        t = torch.randint(self.timesteps, (len(x_0),), device=self.device)
        noise = torch.randn_like(x_0)
        alpha_bar = self.alphas_cumprod[t].view(-1, 1, 1, 1)
        x_t = alpha_bar.sqrt() * x_0 + (1.0 - alpha_bar).sqrt() * noise
        target = noise
        if self.prediction == "velocity":
            target = alpha_bar.sqrt() * noise - (1.0 - alpha_bar).sqrt() * x_0
        elif self.prediction == "sample":
            target = x_0
        loss = F.mse_loss(self.net(x_t, t, labels), target)
        self.note(loss=loss)
        return loss

    def after_step(self) -> None:
        """Follows the network."""
        self.ema.update(self.net)

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up and cosine decay over the whole budget."""
        steps = int(self.trainer.estimated_stepping_batches)
        fused = self.fuses(self.net)
        return warmed_adamw(self.net, self.lr, self.warmup, steps, self.weight_decay, fused)

    # sampling

    def predicted(self, x: Tensor, times: Tensor, labels: Tensor | None) -> Tensor:
        r"""What the averaged network predicts, away from what a weaker one does, if there is one.

        That is :math:`(1 + w)\,\epsilon_\theta - w\,\epsilon_{weaker}`, or of velocities the same.

        Args:
            x: Noisy images (N, C, H, W).
            times: Of each (N,), int64.
            labels: Classes (N,), int64, or None.

        Returns:
            float32, with the shape of ``x``.
        """
        own: Tensor = self.ema(x, times, labels).float()
        if self.weaker is None or self.weight == 0.0:
            return own
        return own + self.weight * (own - self.weaker(x, times, labels).float())

    def noise_estimate(
        self, x: Tensor, t: int, labels: Tensor | None, sampling_bias: float
    ) -> Tensor:
        r"""The averaged network's noise, guided by class: :math:`\epsilon` of the class docstring.

        Args:
            x: Noisy images (N, C, H, W).
            t: Their time, 0 to ``timesteps`` - 1.
            labels: Classes (N,), int64, or None.
            sampling_bias: λ in (0, 1].

        Returns:
            Estimate with the shape of ``x``.
        """
        time = torch.full((len(x),), t, dtype=torch.int64, device=x.device)
        noisy = x.to(self.dtype)
        if sampling_bias == 1.0 or labels is None:
            out = self.predicted(noisy, time, labels)
        else:
            nothing = torch.full_like(labels, self.spec.classes or 0)
            both = self.predicted(
                torch.cat([noisy, noisy]), torch.cat([time, time]), torch.cat([nothing, labels])
            )
            without, given = both.chunk(2)
            out = without + (given - without) / sampling_bias
        if self.prediction == "epsilon":
            return out
        alpha_bar = self.alphas_cumprod[t]  # guidance commutes with these affine maps
        if self.prediction == "sample":
            return (x - alpha_bar.sqrt() * out) / (1.0 - alpha_bar).sqrt()
        return alpha_bar.sqrt() * out + (1.0 - alpha_bar).sqrt() * x

    def save_pretrained(self, path: Path, sampling_bias: float = 1.0) -> None:
        """Saves it as a pipeline that diffusers loads, with its solver and its averaged weights.

        Args:
            path: A folder.
            sampling_bias: λ that the pipeline draws with unless it is told otherwise.

        Raises:
            Refused: If diffusers does not know the network.
        """
        from mad_lightning.nets import pipeline  # imports diffusers

        for field, is_asked, problem in (
            ("improve", self.weaker is not None, "it asks one network a step, this generator two"),
            ("first_noise_within", self.first_noise_within is not None, "its first noise is whole"),
        ):
            if is_asked:
                remedy = "export the samples, or draw with mad_lightning.load"
                raise Refused(field, f"a pipeline of diffusers cannot draw so: {problem}", remedy)
        net, (_, height, width) = self.ema.net, self.spec.shape
        known = (UNet, UNet2D)
        if not isinstance(net, known) or height % net.multiple or width % net.multiple:
            what = "pads its images" if isinstance(net, known) else f"is a {type(net).__name__}"
            remedy = "export the samples instead, e.g. as a folder"
            raise Refused("network", f"diffusers has no such network: it {what}", remedy)
        scheduler = self.solver.scheduler(prediction_type=_PREDICTIONS[self.prediction])
        times = " ".join(map(str, self.solver.times))
        arguments = {
            "timesteps": self.timesteps,
            "beta_schedule": self.beta_schedule,
            "beta_start": self.beta_start,
            "beta_end": self.beta_end,
            "prediction": self.prediction,
            "sampler": self.sampler_name,
            "sampling_steps": self.sampling_steps,
            "clip": self.clip,
        }
        pipeline.ClassPipeline(
            net.unet, scheduler, times, height, width, 1.0 / sampling_bias, arguments
        ).save_pretrained(path)
        code, index = Path(pipeline.__file__), path / "model_index.json"
        shutil.copy(code, path)
        told = json.loads(index.read_text()) | {"_class_name": [code.stem, "ClassPipeline"]}
        index.write_text(json.dumps(told, indent=2) + "\n")

    def draw(self, seeds: Tensor, sampling_bias: float, labels: Tensor | None) -> Tensor:
        """Runs the solver from each seed's own noise."""
        noise = partial(normal, seeds, *self.spec.shape)
        estimate = partial(self.noise_estimate, labels=labels, sampling_bias=sampling_bias)
        first, within = noise(), self.first_noise_within
        if within is not None:
            first = truncated(first, within)
        return self.solver(first, estimate, lambda step: noise(stream=step))


def truncated(z: Tensor, within: float) -> Tensor:
    """Standard normal numbers as numbers of the normal law that is cut at ± ``within``."""
    below = torch.special.ndtr(torch.tensor(-within, device=z.device))
    tail = torch.special.ndtr(-z.abs())  # where float32 tells probabilities apart
    inside = torch.special.ndtri(below + (1.0 - 2.0 * below) * tail)
    return inside.clamp(-within, 0.0).abs() * z.sign()
