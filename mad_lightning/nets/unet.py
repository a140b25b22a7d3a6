"""U-Nets of the diffusion family: diffusers' ``UNet2DModel`` behind a three-argument call."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from mad_lightning.identity import Described
from mad_lightning.refusal import Refused, check_within
from mad_lightning.samples import SampleSpec

__all__ = ["UNet", "UNet2D"]


class UNet(Described, nn.Module):
    """Predicts the noise in an image, given the time and the class.

    Any module that is built from a :class:`SampleSpec` and called as ``net(x, t, labels)`` can
    stand in its place; class index ``spec.classes`` means "no class".

    Args:
        spec: The images, (C, H, W); sides are padded to what the levels need.
        widths: Channels of each level, finest first; every level halves the side.
        layers: Residual blocks a level.
        attention: Self-attention in the coarsest level.
        groups: Groups of the normalisation; divides every width.
        dropout: Share of activations dropped in training.
    """

    def __init__(
        self,
        spec: SampleSpec,
        widths: tuple[int, ...] = (32, 64, 64),
        layers: int = 1,
        attention: bool = False,
        groups: int = 8,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_within("[1, 8192]", widths=widths)
        check_within("[1, 100]", layers=layers)
        check_within("[1, 8192]", groups=groups)
        check_within("[0, 1)", dropout=dropout)
        if unequal := [width for width in widths if width % groups]:
            raise Refused(
                "widths",
                f"{unequal[0]} channels are not divisible into `groups: {groups}`",
                "choose multiples of it",
            )
        if len(widths) > 12:
            raise Refused(
                "widths", f"{len(widths)} levels", "every level halves the side: take few"
            )
        from diffusers import UNet2DModel  # costs seconds

        channels, *size = spec.shape
        self.multiple = 2 ** (len(widths) - 1)
        down, up = ["DownBlock2D"] * len(widths), ["UpBlock2D"] * len(widths)
        if attention:
            down[-1], up[0] = "AttnDownBlock2D", "AttnUpBlock2D"
        self.unet = UNet2DModel(
            sample_size=max(size),
            in_channels=channels,
            out_channels=channels,
            layers_per_block=layers,
            block_out_channels=widths,
            down_block_types=tuple(down),
            up_block_types=tuple(up),
            add_attention=attention,
            norm_num_groups=groups,
            dropout=dropout,
            num_class_embeds=None if spec.classes is None else spec.classes + 1,
        )

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        """Noise estimate.

        Args:
            x: Noisy images (N, C, H, W).
            t: Diffusion times (N,), int64.
            labels: Classes (N,), int64, or None for unlabelled data.

        Returns:
            Estimate with the shape of ``x``.
        """
        height, width = x.shape[-2:]
        padding = (0, -width % self.multiple, 0, -height % self.multiple)
        out = self.unet(F.pad(x, padding), t, class_labels=labels).sample
        return out[..., :height, :width]


class UNet2D(Described, nn.Module):
    """A ``UNet2DModel`` by diffusers' own arguments, as ``mad base`` writes them down.

    Args:
        spec: The images, (C, H, W).
        options: What ``UNet2DModel`` is made with, see its ``config.json``. The last of
            ``num_class_embeds`` classes means "no class".
    """

    multiple = 1  # it pads nothing

    def __init__(self, spec: SampleSpec, options: dict[str, Any]) -> None:
        super().__init__()
        from diffusers import UNet2DModel  # costs seconds

        try:
            self.unet = UNet2DModel(**options)
        except Exception as error:  # whatever diffusers makes of what it does not know
            problem = f"UNet2DModel says: {type(error).__name__}: {error}"
            raise Refused("options", problem, "give what its config.json has") from error
        config = self.unet.config
        side = config.sample_size if config.sample_size is not None else spec.shape[1:]
        size = (side, side) if isinstance(side, int) else tuple(side)
        known = None if config.num_class_embeds is None else config.num_class_embeds - 1
        for what, its, ours in (
            ("channels", config.in_channels, spec.shape[0]),
            ("pixels", size, tuple(spec.shape[1:])),
            ("classes", known, spec.classes),
        ):
            if its != ours:
                problem = f"its images have {what} {its}, the data's {ours}"
                remedy = "take data like those that it was trained on"
                more = ", here without their labels" if its is None else ""
                raise Refused("options", problem, remedy + more)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        """What it predicts, with the shape of ``x``; arguments as those of :class:`UNet`."""
        return self.unet(x, t, class_labels=labels).sample
