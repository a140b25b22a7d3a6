"""Networks that others trained: found, checked, loaded and fed in one stated way.

Where published Fréchet distances went wrong, it was seldom the network. It was the resize (without
antialiasing, or with another filter: Parmar et al., 2022), a file of other weights under the same
name, or missing weights that were noticed after a day of training. So here

- the resize is one object whose text goes into the protocol: size, filter, antialiasing, and that
  nothing is rounded to bytes again;
- weights are a file with a published size and SHA-256, looked for before training starts. Nothing
  is downloaded unless asked, nothing is ever unpickled;
- features are computed in full float32 whatever the precision around them, because rounding to 8
  mantissa bits moves neighbours.
"""

from __future__ import annotations

import hashlib
import pickle
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from mad_lightning.files import make_once
from mad_lightning.metrics.features.base import FeatureExtractor
from mad_lightning.precision import true_float32
from mad_lightning.refusal import Refused
from mad_lightning.samples import Samples, SampleSpec

__all__ = ["Pretrained", "Resize", "WeightsFile"]


@dataclass(frozen=True)
class Resize:
    """A resize to a square as Pillow defines it: half-pixel centres, a filter as wide as the step.

    Attributes:
        size: Height and width in pixels.
        filter: ``bilinear`` (triangle) or ``bicubic`` (a = -0.5).
    """

    size: int
    filter: Literal["bilinear", "bicubic"]

    def __call__(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W), uint8, to (N, C, size, size), float32 in 0..255."""
        floats = images.float()
        if images.shape[2:] == (self.size, self.size):
            return floats
        resized = F.interpolate(floats, (self.size, self.size), mode=self.filter, antialias=True)
        return resized.clamp(0.0, 255.0)  # the bicubic filter overshoots at edges

    def __str__(self) -> str:
        return f"{self.size} px, {self.filter}, antialiased, clipped to 0..255, not rounded"


@dataclass(frozen=True)
class WeightsFile:
    """A file of weights as its authors published it.

    Attributes:
        name: File name.
        size: Size in bytes.
        sha256: SHA-256 in hexadecimal.
        url: Where it is published; empty for what a package ships.
    """

    name: str
    size: int
    sha256: str
    url: str = ""


def _read(path: Path) -> dict[str, Tensor]:
    """Tensors by name; floating-point ones in float32."""
    if path.suffix == ".safetensors":
        weights = load_file(path)
    else:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(weights, dict) or not all(map(torch.is_tensor, weights.values())):
        raise TypeError("not a dict of tensors")
    return {name: w.float() if w.is_floating_point() else w for name, w in weights.items()}


class Pretrained(FeatureExtractor):
    """Abstract extractor whose network was trained by others, on other images.

    A family says what its published file is, how pixels enter, and how weights become a network.

    Args:
        weights_path: File with the weights; None looks where :attr:`home` says.
        download: Whether to fetch the published file if it is not there.
        sha256_prefix: First digits that the file's SHA-256 must have; None takes the published
            file's, an empty string accepts any.
    """

    file: WeightsFile
    resize: Resize
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    """Pixels x in 0..255 enter as (x - mean) / std, by channel."""
    instead = "Lite0"
    """What serves where the file cannot be had."""

    def __init__(
        self,
        weights_path: str | None = None,
        download: bool = False,
        sha256_prefix: str | None = None,
    ) -> None:
        super().__init__()
        self.weights_path, self.download = weights_path, download
        self.sha256_prefix = sha256_prefix
        self.weights = ""
        self.net: nn.Module = nn.Identity()

    @abstractmethod
    def build(self, weights: dict[str, Tensor]) -> nn.Module:
        """The network from normalised pixels to features (N, D), with these weights.

        Raises:
            RuntimeError: Or another of those that loading raises, if the weights do not fit.
        """

    @property
    def home(self) -> Path:
        """Where the published file lies: torch's hub cache, which other programs share."""
        return Path(torch.hub.get_dir()) / "checkpoints" / self.file.name

    @property
    def how(self) -> str:
        """How the published file is had."""
        return (
            f"from {self.file.url}\n    and put it at {self.home}\n"
            "    or have it fetched there with `download: true`"
        )

    def prepare(
        self, lessons: Callable[[], Samples], spec: SampleSpec, digest: str, cache: Path
    ) -> None:
        """Finds the weights, checks their hash and loads them."""
        if spec.kind != "image" or spec.shape[0] not in (1, 3):
            raise Refused(
                "",
                f"{type(self).__name__} needs images of 1 or 3 channels, the source gives "
                f"{spec.shape}",
                "use Identity for vectors",
            )
        path, sha256 = self._find()
        try:
            self.net = self.build(_read(path))
        except (
            pickle.UnpicklingError,
            SafetensorError,
            EOFError,
            RuntimeError,
            TypeError,
            ValueError,
            KeyError,
        ) as error:
            raise self._refusal(f"{path} does not hold the weights of this network") from error
        self.net.eval().requires_grad_(False)
        self.weights = sha256[:12]

    def _find(self) -> tuple[Path, str]:
        """The file and its SHA-256."""
        path = self.home if self.weights_path is None else Path(self.weights_path).expanduser()
        problem = f"no weights at {path}"
        if not path.exists() and self.weights_path is None and self.download:
            try:
                self._fetch()
            except (OSError, RuntimeError) as error:
                problem = f"no weights at {path}, and the download failed ({error})"
        if path.is_file():
            wanted = self.file.sha256 if self.sha256_prefix is None else self.sha256_prefix
            with path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            if sha256.startswith(wanted):
                return path, sha256
            problem = (
                f"{path} ({path.stat().st_size:,} bytes) has SHA-256 {sha256[:8]}..., "
                f"not {wanted[:8]}..."
            )
        raise self._refusal(problem)

    def _fetch(self) -> None:
        """Downloads the published file; of several processes, the first does."""
        url, sha256 = self.file.url, self.file.sha256
        make_once(self.home, lambda path: torch.hub.download_url_to_file(url, str(path), sha256))

    def _refusal(self, problem: str) -> Refused:
        return Refused(
            "weights_path",
            problem,
            f"get {self.file.name} ({self.file.size / 2**20:.0f} MiB)\n"
            f"    SHA-256 {self.file.sha256}\n"
            f"    {self.how}\n"
            "    or name the file with `weights_path`;\n"
            f"    without it: the extractor {self.instead}, which needs no download",
        )

    def features(self, images: Tensor) -> Tensor:
        """Features (N, D) of images (N, 3, H, W), uint8."""
        mean, std = (images.new_tensor(c, dtype=torch.float32) for c in (self.mean, self.std))
        pixels = (self.resize(images) - mean[:, None, None]) / std[:, None, None]
        # A third faster on a CPU than channel by channel.
        return self.net(pixels.contiguous(memory_format=torch.channels_last))

    def forward(self, samples: Samples) -> Tensor:
        """Features (N, D); grey images are repeated to three channels."""
        with true_float32(samples.values.device):
            return self.features(samples.values.expand(-1, 3, -1, -1)).float()

    def protocol(self) -> dict[str, Any]:
        """Weight hash, and what happens to pixels before the network sees them."""
        mean, std = ("(" + ", ".join(f"{x:g}" for x in c) + ")" for c in (self.mean, self.std))
        return {
            "extractor": self.name,
            "weights": self.weights,
            "resize": str(self.resize),
            "pixels": f"(x - {mean}) / {std}, grey repeated to RGB",
        }
