"""A sweep's lineages have names of their own, and are what mad train makes of their settings."""

import pytest
import yaml

from mad_lightning.commands.train import build
from mad_lightning.refusal import Refused
from mad_lightning.sweeps.plan import Sweep

BASE = {
    "lineage": {"generations": 2, "root": "elsewhere"},
    "policy": {"class_path": "FullySynthetic", "init_args": {"n_initial": 50}},
    "data": {"source": {"class_path": "Digits"}, "n_reference": 60},
    "generator": {"class_path": "Gaussian"},
    "evaluator": {"extractor": {"class_path": "Identity"}},
    "callbacks": [],
    "trainer": {"accelerator": "cpu"},
}
SHARE = {"policy.n_synthetic": 10, "sampling_bias": 1.0, "seed_everything": 0}
SHARES = {
    "zip": {"policy.n_fresh": [10, 30, 90], "policy.n_synthetic": [90, 70, 10]},
    "grid": {"sampling_bias": [1.0, 0.5], "seed_everything": [0, 1]},
}


@pytest.fixture
def sweep(tmp_path):
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(BASE))

    def sweep(**fields):
        path = tmp_path / "sweep.yaml"
        path.write_text(yaml.safe_dump({"base": "base.yaml", **fields}, sort_keys=False))
        return Sweep.read(path, root=tmp_path / "runs")

    return sweep


def test_product_pairs_and_single_ones_with_seeds_outermost(sweep):
    made = sweep(
        grid={"sampling_bias": [1.0, 0.5], "seed_everything": [0, 1]},
        zip={"policy.n_initial": [50, 60], "data.n_reference": [60, 70]},
        also=[{"policy.n_initial": 80}],
    )
    names = [member.name for member in made.members]
    assert len(names) == 9
    assert [member.seed for member in made.members] == [0] * 5 + [1] * 4
    assert names[0] == "base,sampling_bias=1,n_initial=50,data.n_reference=60_seed0"
    assert "base,n_initial=80_seed0" in names
    assert [len(members) for members in made.arms.values()] == [2, 2, 2, 2, 1]


def test_the_command_makes_the_lineage_of_that_name_and_settings(sweep):
    made = sweep(
        grid={"sampling_bias": [0.5], "generator.per_class": [False], "seed_everything": [3]}
    )
    (member,) = made.members
    meta = build(member.arguments)
    assert meta.lineage.path == member.directory.path
    assert (meta.seed, meta.sampling_bias) == (3, 0.5)
    assert meta.build_generator().per_class is False
    assert member.generations == meta.settings.generations == 2


def test_what_may_change_is_in_no_name(sweep):
    made = sweep(grid={"lineage.generations": [3], "seed_everything": [0]})
    assert [member.name for member in made.members] == ["base_seed0"]
    assert made.members[0].generations == 3


def test_finished_is_what_stands_under_these_settings(sweep):
    (member,) = sweep(grid={"sampling_bias": [0.5]}).members
    assert (member.reached, member.is_finished) == (0, False)
    build(member.arguments).fit()
    assert (member.reached, member.is_finished) == (2, True)
    (longer,) = sweep(grid={"sampling_bias": [0.5], "lineage.generations": [3]}).members
    assert not longer.is_finished
    file = member.directory.path.parents[1] / "base.yaml"
    file.write_text(file.read_text().replace("n_initial: 50", "n_initial: 51"))
    (other,) = sweep(grid={"sampling_bias": [0.5]}).members
    assert not other.is_finished  # its own command will refuse it, in words


def test_families_stand_side_by_side(sweep, tmp_path):
    for name in ("one", "two"):
        (tmp_path / f"{name}.yaml").write_text("sampling_bias: 0.5")
    made = sweep(
        zip={"config": ["one.yaml", "two.yaml"], "policy.n_initial": [50, 60]},
        also=[{"config": "one.yaml", "lineage.generations": 3}],
    )
    names = [member.name for member in made.members]
    assert names == ["base+one,n_initial=50_seed0", "base+two,n_initial=60_seed0", "base+one_seed0"]
    assert build(made.members[0].arguments).sampling_bias == 0.5


@pytest.mark.parametrize(
    ("trainer", "devices"),
    [
        ({}, 1),
        ({"trainer.devices": 3}, 3),
        ({"trainer.devices": "3"}, 3),
        ({"trainer.devices": [0, 2]}, 2),
        ({"trainer.devices": "auto"}, 1),
        ({"trainer.strategy": "ddp"}, 2),
        ({"trainer.devices": 1, "trainer.strategy": "ddp"}, 1),
        ({"trainer.devices": 4, "trainer.num_nodes": 2}, 8),
    ],
)
def test_who_takes_several_devices(sweep, trainer, devices):
    (member,) = sweep(also=[trainer]).members
    assert member.devices == devices


def shares(made):
    return sorted({(s["policy.n_fresh"], s["sampling_bias"]) for s in made.settings})


def test_shares_are_halved_around_the_border_of_each_family_until_it_is_known(sweep):
    made = sweep(**SHARES, refine=0.1)
    border = {1.0: 40, 0.5: 25}  # samples of 100 that must be fresh; more than 10 apart
    for _ in range(10):
        safe = [s for s in made.settings if s["policy.n_fresh"] >= border[s["sampling_bias"]]]
        new = made.refined({made._member(s).arm for s in safe})
        if not new:
            break
        for members in new.values():
            assert [member.seed for member in members] == [0, 1]
    at_one = [fresh for fresh, bias in shares(made) if bias == 1.0]
    at_half = [fresh for fresh, bias in shares(made) if bias == 0.5]
    assert at_one == [10, 30, 37, 45, 60, 90]  # 60, 45 safe; 37 is not: 8 apart
    assert at_half == [10, 20, 30, 90]  # 30 safe, 20 is not: 10 apart
    assert all(s["policy.n_fresh"] + s["policy.n_synthetic"] == 100 for s in made.settings)
    assert len({member.name for member in made.members}) == len(made.members) == 20


def test_nothing_is_refined_where_there_is_no_border(sweep):
    made = sweep(**SHARES, refine=0.1)
    assert made.refined([member.arm for member in made.members]) == {}
    assert made.refined([]) == {}


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"grid": {"sampling_bias": 0.5}}, "grid", "no list"),
        ({"grid": {"sampling_bias": []}}, "grid", "no list"),
        ({"grid": [1]}, "grid", "no fields"),
        ({"zip": {"a": [1, 2], "b": [1]}}, "zip", "values"),
        ({"also": {"a": 1}}, "also", "no settings"),
        ({"gird": {}}, "gird", "no such field"),
        ({"base": "nowhere.yaml"}, "base", "cannot be read"),
        ({"base": []}, "base", "none"),
        ({"grid": {"seed_everything": ["a"]}}, "seed_everything", "none"),
        ({"grid": {"seed_everything": [-1]}}, "seed_everything", "none"),
        ({"grid": {"seed_everything": [True]}}, "seed_everything", "none"),
        ({"grid": {"lineage.generations": [2.5]}}, "generations", "none"),
        ({"grid": {"policy.n_initial": [50]}, "refine": 0.1}, "refine", "numbers"),
        ({**SHARES, "refine": 2}, "refine", "2"),
        ({**SHARES, "refine": "a"}, "refine", "a"),
        ({**SHARES, "also": [{**SHARE, "policy.n_fresh": 7}], "refine": 0.1}, "refine", "differ"),
        ({"grid": {"sampling_bias": [1, 1.0]}}, "also", "twice"),
    ],
)
def test_refusals_name_the_field(sweep, fields, field, words):
    with pytest.raises(Refused) as caught:
        sweep(**fields)
    assert caught.value.field == field
    assert words in caught.value.problem
