"""timm's augmentation policies as a setting names them, such as ``rand-m9-mstd0.5-inc1``. Free of torch.

A policy string is a policy's name and its options, joined by ``-``; an option is its letters followed by its value.
timm passes over an option without a number and takes its default for an unknown set of operations; here both are
problems, and so are values with which it would fail while images are read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from nepa_scale.utils.errors import nearest

EXAMPLE = "rand-m9-mstd0.5-inc1"


@dataclass(frozen=True)
class Number:
    """An option's values: numbers from ``low`` to ``high``."""

    low: float
    high: float
    whole: bool = True

    def accepts(self, text: str) -> bool:
        """Whether timm can read the number, and it is in the range."""
        try:
            return self.low <= (int(text) if self.whole else float(text)) <= self.high
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"a {'whole ' if self.whole else ''}number from {self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Name:
    """An option's values: some names."""

    names: tuple[str, ...]

    def accepts(self, text: str) -> bool:
        """Whether it is one of them."""
        return text in self.names

    def __str__(self) -> str:
        return f"one of {', '.join(self.names)}"


#: Sets in which operations have weights; of such a set no operation is drawn twice for an image.
WEIGHTED = {"weights": 15, "3aw": 14}

MAGNITUDE, COUNT, SWITCH = Number(0, 100), Number(1, 50), Number(0, 1)
SPREAD = Number(0, 1000, whole=False)  # of the magnitude; timm draws it uniformly above 100
SEARCHED: dict[str, Number | Name] = {"mstd": SPREAD}

#: The options of each policy, which timm describes with ``rand_augment_transform`` and its siblings.
POLICIES: dict[str, dict[str, Number | Name]] = {
    "rand": {
        "m": MAGNITUDE,
        "n": COUNT,
        "p": Number(0, 1, whole=False),
        "mstd": SPREAD,
        "mmax": MAGNITUDE,
        "inc": SWITCH,
        "t": Name((*WEIGHTED, "3a")),
    },
    "augmix": {
        "m": MAGNITUDE,
        "w": COUNT,
        "d": COUNT,
        "a": Number(0.1, 1000, whole=False),  # Dirichlet's parameter: numpy's draws are NaN near 0
        "b": SWITCH,
        "mstd": SPREAD,
    },
    "original": SEARCHED,
    "originalr": SEARCHED,
    "v0": SEARCHED,
    "v0r": SEARCHED,
    "3a": SEARCHED,
}


def problems(key: str, policy: str | None) -> list[str]:
    """What is wrong with the policy string of the setting ``key``, in one line."""
    if policy is None:
        return []
    name, *option_words = policy.split("-")
    if name not in POLICIES:
        known = f"'{name}' is not one of timm's policies {', '.join(POLICIES)}{nearest(name, POLICIES)}"
        return [f"{key}={policy}: {known}; an example is {EXAMPLE}"]
    options = [_split(word) for word in option_words]
    wrong = [line for option, value in options for line in _option_problems(name, option, value)]
    wrong = wrong or _clashes(options)
    return [f"{key}={policy}: {'; '.join(wrong)}"] if wrong else []


def _split(word: str) -> tuple[str, str]:
    """An option and its value, split as timm does."""
    option = "t" if word.startswith("t") else re.split(r"\d", word)[0]
    return option, word.removeprefix(option)


def _option_problems(policy: str, option: str, value: str) -> list[str]:
    known = POLICIES[policy]
    if option not in known:
        return [f"'{option}{value}' is no option of {policy}, which has {', '.join(known)}"]
    return [] if known[option].accepts(value) else [f"'{option}{value}': {option} takes {known[option]}"]


def _clashes(options: list[tuple[str, str]]) -> list[str]:
    """Options given twice, or more operations asked for than a weighted set has."""
    given = dict(options)
    if len(given) < len(options):
        return ["an option is given twice"]
    available = WEIGHTED.get(given.get("t", ""), COUNT.high)
    asked = int(given.get("n", 1))
    return [f"'n{asked}': there are {available} operations in t{given['t']}"] if asked > available else []
