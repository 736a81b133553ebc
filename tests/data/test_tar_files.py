"""Writing shards and walking through archives that cannot be trusted."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest
from archives import picture, tar_bytes
from hypothesis import given
from hypothesis import strategies as st
from timm.data.readers.reader_wds import ReaderWds
from webdataset import TarWriter

from nepa_scale.data.prepare.__main__ import main
from nepa_scale.data.shard_index import scan, walk, write_tar
from nepa_scale.utils.errors import DataError

KEYS = st.text("abc_012é", min_size=1, max_size=90) | st.text("abcdef_0123456789", min_size=90, max_size=255)

CUT_OFF = r"^shard '.*a\.tar' is damaged or cut off at byte [\d,]+: "


@given(samples=st.dictionaries(KEYS, st.binary(max_size=2000), max_size=5))
def test_shards_equal_those_of_webdataset(tmp_path_factory: pytest.TempPathFactory, samples: dict[str, bytes]) -> None:
    """The same bytes as webdataset's own TarWriter, and the digest is that of the file."""
    path = tmp_path_factory.mktemp("shard") / "a.tar"
    members = [{"__key__": key, "jpg": content, "cls": b"3"} for key, content in samples.items()]
    digest = write_tar(path, members)
    expected = io.BytesIO()
    with TarWriter(expected, encoder=False, mtime=0) as writer:
        for sample in members:
            writer.write(sample)
    assert path.read_bytes() == expected.getvalue()
    assert digest == hashlib.sha256(expected.getvalue()).hexdigest()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves the file open
def test_timm_reads_what_we_write(class_folders: Path, tmp_path: Path) -> None:
    """timm's own reader finds splits, images and classes by ``_info.json`` and the shards alone."""
    assert main(["folder", f"source={class_folders}", f"root={tmp_path}", "name=photos", "workers=1"]) == 0
    reader = ReaderWds(str(tmp_path / "photos"), split="validation", batch_size=1)
    found = [(image.tobytes(), label) for image, label in reader]
    assert (
        len(found)
        == json.loads((tmp_path / "photos" / "_info.json").read_text())["splits"]["validation"]["num_samples"]
    )
    assert sorted(label for _, label in found) == [0, 0, 1, 1]


@given(names=st.lists(st.text("abc./", min_size=1, max_size=150), max_size=4), padding=st.integers(0, 3))
def test_walking_agrees_with_tarfile(names: list[str], padding: int) -> None:
    """Members and their places inside another file are those that tarfile finds."""
    content = tar_bytes([(name, name.encode() * 9) for name in names])
    outer = io.BytesIO(b"x" * 100 * padding + content + b"y" * 999)
    found = [
        (m.name, outer.getvalue()[100 * padding + m.offset_data :][: m.size])
        for m in walk(outer, "'a.tar'", start=100 * padding, size=len(content))
    ]
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        assert found == [(m.name, archive.extractfile(m).read()) for m in archive]


@given(data=st.data())
def test_damaged_archives_end_in_one_error(data: st.DataObject) -> None:
    """Bytes changed or cut anywhere: all members as before, or ``DataError``; never another exception or a hang."""
    content = bytearray(tar_bytes({f"a{index}.jpg": picture(index, (4, 4)) for index in range(3)}))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, 2400))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(0, len(content))) :]
    try:
        members = list(walk(io.BytesIO(bytes(content)), "'a.tar'"))
    except DataError as error:
        assert str(error).startswith("'a.tar' is ")
    else:
        assert all(member.offset_data + member.size <= len(content) for member in members if member.isreg())


def header_with_size(size: bytes, kind: bytes = tarfile.REGTYPE) -> bytes:
    """One member whose header states a size in tar's binary form."""
    member = tarfile.TarInfo("a.jpg")
    member.type = kind
    header = bytearray(member.tobuf())
    header[124:136] = size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + bytes(10240)


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
@pytest.mark.parametrize("size", [b"\xff" * 11 + b"\x00", b"\x80" + b"\0" * 6 + b"\x10" + b"\0" * 4, b"77777777777\0"])
@pytest.mark.timeout(20)
def test_sizes_that_are_lies(kind: bytes, size: bytes) -> None:
    """Negative and huge sizes, which make tarfile loop or ask for gigabytes, are refused."""
    with pytest.raises(DataError, match=r"^'a.tar' is "):
        list(walk(io.BytesIO(header_with_size(size, kind)), "'a.tar'"))


@pytest.mark.parametrize(("zeros", "is_complete"), [(0, False), (100, False), (511, False), (512, True), (1024, True)])
def test_the_end_is_a_block_of_zeros(tmp_path: Path, zeros: int, is_complete: bool) -> None:
    """The index of shards and preparation agree which archives are cut off, where tarfile and GNU tar read on."""
    path = tmp_path / "a.tar"
    path.write_bytes(tar_bytes({"a.jpg": picture(0, (4, 4))}).rstrip(b"\0"))
    size = path.stat().st_size
    path.write_bytes(path.read_bytes() + bytes(-size % tarfile.BLOCKSIZE + zeros))
    with contextlib.nullcontext() if is_complete else pytest.raises(DataError, match=CUT_OFF):
        scan(path)
    with path.open("rb") as file, contextlib.nullcontext() if is_complete else pytest.raises(DataError, match=CUT_OFF):
        list(walk(file, f"shard '{path}'"))
