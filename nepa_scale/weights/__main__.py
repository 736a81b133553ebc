"""The command: ``python -m nepa_scale.weights import SOURCE OUT_DIR``, ``... export RUN_OR_DIR OUT_DIR`` and
``... check DIR [IMAGE ...]``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from nepa_scale.config.ladder import QkNorm
from nepa_scale.utils.cli import command
from nepa_scale.utils.errors import WeightsError
from nepa_scale.utils.files import expand_home, to_json, typed_path

EXIT_DIFFERS = 1


@command
def main(words: Sequence[str]) -> int:
    """Do what ``words`` ask; returns the exit code: 0 done, 1 other values than published, 2 a user's mistake."""
    chosen = parser().parse_args(words)
    if chosen.command == "check":
        return look(chosen)
    print(bring_in(chosen) if chosen.command == "import" else give_out(chosen))
    return 0


def parser() -> argparse.ArgumentParser:
    """The words that the command understands."""
    whole = argparse.ArgumentParser(prog="python -m nepa_scale.weights", description="Weights in and out.")
    commands = whole.add_subparsers(dest="command", required=True)
    bring = commands.add_parser("import", help="the authors' Hugging Face layout -> a folder that timm loads")
    bring.add_argument(
        "source", metavar="SOURCE", type=expand_home, help="a folder, or a hub name such as owner/name@revision"
    )
    bring.add_argument("out", metavar="OUT_DIR", type=typed_path, help="a new folder")
    bring.add_argument("--ema", action="store_true", help="the moving average, pytorch_model_ema.bin")
    bring.add_argument("--qk-norm", choices=get_args(QkNorm), help="overrules config.json (default: what it says)")
    bring.add_argument(
        "--attention", choices=("causal", "bidirectional"), help="overrules config.json (default: what it says)"
    )
    give = commands.add_parser("export", help="a run, or a folder of weights -> either layout")
    give.add_argument("source", metavar="RUN_OR_DIR", type=typed_path, help="a run's folder, or one with weights in it")
    give.add_argument("out", metavar="OUT_DIR", type=typed_path, help="a new folder")
    give.add_argument("--layout", choices=("timm", "authors"), required=True, help="what to write")
    give.add_argument("--task", choices=("pretrain", "classify"), help="whose weights of a run (default: pretrain)")
    give.add_argument("--ema", action="store_true", help="the moving average of a run's weights")
    look_at = commands.add_parser("check", help="what weights do on images, beside published values")
    look_at.add_argument("folder", metavar="DIR", type=typed_path, help="weights in timm's or the authors' layout")
    look_at.add_argument("images", metavar="IMAGE", type=typed_path, nargs="*", help="default: a scene of digits")
    look_at.add_argument("--json", action="store_true", help="print JSON")
    return whole


def bring_in(chosen: argparse.Namespace) -> str:
    """Import; returns the lines that say what was found. Raises ``UserError``."""
    from nepa_scale.weights import convert, tensor_files
    from nepa_scale.weights.authors_config import Wishes

    convert.check_output(chosen.out)
    wishes = Wishes(chosen.qk_norm, None if chosen.attention is None else chosen.attention == "causal")
    folder = tensor_files.local_folder(chosen.source, ema=chosen.ema)
    weights, notes = convert.read_authors(folder, ema=chosen.ema, wishes=wishes)
    convert.write_timm(weights, chosen.out)
    return "\n".join([f"{chosen.out}: {weights.description}", *notes])


def give_out(chosen: argparse.Namespace) -> str:
    """Export; returns the line that says what was written. Raises ``UserError``."""
    from nepa_scale.run_dir import paths
    from nepa_scale.weights import convert, timm_layout

    convert.check_output(chosen.out)
    if (chosen.source / paths.CONFIG_NAME).is_file():
        weights = convert.read_run(chosen.source, task=chosen.task or "pretrain", ema=chosen.ema)
    elif chosen.task or chosen.ema:
        raise WeightsError(f"{chosen.source}: no run (no config.yaml), so --task and --ema have nothing to choose from")
    elif timm_layout.is_timm_folder(chosen.source):
        weights = convert.read_timm(chosen.source)
    else:
        raise WeightsError(f"{chosen.source}: neither a run (config.yaml) nor weights (config.json, model.safetensors)")
    write = convert.write_timm if chosen.layout == "timm" else convert.write_authors
    write(weights, chosen.out)
    return f"{chosen.out}: {weights.description}"


def look(chosen: argparse.Namespace) -> int:
    """Check weights and print what was found; returns the exit code. Raises ``UserError``."""
    from nepa_scale.weights import check

    found = check.check(chosen.folder, chosen.images)
    print(to_json(found).rstrip() if chosen.json else "\n".join(told(found)))
    return EXIT_DIFFERS if found["reference"]["verdict"] == "differs" else 0


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
