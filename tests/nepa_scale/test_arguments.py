"""The grammar of the commands: one way to type, one help, one line for each mistake."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from nepa_scale import __version__
from nepa_scale.utils.arguments import grammar, grammar_of_kinds, option, parse, spelled
from nepa_scale.utils.cli import command, take_switch
from nepa_scale.utils.errors import ConfigError


def pair(text: str) -> tuple[float, ...]:
    """Numbers with a comma between them."""
    try:
        return tuple(map(float, text.split(",")))
    except ValueError:
        raise ValueError("give A,B") from None


@dataclass(frozen=True)
class Some:
    """something of everything"""

    table: Path = option("what to read", positional=True, form="TABLE")
    rows: tuple[str, ...] = option("which of it", (), form="COLUMN=VALUE")
    at: tuple[tuple[float, ...], ...] = option("places", (), read=pair)
    law: str = option("how", choices=("power", "offset"))
    low_end: float | None = option("where it begins", None, above=0, high=math.inf)
    number: int = option("how many", 3, low=1, high=9)
    json: bool = option("for scripts", False)

    def problems(self) -> list[str]:
        """What does not go together."""
        return ["number=9: not with law=offset"] if self.number == 9 and self.law == "offset" else []


GRAMMAR = grammar(Some, "some TABLE law=NAME", "Does something.", "some t.csv law=power", more="laws: two")


@pytest.mark.parametrize(
    "words",
    [
        ["t.csv", "law=power", "rows=a=1", "rows=b>2", "at=1,2", "low_end=inf", "json=true"],
        ["--law", "power", "--rows", "a=1", "--rows", "b>2", "--at", "1,2", "--low-end", "inf", "--json", "t.csv"],
        ["--json", "t.csv", "--law=power", "--rows=a=1", "--rows=b>2", "--at=1,2", "--low_end=inf"],
        [
            "table=t.csv",
            "law=offset",
            "--law",
            "power",
            "rows=a=1",
            "rows=b>2",
            "at=1,2",
            "low_end=inf",
            "--json",
            "true",
        ],
    ],
)
def test_ways_to_type_mean_the_same(words: list[str]) -> None:
    """Keys, flags, and a path that stands alone; of one key the last counts, a tuple takes all."""
    assert parse(Some, words) == Some(
        table=Path("t.csv"), law="power", rows=("a=1", "b>2"), at=((1.0, 2.0),), low_end=math.inf, json=True
    )


@pytest.mark.parametrize(
    ("words", "problems"),
    [
        ([], ["table= is missing: what to read", "law= is missing: how"]),
        (["law=powr"], ["law=powr: not one of power, offset; did you mean 'power'?"]),
        (["law=power", "--numbre", "4"], ["unknown key 'numbre'; did you mean 'number'?"]),
        (["law=power", "zzz=4"], ["unknown key 'zzz'; --help lists all keys"]),
        (["law=power", "number=0"], ["number=0: must be at least 1"]),
        (["law=power", "--number", "-1"], ["number=-1: must be at least 1"]),
        (["law=power", "number=1_0"], ["number=1_0: expected a whole number"]),
        (["law=power", "number=2.5"], ["number=2.5: expected a whole number"]),
        (["law=power", "low_end=nan"], ["low_end=nan: must be a finite number"]),
        (["law=power", "low_end=x"], ["low_end=x: expected a number"]),
        (["law=power", "json=yes"], ["json=yes: expected true or false"]),
        (["law=power", "at=1,b"], ["at=1,b: give A,B"]),
        (["--law", "--json"], ["law= is empty; give a value or leave the key out"]),
        (["law=power", "other"], ["'other': expected key=value; --help lists all keys"]),
        (["law=power", "-number"], ["'-number': expected key=value; did you mean 'number'?"]),
        (["law=offset", "number=9"], ["number=9: not with law=offset"]),
        (["law=x", "number=x"], ["law=x: not one of power, offset", "number=x: expected a whole number"]),
    ],
)
def test_every_mistake_is_a_line_with_its_key(words: list[str], problems: list[str]) -> None:
    """All of them at once, each with what would be right."""
    with pytest.raises(ConfigError) as caught:
        parse(Some, ["t.csv", *words] if words else words)
    assert caught.value.problems == problems


def test_a_path_with_an_equals_sign_is_one_where_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt key is none, and a folder that has a name like one can be given."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="unknown key 'lr'"):
        parse(Some, ["lr=3.csv", "law=power"])
    Path("lr=3.csv").touch()
    assert parse(Some, ["lr=3.csv", "law=power"]).table == Path("lr=3.csv")


def test_flags_become_words() -> None:
    """A switch takes a value only where it is one; dotted keys stay as they are; numbers below 0 are values."""
    words = ["--dry-run", "grid=a", "--watch", "false", "--cluster.sbatch.mail-user", "me", "--x", "-1", "-y", "--z"]
    assert spelled(words, ["dry_run", "watch"]) == [
        "dry_run=true", "grid=a", "watch=false", "cluster.sbatch.mail-user=me", "x=-1", "-y", "z=",
    ]  # fmt: skip
    assert take_switch(["json=true", "a=b", "json=false"], "json") == (["a=b"], False)


def test_help_has_a_line_for_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    """With default, limits and meaning, those first that must be given; mistakes beside it do not matter."""

    @command(GRAMMAR)
    def main(_: Some) -> int:
        raise AssertionError

    assert main(["nonsense=1", "--help"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[:11] == [
        "usage: some TABLE law=NAME",
        "",
        "Does something.",
        "",
        "TABLE what to read",
        "law=NAME how [power|offset]",
        "rows=COLUMN=VALUE which of it; may be given several times",
        "at=NAME places; may be given several times",
        "low_end=X where it begins (above 0 to inf)",
        "number=3 how many (from 1 to 9)",
        "json=false for scripts",
    ]
    assert "laws: two" in lines and "--key value" in lines[-5] and "config_dir=DIR" in lines[-4]
    assert lines[-2:] == ["examples:", "some t.csv law=power"]
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"nepa-scale {__version__}\n"


def test_a_command_ends_with_its_code_or_2(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """What the command returns; 2 and lines of ``error:`` for a user's mistake; other exceptions pass."""

    def ended(act: Callable[[Some], int]) -> int:
        return command(GRAMMAR)(act)(["t.csv", "law=power"])

    assert ended(lambda asked: 1 if asked.law == "power" else 0) == 1
    assert ended(lambda _: len((tmp_path / "none").read_text())) == 2
    assert capsys.readouterr().err == f"error: {tmp_path / 'none'}: No such file or directory\n"
    with pytest.raises(ZeroDivisionError):
        ended(lambda _: 1 // 0)


def test_kinds_have_keys_of_their_own() -> None:
    """The first word chooses; help of a kind is of that kind."""

    @dataclass(frozen=True)
    class Other:
        """nothing"""

        size: int = option("how large", 1)

    both = grammar_of_kinds({"some": Some, "other": Other}, "do some|other", "Does either.")
    assert both.parse(["other", "--size", "4"]) == Other(size=4)
    for words, message in {
        (): "say what to do: one of some, other",
        ("othr",): "'othr': not one of some, other; did you",
    }.items():
        with pytest.raises(ConfigError, match=message):
            both.parse(words)
    with pytest.raises(ConfigError, match="unknown key 'law'"):
        both.parse(["other", "law=power"])
    assert "size=1" in both.help(["--help"]) and "law=NAME" in both.help(["--help"])
    assert "size=1" in both.help(["other", "-h"]) and "law=NAME" not in both.help(["other", "-h"])
