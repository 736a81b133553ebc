"""Facts that stand in for data sets that are not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from nepa_scale.config import data_facts, overrides, validate
from nepa_scale.config.schema import RunConfig
from nepa_scale.data.info import INFO_NAME, make_info
from nepa_scale.utils.errors import ConfigError
from nepa_scale.utils.files import write_json

PETS = "{pets: {train: 100, validation: 20, classes: 8, mask_classes: 3}}"


def configured(root: Path, *words: str) -> RunConfig:
    """A run on the data set pets below ``root``."""
    names = [f"{task}.dataset=pets" for task in ("pretrain", "classify", "segment")]
    return overrides.parse([f"data.root={root}", *names, *words])


def test_stated_facts_stand_in_for_absent_data(tmp_path: Path) -> None:
    """Counts come from what is stated, classes are taken as equally large, and only a plan may use them."""
    config = configured(tmp_path, f"data.stated={PETS}", "classify.labels_per_class=12")
    assert data_facts.num_train_images(config, "pretrain") == 100
    assert [data_facts.num_classes(config, task) for task in ("classify", "segment")] == [8, 3]
    assert data_facts.num_used_images(config, "classify") == 4 * 12 + 4 * 12
    assert sum(data_facts.stated_class_sizes(tmp_path, "pets", PETS)) == 100
    tasks = ("pretrain", "classify", "segment")
    assert validate.check_data(config, tasks, planning=True) == []
    assert len(validate.check_data(config, tasks)) == 1
    assert validate.stated_data(config, tasks) == [
        "pets 100 training and 20 validation images, 8 classes, 3 mask classes"
    ]


def test_what_is_stated_is_checked_as_data_is(tmp_path: Path) -> None:
    """A task that needs masks, or more images than are stated, is refused in a plan, too."""
    facts = "data.stated={pets: {train: 100, validation: 20, classes: 8}}"
    config = configured(tmp_path, facts, "pretrain.num_images=101")
    (few, masks) = validate.check_data(config, ("pretrain", "segment"), planning=True)
    assert "pretrain.num_images=101" in few
    assert "names no classes of masks" in masks


def test_shipped_facts() -> None:
    """ImageNet-1k and ADE20K are known by the names that the studies use."""
    nowhere = Path("nowhere")
    imagenet, ade = (data_facts.info_of(nowhere, name, None) for name in ("imagenet-1k-wds", "ade20k"))
    assert (imagenet.splits["train"].num_samples, imagenet.splits["validation"].num_samples) == (1_281_167, 50_000)
    assert (imagenet.num_classes, len(imagenet.mask_class_names)) == (1000, 0)
    assert (ade.splits["train"].num_samples, ade.splits["validation"].num_samples) == (20_210, 2_000)
    assert (ade.num_classes, len(ade.mask_class_names)) == (0, 150)


def test_a_file_is_read_once(tmp_path: Path) -> None:
    """The facts of a file become part of the configuration, which does not need the file any more."""
    file = tmp_path / "facts.yaml"
    file.write_text("pets:\n  train: 100\n  validation: 20\n")
    config = configured(tmp_path, f"data.stated={file}")
    file.unlink()
    assert data_facts.num_train_images(config, "pretrain") == 100
    overrides.save(config, tmp_path / "config.yaml")
    assert overrides.load(tmp_path / "config.yaml") == config
    assert config.run_id == configured(tmp_path).run_id


def test_facts_of_what_is_there_must_agree(tmp_path: Path) -> None:
    """A data set that is there is what counts: stated facts that contradict it are one line, agreeing ones none."""
    info = make_info("pets", split_sizes={"train": 90, "validation": 20}, shard_size=90, class_names=list("abcdefgh"))
    write_json(tmp_path / "pets" / INFO_NAME, info)
    config = configured(tmp_path, f"data.stated={PETS}")
    assert data_facts.num_train_images(config, "pretrain") == 90
    line = validate.check_data(config, ("pretrain",), planning=True)[0]
    assert line.startswith("data.stated: ")
    assert line.endswith("its train is 90, not 100, mask_classes is 0, not 3")
    agreeing = "{pets: {train: 90, validation: 20, classes: 8}}"
    assert data_facts.contradictions(tmp_path, "pets", agreeing) == []


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{pets: {train: 100}}", "pets: validation is missing"),
        ("{pets: {train: none, validation: 1}}", "train must be a whole number from 1"),
        ("{pets: {train: 1, validation: 1, clases: 3}}", "did you mean 'classes'?"),
        ("{pets: 100}", "pets: expected its facts"),
        ("{pets: {train: 1, validation: true}}", "validation must be a whole number"),
        ("[1, 2]", "data.stated"),
        ("nowhere.yaml", "data.stated=nowhere.yaml: No such file"),
        ("{pets: {train", "not valid YAML"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, complaint: str) -> None:
    """A mistake in what is stated is told as one of the configuration."""
    with pytest.raises(ConfigError) as raised:
        configured(tmp_path, f"data.stated={text}")
    assert len(raised.value.problems) == 1
    assert complaint in raised.value.problems[0]
