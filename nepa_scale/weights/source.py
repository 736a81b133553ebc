"""What lies behind the weights that a task starts from: the run they come from, and what it had seen and computed.

Transfer is fitted to such numbers: how the error falls with images of one data set, given those seen of another before
(Hernandez et al. 2021, arXiv 2102.01293). Free of torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nepa_scale.config.registry import spec
from nepa_scale.config.schema import RunConfig
from nepa_scale.run_dir.paths import pretrain_directory
from nepa_scale.utils.files import read_json
from nepa_scale.weights.initial import recorded, run_and_task

#: By their names in ``result.json``: of the task itself, and of what came before it.
AMOUNTS = {"flops_train": "source_flops", "images_seen": "source_images", "tokens_seen": "source_tokens"}


def source_of(config: RunConfig) -> dict[str, Any]:
    """What ``result.json`` says of the folder that the task starts from; null without one.

    ``source_run`` is the run's id, or the folder itself where it holds weights that no run left. ``source_flops``
    (FLOPs of training), ``source_images`` and ``source_tokens`` are the sums over all that its weights rest on, further
    runs before it included; null where anything of it is not on record, as of imported weights.
    """
    if config.start in ("pretrain", "scratch"):
        return {"source_run": None} | dict.fromkeys(AMOUNTS.values())
    folder = Path(config.start)
    run, task = run_and_task(folder)
    if run is None:
        return {"source_run": str(folder)} | dict.fromkeys(AMOUNTS.values())
    there = recorded(run)
    spent = _spent(pretrain_directory(run, there) if task == "pretrain" else folder)
    return {"source_run": there.run_id} | {name: spent and spent[key] for key, name in AMOUNTS.items()}


def _spent(task_dir: Path) -> dict[str, int] | None:
    """The amounts of the task in a folder and of all that it rests on; None where they are not on record."""
    try:
        result = read_json(task_dir / "result.json")
        own = {key: int(result[key]) for key in AMOUNTS}
        before = _spent_before(task_dir, result)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None if before is None else {key: own[key] + before[key] for key in AMOUNTS}


def _spent_before(task_dir: Path, result: dict[str, Any]) -> dict[str, int] | None:
    """The same of what the task in a folder started from."""
    if spec(result["task"]).downstream and result["init"] == "pretrain":
        return _spent(pretrain_directory(task_dir.parent, recorded(task_dir.parent)))
    if result.get("source_run") is None and result["init"] in ("pretrain", "scratch"):
        return dict.fromkeys(AMOUNTS, 0)
    before = {key: result.get(name) for key, name in AMOUNTS.items()}
    return None if None in before.values() else before
