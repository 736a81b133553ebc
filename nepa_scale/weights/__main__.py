"""The command: ``python -m nepa_scale.weights import SOURCE OUT_DIR``, ``... export RUN_OR_DIR OUT_DIR``,
``... check DIR [IMAGE ...]``, ``... evaluate RUN_OR_DIR benchmark=NAME source=DIR``, ``... speed RUN_OR_DIR`` and
``... push RUN NAME``.
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


@dataclass(frozen=True)
class SpeedSettings:
    """images per second and the time of a batch on this machine; reading images is not part of it"""

    weights: Path = option("a run, or a folder of timm's layout", positional=True, form="RUN_OR_DIR")
    batch_size: tuple[int, ...] = option("images at a time (default: 1, 8 and 64)", (1, 8, 64), low=1)
    task: str | None = option("whose weights of a run (default: pretrain)", None, choices=("pretrain", "classify"))
    precision: str = option("bf16: under autocast", "fp32", choices=("fp32", "bf16"))
    seconds: float = option("how long each batch size is repeated", 3.0, above=0)
    json: bool = option(ANSWERS_IN_JSON, False)


@dataclass(frozen=True)
class PushSettings:
    """a run -> a repository of the Hugging Face Hub, with a model card; HF_TOKEN or `hf auth login` give the token"""

    source: Path = option("a run's folder", positional=True, form="RUN")
    name: str = option("the repository, which is made if need be", positional=True, form="OWNER/NAME")
    task: str = option("whose weights", "pretrain", choices=("pretrain", "classify"))
    ema: bool = option("the moving average of the run's weights", False)
    licence: str = option("of the weights, as the Hub writes it", "apache-2.0")
    private: bool = option("make a new repository private", False)
    dry_run: Path | None = option("write the folder there, and upload nothing", None, form="DIR")


Settings = ImportSettings | ExportSettings | CheckSettings | EvaluateSettings | SpeedSettings | PushSettings
KINDS: dict[str, type[Settings]] = {
    "import": ImportSettings,
    "export": ExportSettings,
    "check": CheckSettings,
    "evaluate": EvaluateSettings,
    "speed": SpeedSettings,
    "push": PushSettings,
}
GRAMMAR = grammar_of_kinds(
    KINDS,
    "python -m nepa_scale.weights import|export|check|evaluate|speed|push ... key=value ...  (installed: nepa-weights)",
    "Weights in and out.",
    "nepa-weights import SixAILab/nepa-base-patch14-224 weights/base",
    "nepa-weights export runs/mine exported layout=timm",
    "nepa-weights check weights/base photo.jpg",
    "nepa-weights evaluate runs/base benchmark=imagenet-r source=imagenet-r",
    "nepa-weights speed exported batch_size=1 batch_size=64",
    "nepa-weights push runs/mine somebody/nepa-mine dry_run=card",
)


@command(GRAMMAR)
def main(settings: Settings) -> int:
    """Do what was asked for; returns the exit code: 0 done, 1 other values than published, 2 a user's mistake."""
    if isinstance(settings, CheckSettings):
        return look(settings)
    if isinstance(settings, EvaluateSettings):
        return score(settings)
    if isinstance(settings, SpeedSettings):
        return time(settings)
    if isinstance(settings, ImportSettings):
        print(bring_in(settings))
    else:
        print(share(settings) if isinstance(settings, PushSettings) else give_out(settings))
    return 0


def bring_in(chosen: ImportSettings) -> str:
    """Import; returns the lines that say what was found. Raises ``UserError``."""
    from nepa_scale.weights import convert, tensor_files

    convert.check_output(chosen.out)
    overruling = {} if chosen.attention is None else {"is_causal": chosen.attention == "causal"}
    if chosen.qk_norm is not None:
        overruling |= {"qk_norm": chosen.qk_norm != "none", "qk_norm_affine": chosen.qk_norm == "weight"}
    folder = tensor_files.local_folder(chosen.source, ema=chosen.ema)
    weights, notes = convert.read_authors(folder, overruling, ema=chosen.ema)
    convert.write_timm(weights, chosen.out)
    return "\n".join([f"{chosen.out}: {weights.description}", *notes])


def give_out(chosen: ExportSettings) -> str:
    """Export; returns the line that says what was written. Raises ``UserError``."""
    from nepa_scale.weights import convert

    convert.check_output(chosen.out)
    weights = convert.read(chosen.source, task=chosen.task, ema=chosen.ema)
    write = convert.write_timm if chosen.layout == "timm" else convert.write_authors
    write(weights, chosen.out)
    return f"{chosen.out}: {weights.description}"


def share(chosen: PushSettings) -> str:
    """Publish, or write what would be; returns the line that says where it is. Raises ``UserError``."""
    from nepa_scale.weights import push

    push.check_name(chosen.name)

    def write(folder: Path) -> None:
        push.write_folder(chosen.source, chosen.name, folder, task=chosen.task, ema=chosen.ema, licence=chosen.licence)

    if chosen.dry_run is None:
        return push.push(write, chosen.name, private=chosen.private)
    write(chosen.dry_run)
    return f"{chosen.dry_run}: what would be uploaded to {chosen.name}"


def look(chosen: CheckSettings) -> int:
    """Check weights and print what was found; returns the exit code. Raises ``UserError``."""
    from nepa_scale.weights import check

    found = check.check(chosen.folder, chosen.images)
    if chosen.json:
        print_json(found)
    else:
        print("\n".join(lines_of(found)))
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
    of = "" if found["images"] == found["published_images"] else f" of {found['published_images']:,}"
    print(f"{chosen.weights}: {title}, {found['images']:,}{of} images: {scores}{error}")
    return 0


def time(chosen: SpeedSettings) -> int:
    """Measure speed and print it; returns the exit code. Raises ``UserError``."""
    from nepa_scale.weights.evaluate import speed, too_large

    found = speed(
        chosen.weights,
        chosen.batch_size,
        task=chosen.task,
        seconds=chosen.seconds,
        bf16=chosen.precision == "bf16",
    )
    if chosen.json:
        print_json(found)
    else:
        described = f"{found['device']}, {chosen.precision}, {found['image_size']} pixels"
        print(f"{found['weights']}: {found['model']}\n{described}\nbatch   images/s   ms (median)   ms (90%)")
        for row in found["rows"]:
            print("{batch_size:5d} {images_per_second:10,.1f} {ms:13.2f} {ms_p90:10.2f}".format(**row))
    if len(found["rows"]) < len(chosen.batch_size):
        raise too_large(chosen.batch_size[len(found["rows"])])
    return 0


def lines_of(found: Mapping[str, Any]) -> list[str]:
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
