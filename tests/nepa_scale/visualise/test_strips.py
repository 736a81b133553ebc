"""Which images and patches are drawn, what is said of them, and the sheet that pre-training leaves."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from injecting import ends, start_ranks
from launching import losses, train
from PIL import Image
from small_tasks import config_of, with_random_weights

from nepa_scale.data.sources import open_source
from nepa_scale.data.transforms import normalise
from nepa_scale.tasks.pretrain import Pretrain
from nepa_scale.visualise.strips import Choice, chosen, make_strips, query_patches, run_images

CHOICE = Choice(queries=3, layers=(0, 2), heads="mean", seed=5, softmax=False, shift=True)
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def test_more_images_keep_the_first_ones() -> None:
    """The same seed gives the same images, however many are asked for, none of them twice."""
    assert chosen(100, 10, seed=3)[:4] == chosen(100, 4, seed=3)
    assert chosen(100, 10, seed=3) != chosen(100, 10, seed=4)
    assert sorted(chosen(7, 50, seed=3)) == list(range(7))


def test_query_patches_have_a_next_and_lie_in_the_middle_first() -> None:
    """The last patch predicts nothing; a causal query near the top has seen nothing, so it comes last."""
    for seed in range(20):
        few, all_of_them = query_patches(64, 8, (seed, 0)), query_patches(64, 99, (seed, 0))
        assert len(set(few)) == 8
        assert all(16 <= patch < 48 for patch in few)
        assert all_of_them == list(range(63))
    assert query_patches(64, 8, (1, 0)) != query_patches(64, 8, (1, 1))


@pytest.mark.parametrize("shift", [True, False])
@pytest.mark.parametrize("softmax", [True, False])
def test_strips_state_cosine_and_rank_of_the_target(shift: bool, softmax: bool, digits_root: Path) -> None:
    """The title compares the prediction with the right patch: the next one, or the token's own without shift."""
    config = config_of(digits_root, "pretrain")
    task = with_random_weights(Pretrain(config))
    choice = Choice(queries=3, layers=(0,), heads="max", seed=5, softmax=softmax, shift=shift)
    images = run_images(config, 2, seed=5)
    strips = make_strips(task.backbone, images, choice)
    assert len(strips) == 6
    source = open_source(digits_root, "digits", "validation")
    keys = {source[index].key: index for index in range(len(source))}
    task.module.eval()
    for number, strip in enumerate(strips):
        pixels = normalise(task.eval_data[0, keys[images[number // 3].name]])
        with torch.no_grad():
            z, z_hat = task.module.embeddings(pixels[None])
        query = strip.query[0] * 6 + strip.query[1]
        target = strip.target[0] * 6 + strip.target[1]
        assert target == query + shift
        cosines = F.cosine_similarity(z_hat[0, 1 + query], z[0, 1:])
        rank = int((cosines > cosines[target]).sum()) + 1
        assert f"cosine {cosines[target]:.2f}, rank {rank} of 36".replace("-", "\N{MINUS SIGN}") in strip.title
        expected = cosines.softmax(0) if softmax else cosines
        np.testing.assert_allclose(strip.similarity.values.ravel(), expected, atol=1e-5)
        np.testing.assert_array_equal(strip.unseen.ravel(), np.arange(36) > query)
        shown = torch.from_numpy(strip.image.astype(np.float32)) / 127.5 - 1
        torch.testing.assert_close(shown.permute(2, 0, 1), pixels, rtol=0, atol=1 / 255)


def test_a_bidirectional_model_hides_nothing(digits_root: Path) -> None:
    """Without the causal mask later patches are attended to and must not be drawn grey."""
    config = config_of(digits_root, "pretrain", "pretrain.attention=bidirectional", "model.class_token=false")
    task = with_random_weights(Pretrain(config))
    for strip in make_strips(task.backbone, run_images(config, 2, seed=0), CHOICE):
        assert not strip.unseen.any()
        assert (strip.attention[0].values > 0).all()
        assert strip.attention[0].remark == ""


@pytest.mark.parametrize("pictures", [0, 4])
def test_the_sheet_of_pretraining_is_small_and_always_the_same(
    pictures: int, digits_root: Path, tmp_path: Path
) -> None:
    """Rank 0 draws from the exported file, deterministically; the report embeds it, so it must stay small."""
    task = with_random_weights(Pretrain(config_of(digits_root, "pretrain", f"log.pictures={pictures}")))
    weights = task.exported({name: value.bfloat16() for name, value in task.module.state_dict().items()})
    (tmp_path / "model.safetensors").write_bytes(safetensors.torch.save(weights))
    task.illustrate(tmp_path)
    path = tmp_path / "pictures.png"
    assert path.exists() == bool(pictures)
    if pictures:
        first = path.read_bytes()
        assert first.startswith(SIGNATURE)
        assert len(first) < 150_000
        task.illustrate(tmp_path)
        assert path.read_bytes() == first


def test_a_failure_to_draw_loses_no_run(digits_root: Path, tmp_path: Path) -> None:
    """Training finishes with a warning when its pictures cannot be written."""
    (tmp_path / "pretrain" / "pictures.png").mkdir(parents=True)  # a folder in the way
    words = ["task=pretrain", "model=femto", "pretrain.steps=2", "pretrain.batch_size=8", "log.every=1"]
    output = train([*words, f"data.root={digits_root}", f"run_dir={tmp_path}", "log.tensorboard=false"])
    assert output.count("no pictures were drawn: IsADirectoryError") == 1
    assert len(losses(tmp_path / "pretrain")) == 2
    assert json.loads((tmp_path / "pretrain" / "status.json").read_text())["state"] == "finished"
    assert (tmp_path / "pretrain" / "result.json").is_file()


@pytest.mark.slow(seconds=15)
def test_a_kill_while_drawing_loses_no_run(digits_root: Path, tmp_path: Path) -> None:
    """Result and status are written by then, and stay: drawing takes memory that training did not."""
    fault = "import signal\nfrom nepa_scale.visualise import strips\n"
    fault += "strips.draw_pretraining = lambda *_: os.kill(os.getpid(), signal.SIGKILL)"
    words = ["task=pretrain", "model=femto", "pretrain.steps=2", "pretrain.batch_size=8", "log.tensorboard=false"]
    ended = ends(start_ranks(fault, [*words, f"data.root={digits_root}", f"run_dir={tmp_path}"], 2))
    assert ended[0].code == -signal.SIGKILL, ended
    assert json.loads((tmp_path / "pretrain" / "status.json").read_text())["state"] == "finished"
    assert (tmp_path / "pretrain" / "result.json").is_file()


@pytest.mark.slow
def test_two_ranks_leave_the_sheet_of_one_process(digits_root: Path, tmp_path: Path) -> None:
    """However training spread the work, the same sheet comes out, up to rounding in the weights; under ZeRO-3 none,
    for which rank 0 would need the whole model."""
    words = ["task=pretrain", "model=femto", "pretrain.steps=2", "pretrain.batch_size=8", f"data.root={digits_root}"]
    found, outputs = {}, {}
    for stage, world_size in ((0, 1), (2, 2), (3, 2)):
        run_dir = tmp_path / str(stage)
        command = [*words, f"run_dir={run_dir}", f"engine.ds_config=zero{stage}"]
        outputs[stage] = train(command, world_size=world_size)
        if (path := run_dir / "pretrain" / "pictures.png").is_file():
            with Image.open(path) as picture:
                found[stage] = np.asarray(picture.convert("RGB")).astype(int)
    assert found.keys() == {0, 2}
    assert abs(found[0] - found[2]).mean() < 0.5  # of 255: a step of the colour map here and there
    assert ["no pictures" in output for output in outputs.values()] == [False, False, True]
