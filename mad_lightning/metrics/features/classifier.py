"""A classifier trained on the real data: features for what no published network knows.

LeNet features of digits tell a 3 from an 8 where a network trained on photographs sees strokes. The
price is that its numbers compare with nobody else's.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional as F

from mad_lightning.files import make_once, write
from mad_lightning.metrics.features.base import FeatureExtractor
from mad_lightning.processes import one_thread
from mad_lightning.refusal import Refused, check_within
from mad_lightning.samples import Samples, SampleSpec, to_floats
from mad_lightning.seeds import permutation, seed_for

__all__ = ["Classifier"]

_LEAST = 5
"""Samples a class below which nothing is learned of it that holds for others."""


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


def _told(path: Path, content: bytes) -> str:
    """A line as ``sha256sum`` writes and checks it."""
    return f"{sha256(content).hexdigest()}  {path.name}\n"


def _is_whole(path: Path, beside: Path) -> bool:
    """Whether kept weights are those that were trained, as far as a digest beside them tells."""
    if not path.exists():
        return False
    content = path.read_bytes()
    if beside.exists():
        return beside.read_bytes() == _told(path, content).encode()
    try:  # from before there were digests
        return bool(load(content))
    except SafetensorError:
        return False


class Classifier(FeatureExtractor):
    """Penultimate layer (84 features) of a LeNet trained on real samples.

    The paper's MNIST numbers use LeNet features (section 3.2, footnote). It is trained once for a
    data set and split, from a fixed seed, and kept with the data; retraining changes the scale of
    every Fréchet distance, so its weight hash is part of the protocol. Of what it is measured with
    it learns nothing: samples known by heart have features of their own, so a floor of such samples
    against others would not be one of real against real.

    Args:
        n_images: Training budget in images, at least five passes over what it learns from.
        lr: Learning rate of Adam.
        seed: Decides weights and order; the same for every lineage.
    """

    name = "classifier"

    def __init__(self, n_images: int = 60_000, lr: float = 2e-3, seed: int = 0) -> None:
        super().__init__()
        check_within("[1, 1000000000]", "e.g. 60000", n_images=n_images)
        check_within("(0, 1]", "e.g. 2e-3", lr=lr)
        self.n_images, self.lr, self.seed = n_images, lr, seed
        self.weights = ""
        self.net: nn.Sequential = nn.Sequential()

    def prepare(
        self, lessons: Callable[[], Samples], spec: SampleSpec, digest: str, cache: Path
    ) -> None:
        """Trains the LeNet, or finds it in the cache; processes that come second wait for it."""
        if spec.kind != "image" or spec.classes is None or min(spec.shape[1:]) < 4:
            raise Refused(
                "",
                f"Classifier needs labelled images, the source gives {spec.shape} "
                f"with {spec.classes or 'no'} classes",
                "use Lite0 for images without labels, Identity for vectors",
            )
        recipe = f"{digest} {self.n_images} {self.lr} {self.seed}"
        path = cache / f"classifier-{sha256(recipe.encode()).hexdigest()[:12]}.safetensors"

        # Lineages hold the file's hash in their protocol: its digest stands beside it, not in it.
        beside = path.with_suffix(".sha256")

        def train(temporary: Path) -> None:
            content = save(self._train(lessons(), spec).state_dict())
            write(beside, _told(path, content))
            temporary.write_bytes(content)

        content = make_once(path, train, lambda path: _is_whole(path, beside)).read_bytes()
        self.net = _lenet(spec)
        self.net.load_state_dict(load(content))
        self.net.eval().requires_grad_(False)
        self.weights = sha256(content).hexdigest()[:12]

    def _train(self, lessons: Samples, spec: SampleSpec, batch_size: int = 64) -> nn.Module:
        """Adam with a linearly falling rate, on one thread so that its bits do not vary."""
        if len(lessons) < (least := _LEAST * (spec.classes or 1)):
            raise Refused(
                "",
                f"beside reference and floor {len(lessons)} real samples are left for Classifier "
                f"to learn from, it takes {least}",
                "hold out fewer for the reference, or measure with Pixels or Lite0",
            )
        passes = max(5, math.ceil(self.n_images / len(lessons)))
        steps = passes * len(lessons) // batch_size + 1
        with one_thread(), torch.random.fork_rng(devices=[]):
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
                order = permutation(len(lessons), self.seed, "classifier", lap)
                for index in order.split(batch_size):
                    for group in optimizer.param_groups:
                        group["lr"] = self.lr * max(0.0, 1.0 - step / steps)
                    batch = lessons[index]
                    assert batch.labels is not None
                    loss = F.cross_entropy(net(to_floats(batch.values)), batch.labels)
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

    def seen(self, features: Tensor) -> Tensor | None:
        """The most likely classes, from the last layer; None before there is one."""
        if not len(self.net):
            return None
        last = self.net[-1]
        with torch.no_grad():
            classes: Tensor = last(features.to(next(last.parameters()))).argmax(dim=1)
        return classes.cpu()

    def protocol(self) -> dict[str, Any]:
        """The LeNet's hash."""
        return {"extractor": self.name, "weights": self.weights, "resize": "none"}
