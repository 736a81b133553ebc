"""Where to import from: a local folder, or a repository on the Hugging Face hub, downloaded."""

from __future__ import annotations

import re
from pathlib import Path

from nepa_scale.utils.errors import WeightsError
from nepa_scale.weights.authors_processor import PREPROCESSOR_NAME
from nepa_scale.weights.tensor_files import EMA_NAME, INDEX_NAMES, PICKLE_NAME
from nepa_scale.weights.timm_layout import CONFIG_NAME

_HUB_NAME = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
_RAW_FILES = ("model*.safetensors", PICKLE_NAME, "pytorch_model-*.bin", *INDEX_NAMES)


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
        detail = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{source}: no such folder, and the hub does not give it ({detail})") from error
