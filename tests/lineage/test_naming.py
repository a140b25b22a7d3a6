"""Names tell what a lineage has of its own; other settings have other names."""

import itertools

import pytest

from mad_lightning.lineage.naming import dotted, label, named, overridden, word

UNLIKE = [
    {},
    {"sampling_bias": 0.8},
    {"sampling_bias": 0.80000001},
    {"policy.n": 5},
    {"data.n": 5},
    {"generator.n": 5},
    {"policy.n": 1_000_000},
    {"policy.n": 1_000_001},
    {"policy.sampling_bias": 0.8},
    {"generator.lr": 1, "generator.net.lr": 2},
    {"generator.lr": 2, "generator.net.lr": 1},
    {"generator": "mine.Glow"},
    {"generator": "yours.Glow"},
    {"generator": "Glow"},
    {"generator.network": "a b"},
    {"generator.network": "a-b"},
    {"generator.network": "a,n=5"},
    {"generator.widths": [8, 8]},
    {"generator.widths": [88]},
    {"generator.drop": None},
    {"generator.drop": ""},
    {"generator.drop": False},
    {"data.source": "MNIST"},
    {"data.source.root": "here/photos.zip"},
    {"data.source.root": "here/paintings.zip"},
    {"generator.train": "x" * 300},
    {"generator.train": "x" * 299 + "y"},
    {f"generator.long_{place}": 10 for place in range(40)},
    {f"generator.long_{place}": 10 for place in range(39)} | {"generator.long_39": 11},
]


def test_no_two_settings_share_a_name_and_names_are_files():
    names = [label("base", named(settings)) for settings in UNLIKE]
    assert len({*names}) == len(UNLIKE)
    assert all(len(name.encode()) <= 200 and "/" not in name and " " not in name for name in names)
    assert names[:2] == ["base", "base,sampling_bias=0.8"]
    assert names[3:5] == ["base,n=5", "base,data.n=5"]


def test_equal_values_have_equal_words_however_they_were_written():
    for one, other in itertools.pairwise([1, 1.0, "1"]):
        assert word(one) == word(other)
    assert word("mad_lightning.generators.glow.Glow") == word("Glow")
    assert word("/old/disk/photos.zip", "data.source.root") == "photos.zip"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], {}),
        (["--config", "x.yaml", "--sampling_bias", "1"], {}),  # as the file says
        (["--sampling_bias=8e-1"], {"sampling_bias": 0.8}),
        (["--sampling_bias", "0.8", "--sampling_bias=1.0"], {}),  # the last one counts
        (["--seed_everything", "3", "--lineage.generations", "9", "--trainer.devices=2"], {}),
        (["--policy.n", "7", "--debug"], {"policy.n": 7}),
        (["--evaluator.metrics+=Kernel"], {"evaluator.metrics+": "Kernel"}),
        (["--evaluator.metrics+", "A", "--evaluator.metrics+=B"],
         {"evaluator.metrics+": ["A", "B"]}),
        (["--generator.widths", "[8,  8]"], {"generator.widths": [8, 8]}),
        (["--generator.train", "a: {b"], {"generator.train": "a: {b"}),
    ],
)  # fmt: skip
def test_what_flags_say_otherwise_than_the_files(arguments, told):
    assert overridden(arguments, {"sampling_bias": 1.0, "policy.n": 5}) == told


def test_classes_and_their_arguments_are_spelled_as_flags_are():
    plain = {"policy": {"class_path": "FreshData", "init_args": {"n": 5}}, "seed_everything": 1}
    assert dotted(plain) == {"policy": "FreshData", "policy.n": 5, "seed_everything": 1}
