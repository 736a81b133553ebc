"""Miniatures of the trees that people download, in folders and zip files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from archives import picture

WNIDS = ("n01443537", "n02123045", "n03444034")  # sorted


def write_files(folder: Path, files: Mapping[str, bytes | str]) -> Path:
    """Write files by their names below ``folder``."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def images(*names: str) -> dict[str, bytes]:
    """Different pictures in the format of each name."""
    formats = {"png": "PNG", "webp": "WEBP", "bmp": "BMP", "gif": "GIF", "tif": "TIFF", "tiff": "TIFF"}
    formats |= {"ppm": "PPM", "pgm": "PPM"}
    return {
        name: picture(sum(name.encode()), image_format=formats.get(name[-4:].lstrip(".").lower(), "JPEG"))
        for name in names
    }


def tiny_imagenet(folder: Path) -> Path:
    """The official tree of Tiny ImageNet with three classes, in another order in wnids.txt, as it is there."""
    files = images(*(f"train/{wnid}/images/{wnid}_{index}.JPEG" for wnid in WNIDS for index in range(3)))
    files |= images(*(f"val/images/val_{index}.JPEG" for index in range(4)), "test/images/test_0.JPEG")
    texts = {f"train/{wnid}/{wnid}_boxes.txt": f"{wnid}_0.JPEG\t0\t10\t63\t58\n" for wnid in WNIDS}
    rows = [f"val_{index}.JPEG\t{WNIDS[(index + 2) % 3]}\t0\t32\t44\t62\n" for index in range(4)]
    texts["val/val_annotations.txt"] = "".join(rows)
    texts["wnids.txt"] = "\n".join((WNIDS[1], WNIDS[0], WNIDS[2])) + "\n"
    texts["words.txt"] = "n00001740\tentity\n" + "".join(f"{wnid}\tsomething, somewhat\n" for wnid in WNIDS)
    return write_files(folder, {**files, **texts})


def kaggle_imagenet(folder: Path) -> Path:
    """Kaggle's tree of ImageNet with three classes."""
    base = "ILSVRC/Data/CLS-LOC"
    files = images(*(f"{base}/train/{wnid}/{wnid}_{index}.JPEG" for wnid in WNIDS for index in range(3)))
    files |= images(*(f"{base}/val/ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, 5)))
    files |= images(f"{base}/test/ILSVRC2012_test_00000001.JPEG")
    rows = {4: f"{WNIDS[2]} 1 2 3 4 ", 1: f"{WNIDS[0]} 111 108 230 170 {WNIDS[0]} 5 6 7 8 ", 3: f"{WNIDS[1]} 1 2 3 4 "}
    rows[2] = f"{WNIDS[0]} 1 2 3 4 "
    solution = "".join(f"ILSVRC2012_val_{number:08d},{text}\n" for number, text in rows.items())
    texts = {
        "LOC_val_solution.csv": f"ImageId,PredictionString\n{solution}",
        "LOC_train_solution.csv": "ImageId,PredictionString\n",
        "LOC_synset_mapping.txt": "".join(f"{wnid} something, somewhat\n" for wnid in WNIDS),
        "ILSVRC/Annotations/CLS-LOC/val/ILSVRC2012_val_00000001.xml": "<annotation/>",
    }
    return write_files(folder, {**files, **texts})
