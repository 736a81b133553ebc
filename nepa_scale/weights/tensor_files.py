"""Files of tensors that others wrote, local or on the Hugging Face hub: read whole or refused, and never executed."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from nepa_scale.utils.errors import WeightsError, first_line, shortened
from nepa_scale.weights.authors_layout import PREPROCESSOR_NAME
from nepa_scale.weights.timm_layout import CONFIG_NAME, WEIGHTS_NAME, read_config_file

PICKLE_NAME = "pytorch_model.bin"
INDEX_NAMES = (f"{WEIGHTS_NAME}.index.json", f"{PICKLE_NAME}.index.json")
EMA_NAME = "pytorch_model_ema.bin"
_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_LFS_MARK = b"version https://git-lfs"
_SHARD_NAME = re.compile(r"[\w-][\w.-]*\.(safetensors|bin)")
_HUB_NAME = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
_RAW_FILES = ("model*.safetensors", PICKLE_NAME, "pytorch_model-*.bin", *INDEX_NAMES)


def find_tensors(folder: Path, *, ema: bool) -> Path:
    """The weights file of a Hugging Face folder. Raises ``WeightsError`` naming what was looked for."""
    names = (EMA_NAME,) if ema else (WEIGHTS_NAME, INDEX_NAMES[0], PICKLE_NAME, INDEX_NAMES[1])
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        raise WeightsError(f"{folder}: holds no {' and no '.join(names)}")
    return path


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` or ``.bin`` file, or of all files of an index, by name, on the CPU.

    Raises:
        WeightsError: naming the file, when it is truncated, not of its kind, or holds anything but finite numbers.
    """
    if path.name in INDEX_NAMES:
        return _read_shards(path)
    try:
        with path.open("rb") as file:
            if file.read(len(_LFS_MARK)) == _LFS_MARK:
                raise WeightsError(f"{path}: a Git LFS pointer instead of the weights; run `git lfs pull` there")
        tensors = _read_pickle(path) if path.suffix == ".bin" else safetensors.torch.load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: not a readable {path.suffix} file ({first_line(error)})") from error
    check_values(tensors, path)
    return tensors


def check_values(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raise ``WeightsError`` naming tensors that are no weights: integers, NaN or infinite numbers."""
    odd = [name for name, value in tensors.items() if value.dtype not in _DTYPES or value.layout != torch.strided]
    if odd:
        raise WeightsError(f"{path}: holds tensors that are no weights (not floating-point): {shortened(odd)}")
    spoilt = [name for name, value in tensors.items() if not torch.isfinite(value).all()]
    if spoilt:
        remedy = "use weights from before they came in, or fetch the file again"
        raise WeightsError(f"{path}: holds NaN or infinite numbers: {shortened(spoilt)}; {remedy}")


def check_tensors(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> None:
    """Compare names and shapes with those of the model.

    Raises:
        WeightsError: naming the file and the keys that are missing, unknown or of another shape.
    """
    shared = [name for name in expected if name in tensors]
    complaints = {
        "missing": [name for name in expected if name not in tensors],
        "unknown": [name for name in tensors if name not in expected],
        "of another shape": [
            f"{name} {list(tensors[name].shape)} instead of {list(expected[name].shape)}"
            for name in shared
            if tensors[name].shape != expected[name].shape
        ],
    }
    problems = "; ".join(f"{what}: {shortened(names)}" for what, names in complaints.items() if names)
    if problems:
        raise WeightsError(f"{path}: does not hold this model's tensors; {problems}")


def _read_shards(index: Path) -> dict[str, Tensor]:
    files = read_config_file(index).get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(f, str) and _SHARD_NAME.fullmatch(f) for f in files.values()):
        raise WeightsError(f"{index}: weight_map must name a file of the same folder for each tensor")
    shards = {name: read_tensors(index.with_name(name)) for name in dict.fromkeys(files.values())}
    absent = [name for name, file in files.items() if name not in shards[file]]
    if absent:
        raise WeightsError(f"{index}: tensors missing from the files it names: {shortened(absent)}")
    unlisted = [f"{name} in {file}" for file, shard in shards.items() for name in shard if files.get(name) != file]
    if unlisted:
        raise WeightsError(f"{index}: does not list all tensors of its files: {shortened(unlisted)}")
    return {name: shards[file][name] for name, file in files.items()}


def _read_pickle(path: Path) -> dict[str, Tensor]:
    """A state dict written by ``torch.save``, bare or under the key ``state_dict``."""
    if not zipfile.is_zipfile(path):
        raise WeightsError(f"{path}: truncated, or not written by torch.save (no whole zip archive)")
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(f"{path}: holds Python objects other than tensors; refused, nothing was executed") from error
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise WeightsError(f"{path}: not a state dict as torch.save writes it ({first_line(error)})") from error
    if isinstance(content, dict):
        content = content.get("state_dict", content)
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError(f"{path}: expected tensors by name, found {type(content).__name__} of other things")
    return {str(name): value.detach() for name, value in content.items()}


def local_folder(source: str, *, ema: bool) -> Path:
    """The folder that ``source`` names, after a download where it is a hub name (``owner/name[@revision]``).

    Raises:
        WeightsError: when there is no such folder and the hub does not give it.
    """
    from huggingface_hub import snapshot_download  # here, because it is slow to import

    path = Path(source)
    if path.is_dir():
        return path
    if path.exists():
        raise WeightsError(f"{source}: a file; name the folder that holds it, with its config.json")
    named = _HUB_NAME.fullmatch(source)
    if named is None:
        raise WeightsError(f"{source}: no such folder, and no hub name (owner/name or owner/name@revision)")
    files = (CONFIG_NAME, PREPROCESSOR_NAME, *((EMA_NAME,) if ema else _RAW_FILES))
    try:
        return Path(snapshot_download(named["name"], revision=named["revision"], allow_patterns=list(files)))
    except Exception as error:  # the hub's HTTP library, and so its errors, differ between versions
        raise WeightsError(f"{source}: no such folder, and the hub does not give it ({first_line(error)})") from error
