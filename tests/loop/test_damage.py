"""What stands on disk is believed if it is what was written, and made of what this lineage has."""

import resource
import shutil
import signal
from pathlib import Path

import pytest
import torch

from mad_lightning.commands.train import build
from mad_lightning.lineage import GenerationRecord
from mad_lightning.refusal import Refused


@pytest.fixture
def tiny(arguments, diffusion):
    return [*arguments, *diffusion]


def numbers(records):
    return [(r.metrics, r.digests, r.images) for r in records]


def flip(path):
    """One bit, in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(bytes(content))


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def interrupted(meta, phase, t=2):
    """Stops a lineage just before a phase of a generation; tells where it lies."""
    original = getattr(meta, phase)

    def late(generation, *rest):
        if generation == t:
            raise KeyboardInterrupt
        return original(generation, *rest)

    setattr(meta, phase, late)
    with pytest.raises(KeyboardInterrupt):
        meta.fit()
    return meta.lineage


# --- every kind of artefact, of Gaussians ---------------------------------------------------------


def left(root):
    """Every file of a lineage and its cache, apart from what tells times."""
    apart = (".lock",)
    paths = [path for path in sorted(root.rglob("*")) if path.is_file()]
    held = {str(p.relative_to(root)): p.read_bytes() for p in paths if not p.name.endswith(apart)}
    rows = held.pop("runs/tiny/lineage.jsonl").decode().splitlines()
    held["rows"] = [GenerationRecord.from_json(row).outcome for row in rows]
    return held


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """A lineage of three generations left alone; one of two; one stopped before its second row."""

    def fresh(name, **settings):
        monkeypatch.chdir(tmp_path_factory.mktemp(name))
        return build([*GAUSSIAN, *(f"--lineage.{key}={value}" for key, value in settings.items())])

    with pytest.MonkeyPatch.context() as monkeypatch:
        calm = fresh("calm", generations=3)
        calm.fit()
        places = {"calm": Path.cwd()}
        fresh("finished", generations=2).fit()
        places["finished"] = Path.cwd()
        interrupted(fresh("stopped", generations=3), "record")
        places["stopped"] = Path.cwd()
        return places


GAUSSIAN = [
    "--lineage.root=runs", "--lineage.name=tiny", "--lineage.block_size=64", "--lineage.threads=1",
    "--policy=SyntheticAugmentation", "--policy.n_real=100", "--policy.synthetic_from=all",
    "--data.source=Digits", "--data.n_reference=100", "--data.cache=cache",
    "--generator=Gaussian", "--evaluator.extractor=Identity",
    '--evaluator.metrics=[{"class_path": "Frechet"}]',
    '--callbacks=[{"class_path": "SampleGrids"}]', "--trainer.accelerator=cpu",
]  # fmt: skip
FIRST, SECOND = "runs/tiny/generation_001", "runs/tiny/generation_002"
REBUILT = {
    "features of the reference": ("finished", "cache/*/reference/00001.*", ""),
    "features of the floor": ("finished", "cache/*/floor/00001.*", ""),
    "configuration": ("finished", "runs/tiny/config.yaml", ""),
    "floor": ("finished", "runs/tiny/floor.json", ""),
    "an old shard": ("finished", f"{FIRST}/shard.safetensors", ""),
    "an old manifest": ("finished", f"{FIRST}/shard.json", ""),
    "mix": ("stopped", f"{SECOND}/mix.json", ""),
    "weights": ("stopped", f"{SECOND}/generator.ckpt", ""),
    "shard": ("stopped", f"{SECOND}/shard.safetensors", ""),
    "manifest": ("stopped", f"{SECOND}/shard.json", ""),
    "metrics": ("stopped", f"{SECOND}/metrics.json", ""),
    "picture": ("stopped", f"{SECOND}/samples.png", ""),
    "curves": ("stopped", f"{SECOND}/train/curves.csv", ""),
    "blocks": ("stopped", f"{SECOND}/blocks/*/00001.*", f"{SECOND}/shard.json"),
    "features": ("stopped", f"{SECOND}/features/*/*/00001.*", f"{SECOND}/metrics.json"),
}
"""Where it lies, and what newer artefact is taken away so that it must be used."""


@pytest.mark.parametrize("artefact", REBUILT)
def test_what_is_spoilt_is_found_and_rebuilt(stages, tmp_path, monkeypatch, artefact):
    """One bit in the middle, or the second half: by turns, so that both meet all kinds of files."""
    stage, pattern, newer = REBUILT[artefact]
    spoil = (flip, cut)[list(REBUILT).index(artefact) % 2]
    shutil.copytree(stages[stage], tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    (path,) = tmp_path.glob(pattern)
    spoil(path)
    if newer:
        Path(newer).unlink()
    build([*GAUSSIAN, "--lineage.generations=3"]).fit()
    assert left(tmp_path) == left(stages["calm"])


@pytest.mark.parametrize("what", ["weights", "samples", "all"])
def test_a_finished_generation_of_another_lineage_is_not_eaten(stages, tmp_path, monkeypatch, what):
    """Its samples are drawn again where the weights are the lineage's own."""
    for place, seed in (("mine", 0), ("other", 1)):
        (tmp_path / place).mkdir()
        monkeypatch.chdir(tmp_path / place)
        if not seed:
            shutil.copytree(stages["finished"], Path.cwd(), dirs_exist_ok=True)
        else:
            build([*GAUSSIAN, "--lineage.generations=1", f"--seed_everything={seed}"]).fit()
    monkeypatch.chdir(tmp_path / "mine")
    for name in {"weights": ["gen*.ckpt"], "samples": ["shard*"], "all": ["*"]}[what]:
        for path in (tmp_path / "other" / FIRST).glob(name):
            copy = shutil.copytree if path.is_dir() else shutil.copy
            target = tmp_path / "mine" / FIRST
            copy(path, target / path.name, **({"dirs_exist_ok": True} if path.is_dir() else {}))
    meta = build([*GAUSSIAN, "--lineage.generations=3"])
    if what == "all":
        with pytest.raises(Refused, match="the ledger tells of other samples") as caught:
            meta.fit()
        assert "generator.ckpt" in caught.value.problem
    else:
        meta.fit()
        assert left(tmp_path / "mine")["rows"] == left(stages["calm"])["rows"]


@pytest.mark.parametrize("change", ["--seed_everything=1", "--data.split_seed=1"])
def test_without_its_configuration_a_lineage_goes_on_under_no_other(
    stages, tmp_path, monkeypatch, change
):
    shutil.copytree(stages["finished"], tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    for name in ("config.yaml", "floor.json"):
        Path("runs/tiny", name).unlink()
    with pytest.raises(Refused, match=r"other (settings|samples)|had seed 0, now 1"):
        build([*GAUSSIAN, change, "--lineage.generations=3"]).fit()


LEDGERS = {
    "cut": lambda lines: [*lines[:1], lines[1][: len(lines[1]) // 2]],
    "its last line gone": lambda lines: lines[:1],
    "gone": lambda lines: [],
}


@pytest.mark.parametrize("damage", LEDGERS)
def test_lines_that_are_gone_from_the_end_are_entered_anew(stages, tmp_path, monkeypatch, damage):
    shutil.copytree(stages["finished"], tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    ledger = Path("runs/tiny/lineage.jsonl")
    ledger.write_bytes(b"".join(LEDGERS[damage](ledger.read_bytes().splitlines(keepends=True))))
    build([*GAUSSIAN, "--lineage.generations=3"]).fit()
    assert left(tmp_path) == left(stages["calm"])


@pytest.mark.parametrize("room", [3_000, 20_000, 160_000])
def test_a_disk_that_is_full_leaves_nothing_torn_and_then_the_same_command_ends_equal(
    stages, tmp_path, monkeypatch, room
):
    """Files may grow to some size only; an error of the system, as a full disk's is."""
    monkeypatch.chdir(tmp_path)
    command = [*GAUSSIAN, "--lineage.generations=3"]
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.SIG_IGN
    previous = signal.signal(signal.SIGXFSZ, handler)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
        with pytest.raises(OSError, match="File too large: '") as caught:
            build(command).fit()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, previous)
    assert caught.value.filename
    assert not list(tmp_path.rglob("*.tmp"))
    build(command).fit()
    assert left(tmp_path) == left(stages["calm"])


# --- artefacts of a training by steps -------------------------------------------------------------


@pytest.fixture(scope="module")
def calm(request):
    return {}


def undisturbed(tiny, calm):
    """Computed once: the same lineage, left alone."""
    if "numbers" not in calm:
        calm["numbers"] = numbers(build([*tiny, "--lineage.name", "calm"]).fit())
    return calm["numbers"]


def test_a_last_checkpoint_that_was_spoilt_is_not_resumed(tiny, calm, tmp_path):
    """Trained from scratch it ends the same; resumed it would end otherwise, or never."""
    expected = undisturbed(tiny, calm)
    longer = [*tiny, "--trainer.max_epochs", "2"]
    lineage = interrupted(build(longer), "sample")
    weights, last = lineage.weights(2), lineage.checkpoint(2)
    assert last.exists()
    weights.unlink()
    flip(last)
    assert numbers(build(longer).fit()) == expected


def test_a_shard_that_cannot_be_made_again_is_refused_by_name(tiny):
    lineage = interrupted(build(tiny), "train")
    cut(lineage.weights(1))
    flip(lineage.shard("001").with_suffix(".safetensors"))
    with pytest.raises(Refused) as caught:
        build(tiny).fit()
    assert caught.value.field == "lineage"
    assert "shard.safetensors" in caught.value.problem
    assert "generator.ckpt" in caught.value.problem


def test_a_generation_from_another_lineage_is_refused(tiny, tmp_path):
    other = build([*tiny, "--lineage.name", "other", "--seed_everything", "1"])
    other.fit()
    lineage = interrupted(build(tiny), "train")
    shutil.copytree(other.lineage.generation(2), lineage.generation(2), dirs_exist_ok=True)
    with pytest.raises(Refused, match=r"generator\.ckpt was made of other"):
        build(tiny).fit()
    lineage.weights(2).unlink()
    with pytest.raises(Refused, match="drawn otherwise"):
        build(tiny).fit()


def test_data_replaced_under_a_lineage_is_refused(arguments, tmp_path):
    import numpy as np

    rng = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", rng.normal(size=(600, 3)))
    place = arguments.index("Digits")
    arguments[place : place + 1] = ["Arrays", "--data.source.path", str(tmp_path / "x.npy")]
    build([*arguments, "--lineage.generations", "1"]).fit()
    np.save(tmp_path / "x.npy", rng.normal(size=(600, 3)) + 100)
    with pytest.raises(Refused) as caught:
        build(arguments).fit()
    assert caught.value.field == "data.source"


def test_a_base_of_other_weights_or_a_damaged_one_is_refused(tiny, tmp_path):
    begun = build([*tiny, "--lineage.generations=1", "--lineage.name=begun"])
    begun.fit()
    base = shutil.copy(begun.lineage.weights(1), tmp_path / "base.ckpt")
    based = [*tiny, "--lineage.start=base", f"--lineage.base={base}"]
    build([*based, "--lineage.generations=1"]).fit()
    for spoil in (flip, cut):
        shutil.copy(begun.lineage.weights(1), base)
        spoil(base)
        with pytest.raises(Refused, match=r"base\.ckpt") as caught:
            build(based).fit()
        assert caught.value.field == "lineage.base"
    checkpoint = torch.load(begun.lineage.weights(1), weights_only=True)
    next(iter(checkpoint["state_dict"].values())).add_(1)
    checkpoint.pop("made_of")
    torch.save(checkpoint, base)  # whole, and by somebody else
    with pytest.raises(Refused, match=r"the weights of another `lineage.base`"):
        build(based).fit()


def test_a_lineage_goes_on_under_what_its_ledger_tells_even_without_its_configuration(arguments):
    meta = build([*arguments, "--lineage.generations", "2"])
    meta.fit()
    meta.lineage.config_file.unlink()
    for change in (
        ["--sampling_bias", "0.3"],
        ["--policy.n_synthetic", "50"],
        ["--policy", "SyntheticAugmentation", "--policy.n_real", "200"],
        ["--evaluator.metrics", '[{"class_path": "Neighbours", "init_args": {"k": 3}}]'],
    ):
        with pytest.raises(Refused) as caught:
            build([*arguments, *change]).fit()
        assert caught.value.field == "lineage"
        assert "generation 1" in caught.value.problem or "generation 2" in caught.value.problem
    assert len(build(arguments).fit()) == 3


def test_a_generation_that_is_gone_is_missed(arguments):
    meta = build([*arguments, "--lineage.generations", "2"])
    meta.fit()
    shutil.rmtree(meta.lineage.generation(1))
    with pytest.raises(Refused, match="generation_001 is gone"):
        build(arguments).fit()
