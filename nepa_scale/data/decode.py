"""Decoding: encoded bytes to pixels, always RGB. EXIF orientation is never applied, neither to images nor to masks.

The reference is PIL: every image comes out as ``Image.open(...).convert("RGB")`` gives it, bit for bit, except those
of one channel with more than 8 bits, which PIL makes white. Plain JPEGs, which nearly all photographs are, go through
libjpeg-turbo directly and take half the time.
"""

from __future__ import annotations

import io
import warnings
from contextlib import suppress

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, TiffImageFile

from nepa_scale.utils import errors
from nepa_scale.utils.errors import DataError

MAX_PIXELS = 2**26  # 67 megapixels; the largest photograph of ImageNet has 18
IGNORE = 255

_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM")  # others run programs (EPS) or break in new ways
_TURNED = ("JPEG", "WEBP")
_SMALL = 2**14  # bytes of pixels; decoding a smaller image takes longer than augmenting it
_KEPT = 2**25  # bytes of small images that one data set keeps in one process
_LONGEST_RATIO = 200  # of a photograph's sides; resizing the shorter one makes a longer strip an image of gigabytes
_FAST_COLOURS = ("YCbCr", "Gray")
_JPEG = b"\xff\xd8"


class BadImageError(DataError):
    """An image that cannot be used. Training replaces a few of them by others."""


def decode_rgb(content: bytes) -> NDArray[np.uint8]:
    """Decode an image to pixels [H, W, 3]. Raises ``BadImageError``, before decoding if there are too many pixels."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
    except ValueError:  # no JPEG
        return _decode_with_pil(content)
    check_size(width, height)
    if colours in _FAST_COLOURS:
        try:
            pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(content, "RGB")
            return pixels
        except ValueError:  # damaged: whether it can be read all the same is for the reference to say
            pass
    return _decode_with_pil(content)


class Decoder:
    """Decodes images and caches the pixels of small ones (32 MiB at most), which the next epoch reads again."""

    def __init__(self) -> None:
        self._kept: dict[bytes, NDArray[np.uint8]] = {}
        self._bytes = 0

    def __call__(self, content: bytes) -> NDArray[np.uint8]:
        """The pixels [H, W, 3], which the caller must not change. Raises what ``decode_rgb`` raises."""
        pixels = self._kept.get(content)
        if pixels is None:
            pixels = decode_rgb(content)
            if pixels.nbytes <= _SMALL and self._bytes < _KEPT:
                self._kept[content] = pixels
                self._bytes += pixels.nbytes + len(content)
        return pixels


def decode_mask(content: bytes) -> NDArray[np.uint8]:
    """Decode a stored mask to classes [H, W]: stored 0 becomes ``IGNORE``, stored k becomes k - 1.

    Raises ``DataError``: a mask is annotation, and nothing takes its place. Files that PIL reads with other values
    than were stored are refused, too: greys of fewer bits, which it stretches to 255, and JPEGs.
    """
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            if image.format == "JPEG":
                raise DataError("the mask must be an 8-bit one-channel PNG, it is a JPEG, which does not keep values")
            if (mode := _stored_mode(image)) not in {"L", "P"}:
                raise DataError(f"the mask must be an 8-bit one-channel PNG, its mode is {mode}")
            check_size(*image.size)
            stored = np.asarray(image, dtype=np.uint8)
    except BadImageError as error:
        raise DataError(f"the mask cannot be used: {error}") from None
    except DataError:
        raise
    except Exception as error:  # damaged files make decoders fail in any way
        raise DataError(f"the mask cannot be decoded: {first_line(error)}") from None
    return stored - np.uint8(1)  # unsigned: 0 wraps round to 255, which is IGNORE


def is_labelled(mask: NDArray[np.uint8]) -> bool:
    """Whether any pixel of a decoded mask has a class."""
    return bool((mask != IGNORE).any())


def is_deep(content: bytes) -> bool:
    """Whether an image has one channel of more than 8 bits, of which the upper 8 are used."""
    if content.startswith(_JPEG):
        return False
    damaged = suppress(Exception)  # the decoder will report it
    with damaged, warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(content), formats=_FORMATS) as image:
        return image.mode.startswith("I")
    return False


def orientation(content: bytes) -> int:
    """The EXIF orientation of a photograph, which is not applied; 1, upright, where none is stated.

    Of JPEG and WebP, by the header alone: PIL turns a TIFF itself, and would decode a PNG to look for one.
    """
    others = suppress(Exception)  # damaged ones, too, which the decoder will report
    with others, warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(content), "r", _TURNED) as image:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    return 1


def check_size(width: int, height: int) -> None:
    """Raise ``BadImageError`` for a size that no photograph has: a line or less, or a decompression bomb."""
    if min(width, height) < 2:
        raise BadImageError(f"the image is {width}x{height} pixels, which is no picture")
    if max(width, height) > _LONGEST_RATIO * min(width, height):
        raise BadImageError(f"the image is {width}x{height} pixels, longer than {_LONGEST_RATIO} times its other side")
    if width * height > MAX_PIXELS:
        raise BadImageError(f"the image is {width}x{height} pixels, more than the {MAX_PIXELS:,} allowed")


def first_line(error: Exception) -> str:
    """The first line of an exception's text."""
    if isinstance(error, UnidentifiedImageError):  # whose text is the address of a buffer
        return "no known image format"
    return errors.first_line(error)


def _decode_with_pil(content: bytes) -> NDArray[np.uint8]:
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            check_size(*image.size)
            return np.array(_of_8_bits(image).convert("RGB"), dtype=np.uint8)
    except BadImageError:
        raise
    except Exception as error:  # damaged files make decoders fail in any way
        raise BadImageError(f"the image cannot be decoded: {first_line(error)}") from None


def _of_8_bits(image: Image.Image) -> Image.Image:
    """The image with the upper 8 of 16 bits, as PIL has it for colours; of one channel it cuts values off at 255.

    Raises ``BadImageError`` for 32 bits and floating-point numbers, whose black and white nobody states, and for TIFFs
    whose numbers PIL leaves as they are, though white is less than 16 bits hold or 0.
    """
    if not image.mode.startswith(("I", "F")):
        return image
    if isinstance(image, TiffImageFile):
        bits, black = image.tag_v2.get(BITSPERSAMPLE, (16,))[0], image.tag_v2.get(PHOTOMETRIC_INTERPRETATION, 1)
        if bits < 16 or black == 0:
            what = f"{bits} bits a pixel" if bits < 16 else "greys of 16 bits from white to black"
            raise BadImageError(f"the image is a TIFF with {what}, save it with 8 or 16 from black to white")
    of_16_bits = image.mode.startswith("I;16") or (image.mode == "I" and image.format in {"PNG", "PPM"})
    if not of_16_bits:
        raise BadImageError(f"the image has 32 bits a pixel (mode {image.mode}), save it with 8 or 16")
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))


def _stored_mode(image: Image.Image) -> str:
    """PIL's mode, or how the pixels are stored where that is not what they become, such as ``L;4``."""
    tiles = getattr(image, "tile", [])  # of opened files
    arguments = tiles[0][3] if image.mode == "L" and tiles else ""
    stored = arguments[0] if isinstance(arguments, tuple) else arguments
    return stored if isinstance(stored, str) and stored.startswith("L;") else image.mode
