"""The command: ``python -m nepa_scale.weights import SOURCE OUT_DIR``, ``... export RUN_OR_DIR OUT_DIR``,
``... check DIR [IMAGE ...]`` and ``... evaluate RUN_OR_DIR benchmark=NAME source=DIR``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from nepa_scale.config.ladder import QkNorm
from nepa_scale.utils.arguments import ANSWERS_IN_JSON, grammar_of_kinds, option
from nepa_scale.utils.cli import command, print_json
from nepa_scale.utils.errors import WeightsError
from nepa_scale.utils.files import expand_home
from nepa_scale.weights.benchmarks import BENCHMARKS

EXIT_DIFFERS = 1


@dataclass(frozen=True)
class ImportSettings:
    """the authors' Hugging Face layout -> a folder that timm loads"""

    source: str = option(
        "a folder, or a hub name such as owner/name@revision", positional=True, form="SOURCE", read=expand_home
    )
    out: Path = option("a new folder", positional=True, form="OUT_DIR")
    ema: bool = option("the moving average, pytorch_model_ema.bin", False)
    qk_norm: QkNorm | None = option("overrules config.json (default: what it says)", None, choices=get_args(QkNorm))
    attention: str | None = option(
        "overrules config.json (default: what it says)", None, choices=("causal", "bidirectional")
    )


@dataclass(frozen=True)
class ExportSettings:
    """a run, or a folder of weights -> either layout"""

    source: Path = option("a run's folder, or one with weights in it", positional=True, form="RUN_OR_DIR")
    out: Path = option("a new folder", positional=True, form="OUT_DIR")
    layout: str = option("what to write", choices=("timm", "authors"))
    task: str | None = option("whose weights of a run (default: pretrain)", None, choices=("pretrain", "classify"))
    ema: bool = option("the moving average of a run's weights", False)


@dataclass(frozen=True)
class CheckSettings:
    """what weights do on images, beside published values; exit code 1 where they differ"""

    folder: Path = option("weights in timm's or the authors' layout", positional=True, form="DIR")
    images: tuple[Path, ...] = option("photographs (default: a scene of digits)", (), positional=True, form="IMAGE ...")
    json: bool = option(ANSWERS_IN_JSON, False)


@dataclass(frozen=True)
class EvaluateSettings:
    """a classifier of ImageNet on another test set, as it lies on disk after its download"""

    weights: Path = option(
        "a run with finished classification, or a folder of timm's layout", positional=True, form="RUN_OR_DIR"
    )
    benchmark: str = option("the test set", choices=tuple(BENCHMARKS))
    source: Path = option("folder of the test set; of imagenet-real ImageNet's validation images")
    ema: bool = option("the moving average of a run's weights", False)
    batch_size: int = option("images at a time", 64, low=1)
    num_workers: int = option("processes that read images; 0 = none besides this one", 0, low=0)
    json: bool = option(ANSWERS_IN_JSON, False)


Settings = ImportSettings | ExportSettings | CheckSettings | EvaluateSettings
KINDS: dict[str, type[Settings]] = {
    "import": ImportSettings,
    "export": ExportSettings,
    "check": CheckSettings,
    "evaluate": EvaluateSettings,
}
GRAMMAR = grammar_of_kinds(
    KINDS,
    "python -m nepa_scale.weights import|export|check|evaluate ... key=value ...    (installed: nepa-weights)",
    "Weights in and out.",
    "nepa-weights import SixAILab/nepa-base-patch14-224 weights/base",
    "nepa-weights export runs/mine exported layout=timm",
    "nepa-weights check weights/base photo.jpg",
    "nepa-weights evaluate runs/base benchmark=imagenet-r source=imagenet-r",
)


@command(GRAMMAR)
def main(settings: Settings) -> int:
    """Do what was asked for; returns the exit code: 0 done, 1 other values than published, 2 a user's mistake."""
    if isinstance(settings, CheckSettings):
        return look(settings)
    if isinstance(settings, EvaluateSettings):
        return score(settings)
    print(bring_in(settings) if isinstance(settings, ImportSettings) else give_out(settings))
    return 0


def bring_in(chosen: ImportSettings) -> str:
    """Import; returns the lines that say what was found. Raises ``UserError``."""
    from nepa_scale.weights import convert, tensor_files
    from nepa_scale.weights.authors_config import Wishes

    convert.check_output(chosen.out)
    wishes = Wishes(chosen.qk_norm, None if chosen.attention is None else chosen.attention == "causal")
    folder = tensor_files.local_folder(chosen.source, ema=chosen.ema)
    weights, notes = convert.read_authors(folder, ema=chosen.ema, wishes=wishes)
    convert.write_timm(weights, chosen.out)
    return "\n".join([f"{chosen.out}: {weights.description}", *notes])


def give_out(chosen: ExportSettings) -> str:
    """Export; returns the line that says what was written. Raises ``UserError``."""
    from nepa_scale.run_dir import paths
    from nepa_scale.weights import convert, timm_layout

    convert.check_output(chosen.out)
    if (chosen.source / paths.CONFIG_NAME).is_file():
        weights = convert.read_run(chosen.source, task=chosen.task or "pretrain", ema=chosen.ema)
    elif chosen.task or chosen.ema:
        raise WeightsError(f"{chosen.source}: no run (no config.yaml), so task= and ema= have nothing to choose from")
    elif timm_layout.is_timm_folder(chosen.source):
        weights = convert.read_timm(chosen.source)
    else:
        raise WeightsError(f"{chosen.source}: neither a run (config.yaml) nor weights (config.json, model.safetensors)")
    write = convert.write_timm if chosen.layout == "timm" else convert.write_authors
    write(weights, chosen.out)
    return f"{chosen.out}: {weights.description}"


def look(chosen: CheckSettings) -> int:
    """Check weights and print what was found; returns the exit code. Raises ``UserError``."""
    from nepa_scale.weights import check

    found = check.check(chosen.folder, chosen.images)
    if chosen.json:
        print_json(found)
    else:
        print("\n".join(told(found)))
    return EXIT_DIFFERS if found["reference"]["verdict"] == "differs" else 0


def score(chosen: EvaluateSettings) -> int:
    """Evaluate a classifier and print its scores; returns the exit code. Raises ``UserError``."""
    from nepa_scale.weights.evaluate import evaluate

    found = evaluate(
        chosen.weights,
        chosen.benchmark,
        chosen.source,
        ema=chosen.ema,
        batch_size=chosen.batch_size,
        num_workers=chosen.num_workers,
    )
    if chosen.json:
        print_json(found)
        return 0
    error = f"  mCE {found['mce']:.1%}" if "mce" in found else ""
    title, scores = BENCHMARKS[chosen.benchmark].title, f"top-1 {found['top1']:.2%}  top-5 {found['top5']:.2%}"
    print(f"{chosen.weights}: {title}, {found['images']:,} images: {scores}{error}")
    return 0


def told(found: Mapping[str, Any]) -> list[str]:
    """The lines that say what ``check`` found."""
    lines = [f"{found['folder']}: {found['model']}", *found["notes"]]
    for each in found["images"]:
        if "loss" in each:
            lines.append(f"{each['image']}: loss {each['loss']:.4f}, first token {_numbers(each['first_token'])} ...")
            continue
        lines.append(f"{each['image']}: scores {_numbers(each['logits'])} ...")
        shown = (f"  {one['probability']:6.1%}  {one['label']}  {one['name'] or ''}" for one in each["classes"])
        lines += map(str.rstrip, shown)
    if len(found["images"]) > 1 and "mean_loss" in found:
        lines.append(f"mean loss {found['mean_loss']:.4f}")
    reference = found["reference"]
    of = f"{reference['weights']}; {reference['source']}" if "weights" in reference else "none of weights of this shape"
    lines.append(f"published values: {reference['verdict']} ({of})")
    for one in reference.get("compared", ()):
        apart = f"{'at most' if one['matches'] else 'more than'} {one['tolerance']:g} apart"
        values = f"{_numbers(one['published'])} published, {_numbers(one['found'])} here"
        lines.append(f"  {one['name']}: {values}, {apart}")
    return lines + [f"  {name}: not compared, {why}" for name, why in reference.get("not_compared", {}).items()]


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:.4f}" for value in values)


if __name__ == "__main__":
    sys.exit(main())
