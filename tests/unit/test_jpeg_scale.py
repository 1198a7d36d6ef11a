"""JPEGs decoded at a part of their size: the contract that says so, how far it goes, and that nothing else changes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from shared import errors
from shared.specs import JpegScale, Preprocessing, Resize, canonical_json
from shared.vision.decode import ORIENTATION
from shared.vision.preprocess import placement, preprocess, read, reduction, resized
from shared.vision.scaling import Pixels
from tests.onnx_graphs import mean_model
from tests.unit.test_runtime import CONTRACT, ready, serving

modes = st.sampled_from(["stretch", "shorter_side", "letterbox"])


def soft(width: int, height: int) -> Image.Image:
    """Slow changes of colour, as most of a photograph is made of."""
    coarse = np.random.default_rng(3).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def jpeg(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95, **options)
    return buffer.getvalue()


def contract(scale: JpegScale, width: int = 128, height: int = 96, mode: Any = "stretch", **more: Any) -> Preprocessing:
    return Preprocessing(resize=Resize(width=width, height=height, mode=mode), jpeg_scale=scale, **more)


class TestContract:
    def test_the_default_is_the_contract_of_before(self) -> None:
        plain = Preprocessing(resize=Resize(height=224, width=224))
        assert plain.hash == "46375e3d87019346"  # as it was before there was a choice
        assert plain.reduced(1) == Preprocessing(resize=Resize(height=224, width=224), jpeg_scale=1) == plain
        assert b"jpeg_scale" not in canonical_json(plain.reduced(2).reduced(1))
        assert (plain.reduction, plain.reduced(4).reduction) == (1, 4)

    def test_another_scale_is_another_contract(self) -> None:
        plain = contract(1)
        assert len({plain.hash, plain.reduced(2).hash, plain.reduced(4).hash}) == 3
        again = msgspec.json.decode(canonical_json(plain.reduced(2)), type=Preprocessing)
        assert again == plain.reduced(2)

    @pytest.mark.parametrize("wrong", [0, 3, 8, -1, "2", 2.5, None, True])
    def test_others_are_refused_by_name(self, wrong: object) -> None:
        with pytest.raises(msgspec.ValidationError, match="jpeg_scale"):
            msgspec.convert({"resize": {"width": 8, "height": 8}, "jpeg_scale": wrong}, Preprocessing)


class TestReduction:
    @pytest.mark.parametrize(
        ("size", "goal", "mode", "scale", "reached"),
        [
            pytest.param((640, 480), (224, 224), "stretch", 4, 4, id="a photograph"),
            pytest.param((640, 480), (224, 224), "stretch", 2, 2, id="as the contract says"),
            pytest.param((640, 480), (640, 640), "letterbox", 4, 2, id="half of what the detector sees"),
            pytest.param((300, 300), (224, 224), "shorter_side", 4, 2, id="a smaller one"),
            pytest.param((200, 200), (224, 224), "stretch", 4, 1, id="a thumbnail"),
            pytest.param((2000, 100), (64, 64), "stretch", 4, 2, id="the narrow side decides"),
            pytest.param((1, 1), (8, 8), "letterbox", 4, 1, id="a pixel"),
        ],
    )
    def test_small_images_stay_as_they_are(
        self, size: tuple[int, int], goal: tuple[int, int], mode: str, scale: JpegScale, reached: int
    ) -> None:
        made = contract(scale, *goal, mode)
        assert reduction(size, made) == reached
        found = read(jpeg(soft(*size)), made)
        assert (found.size, found.reduction) == (size, reached)
        assert dimensions(found.image) == tuple(-(-side // reached) for side in size)

    def test_only_jpegs_are_decoded_so(self) -> None:
        for kind in ("PNG", "WEBP"):
            buffer = io.BytesIO()
            soft(640, 480).save(buffer, kind)
            found = read(buffer.getvalue(), contract(4))
            assert (dimensions(found.image), found.reduction) == ((640, 480), 1)

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_held_otherwise(self, orientation: int) -> None:
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        data = jpeg(soft(640, 400), exif=exif)
        whole, part = (read(data, contract(scale, 64, 64)) for scale in (1, 4))
        assert part.size == whole.size == dimensions(whole.image) == ((400, 640) if orientation > 4 else (640, 400))
        assert dimensions(part.image) == (whole.size[0] // 4, whole.size[1] // 4)
        alike(resized(part, Resize(width=64, height=64)), resized(whole, Resize(width=64, height=64)))

    @pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}], ids=str)
    @pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
    @pytest.mark.parametrize("color", ["RGB", "BGR", "L"])
    def test_every_kind_of_jpeg(self, mode: str, color: Any, options: dict[str, Any]) -> None:
        data = jpeg(soft(320, 240).convert(mode), **options)
        one, four = (preprocess(read(data, made), made) for made in (contract(n, 64, 48, color=color) for n in (1, 4)))
        assert np.abs(one - four).mean() < 0.02

    def test_limits_are_for_the_original(self) -> None:
        with pytest.raises(errors.TooLarge, match="640 x 480"):
            read(jpeg(soft(640, 480)), contract(4), most_pixels=640 * 480 - 1)

    def test_damage_is_told_as_ever(self) -> None:
        data = jpeg(soft(640, 480))
        for broken in (data[: len(data) // 2], data[:30], b"\xff\xd8\xff" + bytes(50)):
            with pytest.raises(errors.BadImage, match="damaged or incomplete"):
                read(broken, contract(4))


def dimensions(image: Image.Image | Pixels) -> tuple[int, int]:
    return image.size if isinstance(image, Image.Image) else (image.shape[1], image.shape[0])


def alike(one: Pixels, other: Pixels) -> None:
    assert one.shape == other.shape
    assert np.abs(one.astype(np.int16) - other.astype(np.int16)).mean() < 3


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400), st.integers(1, 400), st.integers(8, 64), st.integers(8, 64), modes, st.sampled_from([2, 4]))
def test_any_size_becomes_the_contracts(
    width: int, height: int, to_width: int, to_height: int, mode: Any, scale: JpegScale
) -> None:
    made = contract(scale, to_width, to_height, mode, color="L")
    found = read(jpeg(Image.new("L", (width, height), 90)), made)
    assert found.size == (width, height)
    assert dimensions(resized(found, made.resize)) == (to_width, to_height)


@pytest.mark.parametrize("mode", ["stretch", "shorter_side", "letterbox"])
@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("size", [(800, 400), (803, 401), (401, 803)])
def test_a_mark_lies_where_the_original_has_it(mode: Any, scale: JpegScale, size: tuple[int, int]) -> None:
    left, top = size[0] // 2 + 30, size[1] // 2 + 50
    picture = Image.new("L", size)
    picture.paste(255, (left, top, left + 80, top + 90))
    resize = Resize(width=400, height=400, mode=mode, pad=0)
    found = read(jpeg(picture), Preprocessing(resize=resize, color="L", jpeg_scale=scale))
    assert found.reduction == (4 if (mode, scale) == ("letterbox", 4) else 2)
    rows, columns = np.nonzero(resized(found, resize)[..., 0] > 127)
    seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    place = placement(size, resize)
    wanted = [
        left * place.scale_x + place.offset_x,
        top * place.scale_y + place.offset_y,
        (left + 80) * place.scale_x + place.offset_x,
        (top + 90) * place.scale_y + place.offset_y,
    ]
    np.testing.assert_allclose(seen, wanted, atol=1)


def test_serving_tells_boxes_in_the_originals_pixels(tmp_path: Path) -> None:
    runtime = ready(serving(mean_model(tmp_path / "mean"), preprocessing=CONTRACT.reduced(4)))
    whole = ready(serving(mean_model(tmp_path / "mean")))
    data = [jpeg(soft(640, 480)), jpeg(soft(9, 7))]
    found, before = runtime.decode(data), whole.decode(data)
    assert found.source == before.source and list(found.source.sizes) == [(640, 480), (9, 7)]
    np.testing.assert_allclose(found.feeds["image"], before.feeds["image"], atol=0.05)
    np.testing.assert_array_equal(found.feeds["image"][1], before.feeds["image"][1])
    assert (found.feeds["image"][0] != before.feeds["image"][0]).any()
