"""Feature extractors: from stored samples to the vectors that metrics compare.

The extractor is half of any metric: the same samples score a Fréchet distance of 7 or 700 depending
on it. So each has a name, a hash of its weights and an explicit resize, and all three are recorded
with every value. Whatever weights it needs are found, or trained, before the first generation is.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import torch
from filelock import FileLock
from rich.progress import track
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional as F

from mad_lightning.lineage import write_atomically
from mad_lightning.refusal import Refused
from mad_lightning.samples import SampleBlock, Samples, SampleSpec, to_floats
from mad_lightning.seeds import permutation, seed_for

__all__ = ["Classifier", "FeatureExtractor", "Identity", "Inception"]


class FeatureExtractor(L.LightningModule, ABC):
    """Abstract feature extractor. It is never trained by a lineage."""

    name: ClassVar[str]
    """Part of every metric's name."""

    def prepare(
        self, pool: Callable[[], Samples], spec: SampleSpec, digest: str, cache: Path
    ) -> None:
        """Finds or makes the weights.

        Args:
            pool: Gives the real training pool; the reference is never shown.
            spec: What its samples look like.
            digest: Digest of the real data and its split.
            cache: Where weights are kept.

        Raises:
            Refused: If weights are missing, or the samples are of the wrong kind.
        """

    @abstractmethod
    def forward(self, samples: Samples) -> Tensor:
        """Features with shape (N, D), float32."""

    def protocol(self) -> dict[str, Any]:
        """Name, weight hash and resize."""
        return {"extractor": self.name}

    def predict_step(self, batch: SampleBlock, batch_idx: int) -> Tensor:
        """Features of one block; Lightning brings devices and processes."""
        return self(batch.samples)


class Identity(FeatureExtractor):
    """The samples themselves, flattened; images as floats in [-1, 1]."""

    name = "identity"

    def forward(self, samples: Samples) -> Tensor:
        """Vectors (N, D)."""
        return to_floats(samples.values).flatten(1)


def _lenet(spec: SampleSpec) -> nn.Sequential:
    """LeNet with ReLUs: two convolutions, 120 and 84 units (after LeCun et al., 1998)."""
    channels, height, width = spec.shape
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * (height // 4) * (width // 4), 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, spec.classes or 1),
    )


class Classifier(FeatureExtractor):
    """Penultimate layer (84 features) of a LeNet trained on the real training pool.

    The paper's MNIST numbers use LeNet features (section 3.2, footnote). It is trained once for a
    data set and split, from a fixed seed, and kept with the data; retraining changes the scale of
    every Fréchet distance, so its weight hash is part of the protocol.

    Args:
        n_images: Training budget in images, at least five passes over the pool.
        lr: Learning rate of Adam.
        seed: Decides weights and order; the same for every lineage.
    """

    name = "classifier"

    def __init__(self, n_images: int = 60_000, lr: float = 2e-3, seed: int = 0) -> None:
        super().__init__()
        self.n_images, self.lr, self.seed = n_images, lr, seed
        self.weights = ""
        self.net: nn.Sequential = nn.Sequential()

    def prepare(
        self, pool: Callable[[], Samples], spec: SampleSpec, digest: str, cache: Path
    ) -> None:
        """Trains the LeNet, or finds it in the cache; processes that come second wait for it."""
        if spec.kind != "image" or spec.classes is None or min(spec.shape[1:]) < 4:
            raise Refused(
                "evaluator.extractor",
                f"Classifier needs labelled images, the source gives {spec.shape} "
                f"with {spec.classes or 'no'} classes",
                "use Inception for images without labels, Identity for vectors",
            )
        recipe = f"{digest} {self.n_images} {self.lr} {self.seed}"
        path = cache / f"classifier-{sha256(recipe.encode()).hexdigest()[:12]}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if not path.exists():
                net = self._train(pool(), spec)
                write_atomically(path, save(net.state_dict()))
        self.net = _lenet(spec)
        self.net.load_state_dict(load_file(path))
        self.net.eval().requires_grad_(False)
        self.weights = sha256(path.read_bytes()).hexdigest()[:12]

    def _train(self, pool: Samples, spec: SampleSpec, batch_size: int = 64) -> nn.Module:
        """Adam with a linearly falling rate, on one thread so that its bits do not vary."""
        assert pool.labels is not None
        passes = max(5, math.ceil(self.n_images / len(pool)))
        steps = passes * len(pool) // batch_size + 1
        with _one_thread(), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed_for(self.seed, "classifier"))
            net = _lenet(spec)
            optimizer = torch.optim.Adam(net.parameters(), lr=self.lr)
            step = 0
            laps = track(
                range(passes),
                "classifier on real data",
                transient=True,
                disable=not sys.stdout.isatty(),
            )
            for lap in laps:
                order = permutation(len(pool), self.seed, "classifier", lap)
                for index in order.split(batch_size):
                    for group in optimizer.param_groups:
                        group["lr"] = self.lr * max(0.0, 1.0 - step / steps)
                    loss = F.cross_entropy(net(to_floats(pool.values[index])), pool.labels[index])
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    step += 1
        return net

    def classify(self, samples: Samples) -> Tensor:
        """Most likely class of each sample, with shape (N,)."""
        return self.net(to_floats(samples.values)).argmax(dim=1)

    def forward(self, samples: Samples) -> Tensor:
        """Features (N, 84)."""
        return self.net[:-1](to_floats(samples.values))

    def protocol(self) -> dict[str, Any]:
        """The LeNet's hash."""
        return {"extractor": self.name, "weights": self.weights, "resize": "none"}


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Inception(FeatureExtractor):
    """2,048 features of the Inception network that FID is defined on (Heusel et al., 2017).

    The network is torch-fidelity's port of the original weights; it resizes to 299 px as TensorFlow
    1 does (bilinear, no antialiasing) and takes bytes. Grey images are repeated to three channels.

    Args:
        weights_path: File with the weights; None looks in torch's hub cache.
        download: Fetch the weights into the hub cache if they are not there.
        sha256_prefix: First digits that the file's SHA-256 must have.
    """

    name = "inception"
    FILE = "weights-inception-2015-12-05-6726825d.pth"
    URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{FILE}"

    def __init__(
        self,
        weights_path: str | None = None,
        download: bool = True,
        sha256_prefix: str = "6726825d",
    ) -> None:
        super().__init__()
        self.weights_path, self.download = weights_path, download
        self.sha256_prefix = sha256_prefix
        self.weights = ""
        self.net: nn.Module = nn.Identity()

    @property
    def _home(self) -> Path:
        return Path(torch.hub.get_dir()) / "checkpoints" / self.FILE

    def _find(self) -> Path:
        home = self._home
        path = home if self.weights_path is None else Path(self.weights_path).expanduser()
        problem = f"no weights at {path}"
        if not path.exists() and self.weights_path is None and self.download:
            try:
                home.parent.mkdir(parents=True, exist_ok=True)
                with FileLock(f"{home}.lock"):
                    if not home.exists():
                        partial = f"{home}.{os.getpid()}.part"
                        torch.hub.download_url_to_file(self.URL, partial, self.sha256_prefix)
                        Path(partial).replace(home)
            except (OSError, RuntimeError) as error:
                problem = f"no weights at {path}, and the download failed ({error})"
        if path.is_file():
            found = sha256(path.read_bytes()).hexdigest()
            if found.startswith(self.sha256_prefix):
                return path
            problem = f"{path} has SHA-256 {found[:8]}..., not {self.sha256_prefix}..."
        raise self._refusal(problem)

    def _refusal(self, problem: str) -> Refused:
        return Refused(
            "evaluator.extractor.weights_path",
            problem,
            f"get {self.FILE}\n"
            f"    (91 MiB, SHA-256 {self.sha256_prefix}...) from\n    {self.URL}\n"
            f"    and put it at {self._home}\n"
            "    or name the file with --evaluator.extractor.weights_path;\n"
            "    without it: --evaluator.extractor Classifier (labelled images)",
        )

    def prepare(
        self, pool: Callable[[], Samples], spec: SampleSpec, digest: str, cache: Path
    ) -> None:
        """Finds the weights, checks their hash and loads them."""
        if spec.kind != "image" or spec.shape[0] not in (1, 3):
            raise Refused(
                "evaluator.extractor",
                f"Inception needs images of 1 or 3 channels, the source gives {spec.shape}",
                "use Identity for vectors",
            )
        path = self._find()
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        plain = io.BytesIO()  # torch-fidelity unpickles anything, so it gets a copy of tensors only
        try:
            torch.save(torch.load(path, map_location="cpu", weights_only=True), plain)
            plain.seek(0)
            self.net = FeatureExtractorInceptionV3(
                "inception-v3-compat", ["2048"], feature_extractor_weights_path=plain
            )
        except (pickle.UnpicklingError, EOFError, RuntimeError, TypeError) as error:
            raise self._refusal(f"{path} does not hold the weights of this network") from error
        self.net.eval().requires_grad_(False)
        self.weights = sha256(path.read_bytes()).hexdigest()[:12]

    def forward(self, samples: Samples) -> Tensor:
        """Features (N, 2048)."""
        images = samples.values
        if images.shape[1] == 1:
            images = images.expand(-1, 3, -1, -1)
        return self.net(images)[0]

    def protocol(self) -> dict[str, Any]:
        """Weight hash and the resize inside the network."""
        return {
            "extractor": self.name,
            "weights": self.weights,
            "resize": "299 px, bilinear as in TensorFlow 1, not antialiased",
        }
