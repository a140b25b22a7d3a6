"""The door: what is asked for is what is built, and bad input is refused on one screen."""

import re
import sys
from pathlib import Path

import pytest
import yaml

from mad_lightning.commands import main
from mad_lightning.commands.train import build
from mad_lightning.generators.diffusion import Diffusion
from mad_lightning.generators.gaussian import Gaussian
from mad_lightning.policies import FreshData
from mad_lightning.samples import SampleSpec

ROOT = Path(__file__).parents[2]


BAD = {
    "misspelt option": (["--policy.n_initail", "5"], "policy.n_initail", "n_initial"),
    "misspelt group": (["--polcy.n_initial", "5"], "polcy.n_initial", "full_help"),
    "misspelt trainer flag": (["--trainer.max_epoch", "5"], "trainer.max_epoch", "max_epochs"),
    "missing config": (["--config", "nowhere.yaml"], "config", "mad configs"),
    "near config": (
        ["--config", "configs/digits_difusion_fresh.yaml"],
        "config",
        "digits_diffusion_fresh.yaml",
    ),
    "unknown class": (["--generator", "Gausian"], "generator", "Gaussian"),
    "wrong type": (["--trainer.max_epochs", "ten"], "trainer.max_epochs", "int"),
    "wrong choice": (["--generator.estimator", "best"], "generator.estimator", "unbiased"),
    "lambda zero": (["--sampling_bias", "0"], "sampling_bias", "1"),
    "lambda too large": (["--sampling_bias", "1.5"], "sampling_bias", "1"),
    "lambda text": (["--sampling_bias", "abc"], "sampling_bias", "max(0.5, 1 - 0.1*t)"),
    "pool too small": (["--policy.n_initial", "5000"], "policy.n_initial", "n_reference"),
    "reference too large": (["--data.n_reference", "1797"], "data.n_reference", "at most 898"),
    "reference below k": (["--data.n_reference", "5"], "data.n_reference", "Neighbours.k"),
    "spawn": (["--trainer.strategy", "ddp_spawn"], "trainer.strategy", "ddp"),
    "fork": (["--trainer.strategy", "ddp_fork"], "trainer.strategy", "ddp"),
    "no such strategy": (["--trainer.strategy", "sideways"], "trainer.strategy", "use auto"),
    "missing data": (
        ["--data.source", "MNIST", "--data.source.root", "nowhere"],
        "data.source.root",
        "train-images-idx3-ubyte",
    ),
    "guidance without classes": (
        ["--data.source", "StandardNormal", "--generator", "Diffusion"],
        "generator",
        "family that models vectors",
    ),
    "a group forgotten": (["--generations", "4"], "generations", "mean lineage.generations?"),
    "part of a name": (["--lineage.seed", "1"], "lineage.seed", "seed_everything"),
    "seed": (["--seed_everything", "true"], "seed_everything", "number"),
    "schedule": (["--policy.n_synthetic", "t^2"], "policy.n_synthetic", "(t-1)"),
    "accumulation by the trainer": (
        ["--generator", "WGAN", "--trainer.accumulate_grad_batches", "2"],
        "trainer.accumulate_grad_batches",
        "generator.accumulate",
    ),
    "clipping by the trainer": (
        ["--generator", "StyleGAN2", "--trainer.gradient_clip_val", "1"],
        "trainer.gradient_clip_val",
        "leave it out",
    ),
    "base without a use": (["--lineage.base", "x.ckpt"], "lineage.base", "previous"),
    "base that is not there": (
        ["--lineage.start", "base", "--lineage.base", "x.ckpt"],
        "lineage.base",
        "generator.ckpt",
    ),
    "flow of images too small": (
        ["--generator", "Glow", "--generator.levels", "5"],
        "generator.levels",
        "at most 4",
    ),
    "generations": (["--lineage.generations", "0"], "lineage.generations", "1"),
    "a value that YAML cannot make": (
        ["--trainer.detect_anomaly", "!!float"],
        "configuration",
        "full_help",
    ),
    "a group that is none": (["--lineage", "[1]"], "lineage", "full_help"),
    "no seed": (["--seed_everything", "null"], "seed_everything", "int"),
    "a name that leads away": (["--lineage.name", "../x"], "lineage.name", "lineage.root"),
    "a Trainer without an end": (["--trainer.max_epochs", "-1"], "trainer.max_epochs", "1"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_names_field_and_remedy_and_writes_nothing(case, arguments, tmp_path, refusal):
    extra, field, remedy = BAD[case]
    message = refusal("train", *arguments, *extra)
    assert message.startswith(f"error: {field}: "), message
    assert remedy in message.split("remedy:")[1], message
    assert not (tmp_path / "runs").exists()


def test_a_file_that_says_two_things_is_refused_wherever_it_is_named(arguments, tmp_path, refusal):
    (tmp_path / "twice.yaml").write_text("n_reference: 100\nn_reference: 200\n")
    (tmp_path / "outer.yaml").write_text("data: twice.yaml\n")
    for name in ("twice.yaml", "outer.yaml"):
        message = refusal("train", "--config", tmp_path / name, *arguments)
        assert "twice.yaml: line 2: n_reference stands twice, before on line 1" in message


def test_fresh_pool_that_runs_out_is_refused_with_the_arithmetic(arguments, refusal):
    place = arguments.index("--policy")
    arguments[place : place + 4] = [
        "--policy", "FreshData", "--policy.n_initial", "1000",
        "--policy.n_fresh", "400", "--policy.n_synthetic", "100",
    ]  # fmt: skip
    message = refusal("train", *arguments)
    assert "1000 + 2 x 400 = 1800" in message
    assert "has 1697" in message


def test_a_changed_config_on_resume_is_refused_with_the_difference(
    arguments, tmp_path, capsys, refusal
):
    main(["train", *arguments, "--lineage.generations", "1"])
    capsys.readouterr()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*")}
    message = refusal("train", *arguments, "--policy.n_initial", "201")
    assert "policy.init_args.n_initial: 200 -> 201" in message
    assert "lineage.name" in message
    assert "seed_everything: 0 -> 3" in refusal("train", *arguments, "--seed_everything", "3")
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*")}


def test_configs_compose_and_later_ones_win(tmp_path, arguments):
    for name, text in {
        "a": "sampling_bias: 0.5\nlineage: {generations: 7}\n",
        "b": "sampling_bias: 0.7\n",
    }.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    files = ["--config", str(tmp_path / "a.yaml"), "--config", str(tmp_path / "b.yaml")]
    rest = [a for a in arguments if a not in ("--lineage.generations", "3")]
    meta = build([*files, *rest])
    assert (meta.sampling_bias, meta.settings.generations) == (0.7, 7)


def test_the_name_comes_from_the_config_and_the_seed(tmp_path, arguments):
    (tmp_path / "mine.yaml").write_text("sampling_bias: 0.5\n")
    place = arguments.index("--lineage.name")
    del arguments[place : place + 2]
    one, two = (
        build([*given, *arguments, "--seed_everything", "4"]).lineage.name
        for given in (["--config", f"{tmp_path}/mine.yaml"], [f"--config={tmp_path}/mine.yaml"])
    )
    assert one == two
    assert re.fullmatch(r"mine,.*policy=FullySynthetic,n_initial=200_seed4", one)
    plain = build(arguments).config
    del plain["lineage"]["name"]
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(plain))
    alone = build(["--config", str(tmp_path / "mine.yaml"), "--seed_everything", "4"])
    assert alone.lineage.name == "mine_seed4"


def test_every_generation_gets_fresh_objects(arguments):
    meta = build([*arguments, "--trainer.callbacks", "Timer"])
    one, two = meta.build_generator(), meta.build_generator()
    assert isinstance(one, Gaussian)
    assert one is not two
    callbacks = [meta.trainers.arguments()["callbacks"][0] for _ in range(2)]
    assert callbacks[0] is not callbacks[1]


def test_the_network_is_a_field(arguments):
    meta = build(
        [
            *arguments,
            "--generator", "Diffusion",
            "--generator.network", "mad_lightning.nets.unet.UNet",
            "--generator.network.widths", "[8,16]",
        ]
    )  # fmt: skip
    generator = meta.build_generator()
    assert isinstance(generator, Diffusion)
    generator.build(SampleSpec((1, 8, 8), 10))
    assert generator.net.unet.config.block_out_channels == (8, 16)


def test_policy_counts_can_be_overridden(arguments):
    place = arguments.index("--policy")
    arguments[place : place + 4] = [
        "--policy", "FreshData", "--policy.n_initial", "100",
        "--policy.n_fresh", "10", "--policy.n_synthetic", "(t-1) * 20",
    ]  # fmt: skip
    policy = build([*arguments, "--policy.n_fresh", "11"]).policy
    assert isinstance(policy, FreshData)
    assert [policy.mix(t).n_synthetic for t in (2, 3)] == [20, 40]
    assert policy.n_fresh == 11


def printed(capsys, *arguments):
    with pytest.raises(SystemExit) as left:
        main(["train", *arguments, "--print_config"])
    assert left.value.code == 0
    return capsys.readouterr().out


def test_print_config_round_trips(tmp_path, capsys):
    config = str(ROOT / "configs" / "gaussian_fresh.yaml")
    text = printed(capsys, "--config", config, "--sampling_bias", "0.8")
    plain = yaml.safe_load(text)
    assert plain["sampling_bias"] == 0.8
    assert plain["policy"]["init_args"]["n_fresh"] == 100
    (tmp_path / "printed.yaml").write_text(text)
    again = build(["--config", str(tmp_path / "printed.yaml")])
    first = build(["--config", config, "--sampling_bias", "0.8"])
    again.config["lineage"]["name"] = first.config["lineage"]["name"]
    assert again.config == first.config


CONSTRUCTED = {
    "a family": (["--generator", "Glow", "--generator.levels", "0"], "generator.levels"),
    "a policy": (["--policy.n_initial", "0"], "policy.n_initial"),
    "a source": (["--data.source", "Grid25", "--data.source.side", "0"], "data.source.side"),
    "the data": (["--data.batch_size", "0"], "data.batch_size"),
    "a metric": (
        ["--evaluator.metrics",
         '["Frechet", {"class_path": "Neighbours", "init_args": {"k": 0}}]'],
        "evaluator.metrics.Neighbours.k",
    ),
    "an observer": (
        ["--callbacks", '[{"class_path": "SampleGrids", "init_args": {"every": 0}}]'],
        "callbacks.SampleGrids.every",
    ),
    "a pair of networks": (
        ["--generator", "WGAN", "--generator.networks", "mad_lightning.nets.pairs.DensePair",
         "--generator.networks.depth", "0"],
        "generator.networks.depth",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CONSTRUCTED)
def test_a_room_refuses_its_parameter_and_the_door_says_where_it_stands(case, arguments, refusal):
    extra, field = CONSTRUCTED[case]
    assert refusal("train", *arguments, *extra).startswith(f"error: {field}: ")


def test_a_class_of_ones_own_is_found_where_one_stands(arguments, tmp_path, capsys, monkeypatch):
    (tmp_path / "rules_of_mine.py").write_text(
        "from mad_lightning.policies import LoopPolicy, Mix, Part\n"
        "class Real(LoopPolicy):\n"
        "    def __init__(self, n: int = 7) -> None:\n        self.n = n\n"
        "    def mix(self, t):\n        return Mix(t, (Part('real', None, 0, self.n),))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(ROOT))])
    place = arguments.index("--policy")
    arguments[place : place + 4] = ["--policy", "rules_of_mine.Real", "--policy.n", "8"]
    plain = yaml.safe_load(printed(capsys, *arguments))
    assert plain["policy"] == {"class_path": "rules_of_mine.Real", "init_args": {"n": 8}}


def test_the_full_help_lists_what_the_page_leaves_out(capsys):
    with pytest.raises(SystemExit) as left:
        main(["train", "--full_help"])
    assert left.value.code == 0
    assert "--trainer.gradient_clip_val" in capsys.readouterr().out


def test_the_seed_is_lightnings_variable_where_none_is_told(arguments, monkeypatch, refusal):
    monkeypatch.setenv("PL_GLOBAL_SEED", "3")
    assert build(arguments).seed == 3
    assert build([*arguments, "--seed_everything", "5"]).seed == 5
    monkeypatch.setenv("PL_GLOBAL_SEED", "three")
    assert "seed_everything: PL_GLOBAL_SEED is 'three'" in refusal("train", *arguments)
