"""Copies of training samples are told from fresh samples."""

import numpy as np
import pytest
import torch

from mad_lightning.metrics import Memorisation, View
from mad_lightning.refusal import Refused


def cloud(n=300, seed=0, dim=4, modes=3):
    """Modes far apart, as classes are."""
    rng = np.random.default_rng(seed)
    centres = 10.0 * np.eye(dim)[np.arange(n) % modes]
    return torch.tensor(centres + rng.normal(size=(n, dim)), dtype=torch.float32)


def test_memorisation_tells_copies_from_fresh_samples():
    training = cloud(seed=7)
    real = View(cloud(), training=training)
    fresh = Memorisation()(real, View(cloud(seed=1)))
    copied = Memorisation()(real, View(training + 1e-3))
    assert fresh["memorised"] < 0.15 < copied["memorised"] == 1.0
    assert copied["nearest_ratio"] < 0.01 < 0.8 < fresh["nearest_ratio"] < 1.2
    assert Memorisation(0.2).protocol() == {"memorised_quantile": 0.2}


@pytest.mark.parametrize("q", [0.0, 1.0, -0.1])
def test_a_quantile_that_is_none_is_refused(q):
    with pytest.raises(Refused) as caught:
        Memorisation(q)
    assert caught.value.field == "q"
