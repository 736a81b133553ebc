"""What the names of a split's files tell: which split it is, and which of its parts are there."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from itertools import islice, pairwise

from nepa_scale.utils.errors import NAMES_SHOWN, shortened

_SPLIT = re.compile(r"(?<![a-z])(train|training|val|valid|validation)(?![a-z])", re.IGNORECASE)
_PART = re.compile(r"(?<!\d)(\d+)[-_]of[-_](\d+)(?!\d)", re.IGNORECASE)
_NUMBER = re.compile(r"(.*?)(\d+)(\D*)")


def splits_of(name: str) -> set[str]:
    """The splits, "train" and "validation", that a name speaks of."""
    return {"train" if word.startswith("train") else "validation" for word in split_words(name)}


def split_words(name: str) -> set[str]:
    """The words for splits in a name, in small letters, such as "val" and "valid"."""
    return {word.lower() for word in _SPLIT.findall(name)}


def states_part(name: str) -> bool:
    """Whether a name holds a part and how many there are, such as ``train-00000-of-00003-1359597a978bc4fa``."""
    return _PART.search(name) is not None


def part_problems(names: Iterable[str], where: str) -> list[str]:
    """Compare names such as train-00000-of-00294 with the number of parts that they state; one line for each fault.

    What follows the number is ignored: ``push_to_hub`` writes a hash there.
    """
    series: dict[str, dict[str, tuple[int, int]]] = {}
    for name in names:
        if found := _PART.search(name):
            series.setdefault(name[: found.start()], {})[name] = int(found[1]), int(found[2])
    return [problem for prefix, parts in series.items() for problem in _series_problems(prefix, parts, where)]


def _series_problems(prefix: str, parts: dict[str, tuple[int, int]], where: str) -> list[str]:
    totals = {total for _, total in parts.values()}
    if len(totals) > 1:
        several = ", ".join(map(str, sorted(totals)))
        return [f"{where}: '{prefix}*' are parts of several sets, of {several} files: keep those of one"]
    (total,) = totals
    counts = Counter(number for number, _ in parts.values())
    problems = []
    if twice := [name for name, (number, _) in parts.items() if counts[number] > 1]:
        problems.append(f"{where}: the same part several times: {shortened(twice)}")
    first = 0 if 0 in counts or max(counts) < total else 1  # some number their files from 1
    expected = range(first, first + total)
    present = sum(number in expected for number in counts)
    if present < total:
        missing = islice((number for number in expected if number not in counts), NAMES_SHOWN)
        more = " ..." if total - present > NAMES_SHOWN else ""
        problems.append(
            f"{where} has {present} of {total} files '{prefix}*': missing {', '.join(map(str, missing))}{more}"
        )
    if beyond := [name for name, (number, _) in parts.items() if number not in expected]:
        problems.append(f"{where}: no part of {total}: {shortened(beyond)}")
    return problems


def gaps(names: Iterable[str], *, from_start: bool = False) -> list[str]:
    """Names that would fill the gaps between files that are numbered in a row; the first few of each row.

    With ``from_start`` rows begin at 0 or 1.
    """
    rows: dict[tuple[str, str], dict[int, int]] = {}
    for name in names:
        if (found := _NUMBER.fullmatch(name)) and not states_part(name):
            rows.setdefault((found[1], found[3]), {})[int(found[2])] = len(found[2])
    missing = []
    for (before, after), widths in rows.items():
        numbers = sorted(widths)
        holes = [range(low + 1, high) for low, high in pairwise(numbers)]
        if from_start and numbers[0] > 1:
            holes.insert(0, range(numbers[0]))
        few = islice((number for hole in holes for number in hole), NAMES_SHOWN + 1)
        missing += [f"{before}{number:0{min(widths.values())}d}{after}" for number in few]
    return missing
