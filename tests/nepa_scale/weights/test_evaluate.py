"""Test sets of ImageNet in miniature, as they lie on disk, against a plain loop over timm's model; times of batches."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from finished_runs import export, finished_run
from PIL import Image
from small_tasks import config_of
from timm.data import create_transform, resolve_data_config
from torchvision.models._meta import _IMAGENET_CATEGORIES

from nepa_scale.config import overrides
from nepa_scale.config.ladder import architecture
from nepa_scale.data.preprocessing import Preprocessing
from nepa_scale.models import nepa_vit  # noqa: F401  timm knows the model by it
from nepa_scale.tasks.pretrain import Pretrain
from nepa_scale.utils.errors import UserError, WeightsError
from nepa_scale.weights import benchmarks, convert
from nepa_scale.weights.__main__ import main
from nepa_scale.weights.benchmarks import ALEXNET_ERRORS, synsets
from nepa_scale.weights.convert import Weights, skeleton
from nepa_scale.weights.evaluate import class_columns, evaluate
from nepa_scale.weights.timm_layout import Description

IDS = synsets()
NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of timm's layout: a tiny classifier of 1,000 classes that is sure of its answers."""
    description = Description(
        architecture("femto", 8), 32, False, num_classes=1000, pool="mean", preprocessing=Preprocessing(0.9, "center")
    )
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: float(value.ndim == 1) + 0.3 * torch.randn(value.shape, generator=generator)
        for name, value in skeleton(description).items()
    }
    folder = tmp_path_factory.mktemp("weights") / "classifier"
    convert.write_timm(Weights(description, tensors), folder)
    return folder


class PlainTimm:
    """timm's own model and transform, an image at a time."""

    def __init__(self, folder: Path) -> None:
        self.model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        self.transform = create_transform(**resolve_data_config({}, model=self.model))

    def scores(self, path: Path) -> np.ndarray:
        """Logits [1000] of one image."""
        with torch.no_grad():
            logits = self.model(self.transform(Image.open(path).convert("RGB"))[None])
        return np.asarray(logits[0].double())

    def fractions(self, images: list[tuple[Path, set[int]]], allowed: list[int]) -> tuple[float, float]:
        """Top-1 and top-5 of (image, right classes) when only ``allowed`` classes may be answered."""
        first = five = 0
        for path, right in images:
            scores = self.scores(path)
            ranked = sorted(allowed, key=lambda index: -scores[index])
            first += ranked[0] in right
            five += bool(set(ranked[:5]) & right)
        return first / len(images), five / len(images)


def picture(path: Path) -> Path:
    """A new image of its own colours, larger than the model's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(next(NUMBERS))
    small = Image.fromarray(random.integers(0, 256, (5, 4, 3), dtype=np.uint8))
    small.resize((60, 48), Image.Resampling.BICUBIC).save(path, quality=95)
    return path


def answers_of(plain: PlainTimm, path: Path, allowed: list[int]) -> list[int]:
    """The classes from the best to the worst, so that a miniature has right answers, too."""
    scores = plain.scores(path)
    return sorted(allowed, key=lambda index: -scores[index])


def filed(plain: PlainTimm, root: Path, allowed: list[int], name: Any, count: int = 9) -> list[tuple[Path, set[int]]]:
    """Images in class folders ``name(index)``: of three in turn the first, the third and the last answer is right."""
    images = []
    for number in range(count):
        draft = picture(root.parent / "draft.jpg")
        index = answers_of(plain, draft, allowed)[(0, 2, -1)[number % 3]]
        path = root / name(index) / f"{number}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        images.append((draft.rename(path), {index}))
    return images


@pytest.mark.parametrize(
    ("benchmark", "folder", "numbered"),
    [
        ("imagenet-v2", "imagenetv2-matched-frequency-format-val", True),
        ("imagenet-r", "imagenet-r", False),
        ("imagenet-a", "imagenet-a", False),
        ("imagenet-sketch", "sketch", False),
    ],
)
def test_class_folders_are_scored_as_by_hand(
    classifier: Path, tmp_path: Path, benchmark: str, folder: str, numbered: bool
) -> None:
    """Numbers are indices, WordNet ids classes; of -R and -A only their 200 classes can be answered."""
    plain = PlainTimm(classifier)
    subset = {"imagenet-r": "imagenet_r", "imagenet-a": "imagenet_a"}.get(benchmark, "imagenet")
    allowed = [IDS.index(synset) for synset in synsets(subset)]
    assert len(allowed) == (200 if subset != "imagenet" else 1000)
    images = filed(plain, tmp_path / folder, allowed, str if numbered else IDS.__getitem__)
    (tmp_path / folder / "README.txt").write_text("as downloaded")
    expected = plain.fractions(images, allowed)
    assert expected == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    for root in (tmp_path / folder, tmp_path):  # the folder itself, or the one that it was unpacked into
        found = evaluate(classifier, benchmark, root, batch_size=4)
        assert (found["top1"], found["top5"]) == pytest.approx(expected, abs=1e-6)
        assert (found["images"], found["published_images"] > 9) == (9, True)


def test_subset_changes_the_answer(classifier: Path, tmp_path: Path) -> None:
    """The same images score lower among all 1,000 classes: without the subset -R and -A would be other benchmarks."""
    plain, allowed = PlainTimm(classifier), [IDS.index(synset) for synset in synsets("imagenet_r")]
    filed(plain, tmp_path / "r", allowed, IDS.__getitem__)
    among_all = evaluate(classifier, "imagenet-sketch", tmp_path / "r")
    assert among_all["top1"] < evaluate(classifier, "imagenet-r", tmp_path / "r")["top1"]


def test_real_counts_any_of_its_labels_and_leaves_out_the_rest(classifier: Path, tmp_path: Path) -> None:
    """By the numbers in the names, wherever the files lie; an image without a label does not count."""
    plain, labels = PlainTimm(classifier), [[] for _ in range(50_000)]  # type: ignore[var-annotated]
    images = []
    for number, where in ((1, "."), (2, "n01440764"), (40_000, "n01443537"), (50_000, ".")):
        path = picture(tmp_path / "val" / where / f"ILSVRC2012_val_{number:08d}.JPEG")
        ranked = answers_of(plain, path, list(range(1000)))
        right = {1: [ranked[7], ranked[0]], 2: [ranked[3]], 40_000: [ranked[-1]], 50_000: []}[number]
        labels[number - 1] = right
        images += [(path, set(right))] if right else []
    (tmp_path / "val" / "real.json").write_text(json.dumps(labels))
    found = evaluate(classifier, "imagenet-real", tmp_path / "val")
    assert found["images"] == 3
    expected = plain.fractions(images, list(range(1000)))
    assert (found["top1"], found["top5"]) == pytest.approx(expected, abs=1e-6)
    assert expected == (pytest.approx(1 / 3), pytest.approx(2 / 3))


def test_corruptions_are_averaged_by_severity_then_by_corruption(classifier: Path, tmp_path: Path) -> None:
    """Each corruption and severity counts alike, however many images it has; errors are in units of AlexNet's."""
    plain, everything = PlainTimm(classifier), list(range(1000))
    top1: dict[str, list[float]] = {name: [] for name in ALEXNET_ERRORS}
    for number, (name, severity) in enumerate(itertools.product(ALEXNET_ERRORS, range(1, 6))):
        root = tmp_path / ("noise" if "noise" in name else ".") / name / str(severity)
        images = filed(plain, root, everything, IDS.__getitem__, count=1 + number % 3)
        top1[name].append(plain.fractions(images, everything)[0])
    picture(tmp_path / "spatter" / "1" / IDS[0] / "extra.JPEG")  # an extra corruption, not part of the average
    found = evaluate(classifier, "imagenet-c", tmp_path)
    means = {name: float(np.mean(values)) for name, values in top1.items()}
    assert found["top1_by_corruption"] == pytest.approx(means, abs=1e-6)
    assert found["top1"] == pytest.approx(np.mean(list(means.values())), abs=1e-6)
    errors = [np.mean([1 - value for value in top1[name]]) / unit for name, unit in ALEXNET_ERRORS.items()]
    assert found["mce"] == pytest.approx(np.mean(errors), abs=1e-6)
    (tmp_path / "fog" / "3").rename(tmp_path / "fog" / "other")
    with pytest.raises(UserError, match=r"15 corruptions of 5 severities; missing: fog/3"):
        benchmarks.parts_of("imagenet-c", tmp_path)


def test_scores_of_a_run_stay_beside_its_weights(classifier: Path, tmp_path: Path) -> None:
    """A run gives the scores of its weights, and notes them by the test set's name."""
    run = tmp_path / "run"
    words = ["model=femto", "classify.image_size=32", "classify.crop_pct=0.9", "classify.attention=bidirectional"]
    (run / "classify").mkdir(parents=True)
    overrides.save(overrides.parse([*words, "task=classify", "init=scratch"]), run / "config.yaml")
    shutil.copy(classifier / "model.safetensors", run / "classify" / "model.safetensors")
    images = filed(PlainTimm(classifier), tmp_path / "sketch", list(range(1000)), IDS.__getitem__, count=3)
    assert evaluate(run, "imagenet-sketch", tmp_path / "sketch")["top1"] == pytest.approx(1 / len(images))
    kept = json.loads((run / "classify" / "benchmarks.json").read_text())
    assert kept == {"imagenet-sketch": {"images": 3, "top1": pytest.approx(1 / 3), "top5": pytest.approx(2 / 3)}}


def test_what_is_not_there_is_one_line(classifier: Path, tmp_path: Path) -> None:
    """No folder, no classes in it, classes of another set, names without a number, a broken image."""
    with pytest.raises(UserError, match="no such folder"):
        evaluate(classifier, "imagenet-r", tmp_path / "absent")
    picture(tmp_path / "flat" / "1.jpg")
    with pytest.raises(UserError, match="no folders called like classes"):
        evaluate(classifier, "imagenet-r", tmp_path / "flat")
    other = next(synset for synset in IDS if synset not in synsets("imagenet_a"))
    picture(tmp_path / "a" / other / "1.jpg")
    with pytest.raises(UserError, match=f"{other}: no class of ImageNet-A"):
        evaluate(classifier, "imagenet-a", tmp_path / "a")
    with pytest.raises(UserError, match=r"1\.jpg is not called ILSVRC2012_val_00000001\.JPEG"):
        evaluate(classifier, "imagenet-real", tmp_path / "flat" / ".." / "flat")
    broken = tmp_path / "sketch" / IDS[0] / "1.jpg"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"no image")
    for workers in (0, 1):
        with pytest.raises(UserError, match=r"^image '.*1\.jpg': [^\n]+$"):
            evaluate(classifier, "imagenet-sketch", tmp_path / "sketch", num_workers=workers)


def test_classes_are_found_by_their_names() -> None:
    """A data set may have its classes in another order; one of other classes is refused."""
    turned = tuple(reversed(IDS))
    assert class_columns(turned, 1000)[IDS[0]] == 999
    assert class_columns((), 1000)[IDS[3]] == 3
    with pytest.raises(WeightsError, match="a classifier of 10 classes such as 0"):
        class_columns(tuple("0123456789"), 10)


def test_classes_may_have_their_english_names() -> None:
    """As in the Hub's data set and in torchvision, in ImageNet's order; in another order, or others, they may not."""
    long = tuple(f"{name.title()}, another name" for name in _IMAGENET_CATEGORIES)
    for names in (tuple(_IMAGENET_CATEGORIES), long):
        assert class_columns(names, 1000) == {synset: index for index, synset in enumerate(IDS)}
        for wrong in (tuple(reversed(names)), (*names[500:], *names[:500]), tuple(map(str, range(1000)))):
            with pytest.raises(WeightsError, match="a classifier of 1000 classes such as"):
                class_columns(wrong, 1000)
    with pytest.raises(WeightsError, match="a classifier of 999 classes such as"):
        class_columns(tuple(_IMAGENET_CATEGORIES[:999]), 999)


def test_what_systems_leave_beside_images_is_passed_over(tmp_path: Path) -> None:
    """Files such as macOS puts beside those that it copies are no images."""
    names = [f"v/{IDS[0]}/1.JPEG", f"v/{IDS[0]}/._1.JPEG", "real/ILSVRC2012_val_00000002.JPEG"]
    for name in (*names, "real/._ILSVRC2012_val_00000002.JPEG", "real/@eaDir/x.jpg"):
        picture(tmp_path / name)
    [sketch] = benchmarks.parts_of("imagenet-sketch", tmp_path / "v")
    [real] = benchmarks.parts_of("imagenet-real", tmp_path / "real")
    assert [image.path for part in (sketch, real) for image in part.images] == [
        tmp_path / names[0],
        tmp_path / names[2],
    ]


def test_batches_are_timed(digits_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a run and of an exported folder, in either precision; a table for people, a document for programs."""
    run = finished_run(Pretrain(config_of(digits_root, "pretrain")), tmp_path / "run")
    out = export(run, tmp_path / "out", "timm")
    capsys.readouterr()
    words = ["batch_size=1", "batch_size=3", "seconds=0.01"]
    assert main(["speed", str(run), *words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["image_size"] == 48 and [row["batch_size"] for row in told["rows"]] == [1, 3]
    for row in told["rows"]:
        assert row["images_per_second"] == pytest.approx(1000 * row["batch_size"] / row["ms"])
        assert row["ms_p90"] >= row["ms"] > 0
    assert main(["speed", str(out), *words, "precision=bf16"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "bf16, 48 pixels" in lines[1] and len(lines) == 5
    assert main(["speed", str(tmp_path / "absent")]) == 2
    assert main(["speed", str(run), "task=classify"]) == 2
    assert main(["speed", str(out), "task=classify"]) == 2  # an exported folder has one set of weights
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_batches_that_memory_cannot_hold(
    classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line names the batch size; what was timed before is told."""
    filed(PlainTimm(classifier), tmp_path / "r", [0, 1, 2], IDS.__getitem__, count=3)
    linear = torch.nn.functional.linear

    def for_one(x: torch.Tensor, *rest: Any) -> torch.Tensor:
        if len(x) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return linear(x, *rest)

    monkeypatch.setattr(torch.nn.functional, "linear", for_one)
    assert main(["speed", str(classifier), "seconds=0.01", "batch_size=1", "batch_size=7", "--json"]) == 2
    timed = capsys.readouterr()
    assert [row["batch_size"] for row in json.loads(timed.out)["rows"]] == [1]
    assert main(["speed", str(classifier), "batch_size=7"]) == 2
    assert main(["evaluate", str(classifier), "benchmark=imagenet-sketch", f"source={tmp_path / 'r'}"]) == 2
    lines = (timed.err + capsys.readouterr().err).splitlines()
    assert [line.split(": ")[1] for line in lines] == ["batch_size=7", "batch_size=7", "batch_size=64"]
