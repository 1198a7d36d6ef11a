"""From the bytes of an image file to pixels, with every limit checked before memory is taken."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import numpy as np
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError

from shared import errors
from shared.vision.scaling import Pixels

MAX_PIXELS = 50_000_000
MAX_WEBP_PIXELS = 16_000_000
"""Its decoder, made for animations, holds four canvases of four channels whatever the file is."""

MAX_SIDE = 32_767
"""Longer sides are no photographs, and resizing them costs far more than their pixels suggest."""

MAX_SCAN_PIXELS = 2_000_000_000
"""Pixels times scans: a progressive JPEG has about ten scans, and each costs a walk over all pixels."""

MOST_PARTS = 65_536
"""Segments before the pixels of a JPEG, its stray bytes among them, or chunks of a PNG: Pillow walks them in Python."""

MOST_HEAD_BYTES = 16 * 2**20
"""Before the pixels of a JPEG: pictures within the picture at most. Pillow joins EXIF segments one by one."""

SMALLEST_REDUCED = 16
"""Sides below are told apart too badly by what they are at 1/2, 3/8 and so on to be asked for by size."""

START_OF_SCAN = b"\xff\xda"
NO_LENGTH = frozenset({0x00, 0x01, *range(0xD0, 0xDA)})
"""Second bytes of JPEG markers that nothing follows."""

ORIENTATION = 0x0112
TURNED = {5, 6, 7, 8}
"""EXIF orientations that exchange width and height."""

COLOR_MODES = {"RGB": "RGB", "BGR": "RGB", "L": "L"}
"""The Pillow mode an image of each contract colour is kept in; BGR is turned when the tensor is made."""

# Ours is checked first and raises; Pillow's own would warn.
Image.MAX_IMAGE_PIXELS = None

# One image may have 65,535 damaged EXIF tags; each would be a line in the log, and an entry in a list that only grows.
warnings.filterwarnings("ignore", module=r"PIL\.")

BMP = b"BM"
PLAIN_BMP = {0, 3}
"""Compressions of a BMP that are none: rows of pixels, perhaps with masks. Pillow unpacks the others in Python."""

_OTHERS = {
    b"GIF8": "a GIF",
    BMP: "a BMP",
    b"II*\0": "a TIFF",
    b"MM\0*": "a TIFF",
    b"%PDF": "a PDF",
    b"<": "XML or HTML",
    b"{": "JSON",
}


def decode(
    data: bytes | memoryview, color: Literal["RGB", "BGR", "L"] = "RGB", most_pixels: int = MAX_PIXELS
) -> Image.Image:
    """Decode a JPEG, PNG or WebP, upright (EXIF orientation applied), in the mode of `COLOR_MODES[color]`.

    Transparency and colour profiles are dropped, 16-bit samples keep their upper byte, of an animation the first
    frame is taken: what a training pipeline sees through `Image.open(path).convert("RGB")`, less its surprises.

    Raises:
        errors.BadImage: Empty, truncated, damaged, or another format.
        errors.TooLarge: More than `most_pixels`, or a side longer than `MAX_SIDE`.
    """
    image = _opened(data, most_pixels)
    return _convert(_upright(_image(_colors(image, data), image) or _loaded(image)), COLOR_MODES[color])


class Picture(NamedTuple):
    """An upright image, perhaps decoded at a part of its size."""

    image: Image.Image | Pixels
    """In mode RGB or L, BGR is turned when the tensor is made; the colours of an ordinary JPEG are an array."""
    size: tuple[int, int]
    """Width and height of the upright original."""
    reduction: int = 1
    """So many of the original's pixels, each way, are one of these; at the far edges it may be fewer."""


def decode_at(
    data: bytes | memoryview,
    color: Literal["RGB", "BGR", "L"],
    reduction: Callable[[tuple[int, int]], int],
    most_pixels: int = MAX_PIXELS,
) -> Picture:
    """Decode as `decode`, but a JPEG at 1/n of its size; `reduction` tells n (1, 2, 4) by that of the upright original.

    The limits are for the original's pixels.

    Raises:
        errors.BadImage: As `decode`.
        errors.TooLarge: As `decode`.
    """
    header, mode = _opened(data, most_pixels), COLOR_MODES[color]
    if header.format != "JPEG":  # loaded first: asking which way is up would read the pixels and hide their damage
        image = _convert(_upright(_loaded(header)), mode)
        return Picture(image, image.size)
    size = _upright_size(header)
    n = reduction(size)
    pixels = _colors(header, data, n)
    if pixels is not None and mode == "RGB" and _orientation(header) == 1:
        return Picture(pixels, size, n)
    if pixels is None and n > 1:
        n = _draft(header, n)
    image = _image(pixels, header) or _loaded(header)
    del pixels  # before it is turned, which takes as much again
    return Picture(_convert(_upright(image), mode), size, n)


def decode_reduced(data: bytes, shorter: int) -> tuple[Image.Image, tuple[int, int]]:
    """Decode as `decode`, but a JPEG perhaps at a half, a quarter or an eighth of its size, which costs less.

    The shorter side stays at least twice `shorter` where the original's is, so that it can be scaled down to it well.
    A BMP without compression is taken as well.

    Returns:
        The upright RGB image, and the upright original's width and height.

    Raises:
        errors.BadImage: As `decode`.
        errors.TooLarge: As `decode`.
    """
    image = _opened(data, MAX_PIXELS, bmp=True)
    if image.format != "JPEG":
        _loaded(image)  # as in `decode_at`
    size = _upright_size(image)
    scale = 2 * shorter / min(image.size)
    if image.format == "JPEG" and scale < 1:
        image.draft(None, (round(image.width * scale), round(image.height * scale)))
    return _convert(_upright(_loaded(image)), "RGB"), size


def is_decoded(data: bytes) -> bool:
    """Whether these are the bytes of a format that `decode` takes, by their beginning."""
    return not data.startswith(BMP)


def _opened(data: bytes | memoryview, most_pixels: int, *, bmp: bool = False) -> Image.Image:
    """The image with its header read and judged, its pixels not yet decoded."""
    data = bytes(data)
    kind = "BMP" if bmp and _is_plain_bmp(data) else _format(data[:16])
    with _damage(kind):
        _check_parts(kind, data)
        if kind == "WEBP":
            _check_webp(*_webp_size(data))  # Pillow takes the canvases when it opens the file
        image = Image.open(io.BytesIO(data), formats=(kind,))
        _check_size(image, most_pixels)
        if kind == "JPEG":
            _check_scans(image, data.count(START_OF_SCAN))
    return image


def _colors(image: Image.Image, data: bytes | memoryview, n: int = 1) -> Pixels | None:
    """The pixels of an ordinary colour JPEG at 1/n of its size, the same as Pillow's in three quarters of its time.

    None for every other image, and for one where anything is wrong: what becomes of that, Pillow decides.
    """
    if image.format != "JPEG" or image.mode != "RGB" or (n > 1 and min(image.size) < SMALLEST_REDUCED):
        return None
    height, width = (-(-side // n) for side in (image.height, image.width))
    reduced = {} if n == 1 else {"min_height": height, "min_width": width, "min_factor": 1}
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(data, buffer=np.empty((height, width, 3), np.uint8), **reduced)
    except ValueError:
        return None
    return pixels if pixels.shape == (height, width, 3) else None


def _image(pixels: Pixels | None, header: Image.Image) -> Image.Image | None:
    """Pixels as an image that knows what its header says of which way is up."""
    if pixels is None:
        return None
    image = Image.fromarray(pixels)
    image.info = header.info
    return image


def _loaded(image: Image.Image) -> Image.Image:
    with _damage(str(image.format)):
        image.load()
    return image


@contextlib.contextmanager
def _damage(kind: str) -> Iterator[None]:
    try:
        yield
    except (errors.AppError, MemoryError):
        raise
    except Exception as error:  # hostile bytes make Pillow raise nearly anything
        why = "unreadable header" if isinstance(error, UnidentifiedImageError) else error
        raise errors.BadImage(f"The {kind} is damaged or incomplete ({why}). Send the whole file.") from error


def _is_plain_bmp(data: bytes) -> bool:
    compression = int.from_bytes(data[30:34], "little") if int.from_bytes(data[14:18], "little") >= 40 else 0
    return data.startswith(BMP) and compression in PLAIN_BMP


def _format(head: bytes) -> str:
    """The format by its first bytes, whatever a name or header says.

    Raises:
        errors.BadImage: None of ours.
    """
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WEBP"
    if not head:
        raise errors.BadImage("The image is empty: send the bytes of a JPEG, PNG or WebP.")
    other = next((name for magic, name in _OTHERS.items() if head.startswith(magic)), "not an image we know")
    if head[4:8] == b"ftyp":
        other = "a HEIC, AVIF or video"
    raise errors.BadImage(f"This is {other}. Convert it to JPEG, PNG or WebP.")


def _check_parts(kind: str, data: bytes) -> None:
    parts = {"JPEG": _segments, "PNG": _chunks}.get(kind)
    for number, start in enumerate(parts(data) if parts else ()):
        if number == MOST_PARTS or (kind == "JPEG" and start > MOST_HEAD_BYTES):
            raise errors.BadImage(f"The {kind} holds far more beside its pixels than a picture does. Save it again.")


def _segments(data: bytes) -> Iterator[int]:
    """Where a JPEG's segments begin, up to its pixels; stray bytes in between count as well."""
    at = 2
    while at + 1 < len(data):
        yield at
        marker = data[at + 1]
        if data[at] != 0xFF or marker == 0xFF:
            at += 1
        elif marker in NO_LENGTH:
            at += 2
        elif marker == START_OF_SCAN[1]:
            return
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")


def _chunks(data: bytes) -> Iterator[int]:
    """Where a PNG's chunks begin."""
    at = 8
    while at < len(data):
        yield at
        at += 12 + int.from_bytes(data[at : at + 4], "big")


def _webp_size(data: bytes) -> tuple[int, int]:
    """Width and height by its first chunk (RFC 9649, RFC 6386); of a damaged one any."""
    chunk, number = data[12:16], int.from_bytes(data[21:25], "little")
    if chunk == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if chunk == b"VP8L":
        return 1 + (number & 0x3FFF), 1 + (number >> 14 & 0x3FFF)
    return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF


def _check_webp(width: int, height: int) -> None:
    if width * height > MAX_WEBP_PIXELS:
        raise errors.TooLarge(
            f"The WebP has {width} x {height} pixels; the most are {MAX_WEBP_PIXELS // 1_000_000} million in this "
            "format. Scale it down, or save it as JPEG or PNG."
        )


def _check_size(image: Image.Image, most_pixels: int) -> None:
    width, height = image.size
    if width * height > most_pixels:
        most = f"{MAX_PIXELS // 1_000_000} million" + ("" if most_pixels == MAX_PIXELS else " in one request")
        raise errors.TooLarge(f"The image has {width} x {height} pixels; the most are {most}. Scale it down.")
    if max(width, height) > MAX_SIDE:
        raise errors.TooLarge(f"The image has {width} x {height} pixels; a side has at most {MAX_SIDE:,}.")


def _check_scans(image: Image.Image, scans: int) -> None:
    if scans * image.width * image.height > MAX_SCAN_PIXELS:
        raise errors.TooLarge(f"The JPEG has {scans:,} scans over its pixels. Save it again as an ordinary JPEG.")


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # a damaged EXIF block: the picture itself is fine
        return 1


def _draft(image: Image.Image, n: int) -> int:
    """Have a JPEG decoded at 1/n of its size; returns what it will be, which is less where a side has not n pixels."""
    width = image.width
    drafted = image.draft(None, (max(1, image.width // n), max(1, image.height // n)))
    return 1 if drafted is None else round(width / drafted[1][2])


def _upright_size(image: Image.Image) -> tuple[int, int]:
    return image.size[::-1] if _orientation(image) in TURNED else image.size


def _upright(image: Image.Image) -> Image.Image:
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except Exception:  # a damaged EXIF block: the picture itself is fine
        return image
    return image


def _convert(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion clips at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "P":  # through RGBA, the way that knows palettes with transparency
        image = image.convert("RGBA")
    if image.mode == "RGBA" and mode == "L":
        image = image.convert("RGB")
    return image if image.mode == mode else image.convert(mode)
