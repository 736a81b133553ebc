"""The words of the command: ``KIND key=value ...`` into settings, and what --help says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

from nepa_scale.data.prepare.settings import KINDS, Settings
from nepa_scale.utils.cli import out_of_range, split_words, to_text
from nepa_scale.utils.errors import ConfigError, nearest


def help_text() -> str:
    """Describe every kind and its keys."""
    lines = ["usage: python -m nepa_scale.data.prepare KIND key=value ...", "", "Kinds:"]
    for kind, settings in KINDS.items():
        lines += ["", f"{kind}: {settings.__doc__}"]
        lines += [f"  {_shown(entry):<24} {entry.metadata['meaning']}" for entry in fields(settings)]
    return "\n".join(lines)


def _shown(entry: Field[Any]) -> str:
    return f"{entry.name}=" if entry.default is MISSING else f"{entry.name}={to_text(entry.default)}"


def parse(words: Sequence[str]) -> Settings:
    """Turn ``KIND key=value ...`` into settings. Raises ``ConfigError`` with every problem."""
    kinds = ", ".join(KINDS)
    if not words:
        raise ConfigError([f"say what to prepare: {kinds} (--help lists their keys)"])
    kind = words[0]
    if kind not in KINDS:
        raise ConfigError([f"cannot prepare '{kind}'{nearest(kind, KINDS)} (possible: {kinds})"])
    entries = {entry.name: entry for entry in fields(KINDS[kind])}
    values: dict[str, Any] = {}
    problems: list[str] = []
    for key, text in split_words(words[1:]):
        if key not in entries:
            problems.append(f"unknown key '{key}'{nearest(key, entries)} (keys of {kind}: {', '.join(entries)})")
        else:
            values[key] = _value(entries[key], text, problems)
    required = [key for key, entry in entries.items() if entry.default is MISSING and key not in values]
    problems += [f"{key}= is missing: {entries[key].metadata['meaning']}" for key in required]
    if problems:
        raise ConfigError(problems)
    return KINDS[kind](**values)


def _value(entry: Field[Any], text: str, problems: list[str]) -> Any:
    """Convert the text of one setting, or note what is wrong with it."""
    kind = str(entry.type)
    if text == "null" and kind.endswith("| None"):
        return None
    if kind.startswith(("int", "float")):
        return _number(entry, text, problems)
    if kind == "bool":
        if text not in {"true", "false"}:
            problems.append(f"{entry.name}={text}: expected true or false")
        return text == "true"
    return _text_value(entry, text, problems)


def _number(entry: Field[Any], text: str, problems: list[str]) -> int | float | None:
    """The number that ``text`` is; what has no lower limit of its own counts something and starts at 1."""
    read: type[int | float]
    read, expected = (float, "a number") if str(entry.type).startswith("float") else (int, "a whole number")
    try:
        number = read(text)
    except ValueError:
        problems.append(f"{entry.name}={text}: expected {expected}")
        return None
    lowest: dict[str, int] = {} if "above" in entry.metadata else {"low": 1}
    problems += out_of_range(entry.name, number, {**lowest, **entry.metadata})
    return number


def _text_value(entry: Field[Any], text: str, problems: list[str]) -> str | Path:
    if not text:
        problems.append(f"{entry.name}= needs a value: {entry.metadata['meaning']}")
    elif "\0" in text:
        problems.append(f"{entry.name}= must not contain NUL")
    elif entry.name == "name" and (text != Path(text).name or text.startswith(".")):
        problems.append(f"name={text}: expected the name of a folder in root")
    return Path(text) if entry.type == "Path" else text
