"""A parser's words become field, problem and remedy: each kind of its messages is pinned."""

from argparse import ArgumentError
from dataclasses import dataclass
from typing import Literal

import pytest
from jsonargparse import ArgumentParser

from mad_lightning.commands.explain import PlainParser, explain
from mad_lightning.metrics import Kernel, Modes  # noqa: F401 - known by their short names
from mad_lightning.metrics.base import Metric
from mad_lightning.policies import LoopPolicy
from mad_lightning.refusal import Refused

LISTING = "somewhere is a list"


HERE = __name__


class Half(Metric):
    """A user's metric that lacks what makes it one."""


@dataclass
class Oven:
    """Something with fields."""

    heat: int = 200
    mode: Literal["fan", "grill"] = "fan"
    limit: int | None = None


@pytest.fixture
def explained():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(Oven, "oven")
    parser.add_subclass_arguments(LoopPolicy, "policy")
    parser.add_argument("--metrics", type=list[Metric] | None)

    def explained(*args):
        with pytest.raises(ArgumentError) as caught:
            parser.parse_args(args)
        return explain(str(caught.value), parser, LISTING)

    return explained


@pytest.mark.parametrize(
    ("args", "field", "problem", "remedy"),
    [
        (["--oven.heat=warm"], "oven.heat", "warm is not accepted", "give int"),
        (["--oven.mode=off"], "oven.mode", "off is not accepted", "'fan', 'grill'"),
        (["--oven.limit=none"], "oven.limit", "none is not accepted", "give int"),
        (["--oven.haet=1"], "oven.haet", "no such field", "did you mean oven.heat? "),
        (["--heat=1"], "heat", "no such field", "did you mean oven.heat? "),
        (["--table=1"], "table", "no such field", LISTING),
        (["--policy=FreshDate"], "policy", "no class FreshDate", "choose FreshData"),
        (
            ["--policy=FreshData", "--policy.n_frehs=3"],
            "policy.n_frehs",
            "no such field",
            "did you mean n_fresh? ",
        ),
        (["--metrics", '["Modes"]'], "metrics", "Modes needs radius", "{radius: ...}"),
        (["--metrics+=Modes"], "metrics", "Modes needs radius", "class_path: Modes"),
        ([f"--metrics+={HERE}.Half"], "metrics", "Half does not define values", "define"),
        (["--metrics", f'["Kernel", "{HERE}.Half"]'], "metrics", "not define values", "define"),
        (["--policy.n_fresh=3"], "policy.n_fresh", "none is named before", "--policy CLASS"),
        ([f"--policy={HERE}.Oven"], "policy", f"{HERE}.Oven is no LoopPolicy", "inherits"),
        (["--config=nowhere.yaml"], "config", "nowhere.yaml", "mad configs"),
    ],
    ids=str,
)
def test_jsonargparse_is_understood(explained, args, field, problem, remedy):
    refused = explained(*args)
    assert refused.field == field
    assert problem in refused.problem
    assert remedy in refused.remedy


def test_a_file_of_a_similar_name_is_proposed(explained, tmp_path):
    (tmp_path / "digits_fresh.yaml").write_text("oven: {heat: 3}")
    refused = explained(f"--config={tmp_path}/digit_fresh.yaml")
    assert refused.remedy == "did you mean digits_fresh.yaml?"


def test_a_wrong_field_inside_a_file_is_named_in_full(explained, tmp_path):
    (tmp_path / "x.yaml").write_text("oven: {haet: 3}")
    assert explained(f"--config={tmp_path}/x.yaml").field == "oven.haet"


def test_what_is_not_understood_is_passed_on():
    refused = explain("  the moon\n  is full ", ArgumentParser(), LISTING)
    assert (refused.field, refused.problem) == ("configuration", "the moon is full")
    assert refused.remedy == LISTING


@pytest.mark.parametrize(
    ("args", "field", "problem"),
    [
        (["here", "--heat", "warm"], "--heat", "invalid int value"),
        (["here", "--mode", "off"], "--mode", "invalid choice"),
        (["here", "--heat"], "--heat", "expected one argument"),
        (["here", "--haet", "3"], "--haet", "no such option"),
        ([], "PLACE", "missing"),
    ],
)
def test_argparse_is_understood(args, field, problem):
    parser = PlainParser("bake")
    parser.add_argument("place", metavar="PLACE")
    parser.add_argument("--heat", type=int)
    parser.add_argument("--mode", choices=["fan", "grill"])
    with pytest.raises(Refused) as caught:
        parser.parse_args(args)
    assert caught.value.field == field
    assert problem in caught.value.problem
    assert "mad bake --help" in caught.value.remedy
