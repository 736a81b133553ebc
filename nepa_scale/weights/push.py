"""Publishing the weights of a run: a folder that timm loads, with a model card, and its upload to the Hub.

The card says what the weights are, what made them and what came out, by ``result.json`` alone.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import yaml
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError
from huggingface_hub.utils import validate_repo_id

from nepa_scale.config import overrides
from nepa_scale.config.objectives import NEXT_EMBEDDING, SPECS
from nepa_scale.config.overrides import KEYS
from nepa_scale.config.registry import PRETRAIN, Metric, spec
from nepa_scale.run_dir import run_folder
from nepa_scale.utils.errors import WeightsError, first_line
from nepa_scale.utils.files import read_json, write_atomically
from nepa_scale.weights import convert

CONFIDENCE = 0.95
ABOUT = (
    "NEPA, next-embedding prediction ([arXiv 2512.16922](https://arxiv.org/abs/2512.16922)), trains a causal vision"
    " transformer to predict the embedding of the next patch."
)
CITATION = """\
@article{nepa2025,
  title   = {Next-Embedding Prediction Makes Strong Vision Learners},
  author  = {Xu, Sihan and Ma, Ziqiao and Chai, Wenhao and Chen, Xuweiyi and Jin, Weiyang and Chai, Joyce and
             Xie, Saining and Yu, Stella X.},
  journal = {arXiv preprint arXiv:2512.16922},
  year    = {2025}
}"""
Result = Mapping[str, Any]


def read_result(task_dir: Path) -> Result:
    """The result of a finished task. Raises ``WeightsError``."""
    path = task_dir / "result.json"
    try:
        content: Result = read_json(path)
    except FileNotFoundError:
        raise WeightsError(
            f"{path}: does not exist; the card's numbers come from the result of a finished task"
        ) from None
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: not a readable JSON file ({error})") from error
    return content


def other_seeds(run_dir: Path, task: str) -> list[Result]:
    """The results of ``task`` in the runs beside ``run_dir`` that differ from it in the seed alone, its own first."""
    own = read_result(run_dir / task)
    results = [own]
    for path in sorted(run_dir.absolute().parent.glob(f"*/{task}/result.json")):
        with suppress(WeightsError, KeyError, TypeError):  # what is damaged, or no run's, is no matter of this one
            other = read_result(path.parent)
            if other["seed"] != own["seed"] and _settings(other) == _settings(own):
                results.append(other)
    return results


def _summary(result: Result) -> str:
    """What was trained on what, from which start, and what its pre-training predicts."""
    config, task = result["config"], spec(result["task"])
    size, dataset = f"vision transformer of size `{config['model.size']}`", config[f"{task.name}.dataset"]
    on = f"on `{dataset}` with nepa_scale"
    if task.downstream and result["init"] == "scratch":
        return f"A {size} for {task.title.lower()}, trained from scratch on labels, without pre-training, {on}."
    done = f"fine-tuned for {task.title.lower()}" if task.downstream else "pre-trained"
    start = f", from the weights of {_started(result)}" if result.get("source_run") else ""
    return f"A NEPA {size}, {done} {on}{start}. {_about(result)}"


def _started(result: Result) -> str:
    """Where the task started: the run or folder whose weights those were, or the value of ``init``."""
    start = result.get("source_run") or (result["init"] if spec(result["task"]).downstream else "scratch")
    named = "this run's own pre-training" if start == PRETRAIN.name else f"`{start}`"
    return f"{named}{', which had seen labels' if result.get('init_finetuned') else ''}"


def _about(result: Result) -> str:
    """What the pre-training predicts: NEPA's embeddings, or what was put in their place."""
    objective = result["config"].get("pretrain.objective", NEXT_EMBEDDING.name)
    elsewhere = spec(result["task"]).downstream and result["init"] != "pretrain"  # whose settings are not known here
    if elsewhere or objective == NEXT_EMBEDDING.name:
        return ABOUT
    title = SPECS[objective].title if objective in SPECS else objective
    return f"{ABOUT} This one was pre-trained on {title} in their place."


def _settings(result: Result) -> dict[str, Any]:
    """The settings that change a result, without the seed."""
    config: Mapping[str, Any] = result["config"]
    left_out = {key for key, meta in KEYS.items() if meta["orchestration"]} | {"seed"}
    return {key: value for key, value in config.items() if key not in left_out}


def card(
    name: str,
    seeds: Sequence[Result],
    *,
    model: str,
    licence: str,
    pretraining: Result | None = None,
    pictures: Mapping[str, str] | None = None,
    prefix: str = "",
) -> str:
    """The text of ``README.md``: the Hub's metadata, then Markdown.

    ``seeds`` are the results of runs that differ in their seed alone, this one's first. ``model`` describes the
    architecture in words. ``pretraining`` is the result of the pre-training that a fine-tuned model started from, None
    where it is not at hand. ``pictures`` are the names of image files beside the card, each with its caption.
    ``prefix`` begins the names of the metrics of a moving average.
    """
    result, task = seeds[0], spec(seeds[0]["task"])
    metadata = {
        "license": licence,
        "library_name": "timm",
        "pipeline_tag": "image-classification" if task.downstream else "image-feature-extraction",
        "tags": ["nepa", "timm", "vision-transformer"],
    }
    columns = ("", "this task", "pre-training")[: 3 if pretraining else 2]
    lines = [
        f"---\n{yaml.safe_dump(metadata, sort_keys=False).strip()}\n---",
        f"# {name.rpartition('/')[2]}",
        _summary(result),
        f"{model[:1].upper()}{model[1:]}.",
        *_usage(name),
        "## Training",
        _table(columns, _training([result, *filter(None, [pretraining])])),
        "## Results",
        *_results(seeds, prefix),
        *(f"![{caption}]({file})\n\n{caption}" for file, caption in (pictures or {}).items()),
        f"## Licence\n\n{licence}",
        f"## Citation\n\n```bibtex\n{CITATION}\n```",
    ]
    return "\n\n".join(lines) + "\n"


def _usage(name: str) -> Iterator[str]:
    yield (
        "## Use\n\n```python\n"
        "import timm\n"
        "import nepa_scale.models.nepa_vit  # makes the architecture known to timm\n"
        f'model = timm.create_model("hf-hub:{name}", pretrained=True).eval()\n```'
    )
    yield (
        "`pip install .` in the repository of nepa_scale gives both."
        " Preprocessing: `timm.data.resolve_model_data_config(model)`."
    )


def _training(results: Sequence[Result]) -> Iterator[tuple[str, ...]]:
    """The rows of the table of costs."""
    texts = {
        "started from": _started,
        "data set": lambda each: each["config"][f"{each['task']}.dataset"],
        "steps": lambda each: f"{each['steps']:,}",
        "images seen (different ones)": lambda each: f"{each['images_seen']:,} ({each['unique_images']:,})",
        "image size": lambda each: str(each["config"][f"{each['task']}.image_size"]),
        "FLOPs of training": lambda each: f"{each['flops_train']:.3g}",
        "parameters (blocks and final norm)": lambda each: f"{each['params_total']:,} ({each['params_backbone']:,})",
        "device": lambda each: f"{each['device_count']} x {each['device_kind']}",
        "seed": lambda each: str(each["seed"]),
        "run": lambda each: each["run_id"],
        "commit of nepa_scale": lambda each: each["commit"],
    }
    if any(each.get("source_run") for each in results):
        texts["FLOPs of training before it"] = lambda each: f"{each['source_flops']:.3g}" if _has_past(each) else ""
    for name, text in texts.items():
        yield (name, *map(text, results))


def _has_past(result: Result) -> bool:
    return result.get("source_flops") is not None


def _results(seeds: Sequence[Result], prefix: str) -> Iterator[str]:
    """The table of metrics; where other seeds are at hand, with their mean and its interval."""
    heading = ["metric", "this model"]
    if len(seeds) > 1:
        heading.append(f"mean of {len(seeds)} seeds ({CONFIDENCE:.0%} interval)")
    rows = []
    for metric in spec(seeds[0]["task"]).metrics:
        values = [each["metrics"][prefix + metric.key] for each in seeds if prefix + metric.key in each["metrics"]]
        if len(values) == len(seeds):
            rows.append(
                [metric.label, _written(metric, values[0]), *([_mean(metric, values)] if len(seeds) > 1 else [])]
            )
    yield f"On the {seeds[0]['validation_images']:,} validation images of the data set."
    yield _table(heading, rows)


def _mean(metric: Metric, values: Sequence[float]) -> str:
    """The mean over seeds with Student's interval of it."""
    from scipy.special import stdtrit

    mean, count = fmean(values), len(values)
    half = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2)) * stdev(values) / math.sqrt(count)
    return f"{_written(metric, mean)} ({_written(metric, mean - half)} to {_written(metric, mean + half)})"


def _written(metric: Metric, value: float) -> str:
    return f"{100 * value:.2f} %" if metric.unit == "percent" else f"{value:.4g}"


def _table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


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
    config = overrides.load(run_dir / run_folder.CONFIG_NAME)
    task_dir = run_folder.pretrain_directory(run_dir, config) if task == "pretrain" else run_dir / task
    seeds = other_seeds(task_dir.parent, task)
    weights = convert.read(run_dir, task=task, ema=ema)
    pictures = _pictures(run_dir, task_dir)
    started = run_folder.pretrain_directory(run_dir, config)
    text = card(
        name,
        seeds,
        model=str(weights.description),
        licence=licence,
        pretraining=read_result(started) if task != "pretrain" and (started / "result.json").is_file() else None,
        pictures={target: caption for target, (_, caption) in pictures.items()},
        prefix="ema_" if ema else "",
    )
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
        run_folder.PICTURES_NAME: (
            task_dir / run_folder.PICTURES_NAME,
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
