"""Reading tar shards by offset, and refusing damaged ones."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest
from webdataset.tariterators import base_plus_ext

from nepa_scale.data.shard_index import NO_LABEL, printable, role_of, scan, split_name
from nepa_scale.data.sources import open_source
from nepa_scale.utils.errors import DataError

PNG = b"not decoded here"


def tar_of(path: Path, *names: str, content: bytes = PNG) -> Path:
    """A shard whose members all have the same content."""
    with tarfile.open(path, "w") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def keys_of(path: Path) -> list[str]:
    """The keys in a shard's index."""
    return [key.decode() for key in scan(path).keys.tolist()]


def test_offsets_are_those_of_tarfile(write_shards) -> None:
    """Every offset and size agrees with what tarfile finds, for images and masks."""
    path = write_shards() / "toy" / "train-000000.tar"
    index = scan(path)
    with tarfile.open(path) as archive:
        for key, row in zip(index.keys, index.samples, strict=True):
            image, mask = (
                archive.getmember(f"{key.decode()}.png"),
                archive.getmember(f"{key.decode()}.seg.png"),
            )
            assert (row["image_offset"], row["image_size"]) == (image.offset_data, image.size)
            assert (row["mask_offset"], row["mask_size"]) == (mask.offset_data, mask.size)
            assert row["label"] == int(archive.extractfile(f"{key.decode()}.cls").read())


def test_extensions_are_matched_as_webdataset_does(tmp_path: Path) -> None:
    """Capitals are accepted, folders belong to the key, other members are passed over."""
    path = tar_of(tmp_path / "a.tar", "n01/a.JPEG", "n01/a.json", "n01/a.pkl", "b.PNG", "README")
    assert keys_of(path) == ["n01/a", "b"]


def test_what_is_not_read_is_counted_and_named(tmp_path: Path) -> None:
    """Texts, further images of a sample, hidden files, names without a dot: how many of each kind, with one of them."""
    names = ["a.jpg", "a.left.jpg", "a.json", "b.jpg", "b.json", "._b.jpg", "README", "./c.JPEG", "./c.cls"]
    index = scan(tar_of(tmp_path / "a.tar", *names, content=b"1"))
    assert index.keys.tolist() == [b"a", b"b", b"./c"]
    text = str(index.unread)
    for part in ("2 '.json' (such as 'a.json')", "2 '.jpg' (such as 'a.left.jpg')", "1 'without extension'"):
        assert part in text


@pytest.mark.parametrize("names", [["x.1.jpg", "x.1.cls"], ["x.1.jpg"], ["x.webp"], ["x.webp", "x.cls"], ["x.1.cls"]])
def test_a_sample_without_a_readable_image_is_refused(tmp_path: Path, names: list[str]) -> None:
    """As for webdataset x.1.jpg is the 1.jpg of x: such a sample is not dropped beside others, but named."""
    with pytest.raises(DataError, match=r"a\.tar': sample 'x' has no image \(.*\), only \..* \(1 of 2 samples\)"):
        scan(tar_of(tmp_path / "a.tar", "s.jpg", "s.cls", *names))


@pytest.mark.parametrize(
    "name",
    [
        "a.jpg",
        "a.b.jpg",
        "n01/a.JPEG",
        "./a.jpg",
        "n.01/a.seg.png",
        "a",
        ".a.jpg",
        "._a.jpg",
        "a.",
        "a..jpg",
        "../a.png",
    ],
)
def test_keys_and_extensions_are_webdatasets(name: str) -> None:
    """Its own function gives the same; what it passes over has no role here."""
    key, extension = base_plus_ext(name)
    if key is None:
        assert role_of(split_name(name)[1]) is None
    else:
        assert split_name(name) == (key, extension.lower())


def test_strange_names_are_keys_and_links_are_passed_over(tmp_path: Path) -> None:
    """A name is never a path: climbing and absolute names are harmless, links are not followed."""
    path = tmp_path / "a.tar"
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(b"secret")
    with tarfile.open(path, "w") as archive:
        for name in ("../../x.jpg", "/etc/passwd.jpg"):
            member = tarfile.TarInfo(name)
            member.size = len(PNG)
            archive.addfile(member, io.BytesIO(PNG))
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        archive.addfile(link)
    assert keys_of(path) == ["../../x", "/etc/passwd"]


def test_hostile_names_are_data(tmp_path: Path) -> None:
    """Newlines, control characters and bytes that are no UTF-8 are kept as they are and shown as one harmless line."""
    names = ["new\nline.jpg", "bell\x07\x1b[31m.jpg", "not\udcffutf8.jpg"]
    path = tar_of(tmp_path / "a.tar", *names)
    keys = [key.decode("utf-8", "surrogateescape") for key in scan(path).keys.tolist()]
    assert keys == [name.removesuffix(".jpg") for name in names]
    assert all(printable(key).isprintable() for key in keys)


def test_a_name_of_four_kilobytes_is_refused(tmp_path: Path) -> None:
    """Every key takes the room of the longest, so one long name would cost gigabytes for a million samples."""
    with pytest.raises(DataError, match="has a sample name of more than 255 bytes: 'xxx"):
        scan(tar_of(tmp_path / "a.tar", "x" * 4096 + ".jpg"))


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_no_samples(tmp_path: Path, kind: bytes) -> None:
    """Only regular files hold samples; nothing is opened that a member points to."""
    path = tar_of(tmp_path / "a.tar", "x.jpg")
    with tarfile.open(path, "a") as archive:
        member = tarfile.TarInfo("evil.jpg")
        member.type, member.linkname = kind, "/etc/passwd"
        archive.addfile(member)
    assert keys_of(path) == ["x"]


@pytest.mark.parametrize(
    ("text", "label"),
    [
        (b"7", 7),
        (b" 12\n", 12),
        (b"-1", NO_LABEL),
        (b"cat", NO_LABEL),
        (b"", NO_LABEL),
        (b"9" * 30, NO_LABEL),
    ],
)
def test_labels_are_whole_numbers_or_none(tmp_path: Path, text: bytes, label: int) -> None:
    """Anything but a whole number counts as no label: pre-training never fails on it."""
    path = tar_of(tmp_path / "a.tar", "x.jpg")
    with tarfile.open(path, "a") as archive:
        member = tarfile.TarInfo("x.cls")
        member.size = len(text)
        archive.addfile(member, io.BytesIO(text))
    assert scan(path).samples["label"].tolist() == [label]


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (["x.jpg", "y.jpg", "x.jpg"], "holds the image of 'x' twice"),
        (["x.jpg", "x.png"], "holds the image of 'x' twice"),
        (["x.jpg", "y.cls"], "sample 'y' has no image"),
    ],
)
def test_ambiguous_samples_are_refused(tmp_path: Path, names: list[str], complaint: str) -> None:
    """Doubled members and samples without an image are named, not guessed at."""
    with pytest.raises(DataError, match=complaint):
        scan(tar_of(tmp_path / "a.tar", *names))


def test_a_shard_cut_inside_a_member_is_refused(tmp_path: Path) -> None:
    """A transfer that broke off is found before training starts."""
    path = tar_of(tmp_path / "a.tar", "x.jpg", "y.jpg", content=b"p" * 3000)
    os.truncate(path, 512 + 3072 + 512 + 1000)
    with pytest.raises(DataError, match=r"a\.tar"):
        scan(path)


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"<html>not found</html>" * 100])
def test_what_is_no_tar_is_refused(tmp_path: Path, content: bytes) -> None:
    """Empty files, zeros and error pages saved as shards are named."""
    path = tmp_path / "a.tar"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.tar' is (not a complete tar file|empty)"):
        scan(path)


@pytest.mark.parametrize("damage", ["cut at a header", "flipped byte in a header"])
def test_damage_that_tar_readers_overlook_is_found(write_shards, damage: str) -> None:
    """Tar readers end silently at a bad header; here it is found, with its place in the file."""
    root = write_shards(train=(5, 4))
    path = root / "toy" / "train-000001.tar"
    with tarfile.open(path) as archive:
        start = archive.getmembers()[6].offset  # the third sample's image
    if damage == "cut at a header":
        os.truncate(path, start)
    else:
        content = bytearray(path.read_bytes())
        content[start + 10] ^= 0xFF
        path.write_bytes(content)
    with pytest.raises(DataError, match=rf"train-000001\.tar' is damaged or cut off at byte {start:,}"):
        open_source(root, "toy", "train")


def header(name: str, size: bytes) -> bytes:
    """A tar header with this size field, its checksum right."""
    block = bytearray(tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT)[:512])
    block[124:136] = size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def test_senseless_numbers_in_headers_are_refused(tmp_path: Path) -> None:
    """Negative sizes (base-256) and sparse maps that are none: one line naming the shard, nothing is read by them."""
    path = tmp_path / "a.tar"
    path.write_bytes(header("x.jpg", b"\xff" * 12) + bytes(10240))
    with pytest.raises(DataError, match=r"a\.tar' is"):
        scan(path)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("x.jpg")
        member.pax_headers = {"GNU.sparse.map": "x,y"}
        archive.addfile(member)
    with pytest.raises(DataError, match=r"a\.tar' is not a complete tar file"):
        scan(path)
