"""The table of contents of a data set."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from nepa_scale.data.info import make_info, parse_info
from nepa_scale.utils.errors import DataError

CONTENT = make_info(
    "toy",
    split_sizes={"train": 25, "validation": 10},
    shard_size=10,
    class_names=("cat", "dog"),
    source="camera",
)


def changed(path: str, value: Any) -> dict[str, Any]:
    """A copy of ``CONTENT`` with the value at a dotted path replaced."""
    content = copy.deepcopy(CONTENT)
    *parents, leaf = path.split(".")
    target = content
    for parent in parents:
        target = target[parent]
    target[leaf] = value
    return content


def test_made_content_parses_to_the_same_facts() -> None:
    """What we write is what we read, through JSON, and further notes are kept and ignored."""
    info = parse_info(json.loads(json.dumps(CONTENT)), "toy")
    assert (info.num_classes, info.class_names, info.mask_class_names) == (2, ("cat", "dog"), ())
    assert info.splits["train"].shard_lengths == (10, 10, 5)
    assert info.splits["train"].filenames == ("train-000000.tar", "train-000001.tar", "train-000002.tar")
    assert info.splits["validation"].num_samples == 10
    assert CONTENT["source"] == "camera"


def test_a_data_set_without_labels_has_no_classes() -> None:
    """An unlabelled data set is valid and says so with num_classes 0."""
    content = {key: value for key, value in CONTENT.items() if key not in {"num_classes", "class_names"}}
    assert parse_info(content, "toy").num_classes == 0


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ([], "must be a JSON object, is list"),
        (changed("num_classes", 3), "num_classes is 3, but class_names has 2 names"),
        (changed("num_classes", "two"), "num_classes must be a whole number >= 0, is 'two'"),
        (changed("num_classes", True), "num_classes must be a whole number >= 0, is True"),
        (changed("class_names", "cat"), "class_names must be a list of names"),
        (changed("splits", None), "splits must be an object with 'train' and 'validation'"),
        (changed("splits", {"train": CONTENT["splits"]["train"]}), "splits has no 'validation'"),
        (changed("splits.train", 7), "splits.train must be an object"),
        (changed("splits.train.num_samples", 24), "num_samples is 24, but shard_lengths add up to 25"),
        (changed("splits.train.shard_lengths", [10, 15]), "has 3 filenames, but 2 shard_lengths"),
        (
            changed("splits.train.shard_lengths", [10, 10, -5]),
            "shard_lengths must be a list of whole numbers",
        ),
        (
            changed("splits.validation.filenames", ["../secret.tar"]),
            "filenames must be a list of .tar file names",
        ),
        (
            changed("splits.validation.filenames", ["pipe:curl x.tar"]),
            "filenames must be a list of .tar file names",
        ),
        (
            changed("splits.validation.filenames", ["http://x/y.tar"]),
            "filenames must be a list of .tar file names",
        ),
        (
            changed("splits.train", {"num_samples": 0, "filenames": [], "shard_lengths": []}),
            "splits.train is empty",
        ),
    ],
)
def test_every_wrong_content_gives_one_line(content: Any, complaint: str) -> None:
    """Each mistake is named with the key it is in, and nothing else is reported."""
    with pytest.raises(DataError) as caught:
        parse_info(content, "toy")
    assert complaint in str(caught.value)
    assert str(caught.value).count("\n") == 0
    assert str(caught.value).startswith("toy/_info.json: ")


def test_all_mistakes_are_reported_together() -> None:
    """A user mends a file once, not once for every mistake."""
    content = changed("num_classes", 3)
    content["splits"]["train"]["num_samples"] = 1
    with pytest.raises(DataError) as caught:
        parse_info(content, "toy")
    assert len(str(caught.value).splitlines()) == 2
