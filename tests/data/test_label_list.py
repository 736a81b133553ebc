"""Lists of the images that have labels, in shards whose names hold folders."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nepa_scale.data.label_list import indices
from nepa_scale.utils.errors import DataError


def source_of(*keys: str) -> Any:
    """What ``indices`` looks at."""
    return SimpleNamespace(keys=np.array([key.encode() for key in keys]))


def test_a_list_of_plain_names_finds_images_in_folders(tmp_path: Path) -> None:
    """Names are compared without folders on both sides, and the example of a name can be written into the list."""
    place = tmp_path / "list.txt"
    place.write_text("n01/n01_2.JPEG\nn02_1.JPEG\n")
    source = source_of("train/n01/n01_1", "train/n01/n01_2", "train/n02/n02_1", "plain")
    assert indices(place, source).tolist() == [1, 2]
    place.write_text("n01_9\n")
    with pytest.raises(DataError, match="such as 'n01_9'; theirs look like 'n01_1'"):
        indices(place, source)


def test_a_name_in_several_folders_is_refused(tmp_path: Path) -> None:
    """It cannot be told which is meant; names that are not on the list may be there any number of times."""
    place = tmp_path / "list.txt"
    place.write_text("b\n")
    source = source_of("x/a", "y/a", "y/b")
    assert indices(place, source).tolist() == [2]
    place.write_text("a\nb\n")
    with pytest.raises(DataError, match="'a' is the name of several training images, in different folders"):
        indices(place, source)
