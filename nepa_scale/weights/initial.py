"""The weights that a task starts from: where they lie, whether they fit the run's settings, and what lies behind them.

Free of torch.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from nepa_scale.config import overrides
from nepa_scale.config.registry import TASKS, spec
from nepa_scale.config.schema import RunConfig
from nepa_scale.data import layout
from nepa_scale.data.preprocessing import BY_DATASET, Preprocessing, Standardisation
from nepa_scale.run_dir.run_folder import (
    AVERAGE_NAME,
    CONFIG_NAME,
    WEIGHTS_NAME,
    pretrain_directory,
    standardisation,
)
from nepa_scale.utils.errors import UserError, WeightsError, changes
from nepa_scale.utils.files import read_json
from nepa_scale.weights import timm_layout

PATCH_EMBEDDING = "patch_embed.proj.weight"
#: Amounts by their names in ``result.json``: of a task itself, and of what came before it.
AMOUNTS = {"flops_train": "source_flops", "images_seen": "source_images", "tokens_seen": "source_tokens"}


def initial_weights(run_dir: Path, config: RunConfig) -> Path | None:
    """The weights file that the task starts from; None for a start from scratch.

    ``init``, or ``pretrain.init`` of pre-training itself, may be a run, of which the pre-training counts, its own or
    the one it shares; the folder of a task of a run; or a folder with weights, such as ``nepa_scale.weights`` writes.
    """
    if config.start == "scratch":
        return None
    name = AVERAGE_NAME if _starts_from_average(config) else WEIGHTS_NAME
    if config.start == "pretrain":
        return pretrain_directory(run_dir, config) / name
    folder = Path(config.start)
    run, task = _run_and_task(folder)
    if run is None:
        holds_weights = (folder / WEIGHTS_NAME).is_file() or (folder / name).is_file()
        return (folder if holds_weights else folder / "pretrain") / name
    return (pretrain_directory(run, _recorded(run)) if task == "pretrain" else folder) / name


def check_start(run_dir: Path, config: RunConfig) -> list[str]:
    """Problems of where the task starts: the weights must be there, and of the model that the settings describe."""
    if not spec(config.task).downstream and config.pretrain_dir:
        return [f"pretrain_dir={config.pretrain_dir}: names a finished pre-training; task=pretrain makes a new one"]
    try:
        weights = initial_weights(run_dir, config)
        if weights is None:
            return []
        if config.start == "pretrain":
            return _missing_pretraining(weights, config) or _other_pretraining(config)
        problems = _no_start(Path(config.start)) or _missing_start(weights, config) or _other_model(weights, config)
        return problems or _no_moments(weights, config)
    except UserError as error:
        return str(error).splitlines()


def _starts_from_average(config: RunConfig) -> bool:
    return bool(getattr(config.task_config(), "init_ema", False))


def _missing_pretraining(weights: Path, config: RunConfig) -> list[str]:
    if config.pretrain_dir and weights.parent.name != "pretrain":
        return [f"pretrain_dir={config.pretrain_dir}: name the pretrain folder of a run, or use init=DIR"]
    if weights.is_file():
        return []
    if config.pretrain_dir:
        return [f"pretrain_dir={config.pretrain_dir}: holds no {weights.name}; that pre-training has not finished"]
    return [f"{weights}: no finished pre-training in this run; run task=pretrain first, or give init=scratch"]


def _run_and_task(folder: Path) -> tuple[Path | None, str]:
    """The run that a folder is, or is a task's folder of, and that task; (None, "") where it is neither."""
    if (folder / CONFIG_NAME).is_file():
        return folder, "pretrain"
    if folder.name in TASKS and (folder.parent / CONFIG_NAME).is_file():
        return folder.parent, folder.name
    return None, ""


def _recorded(run: Path) -> RunConfig:
    return overrides.load(run / CONFIG_NAME)


def _no_start(folder: Path) -> list[str]:
    """Problems of starting from ``folder``, whatever weights are in it."""
    if folder.is_file():
        return [f"init={folder}: is a file; name its folder"]
    run, task = _run_and_task(folder)
    if run is None:
        return []
    there = _recorded(run)
    if spec(task).frozen_backbone:
        return [f"init={folder}: a probe leaves heads and no backbone; give init={run}"]
    if task == "pretrain" and there.init != "pretrain":
        tuned = [str(run / name) for name in ("classify", "segment") if (run / name / WEIGHTS_NAME).is_file()]
        starts = " or ".join([there.init, *tuned])
        return [f"init={folder}: no pre-training of its own (init={there.init} there); give {starts}"]
    return []


def _missing_start(weights: Path, config: RunConfig) -> list[str]:
    folder = Path(config.start)
    if weights.is_file():
        return []
    if weights.with_name(WEIGHTS_NAME).is_file():
        run, task = _run_and_task(folder)
        remedy = f"set {config.task}.init_ema=false; " + (
            "`import --ema` brings in the authors' moving average"
            if run is None
            else f"{task}.ema_decay={_recorded(run).task_config(task).ema_decay} there"
        )
        return [f"init={folder}: holds no {weights.name}; {remedy}"]
    authors = "; run `python -m nepa_scale.weights import` on it first" if (folder / "config.json").is_file() else ""
    own = "pretrain, " if spec(config.task).downstream else ""
    known = f"{own}scratch, the folder of a pre-trained run or of imported weights"
    return [f"init={folder}: {weights} does not exist; give {known}{authors}"]


def _other_pretraining(config: RunConfig) -> list[str]:
    """Problems of sharing the pre-training of another run: its settings must be the same."""
    if config.pretrain_dir is None:
        return []
    old, new = _recorded(Path(config.pretrain_dir).parent).pretrain_identity(), config.pretrain_identity()
    differing = changes(old, new)
    return [f"pretrain_dir={config.pretrain_dir}: pre-trained with other settings: {differing}"] if differing else []


def _other_model(weights: Path, config: RunConfig) -> list[str]:
    """Differences between the model of an ``init`` folder and this run's, by setting."""
    folder = Path(config.start)
    run, task = _run_and_task(folder)
    new = _named(dataclasses.asdict(config.model.architecture()), by_image=config.data.by_image)
    if run is not None:
        there = _recorded(run)
        old = _named(dataclasses.asdict(there.architecture(task)), by_image=there.data.by_image)
    elif timm_layout.is_timm_folder(folder):
        description = timm_layout.read_config(folder)
        old = _named(dataclasses.asdict(description.arch), by_image=description.standardise)
    else:
        old = {f"model.{key}": value for key, value in _shape(weights).items()}
        new = {key: new[key] for key in old}
    differing = changes(old, new)
    return [f"init={folder}: {weights.name} is of another model: {differing}"] if differing else []


def _no_moments(weights: Path, config: RunConfig) -> list[str]:
    """Why the optimiser's moments cannot be carried over into this pre-training, if they shall."""
    if spec(config.task).downstream or config.pretrain.init_optimizer == "fresh":
        return []
    run, task = _run_and_task(Path(config.start))
    key, checkpoints = "pretrain.init_optimizer=carried", weights.parent / "checkpoints"
    if run is None or task != "pretrain" or not any(checkpoints.glob("step_*/manifest.json")):
        return [f"{key}: {checkpoints} holds no checkpoint of a pre-training; give fresh"]
    optimizers = [each.pretrain.optimizer for each in (_recorded(run), config)]
    if optimizers[0] != optimizers[1]:
        return [f"{key}: '{run}' was trained by {optimizers[0]}, this one is by {optimizers[1]}; give fresh"]
    there, here = (each.pretrain.image_size for each in (_recorded(run), config))
    if config.model.pos_embed == "absolute" and there != here:
        return [f"{key}: positions of {there} pixels are resampled to {here}, their moments cannot be; give fresh"]
    return []


def _named(arch: dict[str, Any], *, by_image: bool) -> dict[str, Any]:
    """The architecture of a model by the settings that decide it."""
    return {f"model.{key}": value for key, value in arch.items()} | {"data.mean": "image" if by_image else "not image"}


def other_standardisation(config: RunConfig) -> str | None:
    """The line that says so where the weights of an ``init`` folder saw images standardised in another way.

    Weights that stand alone do not tell, and where each task takes its own data set's statistics, they may differ.
    """
    folder, data = Path(config.start), config.data
    run, task = _run_and_task(folder)
    if data.by_image or not folder.is_dir():
        return None
    there: Standardisation | Preprocessing
    if run is not None:
        of_run = _recorded(run)
        if of_run.data.mean == data.mean == BY_DATASET:
            return None
        task_dir = pretrain_directory(run, of_run) if task == "pretrain" else folder
        there = standardisation(of_run, task, task_dir)
    elif timm_layout.is_timm_folder(folder):
        there = timm_layout.read_config(folder).preprocessing
    else:
        return None
    ours = layout.standardisation(Path(data.root), config.task_config().dataset, data.mean, data.std)
    if (there.mean, there.std) == (ours.mean, ours.std):
        return None
    named = (f"data.{key}={','.join(map(str, getattr(there, key)))}" for key in ("mean", "std"))
    return f"init={folder}: its weights saw other images: {' '.join(named)} there; give that to begin where they are"


def source_of(config: RunConfig) -> dict[str, Any]:
    """What ``result.json`` says of the folder that the task starts from; null without one.

    ``source_run`` is the run's id, or the folder itself where it holds weights that no run left. ``source_flops``
    (FLOPs of training), ``source_images`` and ``source_tokens`` are the sums over all that its weights rest on, further
    runs before it included; null where anything of it is not on record, as of imported weights.
    """
    if config.start in ("pretrain", "scratch"):
        return {"source_run": None} | dict.fromkeys(AMOUNTS.values())
    folder = Path(config.start)
    run, task = _run_and_task(folder)
    if run is None:
        return {"source_run": str(folder)} | dict.fromkeys(AMOUNTS.values())
    task_dir = pretrain_directory(run, _recorded(run)) if task == "pretrain" else folder
    spent = _spent(task_dir) or {}
    return {"source_run": _recorded(task_dir.parent).run_id} | {name: spent.get(key) for key, name in AMOUNTS.items()}


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
    """The same of what the task in a folder started from. Raises ``KeyError`` or ``TypeError`` where that is unsaid."""
    if spec(result["task"]).downstream and result["init"] == "pretrain":
        return _spent(pretrain_directory(task_dir.parent, _recorded(task_dir.parent)))
    if result.get("source_run") is None and result["init"] in ("pretrain", "scratch"):
        return dict.fromkeys(AMOUNTS, 0)
    return {key: int(result[name]) for key, name in AMOUNTS.items()}


def _shape(weights: Path) -> dict[str, int]:
    """The size of the backbone in a file of tensors. Raises ``WeightsError`` where they are of none."""
    try:
        weights.open("rb").close()  # safetensors calls a file that may not be read missing
        with safe_open(weights, "numpy") as file:
            names = list(file.keys())
            if PATCH_EMBEDDING not in names:
                raise WeightsError(f"{weights}: no backbone of this project: it lacks {PATCH_EMBEDDING}")
            width, _, patch_size, _ = file.get_slice(PATCH_EMBEDDING).get_shape()
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{weights}: not a readable safetensors file ({error})") from error
    depth = len({name.split(".")[1] for name in names if name.startswith("blocks.")})
    return {"patch_size": patch_size, "embed_dim": width, "depth": depth}
