"""YAML files that people write, read strictly: all mistakes are reported together, each with its line.

Refused are text that is not UTF-8 or not YAML, anything but a mapping at the top, a key that stands twice, and aliases
that contain themselves or stand for more than a person would write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml

from nepa_scale.utils.errors import ConfigError

MOST_NODES = 100_000

#: Given the content of a file, what is wrong with it: (dotted key, problem), or ("", problem) for the whole.
Check = Callable[[dict[str, Any]], Iterable[tuple[str, str]]]


def read(path: Path, check: Check, source: str | None = None) -> dict[str, Any]:
    """The mapping in a file. ``source`` names it in messages; by default, its path.

    Raises ``ConfigError`` with every mistake, those that ``check`` tells included.
    """
    source = source or str(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigError([f"{source}: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError([f"{source}, line {line}: not valid YAML (not UTF-8 text)"]) from error
    return parse(text, check, source)


def parse(text: str, check: Check, source: str) -> dict[str, Any]:
    """The mapping that ``text`` is, as ``read``."""
    try:
        content, lines, repeated = _loaded(text)
    except yaml.YAMLError as error:
        raise ConfigError([_syntax_problem(error, text, source)]) from error
    except RecursionError as error:
        raise ConfigError([f"{source}: not valid YAML (nested too deeply)"]) from error
    except ValueError as error:  # a date that is none, a number of thousands of digits
        raise ConfigError([f"{source}: not valid YAML ({error})"]) from error
    if content is None or not isinstance(content, dict):
        kind = {type(None): "nothing", list: "a list"}.get(type(content), "a single value")
        raise ConfigError([f"{source}: expected settings (key: value), found {kind}"])
    problems = [(line, f"key '{key}' stands twice") for key, line in repeated]
    problems += [(_line_of(key, lines), problem) for key, problem in check(content)]
    if problems:
        problems.sort(key=lambda numbered: numbered[0])
        raise ConfigError([f"{source}{f', line {line}' if line else ''}: {problem}" for line, problem in problems])
    return content


def _loaded(text: str) -> tuple[Any, dict[str, int], list[tuple[str, int]]]:
    """What ``text`` is, {dotted key: line, from 1 on}, and (key, line) of keys that stand twice.

    Raises ``YAMLError``, ``RecursionError`` and ``ValueError``.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        lines: dict[str, int] = {}
        if node is None:
            return None, lines, []
        if _size(node, {}) > MOST_NODES:
            raise ValueError(f"aliases stand for more than {MOST_NODES} values")
        repeated = list(_note_lines(node, "", lines))
        return loader.construct_document(node), lines, repeated
    finally:
        loader.dispose()


class _Loader(yaml.SafeLoader):
    """Whole numbers as on the command line; YAML 1.1 has 010 for 8, 1:30 for 90 and 0x10 for 16."""

    def whole_number(self, node: yaml.ScalarNode) -> int | str:
        """A decimal number, or the text of another, which no whole number of ours takes."""
        text = str(self.construct_scalar(node))
        try:
            return int(text)
        except ValueError:
            return text


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.whole_number)


def _syntax_problem(error: yaml.YAMLError, text: str, source: str) -> str:
    """One line for what the parser stumbled over."""
    if isinstance(error, yaml.reader.ReaderError):
        line = text[: error.position].count("\n") + 1
        return f"{source}, line {line}: not valid YAML (the character {error.character:#x} is not allowed)"
    mark = (error.problem_mark or error.context_mark) if isinstance(error, yaml.MarkedYAMLError) else None
    if mark is None:
        return f"{source}: not valid YAML ({' '.join(str(error).split())})"
    line = mark.line
    begins = next(iter(text.splitlines()[line : line + 1]), "")
    if "\t" in begins[: len(begins) - len(begins.lstrip())]:
        return f"{source}, line {line + 1}: not valid YAML (indented by a tab; use spaces)"
    reason = ": ".join(part for part in (getattr(error, "context", None), getattr(error, "problem", None)) if part)
    return f"{source}, line {line + 1}: not valid YAML ({reason})"


def _line_of(key: str, lines: dict[str, int]) -> int:
    """The line of a dotted key, or of the nearest section around it; 0 where there is none."""
    while key not in lines and "." in key:
        key = key.rpartition(".")[0]
    return lines.get(key, 0)


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """The number of nodes in ``node`` with every alias written out. Raises ``YAMLError`` for one within itself."""
    if id(node) not in known:
        known[id(node)] = 0  # being counted
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        children = node.value if isinstance(node, yaml.SequenceNode) else [child for pair in pairs for child in pair]
        known[id(node)] = 1 + sum(_size(child, known) for child in children)
    elif known[id(node)] == 0:
        raise yaml.MarkedYAMLError(problem="an alias contains itself", problem_mark=node.start_mark)
    return known[id(node)]


def _note_lines(node: yaml.Node, prefix: str, lines: dict[str, int]) -> Iterable[tuple[str, int]]:
    """Fill in the line of every key in ``node``; yields (key, line) of those that stand twice."""
    if not isinstance(node, yaml.MappingNode):
        return
    for key_node, value in node.value:
        key, line = f"{prefix}{key_node.value}", key_node.start_mark.line + 1
        if key in lines:
            yield key, line
        lines.setdefault(key, line)
        yield from _note_lines(value, f"{key}.", lines)
