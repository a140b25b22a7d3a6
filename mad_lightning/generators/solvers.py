r"""Solvers: how pure noise becomes a sample, given an estimate of the noise in it.

The forward process :math:`x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\epsilon` can be
undone in three ways. *Ancestral* sampling draws each earlier :math:`x` from its conditional law
(Ho et al., 2020, algorithm 2) and is exact in the limit of many steps. The *probability-flow
equation* (DDIM is its plainest solver) leads from noise to a sample without further noise and
allows few, long steps, but keeps the error of each. The *reverse stochastic equation* takes such
steps, too, and adds new noise, in which errors of earlier steps fade.

A solver is a bias that a loop feeds back into itself: steps that are even in time end with a long
one, which returns means of images rather than images. From the exact score of N(0.3, 0.2²), 15 of
them draw .86 of its standard deviation (cosine schedule; .64 with linear betas), so that five
generations would lose half of it by the solver alone. Steps that are even in the logarithm of
signal to noise draw 1.03 to 1.05 of it (``benchmarks/solvers.py law``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mad_lightning.refusal import Refused, check_one_of

__all__ = ["BETAS", "SOLVERS", "Solver"]

SOLVERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddpm": ("", {}),
    "ddpm_large": ("", {}),
    "ddim": ("DDIMScheduler", {"clip_sample": False}),
    "dpm_solver": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "sde_dpm_solver": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "unipc": ("UniPCMultistepScheduler", {}),
}
"""Names of the solvers, and diffusers' schedulers that know their steps; ancestral ones are here.
Some go evenly through time, the others evenly through the log of signal to noise."""

_ANCESTRAL = ("ddpm", "ddpm_large")
"""With the variance of the posterior of a point, or with that of the forward step, β_t: the least
and the most that a reverse step can have (Ho et al., 2020, section 3.2)."""
_EVEN_IN_TIME = (*_ANCESTRAL, "ddim", "dpm_solver")
_LEAST_LOG_SNR = -5.1
"""Half the log of signal to noise at which few-step solvers start. A cosine schedule ends in purer
noise; dividing by its last signals, 5e-5, would make an image of the network's error."""

BETAS = (1e-4, 0.02)
"""The first and the last β that Ho et al. took, and diffusers takes."""

NoiseEstimate = Callable[[Tensor, int], Tensor]
"""From noisy images (N, C, H, W) and their time to the noise in them."""
NewNoise = Callable[[int], Tensor]
"""From a step, counted from 1, to standard normal noise (N, C, H, W). It is each sample's own, so
that a sample does not depend on what is drawn beside it."""


class Solver(nn.Module):
    """One of the solvers, on one noise schedule; moved with the network that it asks.

    Args:
        name: One of :data:`SOLVERS`.
        beta_schedule: Noise schedule, as diffusers names it.
        timesteps: T of the forward process.
        steps: Calls of the network, 1 to T.
        clip: Clip the estimate of x_0 to [-1, 1] at every step.
        beta_start: First β of the schedule, where it depends on one.
        beta_end: Last β.

    Raises:
        Refused: If the solver does not find back to a finite sample, whatever the network.
    """

    alphas_cumprod: Tensor

    def __init__(
        self,
        name: str,
        beta_schedule: str,
        timesteps: int,
        steps: int,
        clip: bool,
        beta_start: float = BETAS[0],
        beta_end: float = BETAS[1],
    ) -> None:
        from diffusers import DDPMScheduler  # costs seconds

        super().__init__()
        check_one_of(SOLVERS, sampler=name)
        self.name, self.beta_schedule, self.steps, self.clip = name, beta_schedule, steps, clip
        schedule = DDPMScheduler(timesteps, beta_start, beta_end, beta_schedule)
        self.ends = (beta_start, beta_end)
        self.betas = schedule.betas
        self.register_buffer("alphas_cumprod", schedule.alphas_cumprod, persistent=False)
        self.first = timesteps - 1
        if name in _ANCESTRAL or name == "ddim":
            return
        if name not in _EVEN_IN_TIME or beta_schedule == "squaredcos_cap_v2":
            log_snr = 0.5 * (self.alphas_cumprod.log() - (1.0 - self.alphas_cumprod).log())
            self.first = int((log_snr >= _LEAST_LOG_SNR).sum()) - 1
        if steps > self.first + 1 or not self._ends():
            raise Refused(
                "sampling_steps",
                f"{name} in {steps} steps of `timesteps: {timesteps}` meets a time twice and "
                "divides by zero",
                "take few steps, e.g. `sampling_steps: 15`, or more timesteps, or `sampler: ddpm`",
            )

    def _ends(self) -> bool:
        """Whether one number comes to a finite end."""
        one = torch.ones(1, 1, 1, 1)
        return bool(self(one, lambda x, t: one, lambda step: one).isfinite())

    def facts(self) -> dict[str, Any]:
        r"""What of it shapes the samples.

        It starts from pure noise at ``first_time``, though :math:`\bar\alpha` is not quite 0 there
        (``first_alpha_bar``), nor at the end of the schedule that the network learns from
        (``last_alpha_bar``).
        """
        return {
            "sampler": self.name,
            "steps": self.steps,
            "spacing": "time" if self.name in _EVEN_IN_TIME else "log_snr",
            "timesteps": len(self.betas),
            "beta_schedule": self.beta_schedule,
            "first_time": self.first,
            "first_alpha_bar": float(self.alphas_cumprod[self.first]),
            "last_alpha_bar": float(self.alphas_cumprod[-1]),
            "clip": self.clip,
            **({} if self.ends == BETAS else {"betas": list(self.ends)}),
        }

    def forward(self, x: Tensor, noise_estimate: NoiseEstimate, new_noise: NewNoise) -> Tensor:
        """From standard normal noise ``x`` (N, C, H, W) to samples, in [-1, 1] where clipped."""
        if self.name in _ANCESTRAL:
            return self._ancestral(x, noise_estimate, new_noise)
        return self._few_steps(x, noise_estimate, new_noise)

    def _few_steps(self, x: Tensor, noise_estimate: NoiseEstimate, new_noise: NewNoise) -> Tensor:
        """DPM-Solver++ 2M, its stochastic form (Lu et al., 2022), or UniPC (Zhao et al., 2023)."""
        solver = self.scheduler()
        solver.set_timesteps(self.steps)
        if self.name not in _EVEN_IN_TIME:
            times, noise_to_signal = self.even_in_log_snr()
            solver.timesteps = torch.tensor(times)
            solver.sigmas = torch.cat([noise_to_signal[times], torch.zeros(1)])
        for step, t in enumerate(solver.timesteps, start=1):
            noise = {"variance_noise": new_noise(step)} if self.name == "sde_dpm_solver" else {}
            x = solver.step(noise_estimate(x, int(t)), t, x, **noise).prev_sample
        return x

    def scheduler(self, **options: Any) -> Any:
        """The same solver as diffusers has it."""
        import diffusers

        if self.name in _ANCESTRAL:
            betas = self.betas.tolist()
            variance = "fixed_small" if self.name == "ddpm" else "fixed_large"
            return diffusers.DDPMScheduler(
                len(betas),
                trained_betas=betas,
                clip_sample=self.clip,
                variance_type=variance,
                **options,
            )
        scheduler, known = SOLVERS[self.name]
        return getattr(diffusers, scheduler)(
            self.first + 1,
            trained_betas=self.betas[: self.first + 1].tolist(),
            thresholding=self.clip,
            sample_max_value=1.0,
            **known,
            **options,
        )

    @property
    def times(self) -> list[int]:
        """Times at which the network is asked, the noisiest first."""
        if self.name in _ANCESTRAL:
            return torch.linspace(self.first, 0, self.steps).round().long().tolist()
        if self.name not in _EVEN_IN_TIME:
            return self.even_in_log_snr()[0]
        solver = self.scheduler()
        solver.set_timesteps(self.steps)
        return solver.timesteps.tolist()

    def even_in_log_snr(self) -> tuple[list[int], Tensor]:
        """Times from the first to 0, all different, and the ratio of noise to signal at each t."""
        alphas_cumprod = self.alphas_cumprod.cpu().float()  # the same times on every device
        noise_to_signal = ((1.0 - alphas_cumprod) / alphas_cumprod).sqrt()
        logs = noise_to_signal[: self.first + 1].log()
        wanted = torch.linspace(float(logs[-1]), float(logs[0]), self.steps)
        times: list[int] = []
        for near in torch.searchsorted((logs[1:] + logs[:-1]) / 2, wanted).tolist():
            left, below = self.steps - 1 - len(times), times[-1] - 1 if times else self.first
            times.append(max(left, min(near, below)))
        return times, noise_to_signal

    def _ancestral(self, x: Tensor, noise_estimate: NoiseEstimate, new_noise: NewNoise) -> Tensor:
        """Over all times or an even subset (Ho et al., 2020, equations 6-7)."""
        times = self.times
        for step, (t, before) in enumerate(zip(times, [*times[1:], -1], strict=True), start=1):
            alpha_bar = self.alphas_cumprod[t]
            alpha_bar_before = (
                self.alphas_cumprod[before] if before >= 0 else torch.ones_like(alpha_bar)
            )
            alpha = alpha_bar / alpha_bar_before
            noise = noise_estimate(x, t)
            x_0 = (x - (1.0 - alpha_bar).sqrt() * noise) / alpha_bar.sqrt()
            if self.clip:
                x_0 = x_0.clamp(-1.0, 1.0)
            x = (
                alpha_bar_before.sqrt() * (1.0 - alpha) * x_0
                + alpha.sqrt() * (1.0 - alpha_bar_before) * x
            ) / (1.0 - alpha_bar)
            if before >= 0:
                variance = 1.0 - alpha
                if self.name == "ddpm":
                    variance = (1.0 - alpha) * (1.0 - alpha_bar_before) / (1.0 - alpha_bar)
                x = x + variance.sqrt() * new_noise(step)
        return x
