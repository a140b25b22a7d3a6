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
    assert names[0] == "base,sampling_bias=1,n_initial=50,n_reference=60_seed0"
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
        ({"grid": {"seed_everything": ["a"]}}, "seed_everything", "no seed"),
        ({"grid": {"sampling_bias": [1, 1.0]}}, "also", "twice"),
    ],
)
def test_refusals_name_the_field(sweep, fields, field, words):
    with pytest.raises(Refused) as caught:
        sweep(**fields)
    assert caught.value.field == field
    assert words in caught.value.problem
