"""The contract can be broken: each way to break it is told by its test."""

import pytest
import torch

from mad_lightning.generators import Gaussian
from mad_lightning.samples import SampleSpec
from mad_lightning.testing import GeneratorContract


def contract_of(family, shape=(1, 4, 4), classes=3):
    kept = {"make": family, "spec": SampleSpec(shape, classes)}
    return type("Test", (GeneratorContract,), kept)()


def broken_by(contract):
    """Names of the tests that fail."""
    broken = []
    for name in sorted(dir(contract)):
        if name.startswith("test_"):
            try:
                getattr(contract, name)()
            except AssertionError:
                broken.append(name)
    return broken


class Forgetful(Gaussian):
    """Draws from what happens to be the global state."""

    def draw(self, seeds, sampling_bias, labels):
        return super().draw(seeds, sampling_bias, labels) + 0.3 * torch.randn(())


class BatchWise(Gaussian):
    """Takes the mean of a batch off."""

    def draw(self, seeds, sampling_bias, labels):
        drawn = super().draw(seeds, sampling_bias, labels)
        return drawn - drawn.mean(0)


class Deaf(Gaussian):
    """Draws one sample, whatever it is asked for."""

    def draw(self, seeds, sampling_bias, labels):
        return super().draw(torch.zeros_like(seeds), sampling_bias, torch.zeros_like(labels))


class Permissive(Gaussian):
    """Takes any λ."""

    def check_bias(self, sampling_bias):
        pass


@pytest.mark.parametrize(("shape", "classes"), [((1, 4, 4), 3), ((5,), None), ((6,), 2)])
def test_a_sound_family_keeps_it(shape, classes):
    assert broken_by(contract_of(Gaussian, shape, classes)) == []


@pytest.mark.parametrize(
    ("family", "told"),
    [
        (Forgetful, "seeds_decide"),
        (BatchWise, "seeds_decide"),
        (Deaf, "seeds_decide"),
        (Permissive, "lambda"),
    ],
)
def test_a_broken_family_is_told_how(family, told):
    assert any(told in name for name in broken_by(contract_of(family)))
