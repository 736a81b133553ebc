"""What one training step of a large model takes on several ranks of this machine under ZeRO-3: memory and time.

python benchmarks/giant.py [--size giant] [--depth 4] [--ranks 2] [--precision fp32] [--json] [key=value ...]

Each rank is a process that runs the training command on embedded images: it builds the model, takes one step,
saves, evaluates and exports. Memory is the peak of a phase above the process before the build, in bytes for each
parameter of the whole model: weights, gradients and AdamW's two moments in fp32 are 16 of them. ``live`` is the
largest share of the weights that was gathered on the rank at once.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from nepa_scale.config import ladder  # noqa: E402
from nepa_scale.config.sizes import SHIPPED  # noqa: E402
from nepa_scale.distributed.processes import free_port  # noqa: E402

PHASES = {"build": "build", "__init__": "engine", "step": "step", "save": "save", "export": "export"}
PATCH_SIZE = 14


def main() -> None:
    """Start the ranks, then print a row for each."""
    options = parser().parse_args()
    if options.rank:
        rank(options.words)
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = measured(Path(folder), options)
    if options.json:
        print(json.dumps(rows))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*rows[0], title="peaks in bytes per parameter above the process before the build")
    for row in rows:
        table.add_row(*(f"{value:.2f}" if isinstance(value, float) else str(value) for value in row.values()))
    Console(width=160).print(table)


def parser() -> argparse.ArgumentParser:
    """The words that the command understands."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--size", default="giant", choices=list(SHIPPED))
    options.add_argument("--depth", type=int, default=4, help="blocks (default: %(default)s)")
    options.add_argument("--ranks", type=int, default=2)
    options.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    options.add_argument("--image-size", type=int, default=4 * PATCH_SIZE)
    options.add_argument("--batch-size", type=int, default=4)
    options.add_argument("--json", action="store_true", help="a list of rows instead of a table")
    options.add_argument("--rank", action="store_true", help=argparse.SUPPRESS)
    options.add_argument("words", nargs="*", metavar="key=value", help="of the training command")
    return options


def measured(folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Run the training on all ranks; a row of figures for each."""
    from nepa_scale.data.prepare.digits import write_digits

    write_digits(folder / "data", num_train=16, num_validation=16)
    arch = ladder.architecture(options.size, PATCH_SIZE, depth=options.depth)
    config = folder / "zero3.json"
    config.write_text(json.dumps(sparing(arch)))
    settings = {
        "task": "pretrain",
        "model.size": options.size,
        "model.depth": options.depth,
        "model.patch_size": PATCH_SIZE,
        "engine.precision": options.precision,
        "engine.ds_config": config,
        "data.root": folder / "data",
        "data.num_workers": 0,
        "run_dir": folder / "run",
        "pretrain.image_size": options.image_size,
        "pretrain.batch_size": options.batch_size,
        "pretrain.steps": 1,
        "pretrain.ema_decay": 0,
        "log.every": 1,
        "log.tensorboard": "false",
        "log.pictures": 0,
        **dict(word.split("=", 1) for word in options.words),
    }
    words = [f"{key}={value}" for key, value in settings.items()]
    port = str(free_port())
    processes = [start(words, number, options.ranks, port) for number in range(options.ranks)]
    outputs = [process.communicate()[0] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        if process.returncode:
            raise SystemExit(output)
    rows = [json.loads(output.splitlines()[-1]) for output in outputs]
    (logged, evaluated) = (
        json.loads(line) for line in (folder / "run/pretrain/metrics.jsonl").read_text().splitlines()
    )
    for row in rows:
        row.update(loss=logged["loss"], grad_norm=logged["grad_norm"], eval_loss=evaluated["eval_loss"])
    return rows


def sparing(arch: ladder.Architecture) -> dict[str, Any]:
    """The shipped configuration of stage 3, with a block and its largest weight whole at a time and no more."""
    content: dict[str, Any] = json.loads((REPOSITORY / "ds_configs" / "zero3.json").read_text())
    largest = arch.embed_dim * arch.mlp_hidden
    content["zero_optimization"] |= {
        "reduce_bucket_size": largest,
        "stage3_prefetch_bucket_size": largest,
        "stage3_max_live_parameters": 2 * largest,
        "stage3_max_reuse_distance": largest,
    }
    return content


def start(words: Sequence[str], number: int, ranks: int, port: str) -> subprocess.Popen[str]:
    """Start one rank."""
    place = {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": str(ranks)}
    environment = {**os.environ, **place, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return subprocess.Popen(
        [sys.executable, __file__, "--rank", *words], env=environment, stdout=subprocess.PIPE, text=True
    )


def rank(words: list[str]) -> None:
    """Train in this process, and print what each phase took."""
    import torch
    from deepspeed.runtime.zero import partition_parameters

    from nepa_scale import train
    from nepa_scale.checkpoint.checkpointer import Checkpoints
    from nepa_scale.engine.engine import Engine
    from nepa_scale.optim.optimizer import num_params
    from nepa_scale.training import runner

    figures: dict[str, float] = {}
    modules: list[torch.nn.Module] = []
    live = [0]
    free, build = partition_parameters.free_param, runner.built_task

    def counted_free(parameter: torch.nn.Parameter) -> None:
        for module in modules:
            live[0] = max(live[0], sum(each.data.numel() for each in module.parameters()))
        free(parameter)

    def kept_build(*arguments: Any) -> Any:
        figures["base"] = status_bytes("VmRSS")
        task = observed(PHASES["build"], build, figures)(*arguments)
        modules.append(task.module)
        return task

    partition_parameters.free_param = counted_free
    runner.built_task = kept_build
    for name in ("__init__", "step", "export"):
        setattr(Engine, name, observed(PHASES[name], getattr(Engine, name), figures))
    Checkpoints.save = observed(PHASES["save"], Checkpoints.save, figures)  # type: ignore[method-assign]
    code = train.main(words)
    if code:
        raise SystemExit(code)
    params = num_params(modules[0])
    peaks = {phase: (figures[f"{phase}_peak"] - figures["base"]) / params for phase in PHASES.values()}
    seconds = {f"{phase}_s": figures[f"{phase}_seconds"] for phase in ("build", "step")}
    number = int(os.environ["RANK"])
    print(json.dumps({"rank": number, "params": params, **peaks, "live": live[0] / params, **seconds}), flush=True)


def observed(phase: str, call: Callable[..., Any], figures: dict[str, float]) -> Callable[..., Any]:
    """``call``, its peak of resident memory and its wall time noted."""

    def inner(*arguments: Any, **named: Any) -> Any:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before = time.perf_counter()
        result = call(*arguments, **named)
        figures[f"{phase}_seconds"] = time.perf_counter() - before
        figures[f"{phase}_peak"] = max(status_bytes("VmHWM"), figures.get(f"{phase}_peak", 0))
        return result

    return inner


def status_bytes(name: str) -> float:
    """A figure of this process's memory, in bytes, from Linux's /proc."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * float(next(line.split()[1] for line in lines if line.startswith(f"{name}:")))


if __name__ == "__main__":
    main()
