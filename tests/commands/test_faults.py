"""Whose fault it is: errors of the user's own code are shown as they are."""

import sys

import pytest

from mad_lightning.commands import main
from mad_lightning.commands.faults import in_own_code, refusal_of

HEAD = "from mad_lightning.policies import FullySynthetic\n"
OWN = {
    "a package that is not there": ("import nosuch\n", "import nosuch", "No module named 'nosuch'"),
    "a word forgotten": (f"{HEAD}class Mine(FullySynthetic)\n", "class Mine(", "SyntaxError"),
    "an error at the top": (f"{HEAD}raise ValueError('early')\n", "raise", "ValueError: early"),
    "an error in the constructor": (
        f"{HEAD}class Mine(FullySynthetic):\n    def __init__(self):\n        1 / 0\n",
        "1 / 0",
        "ZeroDivisionError",
    ),
    "an error in a method": (
        f"{HEAD}class Mine(FullySynthetic):\n    def mix(self, t):\n        return nowhere\n",
        "return nowhere",
        "NameError",
    ),
}


@pytest.mark.parametrize("case", OWN)
def test_an_error_in_ones_own_module_is_shown_as_it_is(
    case, arguments, tmp_path, monkeypatch, refusal, request
):
    text, line, told = OWN[case]
    module = f"own_{list(OWN).index(case)}"
    (tmp_path / f"{module}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    place = arguments.index("--policy")
    more = ["--policy.n_initial", "100"] if "method" in case else []
    arguments[place : place + 4] = ["--policy", f"{module}.Mine", *more]
    shown = refusal("train", *arguments)
    assert f'{module}.py", line {1 + text[: text.index(line)].count(chr(10))}' in shown
    assert line in shown
    assert told in shown
    assert "is not accepted" not in shown
    assert not (tmp_path / "runs").exists()


WITHOUT_A_FRAME = {
    "no constructor called": "def __init__(self): pass",
    "a mix that is None": "def mix(self, t): return None",
}


@pytest.mark.parametrize("case", WITHOUT_A_FRAME)
def test_an_error_that_a_class_of_ones_own_causes_in_ours_names_it(
    case, arguments, tmp_path, monkeypatch, refusal
):
    module = f"causes_{list(WITHOUT_A_FRAME).index(case)}"
    text = f"{HEAD}class Mine(FullySynthetic):\n    {WITHOUT_A_FRAME[case]}\n"
    (tmp_path / f"{module}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    place = arguments.index("--policy")
    more = ["--policy.n_initial", "100"] if "mix" in case else []
    arguments[place : place + 4] = ["--policy", f"{module}.Mine", *more]
    named = "error: policy: Mine.mix(1) returns a NoneType" if more else f"error: {module}.Mine: "
    assert refusal("train", *arguments).startswith(named)


TOOLS = """from mad_lightning import LineageCallback, Metric, FullySynthetic
from mad_lightning.policies import Mix, Part

class Bell: pass
class Watch(LineageCallback):
    def on_lineage_start(self, lineage): pass
class Spread(Metric):
    def quantities(self, extractor): pass
    def values(self, real, synthetic): return {"spread": 0.0}
class Untyped(FullySynthetic):
    def __init__(self, n): super().__init__(n)
class Nowhere(FullySynthetic):
    def mix(self, t): return Mix(t, (Part("synthetic", "x", 0, 9),))
class Pool(FullySynthetic):
    def mix(self, t): return Mix(t, (Part("synthetic", None, 0, 9),))
def short(samples): return samples
def silent(samples, features, labels, address, budget): pass
"""
NINE = ["--policy.n_initial", "9"]
OWN_RULE = ["--treatment", "Own", "--treatment.function"]
OWN_SCORE = ["--treatment", "TopShare", "--treatment.score", "OwnScore"]
MISTAKES = {
    "no callback": (["--callbacks+=tools.Bell"], "tools.Bell is no LineageCallback"),
    "a hook of other arguments": (["--callbacks+=tools.Watch"], "Watch.on_lineage_start() takes 2"),
    "no quantities": (["--evaluator.metrics+=tools.Spread"], "evaluator.metrics.Spread: its quant"),
    "no type": (["--policy", "tools.Untyped"], "tools.Untyped.__init__ does not say what n is"),
    "no shard": (["--policy", "tools.Nowhere", *NINE], "policy.shard: x is none that"),
    "no pool": (["--policy", "tools.Pool", *NINE], "policy.shard: synthetic samples from"),
    "a path": (["--policy", "./tools.Pool"], "./tools.Pool names no class"),
    "a file": (["--policy", "tools.py"], "name a class in it as tools.Class"),
    "a file that is hidden": (["--policy", "statistics.Pool"], "which hides statistics.py"),
    "a rule that is not there": ([*OWN_RULE, "tools.nothing"], "function: tools has no nothing"),
    "a rule of other arguments": ([*OWN_RULE, "tools.short"], "function: short takes something"),
    "a rule that says nothing": ([*OWN_RULE, "tools.silent"], "treatment: it returned a NoneType"),
    "a score of other arguments": (
        [*OWN_SCORE, "--treatment.score.function", "tools.silent"], "function: silent takes some",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_in_a_file_of_ones_own_are_told_as_what_they_are(
    case, arguments, tmp_path, monkeypatch, refusal
):
    (tmp_path / "tools.py").write_text(TOOLS)
    (tmp_path / "statistics.py").write_text(TOOLS)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])  # behind Python's own statistics
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "tools", raising=False)
    words, told = MISTAKES[case]
    if "--policy" in words:
        place = arguments.index("--policy")
        arguments[place : place + 4] = []
    assert told in refusal("train", *arguments, *words)
    assert not [*tmp_path.glob("runs/tiny/generation*")]


@pytest.mark.parametrize(
    ("name", "told"),
    [("nosuch.Mine", "no module nosuch"), ("mad_lightning.policies.Mine", "policies has no Mine")],
)
def test_a_class_that_is_not_there_is_told_apart(name, told, arguments, refusal):
    place = arguments.index("--policy")
    arguments[place : place + 4] = ["--policy", name]
    assert told in refusal("train", *arguments)


def test_a_library_that_cannot_make_its_class_is_refused_with_its_place(arguments, refusal):
    extra = ["--trainer.callbacks", "ThroughputMonitor"]
    shown = refusal("train", *arguments, *extra, "--trainer.callbacks.batch_size_fn", "len",
                    "--trainer.callbacks.window_size", "-1")  # fmt: skip
    assert shown.startswith("error: trainer.callbacks")


def test_a_bug_in_the_package_is_nobodys_input():
    with pytest.raises(ZeroDivisionError) as caught:
        exec(compile("1 / 0", "<ours>", "exec"))
    caught.value.__traceback__ = caught.value.__traceback__.tb_next
    assert list(in_own_code(caught.value)) == []
    assert refusal_of(caught.value) is None


@pytest.mark.parametrize("hides", [True, False])
def test_a_file_that_hides_a_module_of_pythons_is_better_called_otherwise(
    hides, tmp_path, monkeypatch
):
    file = tmp_path / "statistics.py"
    file.write_text("1 / 0")
    if hides:
        monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ZeroDivisionError) as caught:
        exec(compile("1 / 0", file, "exec"))
    assert ("call statistics.py otherwise" in refusal_of(caught.value).remedy) == hides


def test_debug_shows_where_it_was_refused(arguments, capsys):
    with pytest.raises(SystemExit) as left:
        main(["train", *arguments, "--sampling_bias", "0", "--debug"])
    assert left.value.code == 2
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert "error: sampling_bias: " in shown
