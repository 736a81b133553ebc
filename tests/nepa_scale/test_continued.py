"""Continued pre-training: it begins where the weights are, and its result says what lies behind them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from authors_nepa import AuthorsNepa, config_of
from finished_runs import finished_run
from launching import rows, train
from several_trainings import train_all
from small_tasks import config_of as run_config
from small_training import SmallTraining

from analysis.study.records import read_study
from nepa_scale.config.overrides import parse, save
from nepa_scale.data.decode import decode_rgb
from nepa_scale.data.sources import open_source
from nepa_scale.tasks.pretrain import Pretrain
from nepa_scale.training.runner import build_task
from nepa_scale.utils.errors import ConfigError
from nepa_scale.weights import initial
from nepa_scale.weights.__main__ import main as weights

SHAPE = ["model.embed_dim=32", "model.depth=2", "model.num_heads=4", "model.patch_size=8", "model.mlp_hidden=128"]
QUICK = ["log.every=1", "log.tensorboard=false", "log.pictures=0"]


def words(root: Path, run_dir: Path, *more: str) -> list[str]:
    """The command of three steps of pre-training on scenes of 48 pixels."""
    steps = ["pretrain.steps=3", "pretrain.batch_size=8", "pretrain.image_size=48"]
    return ["task=pretrain", *SHAPE, *steps, *QUICK, f"data.root={root}", f"run_dir={run_dir}", *more]


def train_recorded(*commands: list[str]) -> None:
    """Do trainings one after the other, each with its configuration in its folder as the command leaves it."""
    for command in commands:
        config = parse(command)
        save(config, Path(str(config.run_dir)) / "config.yaml")
    train_all(commands)


def result_of(run_dir: Path, task: str = "pretrain") -> dict[str, Any]:
    """What a finished task says of itself."""
    content: dict[str, Any] = json.loads((run_dir / task / "result.json").read_text())
    return content


def authors_loss(model: AuthorsNepa, root: Path) -> float:
    """The loss of the authors' model over the validation scenes: minus the mean cosine of output and next input."""
    source, losses = open_source(root, "digits", "validation"), []
    for index in range(len(source)):
        pixels = torch.from_numpy(decode_rgb(source[index].image).copy()).permute(2, 0, 1)[None] / 255
        images = (pixels - 0.5) / 0.5
        parts = model.vit_nepa.embeddings
        with torch.no_grad():
            patches = parts.patch_embeddings.projection(images).flatten(2).transpose(1, 2)
            predicted = model(images)
        losses.append(-F.cosine_similarity(predicted[:, :-1], patches, dim=-1).mean().item())
    return sum(losses) / len(losses)


@pytest.mark.slow(seconds=8)
def test_loss_at_step_0_is_that_of_the_imported_weights(tmp_path: Path, digits_root: Path) -> None:
    """The authors' model, restated, and the first record of its continued pre-training agree to 1e-5."""
    theirs = AuthorsNepa(config_of(image=48, patch=8))
    assert weights(["import", str(theirs.save(tmp_path / "theirs")), str(tmp_path / "ours")]) == 0
    train(words(digits_root, tmp_path / "run", f"init={tmp_path / 'ours'}", "pretrain.ema_decay=0.9"))
    records = rows(tmp_path / "run" / "pretrain")
    assert records[0]["step"] == 0
    assert records[0]["eval_loss"] == pytest.approx(authors_loss(theirs, digits_root), abs=1e-5)
    assert [row["step"] for row in records if "loss" in row] == [1, 2, 3]
    result = result_of(tmp_path / "run")
    assert result["source_run"] == str(tmp_path / "ours")
    assert result["source_flops"] is result["source_images"] is None
    assert result["run_id"].startswith("nano-p8-continued-")


@pytest.mark.slow
def test_result_and_table_say_what_lies_behind_the_weights(tmp_path: Path, digits_root: Path) -> None:
    """A chain of runs adds up, through absolute positions of another image size, and reaches the study's table."""
    runs = tmp_path / "study" / "runs"
    absolute = "model.pos_embed=absolute"
    first, second, third = runs / "first", runs / "second", runs / "third"
    later = ["task=classify", "pretrain.steps=2", "classify.steps=1", "classify.batch_size=8", "classify.image_size=48"]
    behind = ["pretrain.image_size=32", "pretrain.num_images=16"]
    train_recorded(
        words(digits_root, first, absolute),
        words(digits_root, second, absolute, f"pretrain.init={first}", *behind),
        words(digits_root, third, absolute, f"pretrain.init={second / 'pretrain'}", "pretrain.steps=2"),
        words(digits_root, third, absolute, f"pretrain.init={second / 'pretrain'}", *later),
    )
    costs = [result_of(run) for run in (first, second, third)]
    assert costs[0]["source_run"] is None
    for before, after in ((costs[:1], costs[1]), (costs[:2], costs[2])):
        assert after["source_run"] == before[-1]["run_id"]
        assert after["source_flops"] == sum(cost["flops_train"] for cost in before)
        assert after["source_images"] == sum(cost["images_seen"] for cost in before)
        assert after["source_tokens"] == sum(cost["tokens_seen"] for cost in before)
    table = read_study(tmp_path / "study").table.set_index(["run_id", "task"])
    assert table.loc[("first", "pretrain"), ["source_run", "source_flops"]].isna().all()
    for task in ("pretrain", "classify"):
        row = table.loc[("third", task)]
        assert (row["source_run"], row["source_images"]) == (costs[1]["run_id"], costs[2]["source_images"])
        assert (row["source_flops"], row["pretrain_flops"]) == (costs[2]["source_flops"], costs[2]["flops_train"])


def moments_in(run_dir: Path, kind: str) -> dict[str, torch.Tensor]:
    """The moments of every parameter, flat, in the newest checkpoint of a pre-training on one rank."""
    newest = max((run_dir / "pretrain" / "checkpoints").glob("step_*"))
    tensors = safetensors.torch.load_file(newest / "shard_00000.safetensors")
    return {key.partition("/")[2]: value for key, value in tensors.items() if key.startswith(f"{kind}/")}


@pytest.mark.slow
def test_carried_moments_go_into_the_first_step(tmp_path: Path, digits_root: Path) -> None:
    """After one step on the same images: carried = beta x what was carried + fresh, under every stage of ZeRO."""
    commands, carried = [], "pretrain.init_optimizer=carried"
    for stage in (0, 2, 3):
        source, ds = tmp_path / f"source{stage}", f"engine.ds_config=zero{stage}"
        again = [ds, "pretrain.steps=1", f"pretrain.init={source}"]
        commands += [
            words(digits_root, source, ds),
            words(digits_root, tmp_path / f"fresh{stage}", *again),
            words(digits_root, tmp_path / f"carried{stage}", *again, carried),
            words(digits_root, tmp_path / f"masked{stage}", *again, carried, "pretrain.mask_ratio=0.5"),
        ]
    train_recorded(*commands)
    for stage in (0, 2, 3):
        for kind, beta in (("exp_avg", 0.9), ("exp_avg_sq", 0.95)):
            source, fresh, kept = (moments_in(tmp_path / f"{n}{stage}", kind) for n in ("source", "fresh", "carried"))
            assert source.keys() == fresh.keys() == kept.keys()
            assert any(value.any() for value in source.values())
            for name, value in kept.items():
                close = 1e-5 * value.abs().max().item()
                torch.testing.assert_close(value, beta * source[name] + fresh[name], rtol=1e-4, atol=close)
        assert "mask_token" in moments_in(tmp_path / f"masked{stage}", "exp_avg")


def test_moments_of_a_checkpoint_are_taken_alone(tmp_path: Path) -> None:
    """Adam's moments and their count come back bit by bit; the weights stay as they are."""
    source = SmallTraining(tmp_path / "checkpoints")
    source.save(1, 2)
    other = SmallTraining(tmp_path / "others")
    before = [value.clone() for value in other.module.state_dict().values()]
    other.checkpoints.load_moments(tmp_path / "checkpoints")
    assert all(map(torch.equal, before, other.module.state_dict().values()))
    for mine, theirs in zip(other.module.parameters(), source.module.parameters(), strict=True):
        assert other.optimizer.state[mine].keys() == source.optimizer.state[theirs].keys()
        for key, value in source.optimizer.state[theirs].items():
            assert torch.equal(other.optimizer.state[mine][key], value)


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["pretrain.init_optimizer=carried"], "holds no checkpoint of a pre-training; give fresh"),
        (["model.patch_size=12"], "model.patch_size (8 there, 12 now)"),
        (["pretrain.init_ema=true"], "holds no model_ema.safetensors; set pretrain.init_ema=false"),
        (["init=nowhere"], "init=nowhere: nowhere/pretrain/model.safetensors does not exist; give scratch, the folder"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, digits_root: Path, more: list[str], complaint: str) -> None:
    """A start that cannot be is told before anything is trained."""
    run = finished_run(Pretrain(run_config(digits_root, "pretrain")), tmp_path / "run")
    settings = run_config(digits_root, "pretrain", f"init={run}", *more)
    [problem] = initial.check_start(tmp_path / "new", settings)
    assert complaint in problem


def test_moments_that_cannot_be_carried(tmp_path: Path, digits_root: Path) -> None:
    """Those of positions that are resampled, and those of a run that is not named."""
    absolute = "model.pos_embed=absolute"
    run = finished_run(Pretrain(run_config(digits_root, "pretrain", absolute)), tmp_path / "run")
    checkpoint = run / "pretrain" / "checkpoints" / "step_00000001"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").write_text("{}")
    words = [absolute, f"init={run}", "pretrain.init_optimizer=carried"]
    assert initial.check_start(tmp_path / "new", run_config(digits_root, "pretrain", *words)) == []
    other = run_config(digits_root, "pretrain", *words, "pretrain.image_size=32")
    [problem] = initial.check_start(tmp_path / "new", other)
    assert "positions of 48 pixels are resampled to 32, their moments cannot be; give fresh" in problem
    with pytest.raises(ConfigError, match=r"pretrain\.init_optimizer=carried: from where"):
        parse(["pretrain.init_optimizer=carried"])


def test_moving_average_is_a_start_as_well(tmp_path: Path, digits_root: Path) -> None:
    """``pretrain.init_ema`` takes the other file of the same folder."""
    config = run_config(digits_root, "pretrain", "pretrain.ema_decay=0.9")
    run = finished_run(Pretrain(config), tmp_path / "run")
    (run / "pretrain" / "model.safetensors").rename(run / "pretrain" / "model_ema.safetensors")
    settings = run_config(digits_root, "pretrain", f"init={run}", "pretrain.init_ema=true")
    assert initial.check_start(tmp_path, settings) == []
    stored = safetensors.torch.load_file(run / "pretrain" / "model_ema.safetensors")
    built = build_task(settings, tmp_path).backbone.state_dict()
    assert all(torch.equal(value, stored[name]) for name, value in built.items())


def test_init_of_pretraining_is_its_own_setting() -> None:
    """``init=DIR`` of task=pretrain is ``pretrain.init``; later tasks of the run start from its own pre-training."""
    config = parse(["task=pretrain", "init=there"])
    assert (config.init, config.pretrain.init, config.start) == ("pretrain", "there", "there")
    assert parse(["task=classify", "init=there"]).pretrain.init == "scratch"
    assert parse(["task=classify", "pretrain.init=there"]).start == "pretrain"
    assert initial.source_of(parse(["task=classify", "pretrain.init=there"]))["source_run"] is None
    assert config.run_id != parse(["task=pretrain", "init=elsewhere"]).run_id
