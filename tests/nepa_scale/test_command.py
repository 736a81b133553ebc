"""What all commands share: mistakes told in one line, output in any encoding, readers that leave early."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nepa_scale.utils.cli import Grammar, command, mistake_lines
from nepa_scale.utils.errors import ConfigError

PRINTS = """
import sys
from nepa_scale.utils.cli import Grammar, command, has_reader
@command(Grammar(list, str))
def main(words):
    for number in range(20_000):
        print("\N{MINUS SIGN}1 \N{MULTIPLICATION SIGN} gr\xf6\xdfe \u8def")
    print(f"has a reader: {has_reader()}", file=sys.stderr)
    return 1
sys.exit(main())
"""


def start(encoding: str) -> subprocess.Popen[bytes]:
    """A command that prints much, and ends with 1."""
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    words = [sys.executable, "-c", PRINTS]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)


@pytest.mark.parametrize(
    ("encoding", "line"),
    [
        ("ascii", b"-1 x gr\\xf6\\xdfe \\u8def"),
        ("latin-1", b"-1 \xd7 gr\xf6\xdfe \\u8def"),
        ("utf-8", "−1 × größe 路".encode()),  # noqa: RUF001
    ],
)
def test_every_encoding_takes_every_text(encoding: str, line: bytes) -> None:
    """A minus sign or a name in another script never ends a command."""
    with start(encoding) as process:
        printed, errors = process.communicate(timeout=60)
    assert process.returncode == 1, errors
    assert printed.splitlines()[0] == line


def test_a_command_whose_reader_leaves_finishes_its_work() -> None:
    """``... | head`` shows no traceback, and stops neither a launch between two tasks nor a training."""
    with start("utf-8") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
    assert process.returncode == 1
    assert errors.strip() == b"has a reader: False"


@pytest.mark.parametrize(
    "error",
    [
        ConfigError(["model.size=big: no such size", "data: no such set"]),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "runs/x"),
        PermissionError(errno.EACCES, "Permission denied", b"runs/x"),
        OSError(errno.ENOSPC, "No space left on device"),
    ],
)
def test_mistakes_are_told_line_by_line(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    """Each problem is a line on standard error that names the key or file, and the code is 2."""

    @command(Grammar(list, str))
    def main(words: list[str]) -> int:
        raise error

    assert main([]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(str(error).splitlines())
    assert all(line.startswith("error: ") for line in lines)
    if isinstance(error, OSError) and error.filename:
        assert all("runs/x" in line for line in lines)


def test_faults_of_the_program_stay_visible() -> None:
    """An error that no user can mend keeps its traceback."""
    assert mistake_lines(ValueError("a fault")) == []
    assert mistake_lines(OSError(errno.ECONNRESET, "reset")) == []


def test_a_name_that_the_locale_cannot_spell_is_a_mistake(tmp_path: Path) -> None:
    """A path of another script under an ASCII locale is told, not traced."""
    code = (
        "from pathlib import Path; from nepa_scale.utils.cli import Grammar, command;"
        "raise SystemExit(command(Grammar(list, str))(lambda words: Path('\\u8def').stat())([]))"
    )
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(b"error: ")
