"""Photographs alone and with masks, in the trees that people have: every pixel arrives as the class it stands for."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from archives import picture, split_samples, zipped
from PIL import Image
from shard_files import encode
from trees import images, write_files

from nepa_scale.data import layout
from nepa_scale.data.prepare.__main__ import main
from nepa_scale.data.prepare.pixels import by_colour, by_value, recoded
from nepa_scale.utils.errors import DataError

SIZE = (18, 22)  # height and width of pictures


def prepare(kind: str, source: Path, *words: str) -> int:
    """Run the command in this process."""
    return main([kind, f"source={source}", f"root={source.parent / 'data'}", "name=photos", "workers=1", *words])


def info(source: Path) -> dict[str, object]:
    """What was written beside the shards."""
    content: dict[str, object] = json.loads((source.parent / "data" / "photos" / "_info.json").read_text())
    return content


def stored(source: Path, split: str) -> dict[bytes, np.ndarray]:
    """The stored mask [H, W] of every image of a split, by the image's bytes."""
    written = split_samples(source.parent / "data" / "photos", split).values()
    return {next(s[e] for e in ("jpg", "png") if e in s): pixels(s["seg.png"]) for s in written}


def pixels(content: bytes) -> np.ndarray:
    """The values of an encoded image as they are in it."""
    return np.asarray(Image.open(io.BytesIO(content)))


def values(seed: int, among: list[int]) -> np.ndarray:
    """A mask of random values, of which each occurs."""
    rng = np.random.default_rng(seed)
    flat = np.concatenate([among, rng.choice(among, SIZE[0] * SIZE[1] - len(among))])
    return rng.permutation(flat).reshape(SIZE).astype(np.uint8)


def palette(mask: np.ndarray) -> bytes:
    """An encoded mask whose values are numbers of a palette, as Pascal VOC has them."""
    image = Image.fromarray(mask).convert("P")
    image.putdata(mask.flatten().tolist())
    image.putpalette([level * 37 % 256 for level in range(768)])
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def written(
    source: Path, pairs: Mapping[str, tuple[str, str]], among: list[int], encoded: Callable[[np.ndarray], bytes]
) -> dict[str, dict[bytes, np.ndarray]]:
    """Write a photograph and its mask for each entry {name: (image, mask)}; by split what they were."""
    expected: dict[str, dict[bytes, np.ndarray]] = {}
    for seed, (name, (image, mask)) in enumerate(pairs.items()):
        content, classes = picture(seed, image_format="PNG" if image.endswith("png") else "JPEG"), values(seed, among)
        write_files(source, {image: content, mask: encoded(classes)})
        expected.setdefault("train" if name.startswith("train") else "validation", {})[content] = classes
    return expected


def assert_stored(source: Path, expected: Mapping[str, Mapping[bytes, np.ndarray]], rule: Callable[[int], int]) -> None:
    """Every pixel is stored as ``rule`` says of its value, by a loop that shares nothing with the code."""
    for split, masks in expected.items():
        found = stored(source, split)
        assert found.keys() == masks.keys()
        for content, mask in masks.items():
            want = [[rule(value) for value in row] for row in mask.tolist()]
            np.testing.assert_array_equal(found[content], want)
    assert layout.check_dataset(source.parent / "data", "photos", needs={"mask"}) == []
    assert main(["verify", f"root={source.parent / 'data'}", "name=photos", "workers=1"]) == 0


CITYSCAPES = {7: 1, 8: 2, 11: 3, 12: 4, 13: 5, 17: 6, 19: 7, 20: 8, 21: 9, 22: 10, 23: 11, 24: 12, 25: 13, 26: 14}
CITYSCAPES |= {27: 15, 28: 16, 31: 17, 32: 18, 33: 19}


@pytest.mark.parametrize("kind", ["labelIds", "labelTrainIds"])
def test_cityscapes(tmp_path: Path, kind: str) -> None:
    """By ids, of which those that are not scored are unlabelled, or by training ids; cities are no classes."""
    source, pairs = tmp_path / "source", {}
    for name in ("train/aachen_1", "train/aachen_2", "train/ulm_1", "val/bonn_1"):
        place = name.replace("/", "/" + name.split("/")[1].split("_")[0] + "/")
        pairs[name] = f"leftImg8bit/{place}_leftImg8bit.png", f"gtFine/{place}_gtFine_{kind}.png"
    among = list(range(34)) if kind == "labelIds" else [*range(19), 255]
    expected = written(source, pairs, among, encode)
    write_files(source, {"gtFine/train/ulm/ulm_1_gtFine_color.png": picture(9, image_format="PNG")})
    assert prepare("cityscapes", source) == 0
    assert_stored(
        source,
        expected,
        lambda value: CITYSCAPES.get(value, 0) if kind == "labelIds" else (value + 1) % 256,
    )
    names = info(source)["mask_class_names"]
    assert (len(names), names[0], names[13], names[18]) == (19, "road", "car", "bicycle")


@pytest.mark.parametrize(("images", "masks"), [("images/", "annotations"), ("", "stuffthingmaps")])
def test_coco_stuff(tmp_path: Path, images: str, masks: str) -> None:
    """171 of the values 0 to 181 are classes, in their order; the others, if they occur, are a fault."""
    source = tmp_path / "source"
    names = {"train 1": "train2017/000000000009", "train 2": "train2017/000000000025", "v": "val2017/000000000139"}
    pairs = {key: (f"{images}{name}.jpg", f"{masks}/{name}.png") for key, name in names.items()}
    gaps = {11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90}
    among = [value for value in range(182) if value not in gaps]
    expected = written(source, pairs, [*among, 255], encode)
    write_files(source, {"labels.txt": "0: unlabeled\n1: person\n13: stop sign\n182: wood\n"})
    assert prepare("coco-stuff", source) == 0
    assert_stored(source, expected, lambda value: among.index(value) + 1 if value != 255 else 0)
    found = info(source)["mask_class_names"]
    assert [len(found), *(found[index] for index in (0, 11, 12, 170))] == [171, "person", "stop sign", "13", "wood"]


@pytest.mark.parametrize("prefix", ["", "VOC2012/", "VOCdevkit/VOC2012/"])
def test_pascal_voc(tmp_path: Path, prefix: str) -> None:
    """The images of the lists alone, with masks whose palette does not matter; 255 is the void around objects."""
    source = tmp_path / "source"
    names = {"train 1": "2007_000032", "train 2": "2007_000039", "validation": "2007_000033", "other": "2007_000001"}
    pairs = {
        key: (f"{prefix}JPEGImages/{name}.jpg", f"{prefix}SegmentationClass/{name}.png") for key, name in names.items()
    }
    expected = written(source, pairs, [*range(21), 255], palette)
    lists = {"train": "2007_000032\n2007_000039\n", "val": "2007_000033\n"}
    write_files(source, {f"{prefix}ImageSets/Segmentation/{name}.txt": text for name, text in lists.items()})
    expected["validation"] = dict(list(expected["validation"].items())[:1])
    assert prepare("voc", source) == 0
    assert_stored(source, expected, lambda value: (value + 1) % 256)
    assert info(source)["left_out"][".jpg files"]["count"] == 1


PLAIN = {
    "splits inside": ("images/{split}/{name}.jpg", "masks/{split}/{name}.png"),
    "splits around": ("{split}/images/{name}.jpg", "{split}/labels/{name}.png"),
    "a folder around": ("set/images/{split}/a/{name}.jpg", "set/annotations/{split}/a/{name}.png"),
    "a suffix": ("images/{split}/{name}.jpg", "masks/{split}/{name}_mask.png"),
}


@pytest.mark.parametrize("tree", PLAIN)
def test_plain_masks(tmp_path: Path, tree: str) -> None:
    """Images and masks are paired by name in any of these trees; values count from a stated one."""
    source, (image, mask) = tmp_path / "source", PLAIN[tree]
    pairs = {
        f"{split} {name}": (image.format(split=split, name=name), mask.format(split=split, name=name))
        for split, name in (("train", "a.1"), ("train", "b"), ("train", "c"), ("val", "a.1"))
    }
    expected = written(source, pairs, [0, 3, 4, 5, 9], encode)
    write_files(tmp_path, {"names.txt": "floor\nwall\nsky\n"})
    words = ["values=3-5", "ignore=0,9", f"names={tmp_path / 'names.txt'}"]
    assert prepare("masks", source, *words, *(["mask_suffix=_mask"] if tree == "a suffix" else [])) == 0
    assert_stored(source, expected, lambda value: value - 2 if 3 <= value <= 5 else 0)
    assert info(source)["mask_class_names"] == ["floor", "wall", "sky"]


@pytest.mark.parametrize("as_zip", [False, True])
def test_masks_of_two_values_without_splits(tmp_path: Path, as_zip: bool) -> None:
    """Black and white, and a stated part that validates, from a folder or from a zip file of it."""
    source = tmp_path / "source"
    pairs = {f"train {number}": (f"images/{number}.jpg", f"masks/{number}.png") for number in range(10)}
    expected = written(source, pairs, [0, 255], encode)["train"]
    place = zipped(source, tmp_path / "source.zip", "set/") if as_zip else source
    assert prepare("masks", place, "values=0,255", "val_fraction=0.2") == 0
    train, validation = stored(place, "train"), stored(place, "validation")
    assert (len(train), len(validation)) == (8, 2)
    for content, mask in (train | validation).items():
        np.testing.assert_array_equal(mask, np.where(expected[content] == 255, 2, 1))


COLOURS = {(64, 128, 64): "Animal", (192, 0, 128): "Archway", (0, 128, 192): "traffic light", (0, 0, 0): "Void"}
TABLES = {
    "spaces and tabs": "64 128 64\tAnimal\n192 0 128\tArchway\n0 128 192\t\ttraffic light\n1 1 1 Animal\n0 0 0\tVoid\n",
    "a header, names first": "name,r,g,b\nAnimal,64,128,64\nArchway,192,0,128\ntraffic light,0,128,192\nAnimal,1,1,1\n"
    "Void,0,0,0\n",
}


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("as_palette", [False, True])
def test_masks_in_colours(tmp_path: Path, table: str, as_palette: bool) -> None:
    """Colours stand for the classes of a table, whether each pixel has its own or a palette has them."""
    source, rng = tmp_path / "source", np.random.default_rng(0)
    colours, numbers = [*COLOURS, (1, 1, 1)], [1, 2, 3, 0, 1]
    expected = {}
    for split, name in (("train", "a"), ("train", "b"), ("val", "c")):
        chosen = rng.integers(len(colours), size=SIZE)
        image = Image.fromarray(np.array(colours, dtype=np.uint8)[chosen])
        buffer = io.BytesIO()
        (image.quantize(8) if as_palette else image).save(buffer, "PNG")
        content = picture(len(expected))
        write_files(source, {f"images/{split}/{name}.jpg": content, f"masks/{split}/{name}.png": buffer.getvalue()})
        expected[content] = np.array(numbers)[chosen]
    write_files(tmp_path, {"colours.txt": TABLES[table]})
    assert prepare("masks", source, f"colours={tmp_path / 'colours.txt'}") == 0
    found = stored(source, "train") | stored(source, "validation")
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[content], mask) for content, mask in expected.items())
    assert info(source)["mask_class_names"] == ["Animal", "Archway", "traffic light"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "give values="),
        (["values=0-2", "colours=x"], "give values="),
        (["values=0-2", "ignore=1,255"], "ignore= names values that are classes: 1"),
        (["values=5-2"], "expected values from 0 to 255, such as 0-18 or 0,255"),
        (["values=0-256"], "expected values from 0 to 255"),
        (["values=0,0"], "names a value twice"),
        (["values=0-255"], "256 classes: masks are stored with 8 bits, which hold 255"),
        (["values=0-8"], "the mask holds values that stand for no class: 9"),
        (["values=0-9", "val_fraction=0.1"], "leave val_fraction out"),
        (["values=0-9", "mask_suffix=_m"], "2 images have no mask *_m in"),
        (["colours=colours.txt"], "the mask holds colours that stand for no class: (9, 9, 9)"),
        (["colours=bad.txt"], "'bad.txt', line 2: expected red green blue name"),
        (["colours=twice.txt"], "'twice.txt', line 2: the colour (1, 2, 3) stands twice"),
        (["colours=absent.txt"], "'absent.txt' cannot be read"),
        (["values=0-9", "names=colours.txt"], "'colours.txt' has 2 names, but values= states 10 classes"),
        (["values=0,5,9", "names=same.txt"], "'same.txt' names a class twice: wall"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path,
    words: list[str],
    complaint: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever is wrong with the settings, the tables or the masks is said, and nothing is left of the data set."""
    monkeypatch.chdir(tmp_path)
    pairs = {
        f"{s} {n}": (f"images/{s}/{n}.jpg", f"masks/{s}/{n}.png") for s, n in (("train", 1), ("train", 2), ("val", 3))
    }
    written(tmp_path / "source", pairs, [0, 9], encode)
    tables = {
        "colours.txt": "0 0 0 floor\n5 5 5 wall\n",
        "bad.txt": "1 2 3 a\n300 0 0 b\n",
        "twice.txt": "1 2 3 a\n1 2 3 b\n",
        "same.txt": "wall\nfloor\nwall\n",
    }
    write_files(tmp_path, tables)
    assert prepare("masks", tmp_path / "source", *words) == 2
    assert complaint in capsys.readouterr().err.splitlines()[0]
    assert not (tmp_path / "data" / "photos").exists()


def test_colours_do_not_survive_a_jpeg() -> None:
    """A mask in colours that was saved as a JPEG is refused as such."""
    table, _ = by_colour("0 0 0 floor\n", "table")
    with pytest.raises(DataError, match="the mask is a JPEG, which does not keep colours"):
        recoded(picture(0), table)


def test_a_recoded_mask_is_made_smaller_with_its_image(tmp_path: Path) -> None:
    """Only stored classes are in a smaller mask, of the size of its image."""
    source = tmp_path / "source"
    pairs = {f"{s} 1": (f"images/{s}/1.jpg", f"masks/{s}/1.png") for s in ("train", "val")}
    written(source, pairs, [7, 200], encode)
    assert prepare("masks", source, "values=7,200", "resize=16") == 0
    ((content, mask),) = stored(source, "train").items()
    assert mask.shape == pixels(content).shape[:2] == (16, 20)
    assert set(np.unique(mask)) == {1, 2}


def turned(content: bytes, orientation: int) -> bytes:
    """The same photograph with an EXIF orientation."""
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Image.open(io.BytesIO(content)).save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


def test_masks_of_turned_photographs_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A mask as a viewer shows its photograph does not fit, or fits and is upside down, which no size tells."""
    source = tmp_path / "source"
    pairs = {f"{s} 1": (f"images/{s}/1.jpg", f"masks/{s}/1.png") for s in ("train", "val")}
    written(source, pairs, [7, 200], encode)
    image = source / "images" / "train" / "1.jpg"
    image.write_bytes(turned(picture(0), 3))
    assert prepare("masks", source, "values=7,200") == 0
    assert "train: 1 images with a mask have an EXIF orientation" in caplog.text
    assert main(["verify", f"root={tmp_path / 'data'}", "name=photos", "workers=1"]) == 0
    assert "1 images with a mask have an EXIF orientation, which is not applied" in capsys.readouterr().out
    image.write_bytes(turned(picture(0, (18, 22)), 6))
    words = [f"source={source}", f"root={tmp_path / 'other'}", "name=photos", "workers=1", "values=7,200"]
    assert main(["masks", *words]) == 2
    told = capsys.readouterr().err
    assert "the image is 18x22 pixels, its mask 22x18 pixels (EXIF orientation 6 is not applied)" in told


def test_other_masks_are_another_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same files with other values of the classes are not taken for what is there already."""
    source = tmp_path / "source"
    pairs = {f"{s} 1": (f"images/{s}/1.jpg", f"masks/{s}/1.png") for s in ("train", "val")}
    written(source, pairs, [0, 1], encode)
    assert prepare("masks", source, "values=0,1") == 0
    assert prepare("masks", source, "values=0,1") == 0
    assert "already there" in capsys.readouterr().out
    assert prepare("masks", source, "values=1,0") == 2
    assert by_value([0, 1], [255]).fingerprint() != by_value([1, 0], [255]).fingerprint()


FLAT = images("1.jpg", "2.png", "a/3.jpg", "a/b/4.JPEG", *(f"more/{number}.jpg" for number in range(16)))


@pytest.mark.parametrize("as_zip", [False, True])
def test_images_without_labels(tmp_path: Path, as_zip: bool) -> None:
    """Every image at any depth is there once, byte for byte; a stated part validates; there are no classes."""
    source = write_files(tmp_path / "source", {**FLAT, "notes.txt": "x"})
    place = zipped(source, tmp_path / "photos.zip", "photos/") if as_zip else source
    assert prepare("images", place, "val_fraction=0.1") == 0
    parts = [split_samples(place.parent / "data" / "photos", split) for split in ("train", "validation")]
    assert list(map(len, parts)) == [18, 2]
    contents = [content for part in parts for sample in part.values() for content in sample.values()]
    assert sorted(contents) == sorted(FLAT.values())
    content = info(place)
    assert (content["num_classes"], content["prepared"]["val_fraction"]) == (0, 0.1)
    assert layout.check_dataset(place.parent / "data", "photos") == []
    [problem] = layout.check_dataset(place.parent / "data", "photos", needs={"label"})
    assert "has no class labels" in problem


def test_images_with_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Folders of splits are used as they are, and no other part may be asked for."""
    files = images("train/x/1.jpg", "train/2.jpg", "val/3.jpg", "test/4.jpg")
    source = write_files(tmp_path / "source", files)
    assert prepare("images", source) == 0
    folder = source.parent / "data" / "photos"
    assert [len(split_samples(folder, split)) for split in ("train", "validation")] == [2, 1]
    assert prepare("images", source, "val_fraction=0.5") == 2
    assert "leave val_fraction out" in capsys.readouterr().err
    beside = write_files(tmp_path / "a" / "beside", images("1.jpg", "more/2.jpg", "val/3.jpg"))
    assert prepare("images", beside) == 0
    folder = beside.parent / "data" / "photos"
    assert [len(split_samples(folder, split)) for split in ("train", "validation")] == [2, 1]
    only = write_files(tmp_path / "only", images("1.jpg", "2.jpg"))
    assert prepare("images", only) == 2
    assert "val_fraction=0.1 takes them out of the others" in capsys.readouterr().err
    single = write_files(tmp_path / "single", images("1.jpg"))
    assert prepare("images", single, "val_fraction=0.5") == 2
    assert "has no images for validation" in capsys.readouterr().err


def test_classes_by_the_innermost_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With ``class_folder=innermost`` the path of folders is the class, at any depth."""
    names = [
        f"{split}/{name}/{n}.jpg" for split in ("train", "val") for name in ("a/cat", "a/dog", "b") for n in (1, 2)
    ]
    source = write_files(tmp_path / "source", images(*names))
    assert prepare("folder", source, "class_folder=innermost") == 0
    assert info(source)["class_names"] == ["a/cat", "a/dog", "b"]
    folder = source.parent / "data" / "photos"
    labels = [sample["cls"] for sample in split_samples(folder, "validation").values()]
    assert labels == [b"0", b"0", b"1", b"1", b"2", b"2"]
    assert "inside class folders" not in capsys.readouterr().out
    assert prepare("folder", source) == 2
