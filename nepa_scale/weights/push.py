"""Publishing the weights of a run: a folder that timm loads, with a model card, and its upload to the Hub."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError
from huggingface_hub.utils import validate_repo_id

from nepa_scale.config import overrides
from nepa_scale.run_dir import paths
from nepa_scale.utils.errors import WeightsError, first_line
from nepa_scale.utils.files import write_atomically
from nepa_scale.weights import convert
from nepa_scale.weights.card import Published, card, other_seeds, read_result

CARD_NAME = "README.md"
STUDY_PICTURE = "headline.png"
HUB_ERRORS: tuple[type[Exception], ...] = (
    LocalTokenNotFoundError,
    OSError,
    *(base for base in HfHubHTTPError.__bases__ if issubclass(base, Exception)),
)
"""Without a token, what the Hub answers, and what the HTTP client of huggingface_hub raises, whichever that is."""


def check_name(name: str) -> None:
    """Raise ``WeightsError`` unless ``name`` can be that of a repository of the Hub."""
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise WeightsError(f"{name}: no name of a repository ({first_line(error)}); give OWNER/NAME") from error


def write_folder(run_dir: Path, name: str, folder: Path, *, task: str, ema: bool, licence: str) -> None:
    """Write what is published of a run into the new ``folder``: weights, configuration, card and pictures.

    Raises ``UserError`` where the task has not finished.
    """
    convert.check_output(folder)
    config = overrides.load(run_dir / paths.CONFIG_NAME)
    task_dir = paths.pretrain_directory(run_dir, config) if task == "pretrain" else run_dir / task
    result = read_result(task_dir)
    weights = convert.read(run_dir, task=task, ema=ema)
    pictures = _pictures(run_dir, task_dir)
    started = paths.pretrain_directory(run_dir, config)
    published = Published(
        name,
        str(weights.description),
        licence,
        result,
        read_result(started) if task != "pretrain" and (started / "result.json").is_file() else None,
        other_seeds(task_dir.parent, task),
        {target: caption for target, (_, caption) in pictures.items()},
        "ema_" if ema else "",
    )
    text = card(published)
    convert.write_timm(weights, folder)
    for target, (source, _) in pictures.items():
        shutil.copyfile(source, folder / target)
    write_atomically(folder / CARD_NAME, text)


def _pictures(run_dir: Path, task_dir: Path) -> dict[str, tuple[Path, str]]:
    """{name in the folder: (file, caption)} of the figures that are there: the study's and the task's."""
    known = {
        STUDY_PICTURE: (
            run_dir.absolute().parents[1] / STUDY_PICTURE,
            "The study that this run is one point of: error against model size and compute.",
        ),
        paths.PICTURES_NAME: (
            task_dir / paths.PICTURES_NAME,
            "What some tokens of validation images attend to, and what their predictions are like.",
        ),
    }
    return {name: each for name, each in known.items() if each[0].is_file()}


def push(write: Callable[[Path], None], name: str, *, private: bool) -> str:
    """Upload the folder that ``write`` fills to the repository ``name``, which is made if need be; returns its address.

    The token is that of ``HF_TOKEN`` or ``hf auth login``. Raises ``WeightsError`` with the Hub's reason.
    """
    api = HfApi()
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "weights"
        write(folder)
        try:
            address = api.create_repo(name, private=private, exist_ok=True)
            api.upload_folder(repo_id=name, folder_path=folder, commit_message="Weights and card from nepa_scale")
        except HUB_ERRORS as error:
            raise WeightsError(f"{name}: the hub does not take it ({first_line(error)})") from error
    return str(address)
