"""The preprocessing contract carried out: from decoded images to the model's input tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from shared import errors
from shared.specs import Preprocessing, Resize, TensorInfo
from shared.vision.boxes import Placement
from shared.vision.decode import MAX_PIXELS, Picture, decode_at
from shared.vision.scaling import Box, Pixels, pixels_of, scaled

Tensor = npt.NDArray[np.generic]


def check_contract(contract: Preprocessing, inputs: Sequence[TensorInfo]) -> None:
    """Check that the contract is sound and makes the tensor this model takes.

    Raises:
        errors.InvalidInput: It contradicts itself.
        errors.BadModel: The model takes something else.
    """
    for field, values in (("mean", contract.mean), ("std", contract.std)):
        if len(values) not in (1, contract.channels) or not np.isfinite(values).all():
            raise errors.InvalidInput(
                f"preprocessing.{field} needs 1 or {contract.channels} finite numbers for {contract.color}."
            )
    if 0.0 in contract.std:
        raise errors.InvalidInput("preprocessing.std must not be 0: pixels are divided by it.")
    brightest = (255.0 * contract.scale - np.asarray(contract.mean)) / np.asarray(contract.std)
    if not np.isfinite(brightest.astype(np.float32)).all():
        raise errors.InvalidInput("preprocessing.scale, mean and std make numbers that no tensor can hold.")
    resize = contract.resize
    if resize.scale_to is not None and resize.scale_to < max(resize.height, resize.width):
        raise errors.InvalidInput(
            "preprocessing.resize.scale_to must not be below the height and width that are cut out."
        )
    if len(inputs) != 1:
        raise errors.BadModel(f"A contract for images needs a model with one input; this one has {len(inputs)}.")
    _check_fits(contract, inputs[0])


def _check_fits(contract: Preprocessing, info: TensorInfo) -> None:
    made = shape(contract)
    fits = len(info.shape) == 4 and all(
        isinstance(taken, str) or taken == size for taken, size in zip(info.shape[1:], made, strict=True)
    )
    if not fits or info.dtype != contract.dtype:
        raise errors.BadModel(
            f"The preprocessing makes {contract.dtype} {['batch', *made]}, "
            f"the model's input {info.name!r} is {info.dtype} {info.shape}. "
            "Correct `resize`, `color`, `layout` or `dtype`."
        )


def shape(contract: Preprocessing) -> tuple[int, int, int]:
    """Shape of one image's tensor, without the batch axis."""
    height, width = contract.resize.height, contract.resize.width
    planar = contract.layout == "NCHW"
    return (contract.channels, height, width) if planar else (height, width, contract.channels)


def read(data: bytes | memoryview, contract: Preprocessing, most_pixels: int = MAX_PIXELS) -> Picture:
    """Decode an image file as the contract says: in its colour, a JPEG perhaps at a part of its size.

    Raises:
        errors.BadImage: As `decode`.
        errors.TooLarge: As `decode`.
    """
    return decode_at(data, contract.color, lambda size: reduction(size, contract), most_pixels)


def reduction(size: tuple[int, int], contract: Preprocessing) -> int:
    """At which part 1/n of its size a JPEG of `size` (width, height) is decoded.

    As the contract says, or less: at least half as large, each way, as what `resize` scales it to.
    """
    place = placement(size, contract.resize)
    n: int = contract.reduction
    while n > 1 and n * max(place.scale_x, place.scale_y) > 2:
        n //= 2
    return n


def _whole(image: Image.Image) -> Picture:
    return Picture(image, image.size)


def preprocess(image: Image.Image | Picture, contract: Preprocessing, out: Tensor | None = None) -> Tensor:
    """An image in the mode that `decode` gives it for the contract's colour -> its tensor, `shape(contract)`.

    A picture that was decoded at a part of its size shows the same part of the original at the same place.

    The arithmetic is float32, in the order of the formula in `specs.Preprocessing`; the result is rounded to the
    contract's dtype. It is written into `out` if given: one row of a batch.
    """
    tensor = np.empty(shape(contract), dtype=contract.dtype) if out is None else out
    planes = tensor if contract.layout == "NCHW" else tensor.transpose(2, 0, 1)
    values = resized(image, contract.resize).transpose(2, 0, 1)
    assert len(values) == contract.channels
    if contract.color == "BGR":
        values = values[::-1]
    mean, std = (np.array(numbers, np.float32).reshape(-1, 1, 1) for numbers in (contract.mean, contract.std))
    normal: Any = planes if contract.dtype == "float32" else np.empty(values.shape, np.float32)
    np.multiply(values, np.float32(contract.scale), out=normal)
    normal -= mean
    normal /= std
    if normal is not planes:
        planes[...] = np.clip(np.rint(normal), 0, 255) if contract.dtype == "uint8" else normal
    return tensor


def resized(image: Image.Image | Picture, resize: Resize) -> Pixels:
    """The image's pixels at the contract's height and width."""
    picture, size = image if isinstance(image, Picture) else _whole(image), (resize.width, resize.height)
    if resize.mode == "letterbox":
        return _letterbox(picture, resize)
    if resize.mode == "shorter_side":
        return _scaled(picture, size, resize, _crop_box(picture.size, resize))
    if picture.reduction == 1 and picture.size == size:
        return pixels_of(picture.image) if isinstance(picture.image, Image.Image) else picture.image
    return _scaled(picture, size, resize, Box(0.0, 0.0, *picture.size))


def _scaled(picture: Picture, size: tuple[int, int], resize: Resize, box: Box) -> Pixels:
    """What lies within `box`, in the original's pixels, at `size`."""
    return scaled(picture.image, size, resize.interpolation, Box(*(edge / picture.reduction for edge in box)))


def placement(size: tuple[int, int], resize: Resize) -> Placement:
    """Where an image of `size` (width, height) lies in the tensor that `resized` makes of it."""
    width, height = size
    if resize.mode == "letterbox":
        inner_width, inner_height, left, top = _inner(size, resize)
        return Placement(inner_width / width, inner_height / height, left, top, width, height)
    left_edge, top_edge, right_edge, bottom_edge = (
        _crop_box(size, resize) if resize.mode == "shorter_side" else Box(0.0, 0.0, *size)
    )
    scale_x, scale_y = resize.width / (right_edge - left_edge), resize.height / (bottom_edge - top_edge)
    return Placement(scale_x, scale_y, -left_edge * scale_x, -top_edge * scale_y, width, height)


def _crop_box(size: tuple[int, int], resize: Resize) -> Box:
    """The part of the source that scaling the shorter side and cutting out the centre would keep.

    Sizes and offsets are rounded as torchvision's Resize and CenterCrop do. Only the part is ever scaled, so an image
    of 1 x 50,000,000 pixels costs no more than another.
    """
    goal = resize.scale_to or max(resize.height, resize.width)
    shorter = min(size)
    scaled = [goal if side == shorter else int(goal * side / shorter) for side in size]
    kept = (resize.width, resize.height)
    starts = [round((length - keep) / 2.0) for length, keep in zip(scaled, kept, strict=True)]
    edges = [
        (start * side / length, (start + keep) * side / length)
        for start, keep, side, length in zip(starts, kept, size, scaled, strict=True)
    ]
    (left, right), (top, bottom) = edges
    return Box(left, top, right, bottom)


def _letterbox(picture: Picture, resize: Resize) -> Pixels:
    width, height, left, top = _inner(picture.size, resize)
    inner = _scaled(picture, (width, height), resize, Box(0.0, 0.0, *picture.size))
    canvas = np.full((resize.height, resize.width, inner.shape[2]), resize.pad, np.uint8)
    canvas[top : top + height, left : left + width] = inner
    return canvas


def _inner(size: tuple[int, int], resize: Resize) -> tuple[int, int, int, int]:
    """Width and height of the image within its border, and the border's width on the left and at the top."""
    ratio = min(resize.width / size[0], resize.height / size[1])
    width, height = (max(1, round(side * ratio)) for side in size)
    return width, height, (resize.width - width) // 2, (resize.height - height) // 2
