"""Training and loading from Python: ``nepa_scale.train`` and ``nepa_scale.load``. Loading alone imports torch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nepa_scale.config import overrides
from nepa_scale.distributed.world import World
from nepa_scale.run_dir import run_folder
from nepa_scale.run_dir.status import read_status
from nepa_scale.utils import user_folder
from nepa_scale.utils.errors import ConfigError, RunError
from nepa_scale.utils.files import read_json

if TYPE_CHECKING:
    from nepa_scale.models.nepa_vit import NepaViT

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Run:
    """A finished task: the ``folder`` of its run, which other tasks of the run share, and the name of the ``task``."""

    folder: Path
    task: str

    @property
    def result(self) -> dict[str, Any]:
        """What ``result.json`` says: settings, cost, metrics, versions."""
        content: dict[str, Any] = read_json(self.folder / self.task / "result.json")
        return content

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the finished task, by name (docs/measures.md)."""
        metrics: dict[str, float] = self.result["metrics"]
        return metrics


def train(task: str = "pretrain", *, run_dir: Path | str | None = None, devices: int = 1, **sections: Any) -> Run:
    """Train one task of a run, in processes of its own, and wait for it.

    A finished task is left alone, and an interrupted one continues, as with ``nepa-train``.

    Args:
        task: pretrain, probe, classify or segment, or a plugin's.
        run_dir: the folder of the run; None is ``runs/<run_id>``.
        devices: processes that train together, one for each GPU, or on CPU cores.
        sections: settings as in a configuration file: ``model={"size": "nano"}, seed=1``; ``nepa-train --help`` lists
            them. ``config_dir`` is the user's folder.

    Returns:
        The finished task.

    Raises:
        ConfigError: with every mistake in the settings, before anything starts.
        RunError: when the task does not come to its end, with the reason.
    """
    from nepa_scale.train import check

    if devices < 1:
        raise ConfigError([f"devices={devices}: give 1 or more"])
    if sections.get("dry_run"):
        raise ConfigError(["dry_run: `nepa-train ... dry_run=true` shows a plan; from Python there is none of one run"])
    given = {"task": task, **sections} | ({} if run_dir is None else {"run_dir": str(run_dir)})
    words = user_folder.take(words_of(given))
    config = run_folder.configure(words)
    folder = run_folder.run_directory(config)
    check(config, folder, World(size=devices))
    code = _run(words, devices)
    if not run_folder.is_finished(folder / task):
        status = read_status(folder / task)
        reason = status and (status.error or status.state)
        raise RunError(f"{folder / task}: not finished: {reason or f'exit code {code}'}")
    return Run(folder, task)


def words_of(given: Mapping[str, Any]) -> list[str]:
    """Nested settings as the words of a command line. Raises ``ConfigError`` for a list, which no setting is."""
    return [f"{key}={text}" for key, text in overrides.pairs_from_mapping(dict(given), "train")]


def _run(words: list[str], devices: int) -> int:
    """Run the command, show what it prints, and return its exit code; Ctrl-C lets it save and leave."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={devices}"] if devices > 1 else []
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    with subprocess.Popen(
        [sys.executable, "-u", *launcher, "-m", "nepa_scale.train", *words],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,  # the terminal's Ctrl-C would be a second one, which leaves without saving
    ) as process:
        try:
            _show(process)
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            _show(process)
            process.wait()
            raise
    return process.returncode


def _show(process: subprocess.Popen[str]) -> None:
    for line in process.stdout or ():
        print(line, end="")


def load(source: Run | Path | str, task: str | None = None, *, ema: bool = False) -> NepaViT:
    """The model of a finished task or of a folder of weights: a timm model in fp32, in evaluation mode.

    Args:
        source: what ``train`` returned, the folder of a run, or one of weights in timm's layout.
        task: whose weights of a run, pretrain or classify; by default those of the ``Run``, or of pre-training.
        ema: the moving average of a run's weights.

    Raises:
        WeightsError: where there are none, naming the file.
    """
    from nepa_scale.weights import convert

    if isinstance(source, Run):
        return load(source.folder, task or source.task, ema=ema)
    return convert.built(convert.read(Path(source), task=task, ema=ema)).eval()
