"""A Trainer is made anew each time, and is not asked what a lineage cannot stand."""

import lightning as L
import pytest
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint, OnExceptionCheckpoint, Timer

from mad_lightning.loop.blocks import Blocks
from mad_lightning.loop.checkpoints import SealedCheckpoints
from mad_lightning.loop.trainers import Trainers
from mad_lightning.refusal import Refused
from mad_lightning.samples import SampleBlock, Samples

ON_CPU = {"accelerator": "cpu", "devices": 1}


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"strategy": "ddp_spawn"}, "strategy"),
        ({"strategy": "ddp_notebook"}, "strategy"),
        ({"strategy": "sideways"}, "strategy"),
        ({"accelerator": "abacus"}, "accelerator"),
        ({"callbacks": OnExceptionCheckpoint("x")}, "callbacks"),
        ({"callbacks": [Timer(), OnExceptionCheckpoint("x")]}, "callbacks"),
    ],
)
def test_what_a_lineage_cannot_stand_is_refused_by_field(arguments, field):
    with pytest.raises(Refused) as caught:
        Trainers(lambda: {**ON_CPU, **arguments}).check()
    assert caught.value.field == field


def test_lightnings_defaults_will_do(tmp_path):
    trainers = Trainers(dict)
    trainers.check()
    assert trainers.world_size >= 1
    assert trainers.for_fit(tmp_path).loggers == []


def test_the_users_callbacks_come_after_the_loops_first_and_before_its_last(tmp_path):
    first, mine, last = L.Callback(), Timer(), L.Callback()
    trainer = Trainers(lambda: {**ON_CPU, "callbacks": mine}).for_fit(tmp_path, "", [first], [last])
    order = [trainer.callbacks.index(callback) for callback in (first, mine, last)]
    assert order == sorted(order)
    (checkpoints,) = (c for c in trainer.callbacks if isinstance(c, ModelCheckpoint))
    assert str(checkpoints.dirpath) == str(tmp_path)


def test_a_smoke_run_writes_no_checkpoints(tmp_path):
    trainer = Trainers(lambda: {**ON_CPU, "fast_dev_run": True}).for_fit(tmp_path)
    kept = [c.dirpath for c in trainer.callbacks if isinstance(c, ModelCheckpoint)]
    assert str(tmp_path) not in map(str, kept)


class Doubles(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.seen = []

    def predict_step(self, batch, batch_idx):
        self.seen.append(batch.job)
        return batch.samples.values * 2


def test_blocks_are_computed_once_in_any_number_of_sets(tmp_path):
    values = torch.arange(10.0).reshape(5, 2)
    sets = [Blocks(tmp_path / name, 5, 2) for name in ("a", "b")]
    work = {blocks: lambda job, rows: SampleBlock(job, Samples(values[rows])) for blocks in sets}
    module, trainers = Doubles(), Trainers(lambda: ON_CPU)
    sets[0].path(1).parent.mkdir()
    sets[0].write(1, {"features": torch.full((2, 2), -1.0)})  # stands already
    trainers.compute(module, work)
    assert module.seen == [0, 2, 3, 4, 5]
    assert torch.equal(sets[1].join()["features"], 2 * values)
    assert sets[0].join()["features"][2:4].unique().tolist() == [-1.0]
    trainers.compute(module, work)
    assert len(module.seen) == 5


def test_checkpoints_are_written_whole_unless_somebody_else_writes_them(tmp_path):
    theirs = TorchCheckpointIO()
    for given, kind in ((None, SealedCheckpoints), ([], SealedCheckpoints), (theirs, type(theirs))):
        arguments = {**ON_CPU, "plugins": given}
        trainer = Trainers(lambda arguments=arguments: arguments).for_fit(tmp_path)
        assert type(trainer.strategy.checkpoint_io) is kind
