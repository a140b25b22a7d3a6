"""Seeds until an arm is decided, shares around the border: who is trained, and who is asked."""

import pytest
import yaml

from mad_lightning.commands.train import build
from mad_lightning.refusal import Refused
from mad_lightning.report.answers import Question
from mad_lightning.sweeps import Outcome, Sweep, ask
from mad_lightning.sweeps.rounds import judge

from .test_plan import BASE


@pytest.fixture
def sweep(tmp_path):
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(BASE))

    def sweep(seeds, biases=(1.0, 0.5, 0.25), **more):
        grid = {"sampling_bias": [*biases], "seed_everything": [*range(seeds)]}
        return Sweep([tmp_path / "base.yaml"], grid, root=tmp_path / "runs", **more)

    return sweep


class Engine:
    """Trains nothing; some lineages fail."""

    def __init__(self, fails=()):
        self.rounds, self.fails = [], fails

    def __call__(self, members):
        self.rounds.append([(m.arm.partition("=")[2], m.seed) for m in members])
        return [Outcome(m, "failed" if m.name in self.fails else "finished") for m in members]


def decides(**after):
    """A judge to whom an arm is MAD from so many seeds on."""

    def judge(arms, question):
        limits = {arm: after.get("b" + arm.partition("=")[2].replace(".", "_"), 99) for arm in arms}
        return {
            arm: "MAD" if len(members) >= limits[arm] else "undecided"
            for arm, members in arms.items()
        }

    return judge


def test_three_seeds_of_all_then_one_at_a_time_of_those_that_are_open(sweep):
    engine = Engine()
    told = ask(sweep(5), engine, until_decided=True, judge=decides(b1=3, b0_5=4))
    first = [("1", 0), ("0.5", 0), ("0.25", 0), ("1", 1), ("0.5", 1), ("0.25", 1)]
    assert engine.rounds[0][:6] == first
    assert engine.rounds[1:] == [[("0.5", 3), ("0.25", 3)], [("0.25", 4)]]
    assert told.looks == (3, 4, 5)
    assert [*told.words.values()] == ["MAD", "MAD", "undecided"]
    assert [*told.seeds.values()] == [3, 4, 5]
    assert len(told.outcomes) == 12


def test_an_arm_that_lacks_a_seed_is_not_looked_at_and_gets_all(sweep):
    engine = Engine(fails=["base,sampling_bias=1_seed1"])
    told = ask(sweep(5), engine, until_decided=True, judge=decides(b1=3, b0_5=3, b0_25=3))
    assert [arm.partition("=")[2] for arm in told.words] == ["0.5", "0.25"]
    assert engine.rounds[1:] == [[("1", 3)], [("1", 4)]]


def test_without_looks_all_seeds_are_trained_and_nobody_is_asked(sweep):
    engine = Engine()
    told = ask(sweep(2), engine, judge=None)
    assert [len(members) for members in engine.rounds] == [6]
    assert told.words == {}
    assert told.looks == ()


def test_shares_around_the_border_are_added_until_it_is_known(sweep, tmp_path):
    made = Sweep(
        [tmp_path / "base.yaml"],
        {"seed_everything": [0, 1, 2]},
        {"policy.n_fresh": [10, 90], "policy.n_synthetic": [90, 10]},
        refine=0.2,
        root=tmp_path / "runs",
    )  # fmt: skip
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(BASE))

    def judge(arms, question):
        fresh = {arm: int(arm.partition("n_fresh=")[2].partition(",")[0]) for arm in arms}
        return {arm: "enough" if fresh[arm] >= 45 else "undecided" for arm in arms}

    engine = Engine()
    told = ask(made, engine, until_decided=True, judge=judge)
    assert len(told.words) == 4  # 10 and 90, then 50 and 30
    assert sum(map(len, engine.rounds)) == 12


def test_too_few_seeds_to_look_at_are_refused(sweep):
    for seeds in (1, 2):
        with pytest.raises(Refused) as caught:
            ask(sweep(seeds), Engine(), until_decided=True)
        assert caught.value.field == "seed_everything"


def test_a_share_is_judged_by_what_it_keeps_and_a_closed_loop_by_its_distance(tmp_path):
    """Three seeds each of a Gaussian: fully synthetic, and with two shares of fresh samples."""
    fresh = {
        "class_path": "FreshData",
        "init_args": {"n_initial": 60, "n_fresh": 6, "n_synthetic": 54},
    }
    plain = {
        **BASE,
        "lineage": {"generations": 4, "threads": 1},
        "policy": fresh,
        "data": {"source": {"class_path": "StandardNormal", "init_args": {"dim": 3}},
                 "n_reference": 60},
        "evaluator": {"extractor": {"class_path": "Identity"}, "metrics": ["GaussianW2"]},
    }  # fmt: skip
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(plain))
    made = Sweep(
        [tmp_path / "base.yaml"],
        {"seed_everything": [0, 1, 2], "policy.n_initial": [60]},
        {"policy.n_fresh": [6, 54], "policy.n_synthetic": [54, 6]},
        root=tmp_path / "runs",
    )
    for member in made.members:
        build(member.arguments).fit()
    words = judge(made.arms, Question(looks=(3, 4)))
    assert {*words} == {*made.arms}
    assert {*words.values()} <= {"enough", "too little", "undecided"}
    alone = dict([*made.arms.items()][:1])
    assert {*judge(alone, Question()).values()} <= {"MAD", "settled", "undecided"}
