"""The door: what is asked for is what is built, and bad input is refused on one screen."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mad_lightning.cli import build, main
from mad_lightning.generators import Diffusion, Gaussian
from mad_lightning.policies import FreshData
from mad_lightning.samples import SampleSpec

ROOT = Path(__file__).parents[1]


def refusal(arguments, capsys):
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert said.startswith("error: ")
    assert "remedy: " in said
    assert len(said.splitlines()) < 16
    return said


BAD = {
    "misspelt option": (["--policy.n_initail", "5"], "policy.n_initail", "n_initial"),
    "misspelt group": (["--polcy.n_initial", "5"], "polcy", "full_help"),
    "misspelt trainer flag": (["--trainer.max_epoch", "5"], "trainer.max_epoch", "max_epochs"),
    "missing config": (["--config", "nowhere.yaml"], "config", "configs/"),
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
    "lambda text": (["--sampling_bias", "abc"], "sampling_bias", "float"),
    "pool too small": (["--policy.n_initial", "5000"], "policy.n_initial", "n_reference"),
    "reference too large": (["--data.n_reference", "1797"], "data.n_reference", "at most 898"),
    "reference below k": (["--data.n_reference", "5"], "data.n_reference", "k = 5"),
    "spawn": (["--trainer.strategy", "ddp_spawn"], "trainer.strategy", "ddp"),
    "fork": (["--trainer.strategy", "ddp_fork"], "trainer.strategy", "ddp"),
    "no such strategy": (["--trainer.strategy", "sideways"], "trainer.strategy", "full_help"),
    "missing data": (
        ["--data.source", "MNIST", "--data.source.root", "nowhere"],
        "data.source.root",
        "train-images-idx3-ubyte",
    ),
    "guidance without classes": (
        ["--data.source", "StandardNormal", "--generator", "Diffusion"],
        "generator",
        "Gaussian",
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
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_names_field_and_remedy_and_writes_nothing(case, arguments, tmp_path, capsys):
    extra, field, remedy = BAD[case]
    said = refusal([*arguments, *extra], capsys)
    assert said.startswith(f"error: {field}"), said
    assert remedy in said.split("remedy:")[1], said
    assert not (tmp_path / "runs").exists()


def test_fresh_pool_that_runs_out_is_refused_with_the_arithmetic(arguments, capsys):
    place = arguments.index("--policy")
    arguments[place : place + 4] = [
        "--policy", "FreshData", "--policy.n_initial", "1000",
        "--policy.n_fresh", "400", "--policy.n_synthetic", "100",
    ]  # fmt: skip
    said = refusal(arguments, capsys)
    assert "1000 + 2 x 400 = 1800" in said
    assert "has 1697" in said


def test_a_changed_config_on_resume_is_refused_with_the_difference(arguments, tmp_path, capsys):
    main([*arguments, "--lineage.generations", "1"])
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*")}
    said = refusal([*arguments, "--policy.n_initial", "201"], capsys)
    assert "policy.init_args.n_initial: 200 -> 201" in said
    assert "--lineage.name" in said
    said = refusal([*arguments, "--seed_everything", "3"], capsys)
    assert "seed_everything: 0 -> 3" in said
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
    for given in (["--config", str(tmp_path / "mine.yaml")], [f"--config={tmp_path}/mine.yaml"]):
        meta = build([*given, *arguments, "--seed_everything", "4"])
        assert meta.directory.name == "mine_seed4"


def test_every_generation_gets_fresh_objects(arguments):
    meta = build([*arguments, "--trainer.callbacks", "Timer"])
    one, two = meta.build_generator(), meta.build_generator()
    assert isinstance(one, Gaussian)
    assert one is not two
    callbacks = [meta.build_trainer_arguments()["callbacks"][0] for _ in range(2)]
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


def cpu_seconds(*arguments):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "train.py", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=120,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    return done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_print_config_round_trips(tmp_path):
    config = "configs/gaussian_fresh.yaml"
    text, _ = cpu_seconds("--config", config, "--sampling_bias", "0.8", "--print_config")
    plain = yaml.safe_load(text)
    assert plain["sampling_bias"] == 0.8
    assert plain["policy"]["init_args"]["n_fresh"] == 100
    (tmp_path / "printed.yaml").write_text(text)
    again = build(["--config", str(tmp_path / "printed.yaml")])
    first = build(["--config", config, "--sampling_bias", "0.8"])
    again.config["lineage"]["name"] = first.config["lineage"]["name"]
    assert again.config == first.config


def test_no_arguments_and_help_answer_with_the_short_page(capsys):
    main([])
    short = capsys.readouterr().out
    main(["--config", "nowhere.yaml", "--help"])
    assert capsys.readouterr().out == short
    assert "examples:" in short
