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
