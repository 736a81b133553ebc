"""Continuing whole trainings: bit by bit in the same surroundings, to rounding at another stage or number of ranks."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from launching import losses, rows
from several_trainings import train_all

from nepa_scale.data.digits import write_digits

pytestmark = pytest.mark.slow
STEPS, HALF = 8, 4
Placement = tuple[int, int]  # ZeRO stage, ranks
FP32: list[Placement] = [(stage, ranks) for stage in (0, 1, 2, 3) for ranks in (1, 2)]
BF16: list[Placement] = [(stage, ranks) for stage in (1, 2, 3) for ranks in (1, 2)]


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images for six steps an epoch."""
    root = tmp_path_factory.mktemp("data")
    write_digits(root, num_train=96, num_validation=16)
    return root


def words(data_root: Path, run_dir: Path, stage: int, *extra: str) -> list[str]:
    """Eight steps with a checkpoint after the fourth; the epoch ends with the sixth."""
    return [
        "task=pretrain",
        "model.size=femto",
        "model.weight_init=xavier",
        "model.layer_scale_init=0.1",
        f"data.root={data_root}",
        f"run_dir={run_dir}",
        f"pretrain.steps={STEPS}",
        "pretrain.batch_size=16",
        "pretrain.base_lr=3e-2",
        "log.every=1",
        "log.tensorboard=false",
        "log.pictures=0",
        f"checkpoint.every={HALF}",
        "checkpoint.keep=9",
        f"engine.ds_config=zero{stage}",
        *extra,
    ]


def name_of(placement: Placement) -> str:
    """A folder's name for a ZeRO stage and a number of ranks."""
    return "zero{}_{}".format(*placement)


def cut_back(source: Path, target: Path) -> None:
    """A copy of a run as it would be had it been killed after its fourth step, some rows later."""
    shutil.copytree(source, target)
    shutil.rmtree(target / "pretrain" / "checkpoints" / f"step_{STEPS:08d}")
    for name in ("result.json", "model.safetensors", "model_ema.safetensors"):
        (target / "pretrain" / name).unlink(missing_ok=True)


def files(run_dir: Path) -> list[bytes]:
    """The weights and, where there is one, their average."""
    return [path.read_bytes() for path in sorted((run_dir / "pretrain").glob("model*.safetensors"))]


def train_by_kind(commands: Sequence[tuple[Placement, list[str]]]) -> str:
    """Do trainings grouped by number of ranks, and those of stage 3 apart: DeepSpeed replaces torch's linear layer
    for the rest of a process when it meets that stage, which rounds otherwise in bf16."""
    outputs = []
    for ranks, partitioned in itertools.product((1, 2), (False, True)):
        mine = [line for placement, line in commands if (placement[1], placement[0] == 3) == (ranks, partitioned)]
        outputs += [train_all(mine, world_size=ranks)] if mine else []
    return "\n".join(outputs)


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def precision(request: pytest.FixtureRequest) -> str:
    """The number format."""
    return str(request.param)


@pytest.fixture(scope="module")
def whole(precision: str, data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Undisturbed runs with an average, one for each stage and number of ranks."""
    folder = tmp_path_factory.mktemp(precision)
    extra = (f"engine.precision={precision}", "pretrain.ema_decay=0.7")
    placements = FP32 if precision == "fp32" else BF16
    train_by_kind([(each, words(data_root, folder / name_of(each), each[0], *extra)) for each in placements])
    yield folder
    shutil.rmtree(folder)


def test_resume_twins(precision: str, whole: Path, data_root: Path, tmp_path: Path) -> None:
    """K7: four steps, a restart and four more are eight steps, bit by bit, over the end of an epoch.

    Losses, rates, norms, weights and average, at every stage, on one rank and on two; no row stands twice or is
    missing. Those without an average are saved in the background and in the foreground in turn.
    """
    placements = FP32 if precision == "fp32" else BF16
    commands, pairs = [], []
    for each in placements:
        extra = (f"engine.precision={precision}", "pretrain.ema_decay=0.7")
        cut_back(whole / name_of(each), tmp_path / name_of(each))
        commands.append((each, words(data_root, tmp_path / name_of(each), each[0], *extra)))
        pairs.append((whole / name_of(each), tmp_path / name_of(each)))
    train_by_kind(commands)
    plain = [
        (each, [*words(data_root, tmp_path / f"plain_{name_of(each)}", each[0]), f"engine.precision={precision}"])
        for each in placements
    ]
    modes = itertools.cycle(("checkpoint.asynchronous=true", "checkpoint.asynchronous=false"))
    train_by_kind([(each, [*line, mode]) for (each, line), mode in zip(plain, modes, strict=False)])
    for each, _ in plain:
        source = tmp_path / f"plain_{name_of(each)}"
        cut_back(source, tmp_path / f"{source.name}_parts")
        pairs.append((source, tmp_path / f"{source.name}_parts"))
    continued = [
        (each, [*line, f"run_dir={tmp_path / f'plain_{name_of(each)}_parts'}"])
        for each, line in ((each, [w for w in line if not w.startswith("run_dir=")]) for each, line in plain)
    ]
    output = train_by_kind(continued)
    assert output.count(f"continuing from step {HALF} of {STEPS}") == len(placements)
    assert "spread anew" not in output
    volatile = {"images_per_second", "data_wait", "elapsed_seconds"}
    for one, two in pairs:
        first, second = (
            [{key: value for key, value in row.items() if key not in volatile} for row in rows(run / "pretrain")]
            for run in (one, two)
        )
        assert [row["step"] for row in second if "loss" in row] == list(range(1, STEPS + 1))
        assert [set(row) & {"loss", "eval_loss"} for row in first] == [
            set(row) & {"loss", "eval_loss"} for row in second
        ]
        assert losses(one / "pretrain") == losses(two / "pretrain"), two
        for row, other in zip(first, second, strict=True):
            shared = row.keys() & other.keys()
            assert {"step", "lr", "grad_norm"} <= shared or "loss" not in row
            assert {key: row[key] for key in shared} == {key: other[key] for key in shared}, two
        assert files(one) == files(two), two
        result, other = (json.loads((run / "pretrain" / "result.json").read_text()) for run in (one, two))
        assert result["metrics"] == other["metrics"]


def test_any_stage_and_number_of_ranks_continues_from_any_other(
    precision: str, whole: Path, data_root: Path, tmp_path: Path
) -> None:
    """K6: from each stage and number of ranks to each other one, in the same command, and a line says so.

    fp32: losses to 1e-5; where the number of ranks stays, weights and average come out bit for bit, so nothing of
    the state was lost. bf16: DeepSpeed itself rounds otherwise at stage 3 and on other numbers of ranks, so that the
    undisturbed runs differ by 2e-3, too; within stages 1 and 2 and the same ranks, bit for bit.
    """
    placements = FP32 if precision == "fp32" else BF16
    extra = (f"engine.precision={precision}", "pretrain.ema_decay=0.7")
    changes = [(old, new) for old, new in itertools.product(placements, placements) if old != new]
    for old, new in changes:
        cut_back(whole / name_of(old), tmp_path / f"{name_of(old)}_{name_of(new)}")
    output = train_by_kind(
        [(new, words(data_root, tmp_path / f"{name_of(old)}_{name_of(new)}", new[0], *extra)) for old, new in changes]
    )
    assert output.count("spread anew") == len(changes)
    assert output.count(f"continuing from step {HALF} of {STEPS}") == len(changes)
    for old, new in changes:
        one, two = whole / name_of(old), tmp_path / f"{name_of(old)}_{name_of(new)}"
        before, after = losses(one / "pretrain"), losses(two / "pretrain")
        assert after == pytest.approx(before, rel=1e-5 if precision == "fp32" else 2e-3), two
        same_rounding = old[1] == new[1] and (precision == "fp32" or 3 not in (old[0], new[0]))
        assert (files(one) == files(two)) or not same_rounding, two


def test_two_ranks_become_four_and_two_again(data_root: Path, tmp_path: Path) -> None:
    """K6: growing and shrinking in one run at stages 2 and 3, through an uneven split of most tensors."""
    commands = {stage: words(data_root, tmp_path / str(stage), stage, "pretrain.ema_decay=0.7") for stage in (2, 3)}
    for line in commands.values():
        train_all([line], world_size=2)
    for stage, line in commands.items():
        source = tmp_path / str(stage)
        cut_back(source, tmp_path / f"{stage}_on_4")
        output = train_all(
            [[*[w for w in line if "run_dir=" not in w], f"run_dir={tmp_path / f'{stage}_on_4'}"]], world_size=4
        )
        assert f"written at ZeRO stage {stage} by 2 ranks, spread anew for stage {stage} and 4 ranks" in output
        assert losses(tmp_path / f"{stage}_on_4" / "pretrain") == pytest.approx(losses(source / "pretrain"), rel=1e-5)
        # The checkpoint that four ranks wrote at the last step is continued by two, who have only to evaluate.
        shutil.copytree(tmp_path / f"{stage}_on_4", tmp_path / f"{stage}_again")
        target = tmp_path / f"{stage}_again" / "pretrain"
        (target / "result.json").unlink()
        train_all([[*[w for w in line if "run_dir=" not in w], f"run_dir={tmp_path / f'{stage}_again'}"]], world_size=2)
        for name in ("model.safetensors", "model_ema.safetensors"):
            assert (target / name).read_bytes() == (tmp_path / f"{stage}_on_4" / "pretrain" / name).read_bytes()
        assert losses(target) == losses(tmp_path / f"{stage}_on_4" / "pretrain")


def test_killed_after_the_last_step(whole: Path, precision: str, data_root: Path, tmp_path: Path) -> None:
    """K8: with the last checkpoint there and the result not, only the evaluation is done again, to the same figures."""
    placement = (2, 1)
    source, target = whole / name_of(placement), tmp_path / "run"
    shutil.copytree(source, target)
    (target / "pretrain" / "result.json").unlink()
    (target / "pretrain" / "model.safetensors").unlink()
    extra = (f"engine.precision={precision}", "pretrain.ema_decay=0.7")
    output = train_all([words(data_root, target, placement[0], *extra)])
    assert f"continuing from step {STEPS} of {STEPS}" in output
    assert "step 8/8  loss" not in output
    assert files(target) == files(source)
    figures = [json.loads((run / "pretrain" / "result.json").read_text())["metrics"] for run in (source, target)]
    assert figures[0] == figures[1]
    assert [set(row) for row in rows(source / "pretrain")] == [set(row) for row in rows(target / "pretrain")]
