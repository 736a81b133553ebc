"""Segmentation's figures against an evaluation in numpy: windows, whole images, scales, absent classes, two ranks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from launching import REPOSITORY, clean_environment, free_port, train
from segment_oracle import NAMES, double_task, figures, write_masked
from small_tasks import CPU, config_of
from warm import WarmChild

from nepa_scale.distributed.world import World
from nepa_scale.tasks.segment import Segment

SIZES = [(48, 48), (50, 148), (97, 60), (48, 64), (130, 131)]
CAMVID = ["data=camvid-as-ade", "segment.image_size=90", "segment.channels=8"]
CAMVID_CLASSES = (1, 2, 4, 6, 11, 12, 20, 140)  # building, sky, tree, road ... and one that no mask holds


@pytest.fixture
def camvid_root(real_data: Path) -> Path:
    """The root of real data, where it holds this data set."""
    if not (real_data / "camvid-as-ade").is_dir():
        pytest.skip("no 'camvid-as-ade' in NEPA_DATA")
    return real_data


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of every shape."""
    root = tmp_path_factory.mktemp("street")
    write_masked(root, SIZES)
    return root


def check(found: dict[str, float], details: dict[str, Any], task: Segment) -> None:
    """All figures to 1e-6."""
    expected, ious = figures(task)
    assert found == pytest.approx(expected, abs=1e-6)
    classes = details["iou_per_class"]
    assert list(classes.values()) == [iou if iou is None else pytest.approx(iou, abs=1e-6) for iou in ious]


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["model.patch_size=14"],
        ["segment.eval_mode=whole", "model.patch_size=14"],
        ["segment.eval_mode=whole", "model.pos_embed=absolute"],
        ["segment.multi_scale=true"],
        ["segment.multi_scale=true", "model.patch_size=14", "model.pos_embed=absolute", "model.class_token=false"],
        ["segment.multi_scale=true", "segment.eval_mode=whole"],
    ],
    ids=" ".join,
)
def test_evaluation_is_that_of_numpy(street: Path, words: list[str]) -> None:
    """Every way of evaluating, on images of many shapes, with classes that only masks or only predictions hold."""
    task = double_task(street, "data=street", *words, favoured=(0, 1, 3))
    found = task.evaluate(World(), CPU)
    check(found, task.details, task)
    assert list(task.details["iou_per_class"]) == NAMES
    assert task.details["iou_per_class"]["boat"] is None
    assert [task.details["iou_per_class"][name] for name in ("road", "lamp")] == [0, 0]
    assert ("miou_multi_scale" in found) == ("segment.multi_scale=true" in words)


def test_evaluation_of_camvid_is_that_of_numpy(camvid_root: Path) -> None:
    """The same on real photographs with 150 classes, most of them absent."""
    task = double_task(camvid_root, *CAMVID, favoured=CAMVID_CLASSES, num_images=4)
    check(task.evaluate(World(), CPU), task.details, task)
    ious = task.details["iou_per_class"]
    assert ious["building, edifice"] > 0
    assert ious["pier, wharf, wharfage, dock"] == 0
    assert sum(iou is None for iou in ious.values()) > 100


def check_on_two_ranks(root: Path, *evaluations: dict[str, Any]) -> None:
    """Two processes share the images of each evaluation, agree on its figures, and find what numpy finds."""
    script, port = REPOSITORY / "tests" / "nepa_scale" / "segment_oracle.py", str(free_port())
    processes = [
        WarmChild(
            [sys.executable, str(script), str(root), json.dumps(evaluations)],
            env=clean_environment(
                PYTHONPATH=str(REPOSITORY),
                RANK=str(rank),
                WORLD_SIZE="2",
                LOCAL_RANK=str(rank),
                MASTER_ADDR="127.0.0.1",
                MASTER_PORT=port,
            ),
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0]
    first, second = ([line for line in output.splitlines() if line.startswith("[{")] for output in outputs)
    assert first == second
    for line, evaluation in zip(first, evaluations, strict=True):
        words = evaluation.pop("words")
        check(*json.loads(line), double_task(root, *words, **evaluation))


def test_two_ranks_find_what_numpy_finds(street: Path) -> None:
    """Uneven shares at several scales; and a single image, of which one rank has nothing."""
    check_on_two_ranks(
        street,
        {"words": ["data=street", "segment.multi_scale=true"], "favoured": (0, 1, 3), "num_images": 5},
        {"words": ["data=street", "segment.eval_mode=whole"], "favoured": (0, 1, 3), "num_images": 1},
    )


def test_two_ranks_on_camvid_find_what_numpy_finds(camvid_root: Path) -> None:
    """The same on real photographs, three of them."""
    check_on_two_ranks(camvid_root, {"words": CAMVID, "favoured": CAMVID_CLASSES, "num_images": 3})


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [[(48, 48), (48, 64), (48, 48), (48, 96)], [(48, 64)]], ids=["uneven", "one image"])
def test_partitioned_weights_are_evaluated_in_step(tmp_path: Path, sizes: list[tuple[int, int]]) -> None:
    """Under ZeRO-3 a forward pass needs every rank: unequal numbers of passes, or no image at all, do not hang."""
    write_masked(tmp_path, sizes)
    words = ["data=street", "segment.eval_mode=whole", "segment.steps=1", "segment.batch_size=2", "segment.hflip=0.5"]
    words += ["segment.aux_weight=0.4", "segment.dropout=0.1", "model.patch_size=14", "segment.image_size=48"]
    config = [f"data.root={tmp_path}", "task=segment", "model=femto", "segment.channels=8", "init=scratch", *words]
    run_dir = tmp_path / "run"
    train([*config, f"run_dir={run_dir}", "engine.ds_config=zero3", "log.tensorboard=false"], world_size=2)
    result = json.loads((run_dir / "segment" / "result.json").read_text())
    alone = Segment(config_of(tmp_path, "segment", "init=scratch", *words), None)
    weights = safetensors.torch.load_file(run_dir / "segment" / "model.safetensors")
    heads = {name: value for name, value in weights.items() if name.startswith(("head.", "auxiliary."))}
    backbone = {f"backbone.{name}": value for name, value in weights.items() if name not in heads}
    alone.module.load_state_dict({**heads, **backbone})
    with torch.no_grad():
        expected = alone.evaluate(World(), CPU)
    assert {name: result["metrics"][name] for name in expected} == pytest.approx(expected, abs=1e-3)
