"""Writing that a reader never catches half-way."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from processes import next_line, running

from nepa_scale.utils.files import read_json, until_changed, write_atomically, write_json

KEEP_WRITING = """
import itertools, sys
from pathlib import Path
from nepa_scale.utils.files import write_json

for number in itertools.count():
    write_json(Path(sys.argv[1]), {"number": number, "again": [number] * (2000 + number % 2 * 50000)})
    if number == 0:
        print("first", flush=True)
"""


def test_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    """Read again and again while another process rewrites it, the file is whole each time."""
    path = tmp_path / "status.json"
    with running(KEEP_WRITING, str(path)) as process:
        assert next_line(process) == "first"
        seen = set()
        while len(seen) < 20:
            content = json.loads(path.read_text())
            assert set(content["again"]) == {content["number"]}
            seen.add(content["number"])
    content = json.loads(path.read_text())
    assert set(content["again"]) == {content["number"]}


@pytest.mark.parametrize("content", ["text with ü\n", b"\x00\xff", ""])
def test_content_arrives_as_given(tmp_path: Path, content: str | bytes) -> None:
    """Text is written as UTF-8, bytes as they are; folders are made."""
    path = tmp_path / "new" / "folder" / "file"
    write_atomically(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert [item.name for item in path.parent.iterdir()] == ["file"]


def test_remains_of_a_killed_writer_do_not_matter(tmp_path: Path) -> None:
    """A temporary file left behind, even one of the same name, is neither read nor in the way."""
    path = tmp_path / "status.json"
    (tmp_path / f".status.json.{os.getpid()}.tmp").write_text("ha")
    (tmp_path / ".status.json.1.tmp").write_text("half")
    write_json(path, {"state": "running"})
    assert read_json(path) == {"state": "running"}


def test_failing_write_keeps_what_was_there(tmp_path: Path) -> None:
    """Content that cannot be written leaves the old file whole."""
    path = tmp_path / "result.json"
    write_json(path, {"value": 1})
    with pytest.raises(TypeError):
        write_json(path, {"value": object()})
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "\ud800")
    assert read_json(path) == {"value": 1}


def test_json_can_be_read_by_people(tmp_path: Path) -> None:
    """One key per line, with a newline at the end."""
    write_json(tmp_path / "a.json", {"a": 1, "b": [2]})
    assert (tmp_path / "a.json").read_text() == json.dumps({"a": 1, "b": [2]}, indent=2) + "\n"


def test_a_file_is_read_again_only_when_it_has_changed(tmp_path: Path) -> None:
    """What many rules of a check ask for is read once; a file that is replaced, or missing, is noticed."""
    path, reads = tmp_path / "facts.json", []

    @until_changed
    def read(path: Path) -> str:
        reads.append(path)
        return path.read_text()

    write_atomically(path, "one")
    assert [read(path), read(path)] == ["one", "one"]
    assert len(reads) == 1
    write_atomically(path, "two")
    assert [read(path), read(path)] == ["two", "two"]
    assert len(reads) == 2
    path.unlink()
    with pytest.raises(FileNotFoundError):
        read(path)
