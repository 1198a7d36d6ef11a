"""Image files to tensors and scores to classes, against plain re-computations and hostile bytes."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from shared import errors
from shared.specs import Preprocessing, Resize, TensorInfo
from shared.vision import scaling
from shared.vision.decode import MAX_PIXELS, Picture, _colors, decode, decode_at, decode_reduced
from shared.vision.postprocess import check_finite, confidences, is_distribution, top_k
from shared.vision.preprocess import check_contract, preprocess, resized, shape
from shared.vision.scaling import Pixels, pixels_of


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture(width: int = 12, height: int = 8, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def contract(height: int = 8, width: int = 12, *, mode: str = "stretch", scale_to: int | None = None, **rest: Any):
    resize = Resize(height=height, width=width, mode=mode, scale_to=scale_to)
    return Preprocessing(resize=resize, **rest)


def identity(**rest: Any) -> Preprocessing:
    return contract(scale=1.0, dtype="uint8", **rest)


class TestDecode:
    @pytest.mark.parametrize("options", [("PNG", {}), ("WEBP", {"lossless": True}), ("JPEG", {"quality": 100})])
    def test_the_three_formats(self, options: tuple[str, dict[str, Any]]) -> None:
        kind, how = options
        image = decode(encoded(picture(), kind, **how))
        assert image.mode == "RGB"
        assert image.size == (12, 8)
        if kind != "JPEG":
            np.testing.assert_array_equal(np.asarray(image), np.asarray(picture()))

    def test_takes_memory_of_a_frame(self) -> None:
        assert decode(memoryview(encoded(picture(), "PNG"))).size == (12, 8)

    @pytest.mark.parametrize("color", ["RGB", "BGR", "L"])
    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
    def test_every_mode_of_png_becomes_the_contracts_colour(self, mode: str, color: str) -> None:
        source = Image.fromarray(np.full((4, 6), 40_000, np.uint16)) if mode == "I;16" else picture(6, 4, mode)
        image = decode(encoded(source, "PNG"), color)
        assert image.mode == ("L" if color == "L" else "RGB")
        assert image.size == (6, 4)

    def test_sixteen_bits_keep_their_upper_byte(self) -> None:
        deep = Image.fromarray(np.array([[0, 255, 256, 40_000, 65_535]], np.uint16))
        assert np.asarray(decode(encoded(deep, "PNG"), "L")).tolist() == [[0, 0, 1, 156, 255]]

    def test_transparency_is_dropped_not_blended(self) -> None:
        clear = Image.new("RGBA", (2, 2), (10, 20, 30, 0))
        assert decode(encoded(clear, "PNG")).getpixel((0, 0)) == (10, 20, 30)

    def test_a_palette_with_transparent_entries(self) -> None:
        palette = picture(6, 4, "P")
        image = decode(encoded(palette, "PNG", transparency=bytes(range(256))))
        np.testing.assert_array_equal(np.asarray(image), np.asarray(palette.convert("RGB")))

    def test_cmyk(self) -> None:
        image = decode(encoded(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "JPEG"))
        red, green, blue = image.getpixel((1, 1))
        assert red > 200 > 60 > max(green, blue)

    @pytest.mark.parametrize(("orientation", "corner"), [(1, (0, 0)), (3, (7, 3)), (6, (3, 0)), (8, (0, 7))])
    def test_the_camera_was_held_otherwise(self, orientation: int, corner: tuple[int, int]) -> None:
        image = Image.new("RGB", (8, 4))
        image.putpixel((0, 0), (255, 255, 255))
        exif = Image.Exif()
        exif[0x0112] = orientation
        upright = decode(encoded(image, "PNG", exif=exif))
        assert upright.size == ((4, 8) if orientation in (6, 8) else (8, 4))
        assert upright.getpixel(corner) == (255, 255, 255)

    @pytest.mark.filterwarnings("ignore:Corrupt EXIF")
    def test_a_damaged_exif_block_does_not_matter(self) -> None:
        exif = b"Exif\x00\x00" + b"II*\x00\x08\x00\x00\x00" + b"\xff" * 40
        assert decode(encoded(picture(), "JPEG", exif=exif)).size == (12, 8)

    @pytest.mark.parametrize(
        ("kind", "parts"),
        [
            pytest.param("JPEG", b"\xff\xfe\x00\x02" * 70_000, id="empty segments"),
            pytest.param("JPEG", b"\xff" * 70_000, id="fill bytes"),
            pytest.param("JPEG", b"stray bytes" * 7000, id="stray bytes"),
            pytest.param("JPEG", (b"\xff\xe1\xff\xffExif\x00\x00" + bytes(65_527)) * 260, id="EXIF of 17 MB"),
            pytest.param("PNG", (bytes(4) + b"abCd" + bytes(4)) * 70_000, id="empty chunks"),
        ],
    )
    def test_more_beside_the_pixels_than_a_picture_has(self, kind: str, parts: bytes) -> None:
        data, start = encoded(picture(), kind), 20 if kind == "JPEG" else 8  # behind what tells the format
        with pytest.raises(errors.BadImage, match="far more beside its pixels"):
            decode(data[:start] + parts + data[start:])

    def test_some_segments_and_stray_bytes_are_no_matter(self) -> None:
        data = encoded(picture(), "JPEG", comment=b"hello", progressive=True)
        parts = (b"\xff\xe2\xff\xff" + bytes(65_533)) * 9 + b"stray\xff\xff"
        assert decode(data[:20] + parts + data[20:]).size == (12, 8)

    def test_damaged_exif_tags_fill_no_log(self, tmp_path: Path) -> None:
        tags = b"".join(struct.pack("<HHLL", 0x9000 + number, 1, 60_000, 8) for number in range(200))
        exif = b"Exif\x00\x00II*\x00\x08\x00\x00\x00" + struct.pack("<H", 200) + tags + bytes(4)
        (tmp_path / "image").write_bytes(encoded(picture(), "JPEG", exif=exif))
        code = f"from shared.vision.decode import decode; decode(open({str(tmp_path / 'image')!r}, 'rb').read())"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, "")

    @pytest.mark.parametrize("kind", ["WEBP", "PNG"])
    def test_of_an_animation_the_first_frame(self, kind: str) -> None:
        frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
        moving = encoded(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
        assert decode(moving).getpixel((0, 0)) == (255, 0, 0)

    def test_a_jpeg_with_more_than_one_picture(self) -> None:
        pair = encoded(picture(), "MPO", save_all=True, append_images=[picture()])
        assert decode(pair).size == (12, 8)

    @pytest.mark.parametrize(
        ("data", "says"),
        [
            (b"", "empty"),
            (b"GIF89a" + b"\0" * 20, "a GIF"),
            (b"BM" + b"\0" * 20, "a BMP"),
            (b"%PDF-1.7", "a PDF"),
            (b"\0\0\0\x18ftypheic", "HEIC"),
            (b'{"image": 1}', "JSON"),
            (b"<svg/>", "XML"),
            (b"hello", "not an image"),
            (b"\x89PNG\r\n\x1a\n", "PNG is damaged"),
            (b"\xff\xd8\xff\xe0", "JPEG is damaged"),
            (b"RIFF\x10\0\0\0WEBPVP8 ", "WEBP is damaged"),
        ],
    )
    def test_what_is_no_image_is_named(self, data: bytes, says: str) -> None:
        with pytest.raises(errors.BadImage, match=says) as refused:
            decode(data)
        assert "object at" not in refused.value.message

    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
    @pytest.mark.parametrize("part", [0.3, 0.6, 0.95])
    def test_truncated(self, kind: str, part: float) -> None:
        whole = encoded(picture(200, 100), kind)
        with pytest.raises(errors.BadImage, match="damaged or incomplete") as refused:
            decode(whole[: int(len(whole) * part)])
        assert "object at" not in refused.value.message

    @pytest.mark.parametrize("kind", ["PNG", "JPEG"])
    def test_too_many_pixels_by_the_header(self, kind: str) -> None:
        header = encoded(Image.new("1" if kind == "PNG" else "L", (9_000, MAX_PIXELS // 9_000 + 1)), kind)
        with pytest.raises(errors.TooLarge, match="9000 x 5556"):
            decode(header[: len(header) // 2])  # the pixels are not even there

    @settings(max_examples=150, deadline=None)
    @given(
        kind=st.sampled_from(["PNG", "JPEG", "WEBP"]),
        changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=12),
        keep=st.floats(0, 1),
    )
    def test_damage_never_surprises(self, kind: str, changes: list[tuple[float, int]], keep: float) -> None:
        data = bytearray(encoded(picture(), kind))
        for where, value in changes:
            data[int(where * len(data))] = value
        try:
            image = decode(bytes(data[: int(keep * len(data)) + 1]))
        except (errors.BadImage, errors.TooLarge):
            return
        assert image.mode == "RGB"


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def pixels_at(data: bytes, n: int = 1, color: Literal["RGB", "L"] = "RGB") -> Pixels:
    image = decode_at(data, color, lambda _: n).image
    return pixels_of(image) if isinstance(image, Image.Image) else image


def with_pillow(data: bytes, n: int = 1, color: Literal["RGB", "L"] = "RGB") -> Pixels:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shared.vision.decode._colors", lambda *_: None)
        return pixels_at(data, n, color)


class TestOrdinaryJpegs:
    """They do not go through Pillow, and nobody can tell."""

    @settings(max_examples=150, deadline=None)
    @given(
        size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
        mode=st.sampled_from(["RGB", "L", "CMYK"]),
        options=st.fixed_dictionaries(
            {"quality": st.integers(1, 100), "subsampling": st.integers(0, 2)},
            optional={
                "progressive": st.booleans(),
                "optimize": st.booleans(),
                "keep_rgb": st.booleans(),
                "restart_marker_blocks": st.integers(1, 4),
                "exif": st.integers(1, 8).map(turned),
            },
        ),
        n=st.sampled_from([1, 2, 4]),
        color=st.sampled_from(["RGB", "L"]),
    )
    def test_the_pixels_are_pillows(
        self, size: tuple[int, int], mode: str, options: dict[str, Any], n: int, color: Literal["RGB", "L"]
    ) -> None:
        if "keep_rgb" in options:
            del options["subsampling"]  # Pillow takes one of the two
        data = encoded(picture(*size, mode), "JPEG", **options)
        np.testing.assert_array_equal(pixels_at(data, n, color), with_pillow(data, n, color))
        if n == 1 and color == "RGB":
            np.testing.assert_array_equal(pixels_of(decode(data)), with_pillow(data))

    @settings(max_examples=150, deadline=None)
    @given(
        changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
        keep=st.floats(0.5, 1),
        progressive=st.booleans(),
    )
    def test_damage_is_judged_by_pillow(self, changes: list[tuple[float, int]], keep: float, progressive: bool) -> None:
        data = bytearray(encoded(picture(40, 30), "JPEG", progressive=progressive))
        for where, value in changes:
            data[int(where * len(data))] = value
        found: list[Any] = []
        for way in (pixels_at, with_pillow):
            try:
                found.append(way(bytes(data[: int(keep * len(data)) + 1])))
            except (errors.BadImage, errors.TooLarge) as error:
                found.append(error.message)
        assert np.array_equal(*found)

    @pytest.mark.parametrize("at", [0.3, 0.5, 0.9])
    def test_a_damaged_png_is_refused_by_every_way(self, at: float) -> None:
        data = bytearray(encoded(Image.effect_noise((200, 150), 90).convert("RGB"), "PNG"))
        data[int(at * len(data))] ^= 0xFF
        for way in (decode, pixels_at, lambda data: decode_reduced(data, 64)):
            with pytest.raises(errors.BadImage, match="damaged"):
                way(bytes(data))

    def test_which_take_the_short_way(self) -> None:
        files = [encoded(picture(), kind) for kind in ("JPEG", "PNG")]
        short = [_colors(Image.open(io.BytesIO(data)), data) for data in files]
        assert short[0] is not None and short[1] is None


class TestResize:
    @settings(max_examples=60, deadline=None)
    @given(
        size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
        goal=st.tuples(st.integers(1, 40), st.integers(1, 40)),
        mode=st.sampled_from(["stretch", "shorter_side", "letterbox"]),
        color=st.sampled_from(["RGB", "L"]),
    )
    def test_always_has_the_contracts_size(
        self, size: tuple[int, int], goal: tuple[int, int], mode: str, color: str
    ) -> None:
        resize = Resize(height=goal[0], width=goal[1], mode=mode)
        pixels = resized(Image.new(color, size, 77), resize)
        assert pixels.shape == (*goal, len(color))

    def test_the_same_size_is_left_alone(self) -> None:
        given = pixels_of(picture())
        assert resized(Picture(given, (12, 8)), Resize(height=8, width=12)) is given

    @settings(max_examples=40, deadline=None)
    @given(size=st.tuples(st.integers(20, 120), st.integers(20, 120)), scale_to=st.sampled_from([None, 32, 40]))
    def test_shorter_side_equals_resize_then_crop(self, size: tuple[int, int], scale_to: int | None) -> None:
        image = picture(*size)
        got = resized(image, Resize(height=24, width=32, mode="shorter_side", scale_to=scale_to))
        side = scale_to or 32
        width, height = (side if length == min(size) else int(side * length / min(size)) for length in size)
        left, top = round((width - 32) / 2.0), round((height - 24) / 2.0)
        whole = image.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + 32, top + 24))
        # Pillow rounds after each of its two passes, and the passes see other neighbours: one step each.
        assert np.abs(got.astype(np.int16) - np.asarray(whole, np.int16)).max() <= 2

    def test_a_needle_costs_no_memory(self) -> None:
        needle = Image.new("L", (1, 1_000_000), 9)
        pixels = resized(needle, Resize(height=64, width=64, mode="shorter_side"))
        assert np.unique(pixels).tolist() == [9]

    def test_letterbox_centres_and_pads(self) -> None:
        pixels = resized(Image.new("RGB", (20, 10), "white"), Resize(height=10, width=10, mode="letterbox", pad=7))
        assert (pixels[:2] == 7).all()
        assert (pixels[2:7] == 255).all()
        assert (pixels[7:] == 7).all()


class TestScaling:
    """Two ways to compute the same."""

    @settings(max_examples=300, deadline=None)
    @given(
        size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
        goal=st.tuples(st.integers(1, 200), st.integers(1, 200)),
        edges=st.tuples(*[st.floats(0, 1)] * 4),
        interpolation=st.sampled_from(["bilinear", "bicubic", "nearest"]),
        seed=st.integers(0, 2**32 - 1),
    )
    @example(size=(299, 7), goal=(1, 200), edges=(0, 0, 1, 1), interpolation="bicubic", seed=0)
    @example(size=(1, 1), goal=(200, 1), edges=(0, 0, 1, 1), interpolation="bilinear", seed=0)
    @example(size=(146, 136), goal=(196, 134), edges=(0, 0, 1, 1), interpolation="bilinear", seed=3973)
    def test_samples_are_a_step_from_pillows_and_rarely_two(
        self,
        size: tuple[int, int],
        goal: tuple[int, int],
        edges: tuple[float, float, float, float],
        interpolation: Any,
        seed: int,
    ) -> None:
        (left, right), (top, bottom) = (
            sorted(edge * length for edge in ends) for ends, length in zip((edges[::2], edges[1::2]), size, strict=True)
        )
        assume(right - left > 1e-3 and bottom - top > 1e-3)
        box = scaling.Box(left, top, right, bottom)
        pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(scaling, "_VECTORED", False)
            expected = scaling.scaled(pixels, goal, interpolation, box)
        got = scaling.scaled(pixels, goal, interpolation, box)
        assert got.shape == expected.shape == (goal[1], goal[0], 3)
        steps = np.abs(got.astype(np.int16) - expected.astype(np.int16))
        assert steps.max() <= (2 if interpolation == "bilinear" else 0)
        assert (steps > 1).sum() <= max(1, 1e-3 * steps.size)

    def test_threads_do_not_disturb_each_other(self) -> None:
        pixels, box = pixels_of(picture(64, 48)), scaling.Box(0, 0, 64, 48)
        expected = scaling.scaled(pixels, (20, 30), "bilinear", box)
        with ThreadPoolExecutor(8) as threads:
            for got in threads.map(lambda _: scaling.scaled(pixels, (20, 30), "bilinear", box), range(400)):
                np.testing.assert_array_equal(got, expected)


class TestPreprocess:
    def test_the_identity_contract_is_the_identity(self) -> None:
        tensor = preprocess(picture(), identity(layout="NHWC"))
        assert tensor.dtype == np.uint8
        np.testing.assert_array_equal(tensor, np.asarray(picture()))
        np.testing.assert_array_equal(preprocess(picture(), identity()), np.asarray(picture()).transpose(2, 0, 1))

    def test_bgr_is_rgb_backwards(self) -> None:
        rgb, bgr = (preprocess(picture(), identity(color=color)) for color in ("RGB", "BGR"))
        np.testing.assert_array_equal(bgr, rgb[::-1])

    @settings(max_examples=50, deadline=None)
    @given(
        color=st.sampled_from(["RGB", "BGR", "L"]),
        layout=st.sampled_from(["NCHW", "NHWC"]),
        dtype=st.sampled_from(["float32", "float16"]),
        scale=st.sampled_from([1 / 255, 1.0, 2 / 255]),
        numbers=st.lists(st.floats(-3, 3), min_size=6, max_size=6),
        single=st.booleans(),
    )
    def test_the_formula_channel_by_channel(
        self, color: str, layout: str, dtype: str, scale: float, numbers: list[float], single: bool
    ) -> None:
        channels = 1 if color == "L" else 3
        count = 1 if single else channels
        mean = tuple(numbers[:count])
        std = tuple(abs(value) + 0.1 for value in numbers[3 : 3 + count])
        made = contract(color=color, layout=layout, dtype=dtype, scale=scale, mean=mean, std=std)
        image = picture().convert("L") if color == "L" else picture()
        tensor = preprocess(image, made)
        assert tensor.dtype == np.dtype(dtype)
        assert tensor.shape == shape(made)
        pixels = np.asarray(image, np.float64).reshape(8, 12, channels)
        if color == "BGR":
            pixels = pixels[..., ::-1]
        expected = (pixels * scale - np.array(mean)) / np.array(std)
        if layout == "NCHW":
            expected = expected.transpose(2, 0, 1)
        np.testing.assert_allclose(tensor, expected, rtol=2e-3, atol=2e-2 if dtype == "float16" else 1e-3)

    def test_writes_into_a_row_of_a_batch(self) -> None:
        batch = np.zeros((2, *shape(contract())), np.float32)
        preprocess(picture(), contract(), batch[1])
        assert not batch[0].any()
        np.testing.assert_array_equal(batch[1], preprocess(picture(), contract()))

    def test_bytes_are_rounded_and_clipped(self) -> None:
        made = contract(1, 3, scale=2.0, dtype="uint8", color="L", mean=(0.4,))
        tensor = preprocess(Image.fromarray(np.array([[0, 10, 200]], np.uint8)), made)
        assert tensor.ravel().tolist() == [0, 20, 255]


class TestContract:
    def test_the_hash_is_stable(self) -> None:
        # A new value here means that every stored contract changes its name: think twice.
        assert contract().hash == "73c022079e401dd9"
        assert contract().hash == msgspec.json.decode(msgspec.json.encode(contract()), type=Preprocessing).hash
        assert contract().hash != contract(color="BGR").hash

    @pytest.mark.parametrize(
        ("made", "says"),
        [
            (contract(mean=(0.1, 0.2)), "mean needs 1 or 3"),
            (contract(std=(1.0, 1.0, 1.0), color="L"), "std needs 1 or 1"),
            (contract(std=(0.0,)), "std must not be 0"),
            (contract(mean=(float("nan"),)), "finite"),
            (contract(mode="shorter_side", scale_to=10), "scale_to"),
        ],
    )
    def test_contradictions_are_named(self, made: Preprocessing, says: str) -> None:
        with pytest.raises(errors.InvalidInput, match=says):
            check_contract(made, [TensorInfo(name="image", dtype="float32", shape=["batch", 3, 8, 12])])

    @pytest.mark.parametrize("taken", [["batch", 3, 8, 12], [1, 3, "height", "width"], [4, "c", 8, 12]])
    def test_models_it_fits(self, taken: list[int | str]) -> None:
        check_contract(contract(), [TensorInfo(name="image", dtype="float32", shape=taken)])

    @pytest.mark.parametrize(
        ("taken", "dtype"),
        [
            (["batch", 1, 8, 12], "float32"),
            (["batch", 3, 12, 8], "float32"),
            (["batch", 8, 12, 3], "float32"),
            (["batch", 3, 8, 12], "uint8"),
            (["batch", 288], "float32"),
        ],
    )
    def test_models_it_does_not_fit(self, taken: list[int | str], dtype: str) -> None:
        with pytest.raises(errors.BadModel, match="preprocessing makes float32"):
            check_contract(contract(), [TensorInfo(name="image", dtype=dtype, shape=taken)])

    def test_two_inputs(self) -> None:
        one = TensorInfo(name="image", dtype="float32", shape=["batch", 3, 8, 12])
        with pytest.raises(errors.BadModel, match="one input"):
            check_contract(contract(), [one, one])


class TestPostprocess:
    def test_softmax_of_logits(self) -> None:
        got = confidences(np.array([[1.0, 2.0, 3.0], [1000.0, 0.0, -1000.0]], np.float32), "logits")
        np.testing.assert_allclose(got[0], [0.09003057, 0.24472847, 0.66524096], rtol=1e-6)
        np.testing.assert_allclose(got[1], [1.0, 0.0, 0.0])

    def test_masked_classes_have_no_chance(self) -> None:
        assert confidences(np.array([[0.0, -np.inf]], np.float32), "logits").tolist() == [[1.0, 0.0]]

    def test_one_logit_is_a_yes_or_no(self) -> None:
        assert confidences(np.array([[0.0]], np.float32), "logits").tolist() == [[0.5]]

    def test_probabilities_stay(self) -> None:
        assert confidences(np.array([[0.25, 0.5]], np.float32), "probabilities").tolist() == [[0.25, 0.5]]

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    @pytest.mark.parametrize("kind", ["logits", "probabilities"])
    def test_nan_is_the_models_failure(self, bad: float, kind: str) -> None:
        with pytest.raises(errors.BadOutput, match="NaN or infinity"):
            confidences(np.array([[bad, 1.0]], np.float32), kind)
        with pytest.raises(errors.BadOutput, match="boxes"):
            check_finite("boxes", np.array([bad]))

    @pytest.mark.parametrize("kind", ["logits", "probabilities"])
    def test_no_scores_are_the_models_failure(self, kind: str) -> None:
        with pytest.raises(errors.BadOutput, match="no scores"):
            confidences(np.zeros((2, 0), np.float32), kind)

    @given(st.lists(st.floats(-50, 50, width=32), min_size=2, max_size=30), st.integers(1, 40))
    def test_top_k_is_the_head_of_all(self, scores: list[float], k: int) -> None:
        row = confidences(np.array([scores], np.float32), "logits")[0]
        best = top_k(row, None, k)
        assert best == top_k(row, None, len(scores))[:k]
        assert [one.confidence for one in best] == sorted((one.confidence for one in best), reverse=True)
        assert best[0].confidence == pytest.approx(row.max(), abs=1e-6)
        assert sum(one.confidence for one in top_k(row, None, 99)) == pytest.approx(1.0, abs=1e-4)

    def test_ties_keep_the_order_of_the_classes(self) -> None:
        assert [one.class_id for one in top_k(np.array([0.2, 0.4, 0.4]), None, 3)] == [1, 2, 0]

    def test_labels_and_what_has_none(self) -> None:
        assert [one.label for one in top_k(np.array([0.1, 0.3, 0.6]), ["cat", "dog"], 3)] == ["2", "dog", "cat"]

    def test_a_distribution_is_recognised(self) -> None:
        assert is_distribution(np.array([[0.2, 0.8], [1.0, 0.0]]))
        assert not is_distribution(np.array([[0.2, 0.8], [2.0, -1.0]]))
        assert not is_distribution(np.array([[0.2, 0.7]]))
