"""What all commands share: mistakes told in one line, any output encoding, and readers that close the pipe early."""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import math
import os
import select
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from nepa_scale.utils import __version__, user_folder
from nepa_scale.utils.errors import ConfigError, UserError, nearest
from nepa_scale.utils.files import expand_home, to_json

T = TypeVar("T")
EXIT_USER_ERROR = 2
STDOUT = 1
SPELLINGS: dict[str, str | int | None] = {
    "\N{MINUS SIGN}": "-",
    "\N{EN DASH}": "-",
    "\N{MULTIPLICATION SIGN}": "x",
    "\N{MIDDLE DOT}": "*",
    "\N{HORIZONTAL ELLIPSIS}": "...",
    "\N{RIGHTWARDS ARROW}": "->",
    "\N{LESS-THAN OR EQUAL TO}": "<=",
    "\N{GREATER-THAN OR EQUAL TO}": ">=",
}
_PLAIN_ERRORS = "nepa_scale.plain"


@dataclass(frozen=True)
class Grammar(Generic[T]):
    """How the words of a command are understood: ``parse`` raises ``UserError``, ``help`` is what --help prints."""

    parse: Callable[[Sequence[str]], T]
    help: Callable[[Sequence[str]], str]


@dataclass(frozen=True)
class Command(Generic[T]):
    """A command: a function of what ``grammar`` reads that returns an exit code.

    Called with words, it prints a user's mistake as lines of ``error: ...`` and returns 2. Mistakes are a
    ``UserError``, a file or folder that the system refuses (missing, unreadable, read-only, of the wrong kind, on a
    full disk), and a file name that the locale cannot spell. Called without, as consoles do, it takes this process's
    words and looks after its output, too.
    """

    grammar: Grammar[T]
    main: Callable[[T], int]

    def __call__(self, words: Sequence[str] | None = None) -> int:
        """Do what ``words`` ask; returns the exit code."""
        if words is None:
            prepare_output()
            try:
                return self(sys.argv[1:])
            except KeyboardInterrupt:
                return 128 + signal.SIGINT
        try:
            words = user_folder.take(words)
            return 0 if answers(words, self.grammar.help) else self.main(self.grammar.parse(words))
        except (UserError, OSError, UnicodeEncodeError) as error:
            lines = mistake_lines(error)
            if not lines:
                raise
        for line in lines:
            print(f"error: {line}", file=sys.stderr)
        return EXIT_USER_ERROR


def command(grammar: Grammar[T]) -> Callable[[Callable[[T], int]], Command[T]]:
    """Make a ``Command`` of the function below."""
    return lambda main: Command(grammar, main)


def answers(words: Sequence[str], help_text: Callable[[Sequence[str]], str]) -> bool:
    """Print the help or the version where ``words`` ask for it; whether they did."""
    if {"--help", "-h"} & set(words):
        print(help_text(words))
        return True
    if "--version" in words:
        print(f"nepa-scale {__version__}")
        return True
    return False


def take_switch(words: Iterable[str], key: str) -> tuple[list[str], bool]:
    """``words`` without ``key=true`` and ``key=false``, and whether the last of them said true."""
    words = list(words)
    said = [word for word in words if word in (f"{key}=true", f"{key}=false")]
    return [word for word in words if word not in said], said[-1:] == [f"{key}=true"]


def room_for_json(asked: bool) -> AbstractContextManager[object]:
    """Where JSON is ``asked`` for, what is printed meanwhile goes to standard error: the document stands alone."""
    return contextlib.redirect_stdout(sys.stderr) if asked else contextlib.nullcontext()


def print_json(content: Any) -> None:
    """Print the one document of a command that was asked for JSON."""
    print(to_json(content), end="")


def mistake_lines(error: Exception) -> list[str]:
    """The lines that tell a user's mistake; none if ``error`` is something else, a fault of the program."""
    if isinstance(error, UserError):
        return str(error).splitlines()
    if isinstance(error, OSError) and error.filename is not None:
        return [f"{os.fsdecode(error.filename)}: {error.strerror}"]
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return [f"{error.strerror}"]
    if isinstance(error, UnicodeEncodeError) and _same_encoding(error.encoding, sys.getfilesystemencoding()):
        return [
            f"{error.object!a}: no file can have this name under the locale's encoding, {error.encoding}; set LC_ALL"
        ]
    return []


def _same_encoding(one: str, other: str) -> bool:
    return codecs.lookup(one).name == codecs.lookup(other).name


def prepare_output() -> None:
    """Let standard output and error take every character, and drop without an error what nobody reads any more.

    Characters that the encoding lacks are replaced. A command whose reader leaves (``... | head``) finishes its work.
    """
    codecs.register_error(_PLAIN_ERRORS, _plainly)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.flush()
            raw: io.FileIO = _Unread(stream.fileno(), "w", closefd=False)
            lines = stream.line_buffering
            buffered = io.BufferedWriter(raw)
            setattr(sys, name, io.TextIOWrapper(buffered, stream.encoding, _PLAIN_ERRORS, line_buffering=lines))


def has_reader() -> bool:
    """Whether what is printed can still be read: False once the other end of a pipe is closed."""
    output = select.poll()
    output.register(STDOUT, 0)
    return not output.poll(0)


class _Unread(io.FileIO):
    """A stream that drops what is written once its reader has left."""

    def write(self, data: bytes) -> int:  # type: ignore[override]
        try:
            return super().write(data)
        except BrokenPipeError:
            return len(data)


def _plainly(error: UnicodeError) -> tuple[str | bytes, int]:
    """Signs as their ASCII spelling, letters as backslash escapes: a codec's way out of what it cannot encode."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(str.maketrans(SPELLINGS))
    return text.encode("ascii", "backslashreplace").decode("ascii"), error.end


def out_of_range(key: str, value: Any, meta: Mapping[str, Any]) -> list[str]:
    """Problems of one setting alone, or of each value of a list: empty, or not within the limits of its metadata."""
    values = value if isinstance(value, list) else [value]
    reasons = {each: complaint_about(each, meta) for each in values if each is not None}
    return [f"{key}={each}{reason}" for each, reason in reasons.items() if reason is not None]


def complaint_about(value: Any, meta: Mapping[str, Any]) -> str | None:  # noqa: PLR0911  one rule a line
    """Why ``value`` does not lie within the limits of ``meta``, as it follows the value in a message."""
    if value == "":
        return " is empty; give a value or leave the key out"
    if "choices" in meta and value not in meta["choices"]:
        return f": not one of {', '.join(meta['choices'])}{nearest(str(value), meta['choices'])}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    high = meta.get("high", LARGEST)
    if isinstance(value, float) and not math.isfinite(value) and value != high:
        return ": must be a finite number"
    if "low" in meta and value < meta["low"]:
        return f": must be at least {meta['low']}"
    if "above" in meta and value <= meta["above"]:
        return f": must be greater than {meta['above']}"
    if value > high:
        return f": must be at most {high}"
    return None


def split_words(words: Iterable[str]) -> list[tuple[str, str]]:
    """Split ``key=value`` words. Raises ``ConfigError`` naming every word that is none."""
    words = list(words)
    problems = [f"'{word}': expected key=value" for word in words if not word.partition("=")[1] or word[:1] in "-="]
    if problems:
        raise ConfigError(problems)
    return [(key, expand_home(value)) for key, _, value in (word.partition("=") for word in words)]


def to_text(value: Any) -> str:
    """The word a user would type for ``value``."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


LARGEST = 10**9
