"""The command: ``python -m nepa_scale.weights import SOURCE OUT_DIR`` and ``... export RUN_OR_DIR OUT_DIR``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import get_args

from nepa_scale.errors import UserError, WeightsError
from nepa_scale.files import expand_home, typed_path
from nepa_scale.ladder import QkNorm

EXIT_USER_ERROR = 2


def main(words: Sequence[str]) -> int:
    """Do what ``words`` ask; returns the exit code: 0 done, 2 a user's mistake."""
    chosen = parser().parse_args(words)
    try:
        print(bring_in(chosen) if chosen.command == "import" else give_out(chosen))
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_USER_ERROR
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
    return whole


def bring_in(chosen: argparse.Namespace) -> str:
    """Import; returns the lines that say what was found. Raises ``UserError``."""
    from nepa_scale.weights import convert, hub
    from nepa_scale.weights.authors_config import Wishes

    convert.check_output(chosen.out)
    wishes = Wishes(chosen.qk_norm, None if chosen.attention is None else chosen.attention == "causal")
    folder = hub.local_folder(chosen.source, ema=chosen.ema)
    weights, assumed = convert.read_authors(folder, ema=chosen.ema, wishes=wishes)
    convert.write_timm(weights, chosen.out)
    notes = f"\nassumed, as config.json does not say: {', '.join(assumed)}" if assumed else ""
    return f"{chosen.out}: {weights.description}{notes}"


def give_out(chosen: argparse.Namespace) -> str:
    """Export; returns the line that says what was written. Raises ``UserError``."""
    from nepa_scale import runs
    from nepa_scale.weights import convert, timm_layout

    convert.check_output(chosen.out)
    if (chosen.source / runs.CONFIG_NAME).is_file():
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
