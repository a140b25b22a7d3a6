"""A lineage goes on under a configuration that gives the same numbers, and under no other."""

import json

from mad_lightning.lineage import differences
from mad_lightning.lineage.configuration import circumstances, settings_digest

OLD = {
    "lineage": {"generations": 3, "root": "a"},
    "policy": {"class_path": "mad_lightning.policies.FreshData", "init_args": {"n_real": 5}},
    "trainer": {"max_epochs": 2, "enable_progress_bar": False},
    "evaluator": {
        "metrics": [
            {"class_path": "mad_lightning.metrics.two_sample.Neighbours", "init_args": {"k": 5}}
        ]
    },
}


def changed(**paths):
    new = json.loads(json.dumps(OLD))
    for path, value in paths.items():
        *way, last = path.split("__")
        place = new
        for key in way:
            place = place[int(key) if key.isdigit() else key]
        place[last] = value
    return new


def test_differences_name_the_fields_that_matter():
    assert differences(OLD, changed(lineage__generations=9, lineage__root="b")) == []
    new = changed(policy__init_args__n_real=6, evaluator__metrics__0__init_args__k=3)
    assert differences(OLD, new) == [
        "evaluator.metrics.0.init_args.k: 5 -> 3",
        "policy.init_args.n_real: 5 -> 6",
    ]


def test_a_class_of_ours_is_known_by_its_name_wherever_its_room_is():
    moved = "mad_lightning.metrics.Neighbours"
    assert differences(OLD, changed(evaluator__metrics__0__class_path=moved)) == []
    other = changed(evaluator__metrics__0__class_path="mad_lightning.metrics.Frechet")
    assert differences(OLD, other) == ["evaluator.metrics.0.class_path: Neighbours -> Frechet"]
    theirs = changed(evaluator__metrics__0__class_path="their_module.Neighbours")
    assert len(differences(OLD, theirs)) == 1


def test_what_is_not_a_number_is_equal_to_itself():
    nan = {"lr": float("nan"), "widths": [1, float("nan")]}
    assert differences(nan, {"lr": float("nan"), "widths": [1, float("nan")]}) == []
    assert differences(nan, {"lr": 0.1, "widths": [1, float("nan")]}) == ["lr: nan -> 0.1"]
    assert differences({"n": 1}, {"n": 1.0}) == []


def test_what_may_change_is_told_and_no_difference():
    new = changed(lineage__root="b", trainer__enable_progress_bar=True, lineage__generations=9)
    new["data"] = {"source": {"class_path": "Images", "init_args": {"root": "there"}}}
    new["trainer"]["accelerator"] = "gpu"
    assert differences(OLD, new) == []
    assert circumstances(OLD, new) == [
        "data.source.class_path: (absent) -> Images",
        "data.source.init_args.root: (absent) -> there",
        "lineage.root: a -> b",
        "trainer.accelerator: (absent) -> gpu",
        "trainer.enable_progress_bar: False -> True",
    ]


def test_settings_have_one_digest_however_their_numbers_are_written():
    for same in (
        changed(policy__init_args__n_real=5.0),
        changed(lineage__root="b"),
        {**OLD, "seed_everything": 3},
    ):
        assert settings_digest(same) == settings_digest(OLD)
    others = [changed(policy__init_args__n_real=n) for n in (6, "5", None, [5], True)]
    assert len({settings_digest(other) for other in [OLD, *others]}) == 6
