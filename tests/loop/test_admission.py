"""What is refused before anything is written, in the words of a configuration."""

from types import SimpleNamespace

import pytest
import torch

import mad_lightning
from mad_lightning.callbacks import LineageCallback, Observers, StopWhenMAD
from mad_lightning.commands import main
from mad_lightning.commands.train import build
from mad_lightning.generators import Gaussian
from mad_lightning.lineage import Quantity
from mad_lightning.loop.admission import admit
from mad_lightning.loop.meta_trainer import MetaTrainer
from mad_lightning.metrics.base import Metric
from mad_lightning.policies import LoopPolicy, Mix, Part
from mad_lightning.refusal import Refused


class Greedy(LoopPolicy):
    """Asks shards for more than they are drawn with; says no where it is asked."""

    token = "greedy"

    def __init__(self, refuse=None):
        self.refuse = refuse

    def mix(self, t):
        return Mix(t, (Part("real", None, 0, 100),))

    def check(self, generations):
        if self.refuse is not None:
            raise Refused(self.refuse, "no", "see `other: 1`")


class Fussy(Metric):
    """A metric that wants many samples, or nothing of the sort."""

    def __init__(self, refuse):
        super().__init__()
        self.refuse = refuse

    def values(self, real, synthetic):
        return {"fussy": 1.0}

    def check(self, n, extractor):
        raise Refused(self.refuse, "no", "see `other: 1`")


def refusal(meta):
    with pytest.raises(Refused) as caught:
        admit(meta)
    assert not meta.lineage.path.exists()
    return caught.value


def test_windows_is_told_so_before_anything_is_written(arguments, tmp_path, monkeypatch, capsys):
    meta = build(arguments)
    monkeypatch.setattr("sys.platform", "win32")
    assert "not kept on Windows" in refusal(meta).problem
    for command in (["train", *arguments], ["doctor"]):
        with pytest.raises(SystemExit, match="2"):
            main(command)
        assert capsys.readouterr().err.startswith("error: lineages are not kept on Windows")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(("field", "told"), [("n_odd", "policy.n_odd"), ("", "policy")])
def test_a_policy_refuses_its_own_parameter(arguments, field, told):
    meta = build(arguments)
    meta.policy = Greedy(field)
    refused = refusal(meta)
    assert refused.field == told
    assert "`policy.other: 1`" in refused.remedy


@pytest.mark.parametrize(
    ("field", "told"),
    [
        ("n", "data.n_reference"),
        ("width", "evaluator.metrics.Fussy.width"),
        ("", "evaluator.metrics.Fussy"),
    ],
)
def test_a_metric_refuses_its_own_parameter_or_the_number_of_samples(arguments, field, told):
    meta = build(arguments)
    meta.evaluator.metrics = [Fussy(field)]
    assert refusal(meta).field == told


def test_a_stopping_rule_learns_that_its_metric_does_not_exist_before_anything_is_trained(
    arguments,
):
    meta = build(arguments)
    meta.observers = Observers([StopWhenMAD("recal")])
    refused = refusal(meta)
    assert refused.field == "callbacks.StopWhenMAD.metric"
    assert "recall" in refused.remedy


def test_an_observer_is_told_what_will_be_measured(arguments):
    asked = {}

    class Ask(LineageCallback):
        def check(self, quantities):
            asked.update(quantities)

    meta = build(arguments)
    meta.observers = Observers([Ask()])
    admit(meta)
    records = meta.fit()
    assert asked.keys() == records[0].metrics.keys()
    assert asked["recall"] == Quantity("diversity", "lower", low=0.0, high=1.0)


def test_asking_makes_nothing(arguments, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    place = arguments.index("--evaluator.extractor")
    arguments[place + 1] = "Classifier"
    meta = build(arguments)
    admit(meta)
    assert sorted(tmp_path.rglob("*")) == before
    assert "weights" not in vars(meta.evaluator.extractor) or not meta.evaluator.extractor.weights


def told(arguments, *extra):
    return refusal(build([*arguments, *map(str, extra)]))


TOY = ["--data.source", "StandardNormal", "--data.source.dim", "2"]


@pytest.mark.parametrize(
    ("extra", "field"),
    [
        ((*TOY, "--data.n_reference", 10**12), "data.n_reference"),
        ((*TOY, "--policy.n_initial", 10**12), "policy.n_initial"),
        ((*TOY, "--policy.n_synthetic", 10**12), "policy.n_synthetic"),
        ((*TOY, "--data.batch_size", 10**12), "data.batch_size"),
        (("--policy.n_synthetic", 10**12), "policy.n_synthetic"),
    ],
)
def test_what_no_memory_holds_is_refused_at_once_with_what_it_takes(arguments, extra, field):
    refused = told(arguments, *extra)
    assert refused.field == field
    assert "TB of memory" in refused.problem


def test_what_no_disk_holds_is_refused_with_what_it_takes(arguments, monkeypatch):
    free = SimpleNamespace(total=1, free=10_000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: free)
    refused = told(arguments)
    assert refused.field == "lineage.root"
    assert "10 kB are free" in refused.problem
    refused = told(arguments, "--policy.n_synthetic", 10**6)
    assert refused.field == "policy.n_synthetic"
    assert "3 generations will write 216 MB of samples" in refused.problem  # 64 bytes and a class


@pytest.mark.parametrize("field", ["lineage.root", "data.cache"])
def test_a_file_in_the_way_is_named(arguments, tmp_path, field):
    (tmp_path / "file").touch()
    for place in ("file", "file/below"):
        refused = told(arguments, f"--{field}", tmp_path / place)
        assert (refused.field, refused.problem) == (field, f"{tmp_path / 'file'} is a file")
    with pytest.raises(Refused, match="too long") as caught:
        admit(build([*arguments, f"--{field}", str(tmp_path / ("x" * 300))]))
    assert caught.value.field == field


def test_a_place_that_may_not_be_written_to_is_named(arguments, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert told(arguments).field == "lineage.root"


def test_a_lineage_is_no_cache(arguments, tmp_path):
    refused = told(arguments, "--data.cache", tmp_path / "runs" / "tiny")
    assert refused.field == "lineage.name"


@pytest.mark.parametrize(
    ("extra", "field"),
    [
        (("--data.images_per_epoch", 16), "data.images_per_epoch"),
        (("--trainer.max_epochs", 10**12), "trainer.max_epochs"),
        (("--trainer.limit_train_batches", 0.01), "trainer.limit_train_batches"),
        (
            ("--trainer.callbacks", "EarlyStopping", "--trainer.callbacks.monitor", "nope"),
            "trainer.callbacks",
        ),
    ],
)
def test_an_epoch_holds_a_batch_and_a_training_ends(arguments, diffusion, extra, field):
    assert told(arguments, *diffusion, *extra).field == field


def test_whoever_waits_for_what_is_logged_may_wait(arguments, diffusion, tmp_path):
    stopping = ["--trainer.callbacks", "EarlyStopping", "--trainer.callbacks.monitor", "loss"]
    meta = build([*arguments, *diffusion, *stopping])
    admit(meta)  # what is not logged is refused, see above
    assert not meta.lineage.path.exists()


def test_a_start_that_fails_in_training_blocks_no_name(arguments, diffusion, tmp_path, monkeypatch):
    class Broken(LineageCallback):
        def on_generation_start(self, t, mix):
            raise RuntimeError("no such luck")

    meta = build([*arguments, *diffusion])
    meta.observers = Observers([Broken()])
    with pytest.raises(RuntimeError, match="no such luck"):
        meta.fit()
    assert not (tmp_path / "runs").exists()
    again = build([*arguments, *diffusion, "--lineage.generations", "1", "--generator.lr", "0.002"])
    assert len(again.fit()) == 1


class Drawer(Gaussian):
    """Somebody's own family, whose draw is not what it should be."""

    def __init__(self, drawn):
        super().__init__()
        self.drawn = drawn

    def draw(self, seeds, sampling_bias, labels):
        if isinstance(self.drawn, Exception):
            raise self.drawn
        return self.drawn


@pytest.mark.parametrize("drawn", [torch.zeros(2, 3), torch.zeros(3, 1), [0.0, 1.0]])
def test_ones_own_family_that_draws_no_samples_is_refused_before_it_is_trained(arguments, drawn):
    meta = build(arguments)
    meta.build_generator = lambda: Drawer(drawn)
    refused = refusal(meta)
    assert refused.field == "generator"
    assert "Drawer.draw returns" in refused.problem


@pytest.mark.parametrize("drawn", [RuntimeError("not fitted"), float("nan")])
def test_ones_own_family_that_must_be_trained_before_it_draws_is_not_refused(arguments, drawn):
    meta = build(arguments)
    shape = (2, *meta.real.spec.shape)
    drawn = drawn if isinstance(drawn, Exception) else torch.full(shape, drawn)
    meta.build_generator = lambda: Drawer(drawn)
    admit(meta)
    assert isinstance(meta.fresh_generator(1), Drawer)  # which may be trained


@pytest.mark.parametrize(
    "precision", ["bf16-true", "16-true", "transformer-engine", "transformer-engine-float16"]
)
@pytest.mark.parametrize(
    "family", ["Diffusion", "Gaussian", "Glow", "Mixture", "StyleGAN2", "WGAN"]
)
def test_precisions_that_no_family_trains_in_are_refused_before_anything_is_written(
    arguments, family, precision
):
    meta = ADMITTED.get(family) or build([*arguments, "--generator", family])
    ADMITTED[family] = meta
    given = {"accelerator": "cpu", "precision": precision}
    with pytest.raises(Refused) as caught:
        MetaTrainer(
            meta.settings, meta.policy, meta.data, meta.evaluator, meta.build_generator,
            lambda: given,
        ).fit()  # fmt: skip
    assert caught.value.field == "trainer.precision"
    assert not meta.lineage.path.exists()


ADMITTED = {}
"""Lineages by family: data sets are loaded once."""


@pytest.mark.parametrize(
    ("family", "precision", "is_refused"),
    [
        ("Gaussian", "32-true", True),
        ("Mixture", "bf16-mixed", True),
        ("Glow", "64-true", True),
        ("Glow", "32-true", False),
        ("StyleGAN2", "32-true", False),
    ],
)
def test_what_computes_in_float64_is_refused_where_a_device_has_none(family, precision, is_refused):
    generator = getattr(mad_lightning, family)()
    if not is_refused:
        generator.check_device("mps", precision)
        return
    generator.check_device("cuda", precision)
    with pytest.raises(Refused, match=f"mps has no float64, in which {family} computes") as caught:
        generator.check_device("mps", precision)
    assert caught.value.field == "accelerator"


def test_the_kind_of_device_is_asked_about_before_anything_is_written(arguments, tmp_path):
    meta = build(arguments)
    meta.trainers.check()
    plan = vars(meta.trainers)["_plan"]
    vars(meta.trainers)["_plan"] = plan._replace(kind="mps")
    with pytest.raises(Refused, match=r"trainer\.accelerator: mps has no float64"):
        meta.fit()
    assert not (tmp_path / "runs").exists()
