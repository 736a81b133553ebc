"""The files that the commands of README and docs name: small weights, runs, studies, tables and downloads."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from archives import imagenet, parquet, picture, tar_bytes, zipped
from authors_nepa import AuthorsNepa
from authors_nepa import config_of as authors_config
from finished_runs import export, finished_run
from law_studies import StudySpec, write_study
from shard_files import encode
from small_tasks import config_of
from study_files import result, write_json
from trees import tiny_imagenet, write_files

from analysis.study.records import read_study, write_table
from nepa_scale.config import overrides
from nepa_scale.config.ladder import architecture
from nepa_scale.data.prepare.digits import write_digits
from nepa_scale.data.preprocessing import Preprocessing
from nepa_scale.tasks.pretrain import Pretrain
from nepa_scale.weights import convert
from nepa_scale.weights.benchmarks import ALEXNET_ERRORS, synsets
from nepa_scale.weights.convert import Weights, skeleton
from nepa_scale.weights.timm_layout import Description

#: Sets that the documents train on, planned from facts: nothing of them need be here.
FACTS = """
data_sets:
  tiny-imagenet-200: {train: 100000, validation: 10000, classes: 200}
  imagenette-128: {train: 9469, validation: 3925, classes: 10}
  camvid-as-ade: {train: 367, validation: 101, mask_classes: 150}
  flowers: {train: 1020, validation: 1020, classes: 102}
  mine: {train: 90, validation: 10, classes: 2}
"""
MASK_SIZE = (18, 22)


def build(folder: Path) -> Path:
    """Everything, below ``folder``; returns it."""
    write_files(folder, {"nepa.yaml": FACTS, "photo.jpg": picture(1), "photos/1.jpg": picture(2)})
    write_downloads(folder)
    write_shards(folder / "shards" / "imagenet-1k-wds")
    write_digits(folder / "elsewhere", num_train=64, num_validation=16, image_size=32, shard_size=4)
    (folder / "elsewhere" / "digits").rename(folder / "elsewhere" / "photos")
    write_weights(folder)
    write_studies(folder / "studies")
    write_tables(folder / "tables")
    return folder


def write_downloads(folder: Path) -> None:
    """A folder for each kind of source, called like it, as it is after the official download."""
    imagenet(folder / "imagenet")
    zipped(tiny_imagenet(folder / "tiny"), folder / "tiny-imagenet-200.zip", "tiny-imagenet-200/")
    parquet(folder / "parquet")
    photos = {f"{split}/{label}/{number}.jpg": picture(number) for split in ("train", "val") for label in "ab"
              for number in range(12)}  # fmt: skip
    for name in ("folder", "imagenette2-160"):
        write_files(folder / name, photos)
    write_files(folder / "unsplit", {name: photo for name, photo in photos.items() if name.startswith("train")})
    write_files(folder / "images", {f"some/{number}.jpg": picture(number) for number in range(20)})
    city = "{}/{}/{}/{}_1_{}.png"
    for kind, pairs, among in (
        ("ade20k", [(f"ADEChallengeData2016/images/{split}/1.jpg", f"ADEChallengeData2016/annotations/{split}/1.png")
                    for split in ("training", "validation")], range(151)),
        ("cityscapes", [(city.format("leftImg8bit", split, "ulm", "ulm", "leftImg8bit"),
                         city.format("gtFine", split, "ulm", "ulm", "gtFine_labelIds"))
                        for split in ("train", "val")], range(34)),
        ("coco-stuff", [(f"{split}2017/1.jpg", f"stuffthingmaps/{split}2017/1.png") for split in ("train", "val")],
         range(11)),
        ("voc", [(f"VOC2012/JPEGImages/{number}.jpg", f"VOC2012/SegmentationClass/{number}.png") for number in (1, 2)],
         range(21)),
        ("masks", [(f"images/{split}/1.jpg", f"masks/{split}/1.png") for split in ("train", "val")], range(19)),
        ("two-masks", [(f"images/{number}.jpg", f"masks/{number}.png") for number in range(10)], (0, 255)),
        ("CamVid", [(f"{split}/{number}.png", f"{split}annot/{number}.png")
                    for split in ("train", "val") for number in range(2)], range(12)),
    ):  # fmt: skip
        write_masks(folder / kind, pairs, list(among))
    lists = {"train": "1\n", "val": "2\n"}
    write_files(folder / "voc", {f"VOC2012/ImageSets/Segmentation/{name}.txt": text for name, text in lists.items()})
    write_files(folder / "coco-stuff", {"labels.txt": "0: unlabeled\n1: person\n"})
    write_benchmarks(folder)


def write_shards(folder: Path) -> None:
    """Shards of others, as in timm/imagenet-1k-wds, without a table of contents."""
    for split, first, last in (("train", 0, 8), ("validation", 10, 14)):
        files: dict[str, bytes] = {}
        for index in range(first, last):
            files |= {f"n{index:08d}.cls": b"%d" % (index % 2), f"n{index:08d}.jpg": picture(index)}
        write_files(folder, {f"imagenet1k-{split}-0000.tar": tar_bytes(files)})


def write_masks(folder: Path, pairs: list[tuple[str, str]], among: list[int]) -> None:
    """Images and masks of random values."""
    for seed, (image, mask) in enumerate(pairs):
        content = picture(seed, image_format="PNG" if image.endswith("png") else "JPEG")
        values = np.random.default_rng(seed).choice(among, MASK_SIZE).astype(np.uint8)
        write_files(folder, {image: content, mask: encode(values)})


def write_benchmarks(folder: Path) -> None:
    """ImageNet's other test sets, of an image or two."""
    first, content = synsets("imagenet_r")[0], picture(5)
    write_files(folder / "imagenet-r", {f"{first}/1.jpg": content})
    write_files(folder / "imagenetv2-matched-frequency-format-val", {"0/1.jpeg": content, "9/2.jpeg": content})
    names = (f"val/ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, 6))
    write_files(folder / "ILSVRC2012", dict.fromkeys(names, content))
    for name, severity in itertools.product(ALEXNET_ERRORS, range(1, 6)):
        write_files(folder / "imagenet-c", {f"{name}/{severity}/{first}/1.jpg": content})


def write_weights(folder: Path) -> None:
    """The authors' layout, timm's, and a run with both tasks finished under three names."""
    write_digits(folder / "small", num_train=64, num_validation=40, image_size=48, shard_size=32)
    AuthorsNepa(authors_config()).save(folder / "downloads" / "nepa-base")
    large = AuthorsNepa(authors_config()).save(folder / "downloads" / "nepa-large")
    torch.save(AuthorsNepa(authors_config(), seed=1).state_dict(), large / "pytorch_model_ema.bin")
    AuthorsNepa(authors_config(labels=1000)).save(folder / "downloads" / "nepa-base-sft")
    words = ("pretrain.ema_decay=0.9", "classify.ema_decay=0.9")
    run = finished_run(Pretrain(config_of(folder / "small", "pretrain", *words)), folder / "runs" / "mine")
    shutil.copy(run / "pretrain" / "model.safetensors", run / "pretrain" / "model_ema.safetensors")
    described = Description(
        architecture("femto", 8), 48, False, num_classes=1000, pool="mean", preprocessing=Preprocessing(0.9, "center")
    )
    tensors = {name: torch.randn(value.shape) for name, value in skeleton(described).items()}
    convert.write_timm(Weights(described, tensors), folder / "imported")
    export(run, folder / "backbone", "timm")
    shutil.copytree(run, folder / "runs" / "pretrained")
    (run / "classify").mkdir()
    for name in ("model.safetensors", "model_ema.safetensors"):
        shutil.copy(folder / "imported" / "model.safetensors", run / "classify" / name)
    settings = {"config": overrides.load(run / "config.yaml").flat(), "steps": 128, "validation_images": 40}
    for task, score in (("pretrain", "skill"), ("classify", "top1")):
        outcome = result("mine", task, "pretrain", "femto", 38_368, 0, {score: 0.4})
        write_json(run / task / "result.json", outcome | settings)
    for name in ("RUN", "base"):
        shutil.copytree(run, folder / "runs" / name)


def write_studies(folder: Path) -> None:
    """Finished studies under the names that documents use; one has scores on another test set."""
    sizes = {"femto": 6_000, "pico": 25_000, "nano": 98_304}
    for number, name in enumerate(("demo-model_size", "tiny_ablation-ablation_objective", "mine")):
        write_study(folder / name, StudySpec(sizes, noise=0.02 + 0.01 * number, scratch=False))
        write_files(folder / name, {"cluster.json": '{"kind": "local"}'})
        write_table(read_study(folder / name))
    for path in sorted((folder / "mine" / "runs").glob("*/classify")):
        top1 = json.loads((path / "result.json").read_text())["metrics"]["top1"]
        (path / "benchmarks.json").write_text(
            json.dumps({"imagenet-r": {"images": 10, "top1": top1 / 2, "top5": top1}})
        )


def write_tables(folder: Path) -> None:
    """For each command that fits laws a table of its own, for there each is called ``runs.csv`` or alike."""
    random = np.random.default_rng(0)
    sizes, tokens = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e7, 1e10, 7), np.geomspace(1e8, 1e10, 5)))
    loss = (1.8 + 480 * sizes**-0.35 + 2000 * tokens**-0.37) * np.exp(random.normal(0, 0.002, sizes.size))
    frame = pd.DataFrame({"params": sizes, "tokens": tokens, "flops": 6 * sizes * tokens, "loss": loss})
    frame = frame.assign(
        N=sizes, D=tokens, error=0.2 * loss**0.7, zeroshot_error=0.15 * loss, model=sizes, lr=1e-3, dataset="one"
    )
    frame = frame.assign(compute=frame["flops"] / 1e10)
    budgets = [(c, n) for c in np.geomspace(1e18, 1e20, 4) for n in np.geomspace(0.25, 4, 7) * 1e8 * (c / 1e18) ** 0.5]
    rows = [(c, n, c, n, 1.8 + 480 * n**-0.35 + 2000 * (c / 6 / n) ** -0.37) for c, n in budgets]
    equal = pd.DataFrame(rows, columns=["c", "n", "flops", "params", "loss"])
    tried = [(n, lr) for n in np.geomspace(1e6, 1e8, 4) for lr in np.geomspace(1e-3, 1e-1, 7)]
    rates = pd.DataFrame(tried, columns=["params", "lr"])
    rates["loss"] = 2 + np.log(rates["lr"] * rates["params"] ** 0.3) ** 2 / 50
    images = np.geomspace(1e7, 9e8, 25)
    fall = 40 * images**-0.3
    known = np.where(images < 5e8, 1.0, np.nan)  # what follows is planned
    curves = pd.concat(
        pd.DataFrame(
            {"images": images, "loss": known * (floor + fall), "error": known * (floor / 4 + fall / 4)}
        ).assign(lr=1e-3 * (1 + np.cos(np.pi * images / 1e9)) / 2, run=name, model=name)
        for name, floor in (("a", 1.5), ("b", 1.3))
    )
    continued = [(n, s, 0.2 + (n + s / 9) ** -0.3) for s in (1e4, 1e5) for n in np.geomspace(1e3, 1e6, 6)]
    table = pd.DataFrame(continued, columns=["unique_images", "source_images", "errors.top1"]).assign(task="classify")
    write_files(folder.parent, {"studies/continued/results.csv": table.to_csv(index=False)})
    folder.mkdir()
    for name, table in {"runs": frame, "isoflop": equal, "optimum": rates, "curves": curves}.items():
        table.to_csv(folder / f"{name}.csv", index=False)
