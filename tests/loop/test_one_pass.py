"""Without a Trainer comes out what a Trainer makes, to the last bit."""

from functools import partial

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins import Precision

from mad_lightning.data.datamodule import GenerationDataModule
from mad_lightning.data.laws import Grid25
from mad_lightning.data.sources import Digits
from mad_lightning.generators.gaussian import Gaussian
from mad_lightning.generators.mixture import Mixture
from mad_lightning.loop.checkpoints import read
from mad_lightning.loop.inside import AddressedRandomness, Divergence
from mad_lightning.loop.one_pass import OnePass
from mad_lightning.loop.trainers import Trainers
from mad_lightning.samples import SeedBlock
from mad_lightning.seeds import sample_seeds

HOOKS = (
    "on_fit_start",
    "on_train_epoch_start",
    "on_train_batch_start",
    "on_train_batch_end",
    "on_train_epoch_end",
    "on_train_end",
    "on_fit_end",
)


class Diary(L.Callback):
    """Notes which hooks are called, in which order, and what they are shown."""

    def __init__(self):
        self.lines = []


def noted(hook):
    def note(self, trainer, pl_module, *args):
        shown = [len(value) if hasattr(value, "values") else value or 0 for value in args]
        at_work = "epoch" in hook or "batch" in hook  # else there may be no batches yet
        batches = trainer.num_training_batches if at_work else None
        self.lines.append((hook, trainer.current_epoch, batches, *shown))

    return note


for name in HOOKS:
    setattr(Diary, name, noted(name))


def fitted(family, source, cache, one_pass):
    """A family fitted by one way or the other to 1,000 samples, the last batch of them short."""
    data = GenerationDataModule(source, batch_size=90, n_reference=797, cache=str(cache))
    torch.default_generator.manual_seed(7)
    generator = family().build(data.real().spec)
    trial = SeedBlock(0, sample_seeds(0, 8, 3), None, 1.0)
    diary = Diary()
    callbacks = [AddressedRandomness(3, 1), diary, Divergence(trial)]
    arguments = {"accelerator": "cpu", "devices": 1, "max_epochs": 1}
    trainer = Trainers(lambda: arguments).for_fit(cache, "mix", callbacks, one_pass=one_pass)
    trainer.fit(generator, datamodule=data, ckpt_path=None)
    trainer.save_checkpoint(cache / "weights.ckpt", weights_only=True)
    return generator, diary.lines, read(cache / "weights.ckpt"), trainer


@pytest.mark.parametrize("family", [Gaussian, lambda: Gaussian(per_class=False), Mixture])
@pytest.mark.parametrize("source", [Digits, Grid25])
def test_weights_hooks_and_checkpoint_are_those_of_a_trainer(family, source, tmp_path):
    if source is Digits and family is Mixture:
        family = partial(Mixture, components=2, max_iterations=3)
    ways = [fitted(family, source(), tmp_path, one_pass) for one_pass in (True, False)]
    (direct, lines, kept, one), (trained, expected, checkpoint, lightning) = ways
    assert (type(one), type(lightning)) == (OnePass, L.Trainer)
    assert direct.digest() == trained.digest()
    assert lines == expected
    assert kept["made_of"] == checkpoint["made_of"] == "mix"
    assert kept["state_dict"].keys() == checkpoint["state_dict"].keys()
    assert all(torch.equal(kept["state_dict"][k], v) for k, v in checkpoint["state_dict"].items())


def test_a_callback_that_breaks_breaks_the_pass(tmp_path):
    class Stop(L.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            raise KeyboardInterrupt

    data = GenerationDataModule(Grid25(), n_reference=100, cache=str(tmp_path))
    generator = Gaussian().build(data.real().spec)
    with pytest.raises(KeyboardInterrupt):
        OnePass(torch.device("cpu"), Precision(), "", [Stop()]).fit(generator, data)
