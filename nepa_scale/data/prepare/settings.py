"""What can be prepared, and the settings of each kind."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from nepa_scale.data import embedded

MOST = 10**6  # images that are drawn, or lie in a shard


@dataclass(frozen=True, kw_only=True)
class DigitSettings:
    """scenes of scikit-learn's handwritten digits, with classes and masks (nothing is downloaded)"""

    root: Path = field(default=Path(embedded.DEFAULT_ROOT), metadata={"meaning": "folder of all data sets"})
    num_train: int = field(default=embedded.NUM_TRAIN, metadata={"meaning": "training images", "high": MOST})
    num_validation: int = field(
        default=embedded.NUM_VALIDATION, metadata={"meaning": "validation images", "high": MOST}
    )
    image_size: int = field(
        default=embedded.IMAGE_SIZE, metadata={"meaning": "height and width in pixels", "low": 16, "high": 1024}
    )
    seed: int = field(default=0, metadata={"meaning": "of the composition", "low": 0, "high": 2**32 - 1})
    shard_size: int = field(default=embedded.SHARD_SIZE, metadata={"meaning": "images in a shard", "high": MOST})


@dataclass(frozen=True, kw_only=True)
class PlaceSettings:
    """A data set that is there already."""

    root: Path = field(metadata={"meaning": "folder of all data sets"})
    name: str = field(metadata={"meaning": "name of the data set, a folder in root"})


@dataclass(frozen=True, kw_only=True)
class WritingSettings:
    """A source that becomes shards."""

    source: Path = field(metadata={"meaning": "folder or file to read"})
    root: Path = field(metadata={"meaning": "folder of all data sets"})
    name: str = field(metadata={"meaning": "name of the new data set"})
    shard_size: int = field(default=1000, metadata={"meaning": "images in a shard", "high": MOST})
    resize: int | None = field(
        default=None,
        metadata={"meaning": "shorter side in pixels; smaller images stay as they are", "low": 16, "high": 2**14},
    )
    workers: int | None = field(default=None, metadata={"meaning": "processes; null for one per core", "high": 1024})
    skip_bad: bool = field(default=False, metadata={"meaning": "leave out images that cannot be used"})


@dataclass(frozen=True, kw_only=True)
class DividedSettings(WritingSettings):
    """A source that may have no validation images."""

    val_fraction: float | None = field(
        default=None,
        metadata={
            "meaning": "without validation images: the part of each class's that becomes them",
            "above": 0,
            "high": 0.9,
        },
    )


@dataclass(frozen=True, kw_only=True)
class FolderSettings(DividedSettings):
    """class folders, also in a zip file: source/train/<class>/*.jpg and source/{validation,val,valid}/<class>/*.jpg"""


@dataclass(frozen=True, kw_only=True)
class ImagenetSettings(WritingSettings):
    """ILSVRC2012_img_{train,val}.tar and ILSVRC2012_devkit_t12.tar.gz, or Kaggle's ILSVRC/ with the LOC_* files"""


@dataclass(frozen=True, kw_only=True)
class TinyImagenetSettings(WritingSettings):
    """Tiny ImageNet: the folder tiny-imagenet-200 with train/, val/ and wnids.txt, or tiny-imagenet-200.zip"""


@dataclass(frozen=True, kw_only=True)
class ParquetSettings(DividedSettings):
    """Hugging Face parquet files: source/data/{train,validation}-*.parquet, default/train/0000.parquet and alike"""

    image_column: str | None = field(
        default=None, metadata={"meaning": "column of encoded images; null for image, or the only one there is"}
    )
    label_column: str | None = field(
        default=None, metadata={"meaning": "column of classes; null for label, or the only one there is"}
    )


@dataclass(frozen=True, kw_only=True)
class Ade20kSettings(WritingSettings):
    """ADE20K: images/ and annotations/ with {training,validation}/, as a folder or as ADEChallengeData2016.zip"""


@dataclass(frozen=True, kw_only=True)
class AdoptSettings(PlaceSettings):
    """shards in root/name as downloaded, such as timm/imagenet-1k-wds: adds _info.json, checksums and index"""

    workers: int | None = field(default=None, metadata={"meaning": "processes; null for one per core", "high": 1024})


@dataclass(frozen=True, kw_only=True)
class IndexSettings(PlaceSettings):
    """write the index of the data set root/name anew, after a shard was changed, or measure its images"""

    measure: bool = field(
        default=False, metadata={"meaning": "read all training images and put their mean and std into _info.json"}
    )
    workers: int | None = field(default=None, metadata={"meaning": "processes; null for one per core", "high": 1024})


@dataclass(frozen=True, kw_only=True)
class VerifySettings(PlaceSettings):
    """list every fault of the data set root/name; exit code 1 if there is one"""

    workers: int | None = field(default=None, metadata={"meaning": "processes; null for one per core", "high": 1024})


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
