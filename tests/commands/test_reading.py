"""A configuration file says one thing, or is refused with the line."""

import pytest
import yaml

from mad_lightning.commands.reading import Unreadable, check, text_of

LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 10)}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
WRONG = {
    "a key that stands twice": ("a: 1\nb: 2\na: 3\n", "line 3: a stands twice, before on line 1"),
    "a nested one": ("a:\n  - b: {c: 1, c: 2}\n", "c stands twice"),
    "a dotted one": ("a.b: 1\na: {b: 2}\n", "line 2: a.b stands twice"),
    "base 8": ("a: 1\nn: 0100\n", "line 2: 0100 is a number to the base of 8"),
    "base 60": ("n: 3:20\n", "3:20 is a number"),
    "base 60 with a point": ("n: [1, 3:20.5]\n", "3:20.5 is a number"),
    "aliases without end": (LAUGHS, "unfolds to more than"),
    "an alias of itself": ("a: &a [*a]\n", "unfolds to more than"),
    "a tower": ("a: " + "[" * 900 + "]" * 900, "nested more than"),
    "no YAML": ("a: [1, 2\nb: 3\n", "line 2: "),
    "two documents": ("a: 1\n---\nb: 2\n", "single document"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_yaml_would_accept_is_refused_with_its_line(case):
    text, told = WRONG[case]
    with pytest.raises(Unreadable) as caught:
        check(text, "x.yaml")
    assert caught.value.refused.field == "x.yaml"
    assert told in caught.value.refused.problem


@pytest.mark.parametrize(
    "text",
    [
        "a: 1\nb: {a: 2}\nc: [{a: 1}, {a: 2}]\n",
        "n: 100\nm: 0x10\nx: 0.5\ny: 1e-4\nt: '3:20'\ns: '0100'\nz: 0\n",
        "base: &base {a: 1, b: 2}\nother: {<<: *base, a: 3}\n",
        "# \u03bb\na: \u03bb\n",
    ],
)
def test_what_says_one_thing_is_taken(text):
    check(text, "x.yaml")
    assert yaml.safe_load(text)


def test_a_value_that_is_no_yaml_is_a_text():
    check("a: b: c")
    check("3:20")
    with pytest.raises(Unreadable):
        check("{k: 1, k: 2}")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("# caf\u00e9\na: 1\n".encode("latin-1"), "no UTF-8"),
        ("a: 1\n".encode("utf-16"), "no UTF-8"),
        (bytes(range(256)), "no UTF-8"),
        (b" \n", "empty"),
    ],
)
def test_a_file_is_utf_8_and_says_something(content, told, tmp_path):
    (tmp_path / "x.yaml").write_bytes(content)
    with pytest.raises(Unreadable) as caught:
        text_of(tmp_path / "x.yaml", "x.yaml")
    assert caught.value.refused.field == "x.yaml"
    assert told in caught.value.refused.problem


def test_a_mark_of_the_byte_order_is_no_letter(tmp_path):
    (tmp_path / "x.yaml").write_bytes("a: 1\n".encode("utf-8-sig"))
    assert text_of(tmp_path / "x.yaml", "x.yaml") == "a: 1\n"
