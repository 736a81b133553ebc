"""What can be prepared, and the settings of each kind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nepa_scale.data import embedded
from nepa_scale.utils.arguments import ANSWERS_IN_JSON, option

MOST = 10**6  # images that are drawn, or lie in a shard


def folder_name(text: str) -> str:
    """The name of a folder in another. Raises ``ValueError`` for a path."""
    if text != Path(text).name or text.startswith("."):
        raise ValueError("expected the name of a folder in root")
    return text


@dataclass(frozen=True)
class DigitSettings:
    """scenes of scikit-learn's handwritten digits, with classes and masks (nothing is downloaded)"""

    root: Path = option("folder of all data sets", Path(embedded.DEFAULT_ROOT))
    num_train: int = option("training images", embedded.NUM_TRAIN, low=1, high=MOST)
    num_validation: int = option("validation images", embedded.NUM_VALIDATION, low=1, high=MOST)
    image_size: int = option("height and width in pixels", embedded.IMAGE_SIZE, low=16, high=1024)
    seed: int = option("of the composition", 0, low=0, high=2**32 - 1)
    shard_size: int = option("images in a shard", embedded.SHARD_SIZE, low=1, high=MOST)


@dataclass(frozen=True)
class PlaceSettings:
    """A data set that is there already."""

    root: Path = option("folder of all data sets")
    name: str = option("name of the data set, a folder in root", read=folder_name)


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
        "without validation images: the part of each class's that becomes them", None, above=0, high=0.9
    )


@dataclass(frozen=True)
class FolderSettings(DividedSettings):
    """class folders, also in a zip file: source/train/<class>/*.jpg and source/{validation,val,valid}/<class>/*.jpg"""


@dataclass(frozen=True)
class ImagenetSettings(WritingSettings):
    """ILSVRC2012_img_{train,val}.tar and ILSVRC2012_devkit_t12.tar.gz, or Kaggle's ILSVRC/ with the LOC_* files"""


@dataclass(frozen=True)
class TinyImagenetSettings(WritingSettings):
    """Tiny ImageNet: the folder tiny-imagenet-200 with train/, val/ and wnids.txt, or tiny-imagenet-200.zip"""


@dataclass(frozen=True)
class ParquetSettings(DividedSettings):
    """Hugging Face parquet files: source/data/{train,validation}-*.parquet, default/train/0000.parquet and alike"""

    image_column: str | None = option("column of encoded images; null for image, or the only one there is", None)
    label_column: str | None = option("column of classes; null for label, or the only one there is", None)


@dataclass(frozen=True)
class Ade20kSettings(WritingSettings):
    """ADE20K: images/ and annotations/ with {training,validation}/, as a folder or as ADEChallengeData2016.zip"""


@dataclass(frozen=True)
class AdoptSettings(PlaceSettings):
    """shards in root/name as downloaded, such as timm/imagenet-1k-wds: adds _info.json, checksums and index"""

    workers: int | None = option("processes; null for one per core", None, low=1, high=1024)


@dataclass(frozen=True)
class IndexSettings(PlaceSettings):
    """write the index of the data set root/name anew, after a shard was changed, or measure its images"""

    measure: bool = option("read all training images and put their mean and std into _info.json", False)
    workers: int | None = option("processes; null for one per core", None, low=1, high=1024)


@dataclass(frozen=True)
class VerifySettings(PlaceSettings):
    """list every fault of the data set root/name; exit code 1 if there is one"""

    json: bool = option(ANSWERS_IN_JSON, False)
    workers: int | None = option("processes; null for one per core", None, low=1, high=1024)


Settings = DigitSettings | WritingSettings | PlaceSettings
KINDS: dict[str, type[Settings]] = {
    "imagenet": ImagenetSettings,
    "tiny-imagenet": TinyImagenetSettings,
    "folder": FolderSettings,
    "parquet": ParquetSettings,
    "ade20k": Ade20kSettings,
    "digits": DigitSettings,
    "adopt": AdoptSettings,
    "index": IndexSettings,
    "verify": VerifySettings,
}


def kind_of(settings: Settings) -> str:
    """The word that chooses these settings."""
    return next(kind for kind, cls in KINDS.items() if type(settings) is cls)
