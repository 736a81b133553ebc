"""What a data-set folder is, and what is wrong with it."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from nepa_scale.data import layout
from nepa_scale.data.layout import Layout, check_dataset
from nepa_scale.data.prepare.__main__ import GRAMMAR
from nepa_scale.data.prepare.ade20k import list_ade20k
from nepa_scale.data.prepare.settings import FolderSettings
from nepa_scale.utils.errors import DataError


def test_only_the_standard_library_is_imported() -> None:
    """A configuration mistake must answer at once, so no numpy and no torch on this path."""
    code = "import sys, nepa_scale.data.layout; print({'numpy', 'torch', 'PIL'} & set(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "set()"


def test_whole_shards_are_fine(write_shards) -> None:
    """Complete shards with labels and masks give no complaint, and their facts are known without torch."""
    root = write_shards()
    assert check_dataset(root, "toy", needs={"label", "mask"}) == []
    assert layout.find_layout(root / "toy") is Layout.SHARDS
    info = layout.dataset_info(root, "toy")
    assert (info.num_classes, len(info.mask_class_names)) == (3, 3)
    assert [split.num_samples for split in info.splits.values()] == [9, 3]


def test_every_missing_and_every_empty_shard_is_named(write_shards) -> None:
    """All shards to fetch again are listed at once."""
    root = write_shards(train=(2, 2, 2, 2))
    (root / "toy" / "train-000001.tar").unlink()
    (root / "toy" / "train-000003.tar").unlink()
    (root / "toy" / "validation-000000.tar").write_bytes(b"")
    problems = check_dataset(root, "toy")
    assert len(problems) == 3
    assert "train-000001.tar' is missing" in problems[0]
    assert "train-000003.tar' is missing" in problems[1]
    assert "validation-000000.tar' is empty" in problems[2]


def test_shards_without_info_are_told_what_is_missing(write_shards) -> None:
    """Tar files alone are recognised as shards; the line names the file to add."""
    root = write_shards()
    (root / "toy" / "_info.json").unlink()
    (problem,) = check_dataset(root, "toy")
    assert "_info.json' is missing" in problem


def test_broken_info_gives_one_line_with_the_place(write_shards) -> None:
    """Broken JSON is reported with its line, not as a traceback."""
    root = write_shards()
    (root / "toy" / "_info.json").write_text('{"name": "toy",\n "splits": }')
    (problem,) = check_dataset(root, "toy")
    assert "is not valid JSON" in problem
    assert "line 2" in problem


def test_a_missing_root_is_named(tmp_path: Path) -> None:
    """The path that does not exist is in the line."""
    (problem,) = check_dataset(tmp_path / "nowhere", "toy")
    assert problem == f"data root '{tmp_path / 'nowhere'}' is not a folder"


def test_a_misspelt_name_gets_the_nearest(write_shards) -> None:
    """A typing slip is answered with the name that was meant and all that are there."""
    root = write_shards("imagenet")
    (root / ".cache").mkdir()
    (problem,) = check_dataset(root, "imagnet")
    assert "has no data set 'imagnet'; did you mean 'imagenet'? (there are: imagenet)" in problem


def test_class_folders_name_a_command_that_prepares_them(class_folders: Path) -> None:
    """The command in the line is one that the prepare command accepts as it stands."""
    (problem,) = check_dataset(class_folders.parent, "photographs")
    command = shlex.split(problem.split("`")[1])
    assert command[:3] == ["python", "-m", "nepa_scale.data.prepare"]
    settings = GRAMMAR.parse(command[3:])
    assert isinstance(settings, FolderSettings)
    assert (settings.source, settings.root) == (class_folders, class_folders.parent)
    assert problem.endswith(f"use data={settings.name}")


def test_an_unknown_folder_says_what_was_expected(tmp_path: Path) -> None:
    """A folder of neither layout is refused with both layouts named."""
    (tmp_path / "notes").mkdir()
    (problem,) = check_dataset(tmp_path, "notes")
    assert "is no data set" in problem
    assert "_info.json" in problem
    assert "images/training" in problem


def test_a_task_is_told_what_the_data_lacks(ade_root: Path, write_shards) -> None:
    """Classification needs labels, segmentation needs masks; images alone are enough for pre-training."""
    root = write_shards()
    path = root / "toy" / "_info.json"
    path.write_text(path.read_text().replace('"mask_class_names"', '"other_names"'))
    assert check_dataset(root, "toy", needs={"label"}) == []
    (problem,) = check_dataset(root, "toy", needs={"mask"})
    assert "'toy' names no classes of masks" in problem
    assert check_dataset(ade_root, "street", needs={"mask"}) == []
    (problem,) = check_dataset(ade_root, "street", needs={"label"})
    assert "'street' has no class labels" in problem


def test_ade20k_folder_facts(ade_root: Path) -> None:
    """The folder is found with or without ADEChallengeData2016, and has 150 mask classes and no labels."""
    assert layout.find_layout(ade_root / "street") is Layout.ADE20K
    inner = ade_root / "street"
    assert check_dataset(inner, "ADEChallengeData2016", needs={"mask"}) == []
    info = layout.dataset_info(ade_root, "street")
    assert (info.num_classes, len(info.mask_class_names), info.splits["train"].num_samples) == (0, 150, 3)


def test_ade20k_class_names_come_from_the_table(ade_root: Path) -> None:
    """``objectInfo150.txt`` is read where it exists: its last column, in order."""
    base = ade_root / "street" / "ADEChallengeData2016"
    (base / "objectInfo150.txt").write_text(
        "Idx\tRatio\tTrain\tVal\tName\n1\t0.2\t5\t6\twall\n2\t0.1\t5\t6\tsky, air\n"
    )
    assert layout.dataset_info(ade_root, "street").mask_class_names == ("wall", "sky, air")


ROWS = [("wall", "0.2"), ("café, bar", "0.1"), ("sky", "0.1")]
TABS = "Idx\tRatio\tTrain\tVal\tStuff\tName\n" + "".join(
    f"{number}  \t{ratio}\t5\t6\t0\t{name}  \n" for number, (name, ratio) in enumerate(ROWS, start=1)
)
COMMAS = "Idx,Ratio,Train,Val,Stuff,Name\n" + "".join(
    f'{number},{ratio},5,6,0,"{name}"\n' for number, (name, ratio) in enumerate(ROWS, start=1)
)
NAME_FIRST = "Idx\tName\tStuff\n" + "".join(f"{number}\t{name}\t0\n" for number, (name, _) in enumerate(ROWS, start=1))
NO_HEADER = "".join(f"{number}\t{name}\n" for number, (name, _) in enumerate(ROWS, start=1))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16"])
@pytest.mark.parametrize("table", [TABS, TABS.replace("\n", "\r\n"), COMMAS, NAME_FIRST, NO_HEADER, TABS + "\n\n"])
def test_the_table_of_names_is_read_as_people_save_it(ade_root: Path, table: str, encoding: str) -> None:
    """Any encoding and line end, tabs or commas, with or without a header: the same names."""
    base = ade_root / "street" / "ADEChallengeData2016"
    (base / "objectInfo150.txt").write_bytes(table.encode(encoding))
    names = tuple(name for name, _ in ROWS)
    assert layout.dataset_info(ade_root, "street").mask_class_names == names
    assert list_ade20k(ade_root / "street").mask_class_names == names


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ("", "names no classes"),
        ("Idx\tName\n", "names no classes"),
        ("Idx\tName\n1\twall\n3\tsky\n", "line 3: class 2 was expected, is '3'"),
        ("Idx\tName\n1\twall\n2\t\n", "line 3: there is no name"),
        ("Idx\tName\n1\n", "line 2: there is no name"),
        ("\0" * 300_000, "objectInfo150.txt'"),
    ],
)
def test_a_table_of_names_that_is_none_is_refused(ade_root: Path, table: str, complaint: str) -> None:
    """A row that is missing would shift all classes after it: the line is named."""
    (ade_root / "street" / "ADEChallengeData2016" / "objectInfo150.txt").write_text(table)
    (problem,) = check_dataset(ade_root, "street")
    assert complaint in problem


def test_every_photograph_without_a_mask_is_named(ade_root: Path) -> None:
    """All unpaired photographs are listed, each in its line, and two that would share a mask as well."""
    base = ade_root / "street" / "ADEChallengeData2016"
    (base / "annotations" / "training" / "ADE_training_1.png").unlink()
    (base / "annotations" / "validation" / "ADE_validation_0.png").unlink()
    photograph = base / "images" / "training" / "ADE_training_2.jpg"
    photograph.with_suffix(".jpeg").write_bytes(photograph.read_bytes())
    problems = check_dataset(ade_root, "street")
    assert len(problems) == 3
    assert "ADE_training_1.jpg' has no mask" in problems[0]
    assert "would share one mask" in problems[1]
    assert "ADE_validation_0.jpg' has no mask" in problems[2]


def test_ade20k_without_annotations_or_images_is_one_line_each(ade_root: Path) -> None:
    """A missing folder is one line, not one for every photograph in it."""
    base = ade_root / "street" / "ADEChallengeData2016"
    for mask in (base / "annotations" / "training").iterdir():
        mask.unlink()
    (base / "annotations" / "training").rmdir()
    for image in (base / "images" / "validation").iterdir():
        image.unlink()
    problems = check_dataset(ade_root, "street")
    assert len(problems) == 2
    assert "annotations/training' is missing: the masks of 3 images" in problems[0]
    assert "images/validation' has no images" in problems[1]


def test_the_embedded_data_set_is_known_before_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan can be made on a fresh checkout; outside the default root the command to write it is named."""
    monkeypatch.chdir(tmp_path)
    assert check_dataset(Path("data"), "digits", needs={"label", "mask"}) == []
    info = layout.dataset_info(Path("data"), "digits")
    assert info.splits["validation"].num_samples == 1024
    assert (info.num_classes, len(info.mask_class_names)) == (10, 11)
    (problem,) = check_dataset(Path("elsewhere"), "digits")
    assert "`python -m nepa_scale.data.prepare digits root=elsewhere`" in problem
    (problem,) = check_dataset(Path("data"), "digit")
    assert "did you mean 'digits'?" in problem


def test_facts_of_an_absent_data_set_raise_the_same_line(tmp_path: Path) -> None:
    """Asking for a size before checking gives the complaint of the check, not a KeyError."""
    with pytest.raises(DataError, match="is not a folder"):
        layout.dataset_info(tmp_path / "nowhere", "toy")
