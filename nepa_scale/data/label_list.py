"""Lists of the training images that have labels, one name a line, such as the published 1 % and 10 % of ImageNet.

SimCLR's ``1percent.txt`` and ``10percent.txt`` (Chen et al. 2020, arXiv 2002.05709; ``imagenet_subsets`` of its code)
name 12,811 and 128,116 images as ``n01440764_10026.JPEG``; most papers since train their classifiers on these.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from nepa_scale.utils.errors import DataError
from nepa_scale.utils.files import until_changed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from nepa_scale.data.sources import Source


def names(path: Path) -> tuple[str, ...]:
    """The names of a list as data sets have them: without folder and extension, each once, in alphabetical order.

    Raises ``DataError`` naming the file where it cannot be read or names nothing.
    """
    try:
        return _names(path)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not a text file; give one name of an image a line") from None


@until_changed
def _names(path: Path) -> tuple[str, ...]:
    """Read once for each state of the file: a plan of many runs asks for it again and again."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    listed = {Path(line).name.partition(".")[0] for line in lines if line}
    if not listed:
        raise DataError(f"{path}: is empty; give one name of an image a line")
    return tuple(sorted(listed))


def identity(path: str) -> str:
    """What is the same for lists of the same names, wherever they lie; the path itself where there is no such file."""
    try:
        listed = names(Path(path))
    except DataError:
        return path
    return f"{len(listed)} names, {hashlib.sha256(' '.join(listed).encode()).hexdigest()[:16]}"


def indices(path: Path, source: Source) -> NDArray[np.int64]:
    """Where the listed images are in ``source``: indices [N], ascending. Raises ``DataError`` where some are not."""
    import numpy as np  # here, as it takes a while

    listed = np.array([name.encode() for name in names(path)])
    keys = np.array([key.rpartition(b"/")[2] for key in source.keys.tolist()])  # some shards name folders, too
    found = np.flatnonzero(np.isin(keys, listed))
    there, counts = np.unique(keys[found], return_counts=True)
    if (counts > 1).any():
        several = there[counts > 1][0].decode()
        raise DataError(f"{path}: '{several}' is the name of several training images, in different folders")
    if len(there) == len(listed):
        return found
    absent = np.setdiff1d(listed, keys)[0].decode()
    raise DataError(
        f"{path}: {len(listed) - len(found):,} of its {len(listed):,} names are not among the training images, such as "
        f"'{absent}'; theirs look like '{bytes(keys[0]).decode('utf-8', 'replace')}'"
    )
