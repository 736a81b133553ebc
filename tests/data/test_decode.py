"""Decoding, against PIL."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from nepa_scale.data.decode import MAX_PIXELS, BadImageError, decode_mask, decode_rgb, is_deep
from nepa_scale.utils.errors import DataError


def encoded(image: Image.Image, image_format: str = "PNG", **options: object) -> bytes:
    """The bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, format=image_format, **options)
    return buffer.getvalue()


def noise(width: int, height: int) -> Image.Image:
    """A smooth random colour image."""
    rough = np.random.default_rng(0).integers(256, size=(8, 8, 3), dtype=np.uint8)
    return Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "RGBA", "LA", "1"])
def test_every_kind_of_image_becomes_rgb(mode: str) -> None:
    """Grey, CMYK and palette images (all in ImageNet) decode as PIL converts them."""
    image = noise(20, 10).convert("RGB").convert(mode) if mode != "LA" else noise(20, 10).convert("L").convert("LA")
    content = encoded(image, "TIFF" if mode == "CMYK" else "PNG")
    decoded = decode_rgb(content)
    expected = Image.open(io.BytesIO(content)).convert("RGB")
    assert (decoded.dtype, decoded.shape) == (np.uint8, (10, 20, 3))
    np.testing.assert_array_equal(decoded, np.asarray(expected))


@pytest.mark.parametrize("content", [b"", b"<html>", encoded(noise(64, 64), "JPEG")[:400], b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_is_a_data_error(content: bytes) -> None:
    """Error pages, cut files and empty files are mistakes in the data, told in one line."""
    for decode in (decode_rgb, decode_mask):
        with pytest.raises(DataError) as caught:
            decode(content)
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("mode", ["L", "P"])
def test_masks_are_shifted_pixel_by_pixel(mode: str) -> None:
    """Stored 0 becomes 255 (ignored), stored k becomes k - 1, for grey and for palette files."""
    stored = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = Image.fromarray(stored)
    if mode == "P":
        image = Image.frombytes("P", (16, 16), stored.tobytes())
        image.putpalette(bytes(range(255, -1, -1)) * 3)
    mask = decode_mask(encoded(image))
    for old, new in zip(stored.ravel().tolist(), mask.ravel().tolist(), strict=True):
        assert new == (255 if old == 0 else old - 1)


@pytest.mark.parametrize("mode", ["RGB", "LA", "1", "I;16"])
def test_masks_of_another_kind_are_refused(mode: str) -> None:
    """A coloured mask has no class numbers: the line names its mode."""
    image = Image.new(mode, (4, 4))
    with pytest.raises(DataError, match="8-bit one-channel PNG, its mode is"):
        decode_mask(encoded(image))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"quality": 30}, {"progressive": True}, {"subsampling": 0}])
@pytest.mark.parametrize(("width", "height"), [(64, 48), (33, 17), (7, 5)])
def test_jpegs_decode_to_the_pixels_of_pil(mode: str, options: dict[str, object], width: int, height: int) -> None:
    """The fast path changes nothing: every pixel is PIL's, for every subsampling, size and colour space."""
    content = encoded(noise(width, height).convert(mode), "JPEG", **options)
    expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    np.testing.assert_array_equal(decode_rgb(content), expected)


@pytest.mark.parametrize("image_format", ["PNG", "GIF", "WEBP", "BMP"])
def test_what_is_named_jpeg_and_is_none_decodes(image_format: str) -> None:
    """ImageNet holds a PNG under the name .JPEG; the content decides, and of an animation the first picture counts."""
    frames = [noise(20, 10).quantize(16), noise(20, 10).rotate(90, expand=False).quantize(16)]
    animated = {"save_all": True, "append_images": frames[1:]} if image_format == "GIF" else {}
    content = encoded(frames[0] if image_format == "GIF" else noise(20, 10), image_format, **animated)
    np.testing.assert_array_equal(decode_rgb(content), np.asarray(Image.open(io.BytesIO(content)).convert("RGB")))


DEEP = np.arange(400, dtype=np.uint16).reshape(20, 20) * 160


def pgm(levels: np.ndarray, largest: int) -> bytes:
    """A grey PNM of two bytes a pixel."""
    return b"P5 %d %d %d\n" % (*levels.shape[::-1], largest) + levels.astype(">u2").tobytes()


@pytest.mark.parametrize(
    "content",
    [
        encoded(Image.fromarray(DEEP)),
        encoded(Image.fromarray(DEEP), "TIFF"),
        encoded(Image.fromarray(DEEP.astype(">u2")), "TIFF"),
        pgm(DEEP, 65535),
    ],
)
def test_sixteen_bits_keep_their_upper_eight(content: bytes) -> None:
    """16-bit greys become those of the same brightness, as 16-bit colours do, and not white."""
    np.testing.assert_array_equal(decode_rgb(content), np.repeat((DEEP >> 8)[..., None], 3, axis=2))
    assert is_deep(content)


def png(colour: int, depth: int, rows: list[bytes], width: int) -> bytes:
    """A PNG of a colour type and depth that PIL does not write."""
    header = struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [(b"IHDR", header), (b"IDAT", pixels), (b"IEND", b"")]
    chunks = [struct.pack(">I", len(d)) + kind + d + struct.pack(">I", zlib.crc32(kind + d)) for kind, d in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_sixteen_bit_colours_keep_their_upper_eight(colour: int, channels: int) -> None:
    """RGB, RGBA and grey with transparency of 16 bits a channel: the same brightness as grey without."""
    rows = [np.repeat(row[:, None], channels, axis=1).astype(">u2").tobytes() for row in DEEP]
    np.testing.assert_array_equal(decode_rgb(png(colour, 16, rows, 20)), np.repeat((DEEP >> 8)[..., None], 3, axis=2))


@pytest.mark.parametrize(("pixels", "image_format"), [(np.float32, "TIFF"), (np.float32, "PPM"), (np.int32, "TIFF")])
def test_pixels_without_a_known_white_are_bad(pixels: type, image_format: str) -> None:
    """Floating-point and 32-bit pixels have no stated range: an error and not a white or black picture."""
    with pytest.raises(BadImageError, match="32 bits a pixel"):
        decode_rgb(encoded(Image.fromarray(DEEP.astype(pixels)), image_format))


def tiff(bits: int, black: int, pixels: bytes) -> bytes:
    """A grey TIFF of 20 x 20 pixels that PIL does not write; ``black``: 1 where 0 is black, 0 where it is white."""
    tags = {256: 20, 257: 20, 258: bits, 259: 1, 262: black, 273: 8, 277: 1, 278: 20, 279: len(pixels)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    start = struct.pack("<I", 8 + len(pixels))
    return b"II*\0" + start + pixels + struct.pack("<H", len(tags)) + entries + bytes(4)


@pytest.mark.parametrize(
    ("bits", "black", "pixels"),
    [(12, 1, bytes(range(200)) * 3), (16, 0, DEEP.astype("<u2").tobytes())],
)
def test_tiffs_whose_greys_pil_does_not_scale_are_bad(bits: int, black: int, pixels: bytes) -> None:
    """PIL makes 12 bits nearly black and shows 16 bits that begin at white as negatives: neither passes silently."""
    with pytest.raises(BadImageError, match="save it with 8 or 16"):
        decode_rgb(tiff(bits, black, pixels))
    np.testing.assert_array_equal(decode_rgb(tiff(16, 1, DEEP.astype("<u2").tobytes()))[..., 0], DEEP >> 8)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_greys_of_few_bits_are_no_masks(depth: int) -> None:
    """PIL stretches them to 255, which makes class 1 another class; with a palette the numbers stay."""
    rows = [b"\x1b" * 2] * 4
    with pytest.raises(DataError, match=f"8-bit one-channel PNG, its mode is {'L;' if depth > 1 else ''}{depth}"):
        decode_mask(png(0, depth, rows, 16 // depth))


def test_a_jpeg_is_no_mask() -> None:
    """A compression that changes values would change classes."""
    with pytest.raises(DataError, match="it is a JPEG"):
        decode_mask(encoded(noise(20, 10).convert("L"), "JPEG"))


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_exif_orientation_is_applied_neither_to_image_nor_to_mask(orientation: int) -> None:
    """Image and mask stay as they are stored: what a viewer would turn is not turned, so the two still fit."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = noise(20, 10)
    content = encoded(image, "JPEG", exif=exif)
    np.testing.assert_array_equal(decode_rgb(content), decode_rgb(encoded(image, "JPEG")))
    mask = Image.fromarray(np.arange(200, dtype=np.uint8).reshape(10, 20))
    np.testing.assert_array_equal(decode_mask(encoded(mask, exif=exif)), decode_mask(encoded(mask)))


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header promises a large image, with next to no data behind it."""
    content = bytearray(encoded(Image.new("L", (4, 4))))
    content[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


def jpeg_bomb(width: int, height: int) -> bytes:
    """A JPEG whose header promises a large image."""
    content = bytearray(encoded(Image.new("RGB", (4, 4)), "JPEG"))
    start = content.index(b"\xff\xc0")
    content[start + 5 : start + 9] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return bytes(content)


@pytest.mark.parametrize("content", [bomb(11_000, 9_000), bomb(2**30, 2**30), jpeg_bomb(11_000, 9_000)])
def test_a_decompression_bomb_is_refused_from_its_header(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """99 megapixels are never allocated: refused before any decoder is called."""

    def decoder(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("simplejpeg.decode_jpeg", decoder)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decoder)
    with pytest.raises(BadImageError, match=r"more than the 67,108,864 allowed|cannot be decoded"):
        decode_rgb(content)


def test_the_cap_is_above_every_photograph_of_imagenet() -> None:
    """18 megapixels pass, and so does anything PIL itself would warn of below the cap."""
    assert 18_000_000 < MAX_PIXELS < 99_000_000


@pytest.mark.parametrize("size", [(1, 1), (1, 40)])
def test_a_line_of_pixels_is_no_picture(size: tuple[int, int]) -> None:
    """Tracking pixels saved as photographs are bad images, not crops of one colour."""
    for image_format in ("PNG", "JPEG"):
        with pytest.raises(BadImageError, match="which is no picture"):
            decode_rgb(encoded(Image.new("RGB", size), image_format))


def test_damage_that_pil_reads_over_is_read_over() -> None:
    """Bytes before a marker, as in some photographs of ImageNet, are no reason to leave an image out."""
    content = encoded(noise(64, 48), "JPEG")
    damaged = content[:-2] + b"\x00\x00\x00" + content[-2:]
    np.testing.assert_array_equal(decode_rgb(damaged), np.asarray(Image.open(io.BytesIO(damaged)).convert("RGB")))


def test_a_result_can_be_written_to() -> None:
    """torch shares the memory of the pixels and must not be handed a read-only array."""
    for image_format in ("PNG", "JPEG"):
        assert decode_rgb(encoded(noise(20, 10), image_format)).flags.writeable


def test_only_plain_image_formats_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """PostScript under the name of a photograph is not handed to an interpreter, nor to any rare decoder."""

    def interpreter(*_: object) -> None:
        raise AssertionError("PostScript was interpreted")

    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", interpreter)
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 10\n%%EndComments\n%%EOF\n"
    for content in (eps, encoded(noise(20, 10), "DDS"), encoded(noise(20, 10), "ICO")):
        with pytest.raises(BadImageError, match="no known image format"):
            decode_rgb(content)


@pytest.mark.parametrize("size", [(2, 1000), (1000, 2), (3, 65_000)])
def test_an_endless_strip_is_no_picture(size: tuple[int, int]) -> None:
    """A few kB that would take gigabytes once the shorter side is enlarged are refused from the header."""
    with pytest.raises(BadImageError, match="longer than 200 times its other side"):
        decode_rgb(encoded(Image.new("L", size), "JPEG"))
