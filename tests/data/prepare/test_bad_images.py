"""Images that cannot be used, and images in a smaller size."""

from __future__ import annotations

import io
import json
import resource
import subprocess
from pathlib import Path

import numpy as np
import pytest
from archives import command, picture, split_samples
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from nepa_scale.data import layout
from nepa_scale.data.prepare.__main__ import main
from nepa_scale.data.prepare.class_folders import list_class_folders
from nepa_scale.data.prepare.listing import read_tree
from nepa_scale.data.prepare.pixels import MaskCount, checked
from nepa_scale.data.prepare.settings import FolderSettings
from nepa_scale.data.prepare.writing import write
from nepa_scale.utils.errors import DataError


def prepare(source: Path, root: Path, *words: str) -> int:
    """Run the command in this process."""
    return main(["folder", f"source={source}", f"root={root}", "name=photos", "workers=1", "shard_size=3", *words])


@pytest.fixture
def spoilt(class_folders: Path) -> Path:
    """Class folders with a page of HTML, a photograph that is cut off, and an empty file among ten good images."""
    images = sorted((class_folders / "train").rglob("*.JPEG"))
    images[0].write_text("<html>not found</html>")
    images[3].write_bytes(images[3].read_bytes()[:300])
    next((class_folders / "val").rglob("*.png")).write_bytes(b"")
    return class_folders


def test_all_bad_images_are_named_at_once(spoilt: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One error of one line names each of them; no data set appears."""
    assert prepare(spoilt, tmp_path / "data") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: 3 of 12 images cannot be used: ")
    assert line.count("cannot be decoded") == 3
    assert not (tmp_path / "data" / "photos").exists()


def test_bad_images_can_be_left_out(spoilt: Path, tmp_path: Path) -> None:
    """With skip_bad=true the others are written, counts are true, and the file says what was left out.

    The same comes out whether or not a run without skip_bad was made before.
    """
    assert prepare(spoilt, tmp_path / "direct", "skip_bad=true") == 0
    assert prepare(spoilt, tmp_path / "data") == 2
    assert prepare(spoilt, tmp_path / "data", "skip_bad=true") == 0
    for path in (tmp_path / "direct" / "photos").glob("*.tar"):
        assert (tmp_path / "data" / "photos" / path.name).read_bytes() == path.read_bytes()
    info = json.loads((tmp_path / "data" / "photos" / "_info.json").read_text())
    assert len(info["skipped"]) == 3
    assert sum(info["splits"]["train"]["shard_lengths"]) == info["splits"]["train"]["num_samples"] == 6
    assert info["splits"]["validation"]["num_samples"] == 3
    assert layout.check_dataset(tmp_path / "data", "photos") == []
    assert len(split_samples(tmp_path / "data" / "photos", "train")) == 6


def test_a_split_without_a_usable_image_is_refused(
    class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Leaving out everything is no data set."""
    for path in (class_folders / "val").rglob("*.*"):
        path.write_text("<html>")
    assert prepare(class_folders, tmp_path / "data", "skip_bad=true") == 2
    assert "no image of the validation split can be used" in capsys.readouterr().err


def test_names_follow_content(class_folders: Path, tmp_path: Path) -> None:
    """A PNG that is called .JPEG, as ImageNet has one, is stored as .png with its bytes unchanged."""
    path = next((class_folders / "val" / "n01").glob("*.JPEG"))
    path.write_bytes(picture(5, image_format="PNG"))
    assert prepare(class_folders, tmp_path / "data") == 0
    stored = split_samples(tmp_path / "data" / "photos", "validation")
    assert picture(5, image_format="PNG") in [sample.get("png") for sample in stored.values()]


def test_resizing_a_data_set(class_folders: Path, tmp_path: Path) -> None:
    """The shorter side becomes as asked; equals PIL's bicubic picture in JPEG at quality 95 without subsampling."""
    assert prepare(class_folders, tmp_path / "data", "resize=16") == 0
    found = [sample["jpg"] for sample in split_samples(tmp_path / "data" / "photos", "train").values()]
    expected = []
    for path in (class_folders / "train").rglob("*.*"):
        buffer = io.BytesIO()
        small = Image.open(path).convert("RGB").resize((20, 16), Image.Resampling.BICUBIC)  # of 22x18
        small.save(buffer, "JPEG", quality=95, subsampling=0)
        expected.append(buffer.getvalue())
    assert sorted(found) == sorted(expected)


@given(width=st.integers(2, 90), height=st.integers(2, 90), resize=st.integers(16, 60))
def test_sizes(width: int, height: int, resize: int) -> None:
    """Smaller images stay byte for byte; others get the exact shorter side, and masks the size of their image."""
    image = picture(0, (width, height))
    buffer = io.BytesIO()
    stored = np.random.default_rng(0).integers(11, size=(height, width), dtype=np.uint8)
    Image.fromarray(stored).save(buffer, "PNG")
    small, mask = checked(image, buffer.getvalue(), mask_classes=10, resize=resize, count=MaskCount())
    if min(width, height) <= resize:
        assert (small, mask) == (image, buffer.getvalue())
        return
    size = Image.open(io.BytesIO(small)).size
    assert min(size) == resize
    assert abs(max(size) - max(width, height) * resize / min(width, height)) <= 0.5
    smaller = np.asarray(Image.open(io.BytesIO(mask)))
    expected = Image.fromarray(stored).resize(size, Image.Resampling.NEAREST)
    np.testing.assert_array_equal(smaller, np.asarray(expected))


def test_masks_of_other_values_are_refused() -> None:
    """A mask with a class that has no name is an error, not a class more."""
    buffer = io.BytesIO()
    Image.new("L", (22, 18), 11).save(buffer, "PNG")
    with pytest.raises(DataError, match="holds the value 11, but there are 10 classes"):
        checked(picture(0), buffer.getvalue(), mask_classes=10, resize=None, count=MaskCount())


def test_a_file_that_is_gone_is_never_skipped(class_folders: Path, tmp_path: Path) -> None:
    """A disk that vanishes must not become a data set without most of its images."""
    settings = FolderSettings(source=class_folders, root=tmp_path / "data", name="photos", workers=1, skip_bad=True)
    listing = list_class_folders(read_tree(class_folders))
    next((class_folders / "train" / "n02").glob("*.png")).unlink()
    with pytest.raises(DataError, match="cannot be read: No such file"):
        write(settings, listing, lambda *_: None)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_is_one_line(class_folders: Path, tmp_path: Path, workers: int) -> None:
    """When a shard cannot be written the reason is given once, and with room again the same command continues."""
    words = [
        f"source={class_folders}",
        f"root={tmp_path / 'data'}",
        "name=photos",
        f"workers={workers}",
        "shard_size=3",
    ]

    def run(limit: int) -> subprocess.CompletedProcess[str]:
        limits = (limit, resource.RLIM_INFINITY)
        before = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits)  # noqa: E731
        return subprocess.run(command("folder", *words), capture_output=True, text=True, check=False, preexec_fn=before)

    failed = run(9000)
    assert failed.returncode == 2
    (line,) = failed.stderr.splitlines()
    assert "cannot write the data set: File too large" in line
    assert run(10**9).returncode == 0
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["photos"]
