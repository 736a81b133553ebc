"""``data.mean``, ``data.std`` and ``init_blocks`` through a run: identity, model, tasks and weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finished_runs import export, finished_run, pictures_of, timm_model
from small_tasks import CPU, config_of, images_of, with_random_weights
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor

from nepa_scale.config import validate
from nepa_scale.config.overrides import parse, save
from nepa_scale.config.registry import TASKS
from nepa_scale.config.schema import RunConfig
from nepa_scale.data.decode import decode_rgb
from nepa_scale.data.loader import to_device
from nepa_scale.data.sources import open_source
from nepa_scale.distributed.world import World
from nepa_scale.models.build import build_backbone
from nepa_scale.models.nepa_vit import NepaViT
from nepa_scale.run_dir import run_folder
from nepa_scale.tasks.classify import Classify
from nepa_scale.tasks.pretrain import Pretrain
from nepa_scale.tasks.segment import Segment
from nepa_scale.tasks.sliding_window import pad_to_patches
from nepa_scale.training.runner import build_task
from nepa_scale.utils.arguments import parse as parse_words
from nepa_scale.utils.errors import ConfigError, WeightsError
from nepa_scale.weights import initial
from nepa_scale.weights.__main__ import ExportSettings, give_out

NUMBERS = ["data.mean=0.3,0.4,0.5", "data.std=0.2"]
BY_DATASET = ["data.mean=dataset", "data.std=dataset"]
BY_IMAGE = ["data.mean=image", "data.std=image"]
WAYS = pytest.mark.parametrize("words", [NUMBERS, BY_DATASET, BY_IMAGE], ids=["numbers", "dataset", "image"])


def test_identity_of_runs_before_the_settings_is_unchanged() -> None:
    """A run of an earlier version is found again; other values are other runs, however they are spelled."""
    assert RunConfig().run_id == "nano-p8-0065ab0a"
    assert not {"data.mean", "data.std", "classify.init_blocks", "segment.init_blocks"} & RunConfig().identity().keys()
    same = [parse([word]).run_id for word in ("data.mean=.5", "data.std=0.5,0.5,0.5", "data.mean=5e-1,0.5,0.50")]
    assert set(same) == {RunConfig().run_id}
    others = [["data.mean=0.4"], NUMBERS, BY_DATASET, BY_IMAGE, ["classify.init_blocks=3"], ["segment.init_blocks=6"]]
    assert len({parse(words).run_id for words in [[], *others]}) == 1 + len(others)
    assert parse(["data.mean=0.30,.4,0.5", "data.std=.2,.2,.2"]).run_id == parse(NUMBERS).run_id


def test_identity_of_pre_training_follows_standardisation_alone() -> None:
    """Runs that fine-tune differently share a pre-training; runs that standardise differently do not."""
    plain = parse([]).pretrain_identity()
    assert parse(["classify.init_blocks=2"]).pretrain_identity() == plain
    assert parse(BY_IMAGE).pretrain_identity() != plain


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["data.mean=image"], "data.mean=image and data.std=0.5"),
        (["data.std=0"], "data.std=0"),
        (["task=classify", "model=femto", "classify.init_blocks=4"], "classify.init_blocks=4: the model has 3 blocks"),
        (["task=segment", "model.depth=2", "segment.init_blocks=3"], "segment.init_blocks=3: the model has 2 blocks"),
        (["classify.init_blocks=-1"], "classify.init_blocks=-1"),
        (["classify.init_fraction=0"], "classify.init_fraction=0"),
        (["segment.init_blocks=2", "segment.init_fraction=0.5"], "segment.init_blocks=2 and segment.init_fraction=0.5"),
    ],
)
def test_wrong_settings_are_named(words: list[str], named: str) -> None:
    """Before anything heavy is imported."""
    with pytest.raises(ConfigError) as raised:
        parse(words)
    [problem] = raised.value.problems
    assert problem.startswith(named)


def backbones() -> tuple[NepaViT, NepaViT]:
    """One backbone that standardises and one that does not, with the same weights."""
    arch = parse(["model=femto"]).model.architecture()
    torch.manual_seed(0)
    standardising = build_backbone(arch, 32, standardise=True)
    plain = build_backbone(arch, 32)
    plain.load_state_dict(standardising.state_dict())
    return standardising.eval(), plain.eval()


def standardised(images: Tensor) -> Tensor:
    """The oracle: zero mean and unit deviation of each channel of each image, by numpy in float64 (eps 1e-5)."""
    x = images.double().numpy()
    mean, std = x.mean((2, 3), keepdims=True), np.sqrt(x.var((2, 3), keepdims=True) + 1e-5)
    return torch.from_numpy((x - mean) / std).float()


IMAGES = (
    torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(2)) * torch.tensor([0.3, 0.9, 2.0])[:, None, None]
    + torch.tensor([-0.8, 0.1, -1.0])[:, None, None]
)


@torch.no_grad()
def test_the_model_standardises_each_image_by_itself() -> None:
    """The same as a plain model sees standardised images, alone or in a batch, however they were normalised before."""
    standardising, plain = backbones()
    wanted = plain.forward_features(standardised(IMAGES))
    torch.testing.assert_close(standardising.forward_features(IMAGES), wanted, atol=2e-4, rtol=0)
    torch.testing.assert_close(standardising.forward_features(IMAGES[1:2]), wanted[1:2], atol=2e-4, rtol=0)
    torch.testing.assert_close(standardising.forward_features(3 * IMAGES + 0.7), wanted, atol=5e-3, rtol=0)
    [inner] = standardising.forward_intermediates(IMAGES, indices=[1], output_fmt="NLC", intermediates_only=True)
    [expected] = plain.forward_intermediates(
        standardised(IMAGES), indices=[1], output_fmt="NLC", intermediates_only=True
    )
    torch.testing.assert_close(inner, expected, atol=2e-4, rtol=0)


def test_gradients_flow_as_for_standardised_images() -> None:
    """Every weight has the gradient that a plain model has on images standardised beforehand."""
    standardising, plain = backbones()
    target = torch.randn(3, 17, 32, generator=torch.Generator().manual_seed(4))
    for model, images in ((standardising, IMAGES), (plain, standardised(IMAGES))):
        (model.forward_features(images) * target).sum().backward()
    for (name, one), other in zip(standardising.named_parameters(), plain.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        torch.testing.assert_close(one.grad, other.grad, atol=1e-3, rtol=1e-3, msg=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_constant_images_stay_finite(dtype: torch.dtype) -> None:
    """A black picture, or one without any green, is no division by zero."""
    standardising, _ = backbones()
    images = IMAGES.clone()
    images[0], images[1, 1] = -1.0, 0.25
    assert standardising.to(dtype).forward_features(images.to(dtype)).isfinite().all()


@torch.no_grad()
def test_another_input_or_patch_size_keeps_it() -> None:
    """timm's way to another size of images and patches."""
    standardising, _ = backbones()
    standardising.set_input_size(img_size=(48, 48), patch_size=(16, 16))
    images = torch.rand(2, 3, 48, 48)
    one, other = standardising.forward_features(images), standardising.forward_features(0.2 * images - 0.6)
    torch.testing.assert_close(one, other, atol=1e-3, rtol=0)


@torch.no_grad()
def test_padding_to_patches_is_an_images_own_mean() -> None:
    """What is added stays at zero after the model's standardisation, whatever the image's mean."""
    padded = pad_to_patches(IMAGES[..., :30], 8, own_mean=True)
    outside = padded[..., [0, -1]]
    assert not outside.any()
    np.testing.assert_allclose(padded.mean((2, 3)).numpy(), 0, atol=1e-6)
    torch.testing.assert_close(pad_to_patches(IMAGES, 8, own_mean=False), IMAGES)


@pytest.mark.parametrize("task", TASKS)
@WAYS
def test_every_task_trains_and_evaluates(digits_root: Path, task: str, words: list[str]) -> None:
    """A step of each task on images standardised in each way, with gradients, then its metrics."""
    built = build_task(config_of(digits_root, task, "init=scratch" if task != "pretrain" else "seed=0", *words), Path())
    batch = [built.train_data[0, index] for index in range(2)]
    images = torch.utils.data.default_collate(batch)
    moved = to_device(images if isinstance(images, list) else [images], CPU, built.standard)
    if hasattr(built.module, "heads"):
        built.prepare(World(), CPU)
    built.module(*moved).backward()
    trained = [parameter for parameter in built.module.parameters() if parameter.requires_grad]
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in trained)
    assert all(np.isfinite(value) for value in built.evaluate(World(), CPU).values())


@pytest.mark.parametrize("task", TASKS)
def test_the_data_sets_own_statistics_give_zero_mean_and_unit_deviation(digits_root: Path, task: str) -> None:
    """Standardised by ``dataset``, the training images have what it says, by numpy and past every transform."""
    config = config_of(digits_root, task, *BY_DATASET, *(["init=scratch"] if task != "pretrain" else []))
    standard = build_task(config, Path()).standard
    source = open_source(digits_root, "digits", "train")
    pixels = np.stack([decode_rgb(source[index].image) for index in range(len(source))]) / 255
    np.testing.assert_allclose(standard.mean, pixels.mean((0, 1, 2)), rtol=1e-9)
    np.testing.assert_allclose(standard.std, pixels.std((0, 1, 2)), rtol=1e-9)


@WAYS
@torch.no_grad()
def test_timm_gives_the_classifiers_scores(digits_root: Path, tmp_path: Path, words: list[str]) -> None:
    """An exported folder says how images are standardised: timm's own transform and model score as the run does."""
    task = Classify(config_of(digits_root, "classify", "init=scratch", *words), None)
    run = finished_run(task, tmp_path / "run")
    folder = export(run, tmp_path / "out", "timm", "--task", "classify")
    model = timm_model(folder)
    transform = create_transform(**resolve_model_data_config(model))
    images = torch.stack([transform(picture) for picture in pictures_of(task)])
    own = torch.stack([image for image, _ in images_of(task)])
    torch.testing.assert_close(images, own, rtol=0, atol=1e-6)
    torch.testing.assert_close(model(images), task.module.logits(own), rtol=0, atol=1e-5)  # type: ignore[operator]
    stated: dict[str, Any] = json.loads((folder / "config.json").read_text())
    assert stated["model_args"]["standardise"] is task.standard.by_image
    assert tuple(stated["pretrained_cfg"]["mean"]) == task.standard.mean
    again = export(folder, tmp_path / "again", "timm")
    assert (again / "config.json").read_text() == (folder / "config.json").read_text()


def test_exported_statistics_outlive_the_data_set(digits_root: Path, tmp_path: Path) -> None:
    """What a task noted of its data set's statistics counts, for exports and when it continues."""
    task = Pretrain(config_of(digits_root, "pretrain", *BY_DATASET))
    run = finished_run(task, tmp_path / "run")
    run_folder.record_data(run / "pretrain", task.config)
    assert run_folder.check_data(run / "pretrain", task.config) == []
    noted = json.loads((run / "pretrain" / "data.json").read_text())
    assert tuple(noted["mean"]) == task.standard.mean
    noted["mean"] = [0.25, 0.5, 0.75]
    (run / "pretrain" / "data.json").write_text(json.dumps(noted))
    [problem] = run_folder.check_data(run / "pretrain", task.config)
    assert "other mean" in problem
    folder = export(run, tmp_path / "out", "timm")
    assert json.loads((folder / "config.json").read_text())["pretrained_cfg"]["mean"] == [0.25, 0.5, 0.75]


def test_the_authors_layout_has_numbers_alone(digits_root: Path, tmp_path: Path) -> None:
    """Their preprocessor's file says mean and deviation; a model that standardises has no place there."""
    run = finished_run(Pretrain(config_of(digits_root, "pretrain", *NUMBERS)), tmp_path / "run")
    stated = json.loads((export(run, tmp_path / "theirs", "authors") / "preprocessor_config.json").read_text())
    assert (stated["image_mean"], stated["image_std"]) == ([0.3, 0.4, 0.5], [0.2] * 3)
    run = finished_run(Pretrain(config_of(digits_root, "pretrain", *BY_IMAGE)), tmp_path / "by image")
    words = ["export", str(run), str(tmp_path / "none"), "--layout", "authors"]
    with pytest.raises(WeightsError, match=r"no place for a model with data\.mean=image"):
        give_out(parse_words(ExportSettings, words[1:]))


def test_a_start_of_another_kind_is_refused_and_other_numbers_are_told(digits_root: Path, tmp_path: Path) -> None:
    """Whether a model standardises is part of what it is; other numbers do, and a line says so."""
    by_image = finished_run(Pretrain(config_of(digits_root, "pretrain", *BY_IMAGE)), tmp_path / "image")
    numbers = finished_run(Pretrain(config_of(digits_root, "pretrain", *NUMBERS)), tmp_path / "numbers")
    for run in (by_image, numbers):
        export(run, tmp_path / f"{run.name}-timm", "timm")

    def start(folder: Path, *words: str) -> tuple[list[str], str | None]:
        config = config_of(digits_root, "classify", f"init={folder}", *words)
        return initial.check_start(tmp_path, config), initial.other_standardisation(config)

    for folder in (by_image, tmp_path / "image-timm"):
        [problem] = start(folder)[0]
        assert problem.endswith("is of another model: data.mean (image there, not image now)")
        assert start(folder, *BY_IMAGE) == ([], None)
    for folder in (numbers, tmp_path / "numbers-timm"):
        assert "(not image there, image now)" in start(folder, *BY_IMAGE)[0][0]
        assert start(folder, *NUMBERS) == ([], None)
        problems, line = start(folder)
        assert problems == []
        assert line is not None
        assert "data.mean=0.3,0.4,0.5 data.std=0.2,0.2,0.2" in line


def test_a_set_without_statistics_is_one_error_before_work_starts(digits_root: Path, tmp_path: Path) -> None:
    """Named with the command, for the tasks that read it; numbers need none."""
    (tmp_path / "set").mkdir()
    for path in (digits_root / "digits").iterdir():
        if path.is_file():
            (tmp_path / "set" / path.name).write_bytes(path.read_bytes())
    info = json.loads((tmp_path / "set" / "_info.json").read_text())
    del info["mean"]
    (tmp_path / "set" / "_info.json").write_text(json.dumps(info))
    [problem] = validate.check_data(config_of(tmp_path, "pretrain", "data=set", *BY_DATASET), ("pretrain", "classify"))
    assert "prepare index " in problem
    assert validate.check_data(config_of(tmp_path, "pretrain", "data=set", *NUMBERS), ("pretrain",)) == []


@pytest.mark.parametrize("task", [Classify, Segment])
@pytest.mark.parametrize("blocks", [0, 2, 3, None])
def test_init_blocks_keeps_the_lower_ones(
    digits_root: Path, tmp_path: Path, task: type[Classify] | type[Segment], blocks: int | None
) -> None:
    """What comes before the blocks and the lowest of them are the file's; the others are as from scratch."""
    finished_run(Pretrain(config_of(digits_root, "pretrain")), tmp_path)
    file = tmp_path / "pretrain" / "model.safetensors"
    config = config_of(digits_root, task.name, f"{task.name}.init_blocks={'null' if blocks is None else blocks}")
    torch.manual_seed(config.seed)
    fresh = task(config, None).backbone.state_dict()
    torch.manual_seed(config.seed)
    started = task(config, file)
    pretrained = with_random_weights(Pretrain(config_of(digits_root, "pretrain"))).backbone.state_dict()
    for name, value in started.backbone.state_dict().items():
        from_file = ("cls_token", "patch_embed") if blocks is not None else ("",)
        kept = name.startswith((*from_file, *(f"blocks.{block}." for block in range(blocks or 0))))
        assert torch.equal(value, (pretrained if kept else fresh)[name]), name
    assert started.layer_decay.start == 0.8


@pytest.mark.parametrize(("fraction", "blocks"), [(0.2, 1), (0.5, 1), (0.67, 2), (1.0, 3)])
def test_init_fraction_is_of_the_depth(digits_root: Path, tmp_path: Path, fraction: float, blocks: int) -> None:
    """A fraction of three blocks, rounded down and at least one: the same start as so many blocks."""
    finished_run(Pretrain(config_of(digits_root, "pretrain")), tmp_path)
    starts = []
    for setting in (f"classify.init_fraction={fraction}", f"classify.init_blocks={blocks}"):
        config = config_of(digits_root, "classify", setting)
        torch.manual_seed(config.seed)
        starts.append(Classify(config, tmp_path / "pretrain" / "model.safetensors").backbone.state_dict())
    assert all(torch.equal(starts[0][name], starts[1][name]) for name in starts[0])


def test_pictures_show_the_image_as_it_was(digits_root: Path) -> None:
    """Undoing the normalisation of a strip gives the pixels back."""
    from nepa_scale.visualise.strips import Choice, Named, make_strips

    task = with_random_weights(Pretrain(config_of(digits_root, "pretrain", *NUMBERS)))
    [sample] = [open_source(digits_root, "digits", "validation")[0]]
    choice = Choice(queries=1, layers=(0,), heads="mean", seed=0, softmax=False, shift=True, standard=task.standard)
    [strip] = make_strips(task.backbone.eval(), [Named("x", sample.image)], choice)
    assert np.array_equal(strip.image, decode_rgb(sample.image))


def test_settings_survive_a_file(tmp_path: Path) -> None:
    """A saved run loads with the values it had; one number in a YAML file is a number."""
    save(parse(NUMBERS), tmp_path / "config.yaml")
    assert parse([f"config={tmp_path / 'config.yaml'}"]).run_id == parse(NUMBERS).run_id
    (tmp_path / "own.yaml").write_text("data:\n  mean: 0.4\n  std: 0.2\n")
    assert parse([f"config={tmp_path / 'own.yaml'}"]).run_id == parse(["data.mean=0.4", "data.std=0.2"]).run_id
