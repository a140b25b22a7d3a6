"""A Trainer is made anew each time, and is not asked what a lineage cannot stand."""

import math

import lightning as L
import pytest
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import (
    ModelCheckpoint,
    OnExceptionCheckpoint,
    RichProgressBar,
    Timer,
)
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.plugins.environments import LightningEnvironment, SLURMEnvironment
from lightning.pytorch.strategies import (
    DDPStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    SingleDeviceStrategy,
)

from mad_lightning.loop.blocks import Blocks
from mad_lightning.loop.checkpoints import SealedCheckpoints
from mad_lightning.loop.inside import Checkpoints
from mad_lightning.loop.trainers import Trainers
from mad_lightning.processes import is_first
from mad_lightning.refusal import Refused
from mad_lightning.samples import SampleBlock, Samples

ON_CPU = {"accelerator": "cpu", "devices": 1}


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"strategy": "ddp_spawn"}, "strategy"),
        ({"strategy": "ddp_notebook"}, "strategy"),
        ({"strategy": "ddp_fork_find_unused_parameters_true"}, "strategy"),
        ({"strategy": "sideways"}, "strategy"),
        ({"strategy": "fsdp"}, "strategy"),
        ({"strategy": "deepspeed_stage_2"}, "strategy"),
        ({"strategy": "dp"}, "strategy"),
        ({"strategy": "xla"}, "strategy"),
        ({"strategy": FSDPStrategy()}, "strategy"),
        ({"strategy": DDPStrategy(start_method="spawn"), "devices": 2}, "strategy"),
        ({"strategy": ModelParallelStrategy()}, "strategy"),
        ({"accelerator": "abacus"}, "accelerator"),
        ({"callbacks": OnExceptionCheckpoint("x")}, "callbacks"),
        ({"callbacks": [Timer(), OnExceptionCheckpoint("x")]}, "callbacks"),
        ({"callbacks": ModelCheckpoint()}, "callbacks"),
        ({"callbacks": RichProgressBar()}, "callbacks"),
        ({"logger": WandbLogger(offline=True)}, "logger"),
        ({"max_epochs": 0}, "max_epochs"),
        ({"max_epochs": -1}, "max_epochs"),
        ({"max_steps": 0}, "max_steps"),
        ({"max_time": "00:01:00:00"}, "max_time"),
        ({"limit_train_batches": 0}, "limit_train_batches"),
        ({"limit_train_batches": 1.5}, "limit_train_batches"),
        ({"overfit_batches": -1}, "overfit_batches"),
        ({"gradient_clip_val": -1.0}, "gradient_clip_val"),
        ({"gradient_clip_val": math.nan}, "gradient_clip_val"),
        ({"gradient_clip_algorithm": "nope"}, "gradient_clip_algorithm"),
        ({"accumulate_grad_batches": 0}, "accumulate_grad_batches"),
        ({"enable_checkpointing": False}, "enable_checkpointing"),
        ({"barebones": True}, "barebones"),
        ({"devices": -2}, "devices"),
        ({"devices": "two"}, "devices"),
        ({"devices": 0}, "devices"),
        ({"devices": 10_000}, "devices"),
        ({"num_nodes": 2}, "num_nodes"),
        ({"precision": "12-mixed"}, "precision"),
        ({"profiler": "nope"}, "profiler"),
        ({"val_check_interval": 10}, "val_check_interval"),
        ({"fast_dev_run": -1}, "fast_dev_run"),
    ],
)
def test_what_a_lineage_cannot_stand_is_refused_by_field(arguments, field):
    with pytest.raises(Refused) as caught:
        Trainers(lambda: {**ON_CPU, **arguments}).check()
    assert caught.value.field == field


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_epochs": -1, "max_steps": 6},
        {"max_epochs": None},
        {"strategy": "ddp"},
        {"strategy": "single_device"},
        {"strategy": "ddp_find_unused_parameters_true"},
        {"strategy": DDPStrategy(find_unused_parameters=True), "devices": 2},
        {"strategy": SingleDeviceStrategy("cpu")},
        {"limit_train_batches": 3},
        {"limit_train_batches": 0.5},
        {"overfit_batches": 1},
        {"gradient_clip_val": 0.0},
        {"fast_dev_run": True},
        {"enable_progress_bar": True, "callbacks": RichProgressBar()},
    ],
    ids=lambda arguments: "-".join(arguments),
)
def test_what_a_lineage_can_stand_is_taken(arguments):
    Trainers(lambda: {**ON_CPU, **arguments}).check()


RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "MASTER_PORT")
TASKS = {"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "train", "SLURM_JOB_ID": "7"}


@pytest.fixture
def around(monkeypatch):
    """Sets what is left over, or told by a launcher, and nothing else of the kind."""

    def set_all(**environment):
        for name in (*RANKS, *TASKS):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)

    return set_all


@pytest.mark.parametrize("strategy", ["auto", "ddp"])
@pytest.mark.parametrize(
    "environment",
    [
        {"RANK": "1"},
        {"LOCAL_RANK": "2"},
        {"SLURM_PROCID": "3"},
        {**TASKS, "SLURM_PROCID": "3", "SLURM_LOCALID": "3", "SLURM_NODEID": "0"},
        {**TASKS, "SLURM_NTASKS_PER_NODE": "4", "SLURM_PROCID": "2", "SLURM_LOCALID": "2"},
    ],
    ids=["rank", "local rank", "SLURM rank", "four tasks", "four tasks of a node"],
)
def test_who_trains_alone_is_first_whatever_rank_is_left_around_it(
    around, environment, strategy, tmp_path
):
    around(**environment)
    trainers = Trainers(lambda: {**ON_CPU, "strategy": strategy})
    trainers.check()
    assert is_first()
    trainer = trainers.for_fit(tmp_path)
    assert (trainer.is_global_zero, trainer.world_size, trainer.local_rank) == (True, 1, 0)


@pytest.mark.parametrize(
    ("environment", "cause"),
    [
        ({"LOCAL_RANK": "1"}, "LOCAL_RANK is 1"),
        ({"LOCAL_RANK": "0"}, "LOCAL_RANK is 0"),
        (TASKS, "ntasks=4"),
        ({**TASKS, "SLURM_NTASKS_PER_NODE": "2"}, "SLURM_PROCID is not set"),
        ({**TASKS, "SLURM_NTASKS_PER_NODE": "4", "SLURM_PROCID": "1"}, "devices=2"),
        ({"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "4", "RANK": "3"}, "devices=2"),
    ],
)
def test_ranks_that_do_not_fit_several_devices_are_refused_with_their_cause(
    around, environment, cause
):
    around(**environment)
    with pytest.raises(Refused, match=cause) as caught:
        Trainers(lambda: {**ON_CPU, "devices": 2, "strategy": "ddp"}).check()
    assert caught.value.field == "devices"


def test_one_of_torchruns_processes_does_not_train_alone(around):
    around(TORCHELASTIC_RUN_ID="x", WORLD_SIZE="4", RANK="3", LOCAL_RANK="3")
    with pytest.raises(Refused, match=r"devices: .*devices=1"):
        Trainers(lambda: ON_CPU).check()


@pytest.mark.parametrize("tasks", [TASKS, TASKS | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}])
def test_lightning_queues_no_job_again(around, tasks, tmp_path):
    around(**tasks)
    trainer = Trainers(lambda: ON_CPU).for_fit(tmp_path)
    assert isinstance(trainer._accelerator_connector.cluster_environment, LightningEnvironment)
    around(**tasks | {"SLURM_PROCID": "0"}, SLURM_NTASKS_PER_NODE="2", SLURM_LOCALID="0",
           SLURM_NODEID="0")  # fmt: skip
    together = Trainers(lambda: {**ON_CPU, "devices": 2, "strategy": "ddp"}).for_fit(tmp_path)
    assert together.strategy.cluster_environment.auto_requeue is False
    with pytest.raises(Refused, match="plugins: SLURMEnvironment"):
        Trainers(lambda: {**ON_CPU, "plugins": SLURMEnvironment()}).check()


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
    (checkpoints,) = (c for c in trainer.callbacks if isinstance(c, Checkpoints))
    assert checkpoints.path == tmp_path / "last.ckpt"
    assert trainer.callbacks[-1] is checkpoints
    assert not any(isinstance(c, ModelCheckpoint) for c in trainer.callbacks)


def test_a_smoke_run_writes_no_checkpoints(tmp_path):
    trainer = Trainers(lambda: {**ON_CPU, "fast_dev_run": True}).for_fit(tmp_path)
    assert not any(isinstance(c, Checkpoints) for c in trainer.callbacks)


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
    told = []
    trainers.compute(module, work, lambda done, total: told.append((done, total)))
    assert module.seen == [0, 2, 3, 4, 5]
    assert told == [(done, 5) for done in range(1, 6)]
    assert torch.equal(sets[1].join()["features"], 2 * values)
    assert sets[0].join()["features"][2:4].unique().tolist() == [-1.0]
    trainers.compute(module, work, lambda done, total: told.append(total))
    assert len(module.seen) == len(told) == 5


class Asks(Doubles):
    """Tells in which precision it computes, and whether gradients are kept."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(2, 2)

    def predict_step(self, batch, batch_idx):
        self.seen.append((torch.is_grad_enabled(), self.training))
        return self.linear(batch.samples.values)


class AsksByHook(Asks):
    """The same, and has a hook that only a Trainer calls."""

    def on_predict_start(self):
        self.trainer_came = self.trainer.world_size


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "64-true"])
def test_blocks_without_a_trainer_are_those_of_one_in_float32(tmp_path, precision):
    values = torch.arange(10.0).reshape(5, 2)
    trainers = Trainers(lambda: {**ON_CPU, "precision": precision})
    rows = []
    for module in (Asks(), AsksByHook()):
        torch.manual_seed(0)
        module.linear = torch.nn.Linear(2, 2)
        blocks = Blocks(tmp_path / type(module).__name__, 5, 2)
        work = {blocks: lambda job, rows: SampleBlock(job, Samples(values[rows]))}
        trainers.compute(module, work, lambda done, total: None)
        rows.append(blocks.join()["features"])
        assert module.seen == [(False, False)] * 3
    assert module.trainer_came == 1
    assert rows[0].dtype == rows[1].dtype == torch.float32
    assert torch.equal(rows[0], rows[1])


def test_checkpoints_are_written_whole_unless_somebody_else_writes_them(tmp_path):
    theirs = TorchCheckpointIO()
    for given, kind in ((None, SealedCheckpoints), ([], SealedCheckpoints), (theirs, type(theirs))):
        arguments = {**ON_CPU, "plugins": given}
        trainer = Trainers(lambda arguments=arguments: arguments).for_fit(tmp_path)
        assert type(trainer.strategy.checkpoint_io) is kind
