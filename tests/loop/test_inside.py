"""Inside one generation's Trainer: randomness by address, from scratch, curves without doubles."""

import random
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch

from mad_lightning.lineage import LineageDirectory
from mad_lightning.loop import inside
from mad_lightning.loop.inside import (
    AddressedRandomness,
    Checkpoints,
    Curves,
    FromScratch,
    Inner,
)


class Noisy(L.LightningModule):
    """Keeps the random number that each step draws, and logs its own step counter and epoch."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.draws = []

    def training_step(self, batch, batch_idx):
        self.draws.append(float(torch.rand(())))
        self.log("train/step", float(batch), on_step=False, on_epoch=True)
        return self.weight * self.draws[-1]

    def on_train_epoch_end(self):
        self.log("epochs_done", float(self.trainer.current_epoch + 1))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(epochs, *callbacks, checkpoint=None, save=None):
    """Epochs of four steps with batches 0, 1, 2, 3."""
    module = Noisy()
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=any(isinstance(each, Curves) for each in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
    )
    loader = torch.utils.data.DataLoader(torch.arange(4.0), batch_size=1)
    trainer.fit(module, loader, ckpt_path=checkpoint, weights_only=True)
    if save is not None:
        trainer.save_checkpoint(save)
    return module


# --- addressed randomness -----------------------------------------------------------------------


def draws(address, epoch=0, batch=0, rank=0):
    """What one step on one rank draws from the three global generators."""
    trainer = SimpleNamespace(current_epoch=epoch, global_rank=rank)
    AddressedRandomness(*address).on_train_batch_start(trainer, None, None, batch)
    return torch.rand(()).item(), np.random.random(), random.random()  # noqa: NPY002


def test_seeds_generations_epochs_steps_and_ranks_draw_their_own():
    places = [
        ((seed, t), epoch, batch, rank)
        for seed in (0, 1)
        for t in (1, 2)
        for epoch in range(3)
        for batch in range(4)
        for rank in range(3)
    ]
    for found in zip(*(draws(*place) for place in places), strict=True):
        assert len(set(found)) == len(places)


def test_a_step_repeats_its_draws_whatever_came_before():
    first = draws((0, 1), epoch=2, batch=3, rank=1)
    draws((9, 9))
    assert draws((0, 1), epoch=2, batch=3, rank=1) == first


def test_all_ranks_start_a_fit_alike():
    found = []
    for rank in (0, 1):
        torch.manual_seed(rank)
        AddressedRandomness(0, 1).on_fit_start(SimpleNamespace(global_rank=rank), None)
        found.append(torch.rand(()).item())
    assert found[0] == found[1]
    assert found[0] not in draws((0, 1))


def test_a_resumed_training_draws_what_an_uninterrupted_one_draws(tmp_path):
    uninterrupted = fit(3, AddressedRandomness(0, 1)).draws
    torch.manual_seed(1)
    begun = fit(1, AddressedRandomness(0, 1), save=tmp_path / "last.ckpt").draws
    torch.manual_seed(2)
    resumed = fit(3, AddressedRandomness(0, 1), checkpoint=tmp_path / "last.ckpt").draws
    assert begun + resumed == uninterrupted
    assert len(set(uninterrupted)) == 12


# --- from scratch -------------------------------------------------------------------------------


@pytest.mark.parametrize(("step", "epoch"), [(1, 0), (0, 1), (40, 3)])
def test_a_generation_that_does_not_start_at_0_is_an_error(step, epoch):
    trainer = SimpleNamespace(global_step=step, current_epoch=epoch)
    with pytest.raises(RuntimeError, match=f"step {step}, epoch {epoch}"):
        FromScratch(resumes=False).on_train_start(trainer, None)
    FromScratch(resumes=True).on_train_start(trainer, None)


def test_a_stray_checkpoint_is_noticed_before_a_step_is_trained(tmp_path):
    fit(1, FromScratch(resumes=False), save=tmp_path / "stray.ckpt")
    watch = AddressedRandomness(0)
    watch.on_train_batch_start = lambda *_: pytest.fail("trained")
    with pytest.raises(RuntimeError, match="behind the loop's back"):
        fit(2, FromScratch(resumes=False), watch, checkpoint=tmp_path / "stray.ckpt")


# --- checkpoints --------------------------------------------------------------------------------


class Clock:
    """A clock that saving moves on by a second, and every look at it by nothing."""

    now = 0.0

    def monotonic(self):
        return self.now


def test_checkpoints_cost_half_a_percent_of_training_and_the_first_epoch_has_one(monkeypatch):
    clock, kept = Clock(), []
    monkeypatch.setattr(inside, "time", clock)

    def save(path, weights_only):
        kept.append((path, trainer.current_epoch))
        clock.now += 1.0

    trainer = SimpleNamespace(save_checkpoint=save, current_epoch=0)
    checkpoints = Checkpoints("last.ckpt")
    for trainer.current_epoch in range(100):
        clock.now += 10.0
        checkpoints.on_train_epoch_end(trainer, SimpleNamespace(device="cpu"))
    assert kept == [("last.ckpt", epoch) for epoch in (0, 20, 40, 60, 80)]


def test_lightning_calls_what_is_inside_only_where_it_has_something_to_do():
    """A hook that is called in every step costs what a small step can feel."""
    asked = {
        name: {hook for hook in vars(Inner) if hook.startswith("on_") and getattr(kind, hook)}
        for name, kind in vars(inside).items()
        if isinstance(kind, type) and issubclass(kind, L.Callback)
    }
    end = {"on_train_batch_end"}
    assert asked.pop("AddressedRandomness") == {"on_train_batch_start"}
    assert [asked.pop(name) for name in ("Divergence", "Curves", "Progress")] == [end] * 3
    for name in ("FromScratch", "CrashOnly", "Checkpoints", "Inner"):
        assert asked.pop(name) == set()


# --- curves -------------------------------------------------------------------------------------


def tick(curves, epoch, is_global_zero=True, before=None, **values):
    """An epoch of two batches with 64 images, in which values are logged."""
    trainer = SimpleNamespace(
        current_epoch=epoch, is_global_zero=is_global_zero, callback_metrics=before or {}
    )
    module = SimpleNamespace(device="cpu")
    curves.on_train_epoch_start(trainer, module)
    for images in (40, 24):
        curves.on_train_batch_end(trainer, module, None, torch.zeros(images), 0)
    trainer.callback_metrics |= values
    curves.on_train_epoch_end(trainer, module)


@pytest.fixture
def announced():
    return []


@pytest.fixture
def curves(tmp_path, announced):
    lineage = LineageDirectory(tmp_path)
    return Curves(lineage, 3, lambda *arguments: announced.append(arguments))


def test_an_epoch_is_a_row_with_the_images_seen(curves, announced):
    tick(curves, 0, loss=torch.tensor(0.5))
    tick(curves, 1, loss=torch.tensor(0.25))
    assert curves.lineage.curves(3) == [
        {"epoch": 0, "images": 64, "loss": 0.5},
        {"epoch": 1, "images": 128, "loss": 0.25},
    ]
    assert announced == [(64, {"loss": 0.5}), (128, {"loss": 0.25})]


def test_rows_of_repeated_epochs_are_replaced(curves):
    for epoch in range(4):
        tick(curves, epoch, loss=torch.tensor(1.0 + epoch))
    resumed = Curves(curves.lineage, 3, lambda *_: None)
    tick(resumed, 2, loss=torch.tensor(-3.0))
    found = [(row["epoch"], row["loss"]) for row in curves.lineage.curves(3)]
    assert found == [(0, 1.0), (1, 2.0), (2, -3.0)]


def test_values_survive_to_the_last_bit(curves):
    value = torch.rand((), dtype=torch.float64) / 3
    tick(curves, 0, loss=value)
    assert curves.lineage.curves(3)[0]["loss"] == float(value)


def test_a_value_may_come_late_or_be_no_number(curves):
    tick(curves, 0)
    tick(curves, 1, late=torch.tensor(float("nan")), zero=torch.tensor(0.0))
    first, second = curves.lineage.curves(3)
    assert first.keys() == {"epoch", "images"}
    assert np.isnan(second["late"])
    assert second["zero"] == 0.0


def test_what_an_earlier_epoch_logged_is_not_repeated(curves, announced):
    stale = torch.tensor(2.0)
    tick(curves, 0, r1=stale)
    tick(curves, 1, before={"r1": stale}, loss=torch.tensor(1.0))
    tick(curves, 2, before={"r1": stale}, r1=torch.tensor(2.0))  # the same number, but a new one
    assert [row.get("r1") for row in curves.lineage.curves(3)] == [2.0, None, 2.0]
    assert announced[1] == (128, {"loss": 1.0})


def test_a_checkpoint_carries_the_count_of_images_on(curves):
    """Not the file, which may be lost, nor the epoch, which may have been cut short."""
    tick(curves, 0)
    resumed = Curves(curves.lineage, 3, lambda *_: None)
    resumed.load_state_dict(curves.state_dict())
    curves.lineage.curves_file(3).unlink()
    tick(resumed, 1)
    assert [row["images"] for row in curves.lineage.curves(3)] == [128]


def test_a_checkpoint_without_a_count_leaves_it_to_the_rows(curves):
    tick(curves, 0)
    resumed = Curves(curves.lineage, 3, lambda *_: None)
    tick(resumed, 1)
    assert [row["images"] for row in curves.lineage.curves(3)] == [64, 128]


def test_only_the_first_process_writes_and_announces(curves, announced):
    tick(curves, 0, is_global_zero=False, loss=torch.tensor(1.0))
    assert curves.lineage.curves(3) == announced == []


def test_means_over_the_epoch_arrive_from_the_trainer(curves):
    fit(2, curves)
    assert [row["train/step"] for row in curves.lineage.curves(3)] == [1.5, 1.5]


def test_what_a_module_logs_at_the_end_of_an_epoch_is_in_the_row_of_that_epoch(curves):
    fit(3, curves)
    assert [row["epochs_done"] for row in curves.lineage.curves(3)] == [1, 2, 3]
