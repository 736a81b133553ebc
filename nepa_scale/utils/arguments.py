"""The grammar of every command: ``key=value`` or ``--key value`` become typed settings, and ``--help`` says which.

What a command can be told is a dataclass whose fields are made with ``option``. Reading, checking, complaints and help
follow from that.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from nepa_scale.utils.cli import Grammar, complaint_about, to_text
from nepa_scale.utils.errors import ConfigError, nearest
from nepa_scale.utils.files import typed_path

T = TypeVar("T")
ANSWERS_IN_JSON = "print one JSON document, and nothing else"
COMMON = (
    "Every key is also a flag (key=value, --key=value or --key value); --help shows this, --version the version.\n"
    "config_dir=DIR is a folder of your own sizes, studies, grids, clusters, recipes and data sets: docs/extending.md."
)
COLUMN, WIDTH = 38, 120


def option(help: str, default: Any = MISSING, **meta: Any) -> Any:
    """A setting of a command, as a field of its dataclass. A tuple of values is given by repeating the key.

    Args:
        help: one line for ``--help``.
        default: the value where it is not given; without a default it must be.
        meta: ``form``, what stands for the value in ``--help``; ``positional=True``, whose value may stand alone;
            the limits ``choices``, ``low``, ``above`` and ``high``; or ``read``, which makes the value of a text and
            raises ``ValueError`` with what is wrong.
    """
    return field(default=default, kw_only=True, metadata={"help": help, **meta})


def grammar(settings: type[T], usage: str, about: str, *examples: str, more: str = "") -> Grammar[T]:
    """The grammar of a command whose settings are of one kind; its help ends with ``more`` and ``examples``."""

    def help_text(_: Sequence[str]) -> str:
        return help_page(usage, about, key_lines(settings), *examples, more=more)

    return Grammar(lambda words: parse(settings, words), help_text)


def grammar_of_kinds(kinds: Mapping[str, type[T]], usage: str, about: str, *examples: str) -> Grammar[T]:
    """The grammar of a command whose first word says what it is to do; each kind's docstring is its help."""

    def read(words: Sequence[str]) -> T:
        if not words:
            raise ConfigError([f"say what to do: one of {', '.join(kinds)}; --help lists their keys"])
        if words[0] not in kinds:
            raise ConfigError([f"'{words[0]}': not one of {', '.join(kinds)}{nearest(words[0], kinds)}"])
        return parse(kinds[words[0]], words[1:])

    def help_text(words: Sequence[str]) -> str:
        shown = [word for word in words if word in kinds] or kinds
        lines = [line for kind in shown for line in (f"{kind}: {kinds[kind].__doc__}", *key_lines(kinds[kind]), "")]
        return help_page(usage, about, lines[:-1], *examples)

    return Grammar(read, help_text)


def spelled(words: Sequence[str], switches: Collection[str] = ()) -> list[str]:
    """``words`` with flags spelled as ``key=value``; those in ``switches`` need no value, which then is true."""
    spelt: list[str] = []
    remaining = list(words)
    while remaining:
        word = remaining.pop(0)
        key, sign, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not key:
            spelt.append(word)
            continue
        if "." not in key:
            key = key.replace("-", "_")
        if not sign:
            follower = remaining[0] if remaining else "-"
            if key in switches:
                value = remaining.pop(0) if follower in ("true", "false") else "true"
            elif not follower.startswith("-") or _is_number(follower):
                value = remaining.pop(0)
        spelt.append(f"{key}={value}")
    return spelt


def parse(settings: type[T], words: Sequence[str]) -> T:
    """Settings from the words of a command line.

    A method ``problems`` of ``settings`` says what is wrong with values that are right by themselves. Raises
    ``ConfigError`` with every problem found.
    """
    keys = _keys(settings)
    given: dict[str, list[str]] = {}
    problems: list[str] = []
    for word in spelled(words, [key.name for key in keys.values() if key.kind is bool]):
        name, sign, text = word.partition("=")
        alone = next((key for key in keys.values() if key.positional and (key.many or key.name not in given)), None)
        is_path = _is_path(word)
        if sign and name in keys:
            given.setdefault(name, []).append(text)
        elif word.startswith("-") or not word or (not sign and word in keys and not is_path):
            problems.append(f"'{word}': expected key=value{nearest(word.lstrip('-'), keys)}")
        elif alone is not None and (is_path or not sign):
            given.setdefault(alone.name, []).append(word)
        elif sign:
            problems.append(f"unknown key '{name}'{nearest(name, keys) or '; --help lists all keys'}")
        else:
            problems.append(f"'{word}': expected key=value{nearest(word, keys) or '; --help lists all keys'}")
    if not problems:  # a misspelt key would be missing, too
        missing = [key for key in keys.values() if key.needed and key.name not in given]
        problems += [f"{key.name}= is missing: {key.meta['help']}" for key in missing]
    values = {name: keys[name].read(texts, problems) for name, texts in given.items()}
    if problems:
        raise ConfigError(problems)
    made = settings(**values)
    problems = getattr(made, "problems", list)()
    if problems:
        raise ConfigError(problems)
    return made


def key_lines(settings: type) -> Iterator[str]:
    """A line of help for each key, those that must be given first: how it is typed, its default, meaning and limits."""
    for key in sorted(_keys(settings).values(), key=lambda key: not key.needed):
        default = "" if key.needed or key.default is None or isinstance(key.default, tuple) else to_text(key.default)
        form = key.meta.get("form", default or _FORMS.get(key.kind, "NAME"))
        notes = [f"default {default}"] if default not in ("", form) else []
        notes += ["may be given several times"] if key.many and not key.positional else []
        text = "; ".join([f"{key.meta['help']}{limits(key.meta)}", *notes])
        yield help_line(form if key.positional else f"{key.name}={form}", text)


def help_page(usage: str, about: str, lines: Iterable[str], *examples: str, more: str = "") -> str:
    """What a command prints for ``--help``: how it is called, what it does, its keys, ``more``, and ``examples``."""
    shown = "\n  ".join(["examples:", *examples]) if examples else ""
    paragraphs = [f"usage: {usage}", textwrap.fill(about, WIDTH), "\n".join(lines), more, COMMON, shown]
    return "\n\n".join(filter(None, paragraphs))


def help_line(left: str, right: str, mark: str = " ") -> str:
    """One line of help in two columns."""
    return f"{mark} {left:<{COLUMN}} {right}"


def limits(meta: Mapping[str, Any]) -> str:
    """The choices or the range of a setting, in brackets; empty where there is none."""
    if "choices" in meta:
        return f" [{'|'.join(meta['choices'])}]"
    low = f"from {meta['low']}" if "low" in meta else f"above {meta['above']}" if "above" in meta else ""
    high = f"to {meta['high']}" if "high" in meta else ""
    return f" ({' '.join(filter(None, (low, high)))})" if low or high else ""


def documented_fields(section: type) -> dict[str, str]:
    """The docstrings under the fields of a dataclass and of those that it extends, read from their source."""
    texts: dict[str, str] = {}
    for origin in (each for each in reversed(section.__mro__) if is_dataclass(each)):
        try:
            source = inspect.getsource(origin)
        except OSError:  # made to hold the sections of plugins, and not written
            continue
        (node,) = ast.parse(textwrap.dedent(source)).body
        body = cast(ast.ClassDef, node).body
        for statement, follower in pairwise(body):
            match statement, follower:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    texts[name] = textwrap.dedent(text)
    return texts


@dataclass(frozen=True)
class _Key:
    """A field of a command's settings."""

    name: str
    kind: Any
    optional: bool
    many: bool
    default: Any
    meta: Mapping[str, Any]

    @property
    def needed(self) -> bool:
        return self.default is MISSING

    @property
    def positional(self) -> bool:
        return bool(self.meta.get("positional"))

    def read(self, texts: Sequence[str], problems: list[str]) -> Any:
        """The value of the last of ``texts``, or of all; notes what is wrong."""
        values = [self._value(text, problems) for text in texts]
        return tuple(values) if self.many else values[-1]

    def _value(self, text: str, problems: list[str]) -> Any:
        if self.optional and text in ("null", "None"):
            return None
        if not text:
            problems.append(f"{self.name}= is empty; give a value or leave the key out")
            return None
        reader = self.meta.get("read")
        try:
            value = (reader or _READERS.get(self.kind, str))(text)
        except ValueError as error:
            problems.append(f"{self.name}={text}: {error}")
            return None
        reason = None if reader else complaint_about(value, self.meta)
        problems += [] if reason is None else [f"{self.name}={text}{reason}"]
        return value


def _keys(settings: type) -> dict[str, _Key]:
    hints = get_type_hints(settings)
    return {item.name: _key(item.name, hints[item.name], item.default, item.metadata) for item in fields(settings)}


def _key(name: str, hint: Any, default: Any, meta: Mapping[str, Any]) -> _Key:
    many = get_origin(hint) is tuple
    if many:
        hint = get_args(hint)[0]
    optional = get_origin(hint) in (Union, UnionType)
    kind = next(kind for kind in get_args(hint) if kind is not NoneType) if optional else hint
    return _Key(name, kind, optional, many, default, meta)


def _is_path(word: str) -> bool:
    try:
        return typed_path(word).exists()
    except (OSError, ValueError):  # no name that a file can have
        return False


def _is_number(text: str) -> bool:
    try:
        float(text.split(",", maxsplit=1)[0])
    except ValueError:
        return False
    return True


def _flag(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError("expected true or false")
    return text == "true"


def _whole(text: str) -> int:
    return int(read_number(text, int, "a whole number"))


def read_number(text: str, kind: Callable[[str], float] = float, expected: str = "a number") -> float:
    """``text`` as in a table: Python reads 1_0 and the digits of other scripts, too, which nobody means."""
    try:
        return kind(text if text.isascii() and "_" not in text else "")
    except ValueError:
        raise ValueError(f"expected {expected}") from None


_FORMS = {int: "N", float: "X", Path: "PATH"}
_READERS: dict[Any, Callable[[str], Any]] = {int: _whole, float: read_number, bool: _flag, Path: typed_path}
