"""A diffusion generator as plain diffusers runs it: drawn by class, with guidance.

This file goes along with an exported generator, so it knows diffusers and nothing of the package
that it comes from. diffusers' own unconditional pipeline cannot ask for a class.

    pipeline = DiffusionPipeline.from_pretrained(FOLDER, trust_remote_code=True)
    pipeline(class_labels=[3, 3, 7]).images
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from torch import Tensor

__all__ = ["ClassPipeline"]


class ClassPipeline(DiffusionPipeline):
    """Draws images, of a class where there are some.

    Args:
        unet: The network; its last class means "no class".
        scheduler: The solver.
        timesteps: Times at which the network is asked, as text, the noisiest first: ``"98 50 0"``.
        height: Of an image.
        width: Of an image.
        guidance_scale: 1/λ that the samples of the lineage were drawn with; 1 does not guide.
        arguments: Of the generator that it comes from; nothing here needs them, ``mad base`` does.
    """

    def __init__(
        self,
        unet: Any,
        scheduler: Any,
        timesteps: str = "",  # diffusers takes what has no default for a network
        height: int = 1,
        width: int = 1,
        guidance_scale: float = 1.0,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
        self.register_to_config(
            timesteps=timesteps,
            height=height,
            width=width,
            guidance_scale=guidance_scale,
            arguments=arguments,
        )

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        class_labels: Sequence[int] | None = None,
        guidance_scale: float | None = None,
        latents: Tensor | None = None,
        generator: torch.Generator | None = None,
        output_type: str = "pil",
    ) -> ImagePipelineOutput:
        """Draws.

        Args:
            batch_size: Images, where neither classes nor noise say how many.
            class_labels: A class for each image; required if the network knows classes.
            guidance_scale: How far to exaggerate what the class adds; None takes the export's.
            latents: Standard normal noise (N, C, H, W) to start from.
            generator: Draws noise that is not given.
            output_type: ``pil``, ``np`` (N, H, W, C) in [0, 1], or ``pt`` (N, C, H, W) in [-1, 1].

        Raises:
            ValueError: If the network needs classes and none are given.
        """
        known = self.unet.config.num_class_embeds
        if known is not None and class_labels is None:
            raise ValueError(f"give class_labels, each from 0 to {known - 2}")
        if latents is None:
            n = batch_size if class_labels is None else len(class_labels)
            size = self.config.height, self.config.width
            latents = torch.randn(n, self.unet.config.in_channels, *size, generator=generator)
        x = latents.to(self.unet.device, self.unet.dtype)
        labels = None if known is None else torch.as_tensor(class_labels, device=x.device)
        scale = self.config.guidance_scale if guidance_scale is None else guidance_scale
        draws = "generator" in inspect.signature(self.scheduler.step).parameters
        noise = {"generator": generator} if draws else {}
        for t in self.progress_bar(self._times()):
            out = self.unet(x, t, class_labels=labels).sample
            if labels is not None and scale != 1.0:
                without = self.unet(x, t, class_labels=torch.full_like(labels, known - 1)).sample
                out = without + (out - without) * scale
            x = self.scheduler.step(out, t, x, **noise).prev_sample
        if output_type == "pt":
            return ImagePipelineOutput(images=x)
        images = (x / 2 + 0.5).clamp(0, 1).cpu().permute(0, 2, 3, 1).float().numpy()
        return ImagePipelineOutput(self.numpy_to_pil(images) if output_type == "pil" else images)

    def _times(self) -> Tensor:
        """Sets the solver to the times of the export."""
        times = torch.tensor([int(t) for t in self.config.timesteps.split()])
        self.scheduler.set_timesteps(len(times))
        self.scheduler.timesteps = times
        if hasattr(self.scheduler, "sigmas"):
            alphas_cumprod = self.scheduler.alphas_cumprod
            noise_to_signal = ((1.0 - alphas_cumprod) / alphas_cumprod).sqrt()
            self.scheduler.sigmas = torch.cat([noise_to_signal[times], torch.zeros(1)])
        else:
            self.scheduler.custom_timesteps = True
        return times
