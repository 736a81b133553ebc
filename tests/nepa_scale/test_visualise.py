"""The command that draws sheets: from runs and from exported weights; mistakes cost one line and no torch."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
import safetensors.torch
from launching import REPOSITORY, clean_environment
from PIL import Image
from small_tasks import config_of, with_random_weights

from nepa_scale.config.overrides import parse, save
from nepa_scale.tasks.pretrain import Pretrain
from nepa_scale.visualise.__main__ import main
from nepa_scale.visualise.settings import PictureSettings
from nepa_scale.weights.__main__ import main as weights_command

Shell = Callable[..., "subprocess.CompletedProcess[str]"]


def make_run(root: Path, folder: Path, *words: str) -> Path:
    """A run with finished pre-training, and with the moving average if that is asked for."""
    config = config_of(root, "pretrain", *words)
    save(config, folder / "config.yaml")
    task = with_random_weights(Pretrain(config))
    content = safetensors.torch.save(task.exported(task.module.state_dict()))
    (folder / "pretrain").mkdir()
    for name in ("model", "model_ema") if config.pretrain.ema_decay else ("model",):
        (folder / "pretrain" / f"{name}.safetensors").write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def run(digits_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on images of 48 pixels in patches of 8: a grid of 6 x 6."""
    return make_run(digits_root, tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of five images, some of them further down."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "below").mkdir()
    for number, name in enumerate(("a.jpg", "b.PNG", "below/c.jpeg", "below/d.png", "e.png")):
        Image.effect_noise((70 + number, 50), 40).convert("RGB").save(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture
def command(no_torch: Path) -> Shell:
    """Run the command where importing torch would end it with a message."""

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "nepa_scale.visualise.__main__", *words],
            cwd=REPOSITORY,
            env=clean_environment(PYTHONPATH=str(no_torch)),
            capture_output=True,
            text=True,
            check=False,
        )

    return call


def sheets(captured: str) -> list[Path]:
    """The paths that the command printed."""
    return [Path(line) for line in captured.splitlines()]


def picture(path: Path) -> Image.Image:
    """A sheet, decoded."""
    with Image.open(path) as image:
        return image.convert("RGB")


def test_sheets_of_a_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run is drawn with images of its own data set into its own folder, twelve strips a sheet."""
    assert main([f"source={run}", "num_images=5", "queries=3"]) == 0
    paths = sheets(capsys.readouterr().out)
    assert paths == [run / "pictures" / "sheet-01.png", run / "pictures" / "sheet-02.png"]
    heights = [picture(path).height for path in paths]
    assert heights[0] > 2 * heights[1]  # six rows of two strips, then two rows


@pytest.mark.parametrize("words", [["heads=none"], ["heads=max", "layers=last"], ["similarity=softmax", "layers=0,2"]])
def test_settings_change_what_is_drawn(run: Path, words: list[str], tmp_path: Path) -> None:
    """Every way of reducing heads and layers is drawn, and differs from the default."""
    assert main([f"source={run}", "num_images=1", f"out={tmp_path / 'default'}"]) == 0
    assert main([f"source={run}", "num_images=1", f"out={tmp_path / 'other'}", *words]) == 0
    default, other = (tmp_path / name / "sheet-01.png" for name in ("default", "other"))
    assert default.read_bytes() != other.read_bytes()


def test_exported_weights_give_the_run_s_maps(run: Path, photos: Path, tmp_path: Path) -> None:
    """Weights given out draw the same maps as the run they came from, of any folder of images."""
    assert weights_command(["export", str(run), str(tmp_path / "given"), "--layout", "timm"]) == 0
    for source, out in ((run, "one"), (tmp_path / "given", "two")):
        assert main([f"source={source}", f"images={photos}", f"out={tmp_path / out}", "num_images=9"]) == 0
    one, two = (picture(tmp_path / out / "sheet-01.png") for out in ("one", "two"))
    box = (0, 45, *one.size)  # below the title, which names the source
    assert one.crop(box).tobytes() == two.crop(box).tobytes()


@pytest.mark.parametrize("positions", ["rope", "absolute"])
def test_another_image_size(positions: str, digits_root: Path, photos: Path, tmp_path: Path) -> None:
    """Larger inputs have more patches, whichever way positions are told."""
    run = make_run(digits_root, tmp_path, f"model.pos_embed={positions}")
    assert main([f"source={run}", f"images={photos}", "size=96", "num_images=1"]) == 0


def test_moving_average(digits_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """ema=true draws model_ema.safetensors and says so."""
    run = make_run(digits_root, tmp_path, "pretrain.ema_decay=0.9")
    (run / "pretrain" / "model.safetensors").unlink()
    assert main([f"source={run}", "ema=true", "num_images=1"]) == 0
    assert main([f"source={run}", "num_images=1"]) == 2
    assert "model.safetensors: does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "source= is missing"),
        (["sorce=x"], "unknown key 'sorce'; did you mean 'source'?"),
        (["source=RUN", "heads=meen"], "heads=meen: not one of mean, max, none; did you mean 'mean'?"),
        (["source=RUN", "num_images=0"], "num_images=0: must be at least 1"),
        (["source=RUN", "queries=two"], "queries=two: expected a whole number"),
        (["source=nowhere"], "source=nowhere: does not exist"),
        (["source=FILE"], "source=FILE: is a file"),
        (["source=PHOTOS"], "neither a run (config.yaml) nor weights"),
        (["source=RUN/pretrain"], "did you mean source=RUN?"),
        (["source=RUN", "layers=3"], "layers=3: give all, last or block numbers from 0 to 2"),
        (["source=RUN", "layers=first"], "layers=first: give all, last or block numbers"),
        (["source=RUN", "size=50"], "size=50: must be a multiple of the patch (8), two patches or more; nearest: 48"),
        (["source=RUN", "size=8"], "nearest: 16"),
        (["source=RUN", "queries=36"], "queries=36: an image of 48 pixels has 35 patches with a next one"),
        (["source=RUN", "images=nowhere"], "images=nowhere: does not exist"),
        (["source=RUN", "images=RUN/pretrain"], "images=RUN/pretrain: holds no image"),
        (["source=RUN", "out=FILE/x"], "out=FILE/x: FILE is a file"),
        (["source=RUN", "images=PHOTOS", "out=PHOTOS/below/.."], "out=PHOTOS/below/..: is the folder of images"),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str], complaint: str, run: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each mistake is named with what would be right, with exit code 2."""
    places = {"RUN": run, "PHOTOS": photos, "FILE": photos / "notes.txt"}

    def placed(text: str) -> str:
        return functools.reduce(lambda done, name: done.replace(name, str(places[name])), places, text)

    assert main([placed(word) for word in words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert placed(complaint) in error


def test_all_mistakes_are_told_at_once(command: Shell, run: Path) -> None:
    """Nobody should have to mend them one by one, nor to wait for torch before hearing of them."""
    done = command(f"source={run}", "layers=9", "size=50", "images=nowhere")
    assert done.returncode == 2
    assert [line.split("=")[0] for line in done.stderr.splitlines()] == [
        "error: size",
        "error: layers",
        "error: images",
    ]


def test_help_names_every_setting(command: Shell) -> None:
    """--help lists all keys, without torch."""
    done = command("--help")
    assert done.returncode == 0
    assert all(f"  {one.name}=" in done.stdout for one in fields(PictureSettings))


def test_a_damaged_image_is_named(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """One unreadable file is found by its path; among others the next one is drawn in its place."""
    broken = tmp_path / "images" / "below" / "broken.jpg"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"\xff\xd8\xff\xe0 no picture")
    words = [f"source={run}", f"images={tmp_path / 'images'}", f"out={tmp_path / 'out'}"]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: image '{broken}': the image cannot be decoded")
    assert error.count("\n") == 1
    shutil.copy(photos / "a.jpg", tmp_path / "images")
    assert main(words) == 0
    assert f"image '{broken}': the image cannot be decoded" in caplog.text
    assert len(sheets(capsys.readouterr().out)) == 1


def test_only_its_own_old_sheets_are_replaced(run: Path, photos: Path, tmp_path: Path) -> None:
    """A call that draws fewer sheets leaves no old ones behind them, and no file of the user's is touched."""
    own = [tmp_path / name for name in ("sheet-music.png", "sheet-2023.png", "sheet-4.png")]
    for path in own:
        path.write_bytes(b"mine")
    words = [f"source={run}", f"images={photos}", f"out={tmp_path}"]
    assert main([*words, "num_images=5", "queries=3"]) == 0
    assert (tmp_path / "sheet-02.png").is_file()
    assert main([*words, "num_images=1"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"sheet-01.png", *(path.name for path in own)}
    assert all(path.read_bytes() == b"mine" for path in own)


def test_predictions_of_pixels_are_not_compared_with_embeddings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run of another objective has no similarity to draw, and its sheets would show something all the same."""
    save(parse(["model=femto", "pretrain.objective=next_pixels"]), tmp_path / "config.yaml")
    assert main([f"source={tmp_path}"]) == 2
    assert f"source={tmp_path}: predicts next pixels" in capsys.readouterr().err
