"""Numbers written down once: a change of the code that changes a training shows here, whatever it was meant to do.

After a change that is meant to change them: ``python tests/nepa_scale/test_golden_losses.py`` writes them anew.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from launching import rows, train

FOLDER = Path(__file__).parent / "golden"
#: Of each precision: its file, and how far losses may be off; other CPUs add up products of bf16 in another order.
GOLDEN = {
    "fp32": (FOLDER / "pretrain_femto.json", 1e-5),
    "bf16-autocast": (FOLDER / "pretrain_femto_autocast.json", 1e-3),
}
STEPS = 20


def twenty_steps(folder: Path, precision: str) -> dict[str, list[float]]:
    """Losses and gradient norms of the smallest model on one CPU rank."""
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from nepa_scale.data.prepare.digits import write_digits

    write_digits(folder / "data", num_train=64, num_validation=40, image_size=48, shard_size=32)
    train(
        [
            "task=pretrain",
            "model=femto",
            "model.weight_init=xavier",
            "model.layer_scale_init=0.1",
            f"engine.precision={precision}",
            f"data.root={folder / 'data'}",
            f"run_dir={folder / 'run'}",
            f"pretrain.steps={STEPS}",
            "pretrain.batch_size=16",
            "pretrain.base_lr=3e-2",
            "log.every=1",
            "log.tensorboard=false",
            "log.pictures=0",
        ]
    )
    steps = [row for row in rows(folder / "run" / "pretrain") if "loss" in row]
    return {name: [row[name] for row in steps] for name in ("loss", "grad_norm")}


@pytest.mark.parametrize("precision", GOLDEN)
def test_twenty_steps_are_those_written_down(precision: str, tmp_path: Path) -> None:
    """Data, augmentation, initialisation, model, loss, clipping, optimiser and schedule together."""
    path, tolerance = GOLDEN[precision]
    golden, found = json.loads(path.read_text()), twenty_steps(tmp_path, precision)
    assert len(found["loss"]) == STEPS
    assert found["loss"] == pytest.approx(golden["loss"], rel=tolerance)
    assert found["grad_norm"] == pytest.approx(golden["grad_norm"], rel=10 * tolerance)
    assert golden["loss"][-1] < golden["loss"][0] - 0.05


if __name__ == "__main__":
    for each, (file, _) in GOLDEN.items():
        with tempfile.TemporaryDirectory() as name:
            file.write_text(json.dumps(twenty_steps(Path(name), each), indent=1) + "\n")
