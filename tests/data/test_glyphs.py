"""Glyphs: the same bits however they are drawn, the law that is told, the shapes of the fonts."""

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path
from matplotlib.textpath import TextPath

from mad_lightning.data import Glyphs, glyphs
from mad_lightning.refusal import Refused
from mad_lightning.seeds import sample_seeds

SEEDS = sample_seeds(0, 300, "glyphs")


@pytest.mark.parametrize(("resolution", "channels"), [(8, 1), (13, 3), (32, 1)])
def test_a_sample_is_the_same_alone_in_blocks_and_on_several_threads(
    resolution, channels, monkeypatch
):
    source = Glyphs(resolution, channels)
    together = source.draw(SEEDS[:60])
    assert together.values.shape == (60, *source.spec.shape)
    monkeypatch.setattr(glyphs, "_BLOCK", 7 * channels * source._side**2)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        blocks = source.draw(SEEDS[:60])
    finally:
        torch.set_num_threads(threads)
    alone = source.draw(SEEDS[41:42])
    assert torch.equal(together.values, blocks.values)
    assert torch.equal(together.values[41:42], alone.values)
    assert torch.equal(together.labels[41:42], alone.labels)


def test_without_noise_the_bits_are_those_of_every_machine():
    """All else is made by operations that IEEE 754 fixes; fonts are those of matplotlib 3.9."""
    assert Glyphs(12, 3, noise=0.0).draw(SEEDS).digest()[:16] == "d8ac0a26fdbe55bd"


@pytest.mark.parametrize("character", ["0", "8", "i", "R", "g"])
@pytest.mark.parametrize("font", ["DejaVuSans", "STIXGeneralItalic", "cmr10"])
def test_shapes_are_those_that_matplotlib_draws(font, character):
    """By FreeType, and by counting contours."""
    file = f"{matplotlib.get_data_path()}/fonts/ttf/{font}.ttf"
    paths = [
        TextPath((0, 0), one, size=100, prop=FontProperties(fname=file)) for one in (character, "0")
    ]
    boxes = [path.get_extents() for path in paths]
    table = glyphs._tables(character)[glyphs._FONTS.index(font)].numpy()
    grid = np.linspace(-1.0, 1.0, len(table))
    x, y = np.meshgrid(grid, -grid)
    places = np.stack([x, y], axis=-1).reshape(-1, 2) * boxes[1].height
    middle = [(boxes[0].x0 + boxes[0].x1) / 2, (boxes[0].y0 + boxes[0].y1) / 2]
    contours = [Path(contour) for contour in paths[0].to_polygons()]
    inside = np.logical_xor.reduce([path.contains_points(places + middle) for path in contours])
    inside = inside.reshape(table.shape)
    clear = np.abs(table) > 0.01
    assert (inside == (table < 0))[clear].mean() > 0.999
    assert inside.any()


def test_a_table_holds_distances_to_the_outline():
    corners = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])
    square = np.stack([corners, np.roll(corners, -1, axis=0)], axis=1)
    x, y = np.meshgrid(np.linspace(-1, 1, 64), np.linspace(-1, 1, 64))
    out = np.maximum(np.abs(x), np.abs(y)) - 0.5
    corner = np.hypot((np.abs(x) - 0.5).clip(0), (np.abs(y) - 0.5).clip(0))
    expected = np.where(out > 0, corner, out)
    np.testing.assert_allclose(glyphs._table(square), expected, atol=1e-12)
    np.testing.assert_allclose(glyphs._table(square[::-1, ::-1]), expected, atol=1e-12)


def test_classes_come_alike_often_and_can_be_told_apart():
    source = Glyphs(12)
    train, test = source.draw(sample_seeds(0, 3000, "a")), source.draw(sample_seeds(0, 300, "b"))
    counts = train.labels.bincount(minlength=10)
    assert counts.sub(300).abs().max() < 4 * (3000 * 0.1 * 0.9) ** 0.5
    x, y = (samples.values.flatten(1).float() for samples in (train, test))
    x, y = ((v - v.mean(1, keepdim=True)) / v.std(1, keepdim=True) for v in (x, y))
    nearest = train.labels[(y @ x.T).argmax(dim=1)]
    assert (nearest == test.labels).float().mean() > 0.9


def test_noise_is_that_of_its_law():
    clean, noisy = (Glyphs(16, noise=noise).draw(SEEDS).values.double() for noise in (0.0, 0.1))
    bright = (clean > 100) & (clean < 155)  # noise is hardly clipped there
    assert bright.sum() > 2000
    spread = (noisy - clean)[bright].std() / 255
    assert spread == pytest.approx(0.1, rel=0.06)


def test_paper_and_ink_are_in_their_ranges():
    grey = Glyphs(16, noise=0.0).draw(SEEDS).values.flatten(1)
    assert grey.min() <= 1
    assert grey[:, 0].max() <= 26
    colour = Glyphs(32, 3, noise=0.0).draw(SEEDS).values
    corner = colour[:, :, 0, 0]
    dark, light = (corner <= 90).all(dim=1), (corner >= 165).all(dim=1)
    assert (dark | light).all()
    assert 0.35 < light.double().mean() < 0.65


def test_other_arguments_and_other_fonts_are_other_data(monkeypatch):
    sources = [
        Glyphs(), Glyphs(17), Glyphs(channels=3), Glyphs(characters="01"), Glyphs(labels=False),
        Glyphs(noise=0.03),
    ]  # fmt: skip
    identities = {source.identity for source in sources}
    assert len(identities) == len(sources)
    monkeypatch.setattr(glyphs, "_FONTS", glyphs._FONTS[1:])
    glyphs._outlines.cache_clear()
    assert Glyphs().identity not in identities
    glyphs._outlines.cache_clear()


def test_classes_have_the_names_of_the_characters():
    assert Glyphs(characters="aZ3").class_names == ("a", "Z", "3")
    assert Glyphs(characters="aZ3").spec.classes == 3
    without = Glyphs(labels=False)
    assert without.spec.classes is None
    assert without.draw(SEEDS[:3]).labels is None


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"resolution": 7}, "resolution"),
        ({"resolution": 65}, "resolution"),
        ({"channels": 2}, "channels"),
        ({"noise": -0.1}, "noise"),
        ({"noise": float("nan")}, "noise"),
        ({"characters": ""}, "characters"),
        ({"characters": "010"}, "characters"),
        ({"characters": "ä1"}, "characters"),
    ],
    ids=str,
)
def test_what_cannot_be_drawn_is_refused(arguments, field):
    with pytest.raises(Refused) as refused:
        Glyphs(**arguments)
    assert refused.value.field == field
