"""Pictures for looking at: every pixel where it belongs, the same window every time."""

import numpy as np
import pytest
import torch
from PIL import Image

from mad_lightning.callbacks.base import LineageCallback, LineageInfo
from mad_lightning.callbacks.grids import SampleGrids, n_shown, scatter, sheet
from mad_lightning.commands.train import build
from mad_lightning.generators.gaussian import Gaussian
from mad_lightning.lineage import LineageDirectory
from mad_lightning.refusal import Refused
from mad_lightning.samples import Samples, SampleSpec

DOT, AXIS, PAPER = 40, 225, 255


def flat_images(n, channels=1, height=40, width=50):
    """Image i is filled with i + 1; channels count on."""
    values = torch.arange(1, n * channels + 1).reshape(n, channels, 1, 1).byte()
    return values.expand(n, channels, height, width)


@pytest.mark.parametrize("channels", [1, 3])
def test_images_lie_in_rows_with_white_between(channels):
    images = flat_images(5, channels)
    pixels = np.asarray(sheet(images, columns=3, gap=2)).reshape(86, 158, channels)
    expected = np.full((86, 158, channels), 255)
    for place, (row, column) in enumerate([(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]):
        top, left = 2 + 42 * row, 2 + 52 * column
        expected[top : top + 40, left : left + 50] = images[place, :, 0, 0].numpy()
    assert np.array_equal(pixels, expected)


def test_an_image_is_not_turned():
    image = torch.arange(40 * 50).reshape(1, 1, 40, 50).remainder(251).byte()
    pixels = np.asarray(sheet(image, columns=1, gap=3))
    assert np.array_equal(pixels[3:-3, 3:-3], image[0, 0].numpy())


@pytest.mark.parametrize(("side", "zoom"), [(8, 4), (9, 4), (31, 2), (32, 1), (64, 1), (1, 32)])
def test_small_images_are_magnified_pixel_by_pixel(side, zoom):
    image = torch.arange(side * side).reshape(1, 1, side, side).remainder(251).byte()
    pixels = np.asarray(sheet(image, columns=1, least=32, gap=0))
    assert np.array_equal(pixels, np.kron(image[0, 0].numpy(), np.ones((zoom, zoom))))


def test_colours_are_red_green_and_blue():
    images = torch.zeros(3, 3, 32, 32, dtype=torch.uint8)
    images[torch.arange(3), torch.arange(3)] = 200
    picture = sheet(images, columns=3, gap=0)
    assert picture.mode == "RGB"
    assert [picture.getpixel((x, 5)) for x in (5, 37, 69)] == [
        (200, 0, 0),
        (0, 200, 0),
        (0, 0, 200),
    ]


# --- vectors ------------------------------------------------------------------------------------


def dots(vectors, **arguments):
    """Where the middles of dots are, in units of the window's half side, y upward."""
    pixels = np.asarray(scatter(torch.tensor(vectors).float(), **arguments)) == DOT
    side = len(pixels)
    found = [
        (column, side - 1 - row)
        for row in range(1, side - 1)
        for column in range(1, side - 1)
        if pixels[row - 1 : row + 2, column - 1 : column + 2].all()
    ]
    return [(x / (side / 2) - 1, y / (side / 2) - 1) for x, y in found]


@pytest.mark.parametrize("at", [(0.0, 0.0), (2.0, 1.0), (-3.0, 2.0), (1.0, -3.9), (-3.9, -3.9)])
def test_a_vector_is_one_dot_at_its_first_two_coordinates(at):
    (found,) = dots([[*at, 17.0]], reach=4.0)
    assert found == pytest.approx((at[0] / 4, at[1] / 4), abs=2 / 320)


def test_a_line_of_numbers_lies_on_the_middle():
    found = dots([[-2.0], [0.0], [3.0]])
    assert [x for x, _ in found] == pytest.approx([-0.5, 0.0, 0.75], abs=2 / 320)
    assert [y for _, y in found] == pytest.approx([0.0, 0.0, 0.0], abs=2 / 320)


@pytest.mark.parametrize("far", [4.1, -4.1, 1e6, float("inf"), float("nan")])
def test_what_lies_outside_the_window_is_not_drawn(far):
    inside = np.asarray(scatter(torch.tensor([[1.0, 1.0]])))
    for outside in ([far, 0.0], [0.0, far], [far, far]):
        with_it = np.asarray(scatter(torch.tensor([[1.0, 1.0], outside])))
        assert np.array_equal(with_it, inside)


def test_the_window_does_not_follow_the_samples():
    empty = np.asarray(scatter(torch.empty(0, 2)))
    crowd = np.asarray(scatter(torch.linspace(-0.01, 0.01, 100).reshape(50, 2)))
    assert empty.shape == crowd.shape == (320, 320)
    assert set(np.unique(empty)) == {AXIS, PAPER}
    assert (crowd == DOT).sum() < 60
    assert np.array_equal(crowd[crowd != DOT], empty[crowd != DOT])


@pytest.mark.parametrize(
    ("at", "place"), [((0.0, 5.0), (0.0, 0.0)), ((3.5, 12.0 - 0.1), (0.5, 0.98)), ((-7, 5), None)]
)
def test_a_window_may_lie_elsewhere(at, place):
    found = dots([list(at)], reach=7.0, centre=(0.0, 5.0))
    assert found == ([] if place is None else [pytest.approx(place, abs=2 / 320 + 0.01)])


def test_the_axes_stay_where_zero_is():
    pixels = np.asarray(scatter(torch.empty(0, 2), side=100, reach=10.0, centre=(5.0, -5.0)))
    assert np.flatnonzero((pixels == AXIS).all(axis=0)).tolist() == [25]
    assert np.flatnonzero((pixels == AXIS).all(axis=1)).tolist() == [99 - 75]
    beyond = np.asarray(scatter(torch.empty(0, 2), reach=1.0, centre=(5.0, -5.0)))
    assert set(np.unique(beyond)) == {PAPER}


# --- the callback -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "draw"),
    [
        (flat_images(5, 3), lambda values: sheet(values, 10)),
        (torch.linspace(-3, 3, 20).reshape(10, 2), scatter),
    ],
    ids=["images", "vectors"],
)
def test_samples_become_a_picture_of_the_generation(tmp_path, values, draw):
    SampleGrids().on_samples_ready(3, tmp_path, Samples(values))
    assert [path.name for path in tmp_path.iterdir()] == ["samples.png"]
    with Image.open(tmp_path / "samples.png") as picture:
        assert np.array_equal(np.asarray(picture), np.asarray(draw(values)))


def test_a_long_lineage_has_a_picture_now_and_then(tmp_path):
    drawn = []
    for t in range(1, 13):
        SampleGrids(every=5).on_samples_ready(t, tmp_path / f"{t}", Samples(torch.zeros(1, 2)))
        drawn += [t] * (tmp_path / f"{t}" / "samples.png").exists()
    assert drawn == [1, 5, 10]
    with pytest.raises(Refused, match="every"):
        SampleGrids(every=0)


def test_the_callback_draws_its_window(tmp_path):
    values = torch.tensor([[0.0, 10.0], [1.0, 2.0]])
    SampleGrids(reach=7.0, centre=(0.0, 5.0)).on_samples_ready(1, tmp_path, Samples(values))
    expected = np.asarray(scatter(values, reach=7.0, centre=(0.0, 5.0)))
    with Image.open(tmp_path / "samples.png") as picture:
        assert np.array_equal(np.asarray(picture), expected)
    assert not np.array_equal(expected, np.asarray(scatter(values)))


@pytest.mark.parametrize(
    ("labels", "columns"),
    [(None, 10), ([0, 1, 2, 0, 1, 2], 3), ([0, 0, 0, 0, 0, 0], 10), (list(range(6)), 6)],
)
def test_a_class_has_a_column_of_its_own_if_classes_fit(tmp_path, labels, columns):
    values = flat_images(6)
    given = None if labels is None else torch.tensor(labels)
    SampleGrids().on_samples_ready(1, tmp_path, Samples(values, given))
    with Image.open(tmp_path / "samples.png") as picture:
        assert np.array_equal(np.asarray(picture), np.asarray(sheet(values, columns)))


def test_more_classes_than_fit_do_not_make_columns(tmp_path):
    values = flat_images(30, height=2, width=2)
    SampleGrids().on_samples_ready(1, tmp_path, Samples(values, torch.arange(30)))
    with Image.open(tmp_path / "samples.png") as picture:
        assert np.array_equal(np.asarray(picture), np.asarray(sheet(values, 10)))


def test_dots_are_ten_times_as_many_as_images():
    assert n_shown(80, SampleSpec((1, 8, 8), 10)) == 80
    assert n_shown(80, SampleSpec((2,))) == 800


@pytest.mark.parametrize("reach", [0.0, -1.0, float("nan")])
def test_a_window_without_extent_is_refused(reach):
    with pytest.raises(Refused, match=r"^reach"):
        SampleGrids(reach=reach)


def test_samples_to_look_at_are_drawn_only_where_somebody_looks(arguments):
    """No number depends on them, and they cost as much as others."""
    drawn, digests = [], []

    class Counts(Gaussian):
        def draw(self, seeds, sampling_bias, labels):
            drawn.append(len(seeds))
            return super().draw(seeds, sampling_bias, labels)

    class Looks(LineageCallback):
        def on_samples_ready(self, t, directory, samples):
            pass

    for callbacks, pictures in ((Looks(), 3), (SampleGrids(every=2), 2), (LineageCallback(), 0)):
        drawn.clear()
        meta = build([*arguments, "--lineage.name", f"{pictures}"])
        meta.build_generator, meta.observers.callbacks = Counts, (callbacks,)
        digests.append([record.digests["shard"] for record in meta.fit()])
        assert drawn.count(meta.settings.n_grid) == pictures
    assert digests[0] == digests[1] == digests[2]


def test_real_samples_are_drawn_once_in_a_lineage(tmp_path):
    directory, asked = LineageDirectory(tmp_path), []

    def real():
        asked.append(1)
        return Samples(flat_images(3), torch.arange(3))

    grids = SampleGrids()
    grids.on_lineage_start(
        LineageInfo("mine", directory, 2, 0, "fresh", 1.0, real_samples=real), ()
    )
    for t in (1, 2):
        grids.on_generation_end(None, directory.generation(t))
    assert asked == [1]
    pixels = np.asarray(Image.open(directory.sound_picture(0)))
    assert [pixels[20, 20 + 52 * k] for k in range(3)] == [1, 2, 3]
