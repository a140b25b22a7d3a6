"""The share of fresh data that is needed lies between two."""

import numpy as np
import pytest
from truths import series, tolerated

from mad_lightning.refusal import Refused
from mad_lightning.verdict import Floor, safe_share, verdict


def test_the_safe_share_lies_between_two():
    needed = safe_share([(0.5, "settled"), (0.0, "MAD"), (0.1, "MAD"), (0.2, "undecided")])
    assert (needed.largest_mad, needed.smallest_safe, needed.undecided) == (0.1, 0.5, (0.2,))
    assert "between 0.1 and 0.5" in str(needed)
    above = safe_share([(0.1, "settled"), (0.3, "MAD"), (0.5, "settled"), (0.9, "settled")])
    assert (above.largest_mad, above.smallest_safe) == (0.3, 0.5)
    assert above.contradicted == (0.1,)
    assert "contradicted: 0.1" in str(above)
    gap = safe_share([(0.1, "settled"), (0.3, "undecided"), (0.5, "settled")])
    assert (gap.largest_mad, gap.smallest_safe, gap.undecided) == (None, 0.5, (0.3,))
    assert "not bounded below" in str(gap)
    unsure = safe_share([(0.0, "MAD"), (0.5, "settled"), (0.9, "undecided")])
    assert unsure.smallest_safe is None
    assert "no share was shown to be safe; it takes more than 0" in str(unsure)
    twice = safe_share([(0.5, "settled"), (0.5, "undecided"), (0.9, "settled")])
    assert (twice.smallest_safe, twice.undecided) == (0.9, (0.5,))
    with pytest.raises(Refused):
        safe_share([])


def test_an_unsafe_share_is_rarely_called_safe_however_many_are_tried():
    """Seven shares at the margin, three that are flat."""
    rng = np.random.default_rng(12)
    grows = 1.25 ** (np.arange(12) / 12)
    wrong = 0
    for _ in range(400):
        answers = []
        for k in range(10):
            trend = grows if k < 7 else np.ones(12)
            d = series(rng, 1, 5, 12, trend=trend, spread=0.03)[0]
            answers.append((k / 10, verdict(d, floor=Floor()).answer))
        safe = safe_share(answers).smallest_safe
        wrong += safe is not None and safe < 0.7
    assert wrong <= 400 * tolerated(400)
