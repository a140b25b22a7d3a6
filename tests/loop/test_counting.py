"""Images and seconds are those that were spent, however a training was cut short or stopped."""

import time

import pytest

from mad_lightning.callbacks.base import LineageCallback
from mad_lightning.commands.train import build
from mad_lightning.generators import WGAN, Gaussian
from mad_lightning.refusal import Refused

WGANS = [
    "--generator", "WGAN",
    "--generator.networks", "mad_lightning.nets.pairs.DensePair",
    "--generator.networks.width", "8",
    "--generator.n_critic", "2",
    "--lineage.generations", "1",
    "--data.batch_size", "32",
    "--trainer.max_epochs", "2",
]  # fmt: skip
MODES = {
    "as it is": (),
    "fast_dev_run": ("--trainer.fast_dev_run", "true"),
    "limit_train_batches": ("--trainer.limit_train_batches", "3"),
    "limit by share": ("--trainer.limit_train_batches", "0.5"),
    "overfit_batches": ("--trainer.overfit_batches", "2"),
    "max_steps": ("--trainer.max_steps", "14"),  # 9 of the critic, 5 of the generator
    "max_steps alone": ("--trainer.max_epochs", "-1", "--trainer.max_steps", "31"),
    "short epochs": ("--data.images_per_epoch", "40"),
}
FED = dict(zip(MODES, (448, 32, 192, 192, 128, 320, 672, 128), strict=True))


class Watch(LineageCallback):
    def __init__(self):
        self.curves, self.progress = [], []

    def on_generation_curves(self, t, images, values):
        self.curves.append(images)

    def on_generation_progress(self, t, phase, done, total):
        if phase == "train":
            self.progress.append((done, total))


def counting(monkeypatch, family):
    fed, step = [], family.training_step

    def training_step(self, batch, batch_idx):
        fed.append(len(batch))
        return step(self, batch, batch_idx)

    monkeypatch.setattr(family, "training_step", training_step)
    return fed


@pytest.mark.parametrize("mode", MODES)
def test_images_are_those_that_steps_were_fed(arguments, monkeypatch, mode):
    fed = counting(monkeypatch, WGAN)
    meta, watch = build([*arguments, *WGANS, *MODES[mode]]), Watch()
    meta.observers.callbacks = (watch,)
    (record,) = meta.fit()
    rows = [row["images"] for row in meta.lineage.curves(1)]
    assert record.images == rows[-1] == sum(fed) == FED[mode]
    assert watch.curves == rows
    shares = [done / total for done, total in watch.progress]
    assert shares == sorted(shares)
    assert 0.0 < shares[0] <= shares[-1] <= 1.0


def test_a_last_batch_that_is_short_counts_as_many_as_it_has(arguments, monkeypatch):
    fed = counting(monkeypatch, Gaussian)
    few = ["--data.batch_size", "20", "--lineage.generations", "1"]
    (record,) = build([*arguments, *few]).fit()
    assert fed == [160, 40], "eight batches at once, then those that are left"
    assert record.images == 200


def test_accumulated_batches_count_each(arguments, diffusion):
    steps = ["--trainer.accumulate_grad_batches", "3", "--lineage.generations", "1"]
    (record,) = build([*arguments, *diffusion, *steps]).fit()
    assert record.images == 256


def test_a_closed_form_without_a_last_epoch_is_refused(arguments):
    for_ever = ["--trainer.max_epochs", "-1", "--trainer.max_steps", "10"]
    with pytest.raises(Refused, match="takes no steps"):
        build([*arguments, *for_ever]).fit()


class Stopped(Exception):
    pass


def test_curves_of_a_resumed_training_are_those_of_an_undisturbed_one(arguments):
    """The penalty is worked out in every second epoch: in between its cell is empty."""
    options = [*arguments, *WGANS, "--generator", "StyleGAN2", "--trainer.max_epochs", "4"]
    for name, value in (("dim", 16), ("mapping_layers", 1), ("channel_base", 32), ("r1_every", 4)):
        options += [f"--generator.{name}", str(value)]
    options += ["--data.images_per_epoch", "64", "--generator.channel_max", "4"]
    texts = []
    for name, last in (("calm", None), ("stopped", 5)):
        meta = build([*options, "--lineage.name", name])

        class Stops(LineageCallback):
            def on_generation_progress(self, t, phase, done, total, last=last):
                if phase == "train" and done == last:
                    raise Stopped

        meta.observers.callbacks = (Stops(),)
        if last:
            with pytest.raises(Stopped):
                meta.fit()
            meta.observers.callbacks = ()
        meta.fit()
        texts.append(meta.lineage.curves_file(1).read_text())
        assert ["r1" in row for row in meta.lineage.curves(1)] == [True, False, True, False]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("phase", ["train", "sample"])
def test_seconds_are_the_sum_over_all_starts(arguments, diffusion, phase, monkeypatch):
    """On a clock that only batches move, by 2 s each; a kill costs what came after the last one."""
    now, until = [0.0], {"train": 6, "sample": 2}[phase]  # 4 batches an epoch: one has ended
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    class Slow(LineageCallback):
        stop = True

        def on_generation_progress(self, t, where, done, total):
            if where == phase:
                now[0] += 2.0
                if self.stop and done == until:
                    raise Stopped

    meta, slow = build([*arguments, *diffusion, "--lineage.generations", "1"]), Slow()
    meta.observers.callbacks = (slow,)
    with pytest.raises(Stopped):
        meta.fit()
    assert now == [2.0 * until]
    slow.stop = False
    (record,) = meta.fit()
    assert record.seconds[phase] == now[0] - 2.0
    assert now[0] > 10.0
