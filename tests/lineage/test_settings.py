"""Where a lineage lives, how long it is, and what its generations start from."""

import pytest

from mad_lightning.lineage import LineageSettings
from mad_lightning.refusal import Refused


def test_starting_points(tmp_path):
    base = tmp_path / "generator.ckpt"
    base.touch()

    def origins(**settings):
        return [LineageSettings(**settings).starts_from(t) for t in (1, 2, 3, 4)]

    assert origins() == [None, None, None, None]
    assert origins(start="previous") == [None, 1, 2, 3]
    assert origins(start="base") == [None, 1, 1, 1]
    assert origins(start="previous", base=str(base)) == [base, 1, 2, 3]
    assert origins(start="base", base=str(base)) == [base, base, base, base]


def test_a_base_that_is_not_there_or_not_used_is_refused(tmp_path):
    with pytest.raises(Refused, match=r"^base.*no file"):
        LineageSettings(start="base", base=str(tmp_path / "nowhere.ckpt"))
    (tmp_path / "g.ckpt").touch()
    with pytest.raises(Refused, match=r"^base.*would not be used"):
        LineageSettings(base=str(tmp_path / "g.ckpt"))


@pytest.mark.parametrize("field", ["generations", "block_size", "n_grid", "threads"])
def test_counts_begin_at_1(field):
    with pytest.raises(Refused, match=f"^{field}: 0"):
        LineageSettings(**{field: 0})
    assert getattr(LineageSettings(**{field: 1}), field) == 1


def test_it_lives_below_its_root(tmp_path):
    assert LineageSettings("mine", str(tmp_path)).directory.path == tmp_path / "mine"


@pytest.mark.parametrize(
    "name",
    ["", " ", " x", "x ", ".", "..", "../x", "a/b", "/tmp/x", "a\\b", "a\nb", "a\x1b[31m", "a\0b",
     "x" * 256, "\u00f6" * 128],
)  # fmt: skip
def test_a_name_is_one_plain_directory(name):
    with pytest.raises(Refused) as caught:
        LineageSettings(name)
    assert caught.value.field == "name"
    assert caught.value.problem.isprintable()


@pytest.mark.parametrize(
    "name", ["x", "a b", "x" * 255, "\u03bb=0.5", ".hidden", "a..b", "-x", "~x"]
)
def test_any_plain_name_will_do(name, tmp_path):
    assert LineageSettings(name, str(tmp_path)).directory.path.parent == tmp_path


@pytest.mark.parametrize(
    ("field", "value"),
    [("generations", 10**12), ("threads", 10**6), ("n_grid", 10**10), ("block_size", 10**12),
     ("root", ""), ("root", " "), ("root", "a\0b")],
)  # fmt: skip
def test_what_no_machine_can_do_is_refused(field, value):
    with pytest.raises(Refused, match=f"^{field}: "):
        LineageSettings(**{field: value})


def test_a_root_may_be_at_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert LineageSettings("x", "~/runs").directory.path == tmp_path / "runs" / "x"
