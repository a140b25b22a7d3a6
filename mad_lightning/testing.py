"""The contract that every generator family keeps, to hold one's own against it.

    from mad_lightning import SampleSpec
    from mad_lightning.testing import GeneratorContract
    from my_module import MyFamily

    class TestMyFamily(GeneratorContract):
        spec, make = SampleSpec((1, 8, 8), classes=3), MyFamily

pytest does the rest. A loop resumes, draws again what was lost, and compares lineages, because
these hold: a sample depends on its seed and on nothing else, training is repeatable, and weights
that were kept draw what they drew.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import torch
from torch import Tensor

from mad_lightning.generators.base import Generator
from mad_lightning.loop.inside import AddressedRandomness
from mad_lightning.refusal import Refused
from mad_lightning.samples import Samples, SampleSpec
from mad_lightning.seeds import reseed, sample_seeds

__all__ = ["GeneratorContract"]


class GeneratorContract:
    """What holds for every family; a subclass says how one is made, and of what samples.

    Attributes:
        make: Makes the generator, unbuilt; small, so that it trains in a second.
        spec: The samples, images (C, H, W) or vectors (D,), with or without classes.
        epochs: Of three batches of 32 samples each (one batch, for a closed form).
    """

    make: ClassVar[Callable[[], Generator]]
    spec: ClassVar[SampleSpec]
    epochs: ClassVar[int] = 2
    _known: ClassVar[dict[type, Generator]] = {}

    # what is tested

    def test_build_hands_the_generator_back(self) -> None:
        generator = self._make()
        assert generator.build(self.spec) is generator
        assert generator.spec == self.spec

    def test_samples_are_stored_samples(self) -> None:
        samples = self.draw(self.trained())
        assert samples.values.shape == (12, *self.spec.shape)
        assert samples.values.dtype == self.spec.dtype
        assert (samples.labels is None) == (self.spec.classes is None)
        assert samples.values.float().std() > 0, "all samples are one constant"

    def test_seeds_decide_not_the_batch_nor_what_came_before(self) -> None:
        generator = self.trained()
        whole = self.draw(generator).values
        reseed(99, "elsewhere")
        parts = [self.draw(generator, 5), self.draw(generator, 7, start=5)]
        apart = torch.cat([part.values for part in parts])
        # Other batch shapes may round differently in the last bit of a float: a grey level.
        near = 1 if self.spec.kind == "image" else 1e-4 * float(whole.abs().max())
        assert float((whole.double() - apart.double()).abs().max()) <= near
        assert torch.equal(whole, self.draw(generator).values), "drawn twice, it differs"
        other = self.draw(generator, 3, start=3).values
        assert not torch.equal(whole[:3], other), "other seeds draw the same"

    def test_saving_and_loading_gives_the_same_samples(self) -> None:
        generator = self.trained()
        with tempfile.TemporaryDirectory() as folder:
            torch.save(generator.state_dict(), Path(folder, "weights"))
            weights = torch.load(Path(folder, "weights"), weights_only=True)
        reseed(7, "other")
        other = self._make().build(self.spec)
        other.load_state_dict(weights)
        assert torch.equal(self.draw(other).values, self.draw(generator).values)
        assert other.digest() == generator.digest()

    def test_training_moves_the_weights_and_is_repeatable(self) -> None:
        reseed(0, "init")
        assert self._make().build(self.spec).digest() != self.trained().digest()
        assert self.train().digest() == self.trained().digest()

    def test_lambda_outside_its_range_is_refused(self) -> None:
        for bias in (0.0, -0.5, 1.5, float("nan")):
            said = ""
            try:
                self.draw(self.trained(), bias=bias)
            except Refused as refused:
                said = str(refused)
            assert "sampling_bias" in said, f"λ = {bias} was not refused"

    # with what

    def train(self) -> Generator:
        """A new one, trained as a lineage does, on samples whose brightness tells the class."""
        reseed(0, "init")
        generator, data = self._make().build(self.spec), self.data()
        whole = generator.exact_pass
        batches = _Batches([data] if whole else [data[i : i + 32] for i in (0, 32, 64)])
        quiet: dict[str, Any] = dict.fromkeys(
            ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
        )
        trainer = L.Trainer(
            max_epochs=self.epochs,
            accelerator="cpu",
            callbacks=[AddressedRandomness(0, 1)],
            **quiet,
        )
        generator.initialise(batches[0])
        trainer.fit(generator, batches)
        return generator

    def trained(self) -> Generator:
        """One for all tests."""
        if type(self) not in self._known:
            self._known[type(self)] = self.train()
        return self._known[type(self)]

    def data(self, n: int = 96) -> Samples:
        """What it is trained on."""
        reseed(0, "data")
        labels = None if self.spec.classes is None else torch.arange(n) % self.spec.classes
        kind = torch.arange(n) % 3 if labels is None else labels
        noise = torch.rand(n, *self.spec.shape)
        shift = kind.view(-1, *[1] * len(self.spec.shape)) / (1 + float(kind.max()))
        values = 0.3 * noise + 0.7 * shift * torch.linspace(0, 1, self.spec.shape[-1])
        is_image = self.spec.kind == "image"
        return Samples((255 * values).byte() if is_image else values, labels)

    def draw(self, generator: Generator, n: int = 12, start: int = 0, bias: float = 1.0) -> Samples:
        """Samples of the seeds from ``start`` on, classes in turn."""
        labels: Tensor | None = None
        if self.spec.classes is not None:
            labels = torch.arange(start, start + n) % self.spec.classes
        return generator.sample(sample_seeds(start, n, 0, "sample"), bias, labels)

    def _make(self) -> Generator:
        return type(self).make()


class _Batches(list[Samples]):
    """A loader of batches that are made already; a plain list would be several loaders."""
