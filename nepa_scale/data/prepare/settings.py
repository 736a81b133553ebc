"""The kinds of data set that can be prepared, and their settings.

Standard library only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nepa_scale.data import info
from nepa_scale.utils.arguments import ANSWERS_IN_JSON, option

MOST = 10**6  # images that are drawn, or lie in a shard


def folder_name(text: str) -> str:
    """The name of a folder in another. Raises ``ValueError`` for a path."""
    if text != Path(text).name or text.startswith("."):
        raise ValueError("expected the name of a folder in root")
    return text


def whole_numbers(text: str) -> list[int]:
    """Values of 8 bits as ``0-18,255`` has them: ranges with both ends, and single ones. Raises ``ValueError``."""
    numbers: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        if not (first.isdecimal() and (last or first).isdecimal() and int(first) <= int(last or first) < 256):
            raise ValueError("expected values from 0 to 255, such as 0-18 or 0,255")
        numbers += range(int(first), int(last or first) + 1)
    if len(numbers) > len(set(numbers)):
        raise ValueError("names a value twice")
    return numbers


@dataclass(frozen=True)
class DigitSettings:
    """scenes of scikit-learn's handwritten digits, with classes and masks (nothing is downloaded)"""

    root: Path = option("folder of all data sets", Path(info.DEFAULT_ROOT))
    num_train: int = option("training images", info.NUM_TRAIN, low=1, high=MOST)
    num_validation: int = option("validation images", info.NUM_VALIDATION, low=1, high=MOST)
    image_size: int = option("height and width in pixels", info.IMAGE_SIZE, low=16, high=1024)
    seed: int = option("of the composition", 0, low=0, high=2**32 - 1)
    shard_size: int = option("images in a shard", info.SHARD_SIZE, low=1, high=MOST)


@dataclass(frozen=True)
class PlaceSettings:
    """A data set that is there already."""

    root: Path = option("folder of all data sets")
    name: str = option("name of the data set, a folder in root", read=folder_name)
    workers: int | None = option("processes; null for one per core", None, low=1, high=1024)


@dataclass(frozen=True)
class WritingSettings:
    """A source that becomes shards."""

    source: Path = option("folder or file to read")
    root: Path = option("folder of all data sets")
    name: str = option("name of the new data set", read=folder_name)
    shard_size: int = option("images in a shard", 1000, low=1, high=MOST)
    resize: int | None = option("shorter side in pixels; smaller images stay as they are", None, low=16, high=2**14)
    workers: int | None = option("processes; null for one per core", None, low=1, high=1024)
    skip_bad: bool = option("leave out images that cannot be used", False)


@dataclass(frozen=True)
class DividedSettings(WritingSettings):
    """A source that may have no validation images."""

    val_fraction: float | None = option(
        "without validation images: the part of the images, of each class, that becomes them", None, above=0, high=0.9
    )


@dataclass(frozen=True)
class ImagesSettings(DividedSettings):
    """images without labels, at any depth: in source, or in source/train and source/{validation,val,valid}"""


@dataclass(frozen=True)
class FolderSettings(DividedSettings):
    """class folders, also in a zip file: source/train/<class>/*.jpg and source/{validation,val,valid}/<class>/*.jpg"""

    class_folder: str = option(
        "which of the folders around an image is its class; innermost by its path, as animals/cats",
        "outermost",
        choices=("outermost", "innermost"),
    )


@dataclass(frozen=True)
class ImagenetSettings(WritingSettings):
    """ILSVRC2012_img_{train,val}.tar and ILSVRC2012_devkit_t12.tar.gz, or Kaggle's ILSVRC/ with the LOC_* files"""


@dataclass(frozen=True)
class TinyImagenetSettings(WritingSettings):
    """Tiny ImageNet: the folder tiny-imagenet-200 with train/, val/ and wnids.txt, or tiny-imagenet-200.zip"""


@dataclass(frozen=True)
class ParquetSettings(DividedSettings):
    """Hugging Face: data/{train,validation}-*.parquet, default/train/0000.parquet, or a folder of save_to_disk"""

    image_column: str | None = option("column of encoded images; null for image, or the only one there is", None)
    label_column: str | None = option("column of classes, or none; null for label, or the only one there is", None)


@dataclass(frozen=True)
class Ade20kSettings(WritingSettings):
    """ADE20K: images/ and annotations/ with {training,validation}/, as a folder or as ADEChallengeData2016.zip"""


@dataclass(frozen=True)
class CityscapesSettings(WritingSettings):
    """Cityscapes: leftImg8bit/ and gtFine/ with {train,val}/<city>/, as unpacked from the two archives"""


@dataclass(frozen=True)
class CocoStuffSettings(WritingSettings):
    """COCO-Stuff: {train,val}2017/, or these below images/, and their masks below stuffthingmaps/ or annotations/"""


@dataclass(frozen=True)
class VocSettings(WritingSettings):
    """Pascal VOC: JPEGImages/, SegmentationClass/ and ImageSets/Segmentation/ of VOCdevkit/VOC2012 or alike"""

    train_list: str = option("list of training images in ImageSets/Segmentation, such as trainaug", "train")
    mask_folder: str = option("folder of the masks, such as SegmentationClassAug", "SegmentationClass")


@dataclass(frozen=True)
class MaskSettings(DividedSettings):
    """images/ and masks/ of the same names: train/ and val/ inside both, around both, or neither (val_fraction=0.1)"""

    values: Sequence[int] | None = option(
        "the value of each class in order: grey levels, or numbers of a palette", None, read=whole_numbers, form="0-18"
    )
    colours: Path | None = option("in place of values: file with a line 'red green blue name' for each colour", None)
    ignore: Sequence[int] = option(
        "values that are unlabelled; 255 unless it is a class", (255,), read=whole_numbers, form="0,255"
    )
    names: Path | None = option("file with the name of each of the values on a line; null for their numbers", None)
    mask_suffix: str = option("what names of masks have after those of their images, such as _mask", "")

    def problems(self) -> list[str]:
        """Why masks cannot be read by these settings."""
        lines = []
        if (self.values is None) == (self.colours is None):
            lines.append("give values=, as values=0-18 or values=0,255, or colours=FILE for masks in colours")
        elif self.colours is not None and self.names is not None:
            lines.append("names=: with colours= the names are in the table")
        if both := sorted({*(self.values or ())} & {*self.ignore} - {255}):
            lines.append(f"ignore= names values that are classes: {both[0]}")
        return lines


@dataclass(frozen=True)
class AdoptSettings(PlaceSettings):
    """shards in root/name as downloaded, such as timm/imagenet-1k-wds: adds _info.json, checksums and index"""


@dataclass(frozen=True)
class IndexSettings(PlaceSettings):
    """write the index of the data set root/name anew, after a shard was changed, or measure its images"""

    measure: bool = option("read all training images and put their mean and std into _info.json", False)


@dataclass(frozen=True)
class VerifySettings(PlaceSettings):
    """list every fault of the data set root/name; exit code 1 if there is one"""

    json: bool = option(ANSWERS_IN_JSON, False)


Settings = DigitSettings | WritingSettings | PlaceSettings
KINDS: dict[str, type[Settings]] = {
    "imagenet": ImagenetSettings,
    "tiny-imagenet": TinyImagenetSettings,
    "images": ImagesSettings,
    "folder": FolderSettings,
    "parquet": ParquetSettings,
    "ade20k": Ade20kSettings,
    "cityscapes": CityscapesSettings,
    "coco-stuff": CocoStuffSettings,
    "voc": VocSettings,
    "masks": MaskSettings,
    "digits": DigitSettings,
    "adopt": AdoptSettings,
    "index": IndexSettings,
    "verify": VerifySettings,
}


def kind_of(settings: Settings) -> str:
    """The word that chooses these settings."""
    return next(kind for kind, cls in KINDS.items() if type(settings) is cls)
