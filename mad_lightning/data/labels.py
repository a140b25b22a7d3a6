"""Which class a picture or a sample has.

Classes are those that the user has: folders have names, files of labels often have numbers with
gaps, or ids of a database. Networks want 0, 1, ... without gaps, so classes are numbered in their
order and keep their names. What is no division of the data into kinds is refused: a single class,
a class for each sample, and folders that are parts of a data set.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from mad_lightning.refusal import Refused

__all__ = ["Classes", "by_folder", "listed", "numbered"]

_TRAINING = frozenset(("train", "training"))
_HELD_OUT = frozenset(("test", "testing", "val", "valid", "validation", "eval", "dev"))


class Classes(NamedTuple):
    """The classes of some samples.

    Attributes:
        labels: One a sample, 0 to K - 1.
        names: What they are called (K,); empty where those are the numbers themselves.
        n: How many there are, K.
    """

    labels: list[int]
    names: tuple[str, ...]
    n: int


def numbered(kinds: Sequence[Hashable], order: Sequence[Hashable], where: object) -> Classes:
    """Numbers classes without gaps.

    Args:
        kinds: What each sample is said to be.
        order: All of that, each once.
        where: What says so, for messages.

    Raises:
        Refused: If there is one class only, or more than ten and one for every two samples.
    """
    n = len(order)
    if n < 2:
        raise Refused(
            "labels",
            f"{where} has one class: there is nothing to tell apart",
            "name a place where there are several, or leave `labels` out",
        )
    if n > max(10, len(kinds) / 2):
        raise Refused(
            "labels",
            f"{where} has {n:,} classes for {len(kinds):,} samples: those are names of samples",
            "give classes of several samples each, or leave `labels` out",
        )
    place = {kind: number for number, kind in enumerate(order)}
    are_numbers = list(order) == list(range(n))
    names = () if are_numbers else tuple(map(str, order))
    return Classes([place[kind] for kind in kinds], names, n)


def by_folder(root: Path, names: Sequence[str]) -> Classes:
    """The folder of the first level is the class, in natural order.

    Folders of five digits are not taken for classes: StyleGAN and FFHQ store every thousand
    pictures in one of those.

    Args:
        root: Where pictures lie.
        names: Their relative paths, in natural order.

    Raises:
        Refused: If a picture lies in no folder, or folders are no classes.
    """
    loose = next((name for name in names if "/" not in name), None)
    folders = list(dict.fromkeys(name.split("/")[0] for name in names))
    if loose is not None or all(re.fullmatch("[0-9]{5}", folder) for folder in folders):
        raise Refused(
            "labels",
            f"{root} has no dataset.json, and "
            + (f"{loose} lies in no folder" if loose else "its folders are StyleGAN's chunks"),
            'put each class into a folder of its own, or add dataset.json with {"labels": '
            "[[file name, class], ...]}, or leave `labels: false`",
        )
    parts = {folder.lower() for folder in folders}
    if parts <= _TRAINING | _HELD_OUT or (parts & _TRAINING and parts & _HELD_OUT):
        first = next((name for name in folders if name.lower() in _TRAINING), folders[0])
        raise Refused(
            "labels",
            f"{root} holds {', '.join(folders)}: parts of a data set, no classes",
            f"name the part to train on, `root: {root / first}`",
        )
    return numbered([name.split("/")[0] for name in names], folders, root)


def listed(file: Path, open: Callable[[], IO[bytes]], names: Sequence[str]) -> Classes:
    """A file in StyleGAN's format says the class of each picture, by number.

    Args:
        file: What messages call it.
        open: Opens it.
        names: Relative paths of the pictures.

    Raises:
        Refused: If the file cannot be read, or a picture has no class.
    """

    def refused(problem: str) -> Refused:
        return Refused(
            "labels",
            f"{file} {problem}",
            'write {"labels": [[file name, class], ...]} with whole numbers from 0, or leave '
            "`labels: false`",
        )

    try:
        with open() as content:
            pairs = json.load(content)["labels"]
        numbers = {name.replace("\\", "/"): label for name, label in pairs or []}
    except Exception as error:  # whatever a file raises that is no such list
        raise refused(f"cannot be read ({type(error).__name__}: {error})") from error
    if not numbers:
        raise refused("names no labels")
    for name in names:
        if name not in numbers:
            raise refused(f"gives {name} no class")
        if type(numbers[name]) is not int or numbers[name] < 0:
            raise refused(f"gives {name} the class {numbers[name]!r}")
    kinds = [numbers[name] for name in names]
    return numbered(kinds, sorted(set(kinds)), file)
