"""Images and videos that were made to break whoever opens them (hostile inputs 16 to 27), and what a pass keeps."""

from __future__ import annotations

import io
import struct
import time
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageColor

from shared import errors
from shared.specs import Box, FoundBox, Sample
from shared.vision import prepared, sheet
from shared.vision.decode import decode, decode_reduced
from shared.vision.video import Wanted, _walk, frames
from tests.dataset_kit import Checked, check_here, of_classes, picture, video, zipped

GOOD = of_classes({"cat": 2, "dog": 3})


class Clocked:
    """A video of black frames that come at stated times."""

    def __init__(self, times_s: list[float]) -> None:
        self._times_s, self._at = times_s, -1

    def grab(self) -> bool:
        self._at += 1
        return self._at < len(self._times_s)

    def get(self, _: int) -> float:
        return self._times_s[self._at] * 1000

    def retrieve(self) -> tuple[bool, np.ndarray]:
        return True, np.zeros((2, 2, 3), np.uint8)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))


def png(width: int, height: int, bits: int = 8, color: int = 2, data: bytes = b"") -> bytes:
    header = struct.pack(">2L5B", width, height, bits, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def moving(kind: str, count: int) -> bytes:
    first, *others = (Image.new("RGB", (8, 8), (number % 256, number // 256, 0)) for number in range(count))
    return encoded(first, kind, save_all=True, append_images=others)


def progressive(scans: int, side: int) -> bytes:
    """A JPEG that repeats its last scan."""
    data = encoded(Image.new("L", (side, side), 90), "JPEG", progressive=True)
    last = data.rfind(b"\xff\xda")
    return data[:last] + data[last:-2] * scans + b"\xff\xd9"


def with_image(tmp_path: Path, content: bytes, name: str = "cat/odd.jpg") -> Checked:
    return check_here(zipped(tmp_path / "upload.zip", GOOD | {name: content}, zipfile.ZIP_DEFLATED))


BAD = {
    "16 a header of 65535 x 65535": (png(65_535, 65_535), "65535 x 65535 pixels"),
    "17 a bit a pixel, 50000 x 50000": (
        png(50_000, 50_000, 1, 0, zlib.compress(bytes(6_251 * 800))),
        "50000 x 50000 pixels",
    ),
    "18 GIF": (b"GIF89a\xf0\0\xf0\0" + b",\xc8\xaf\xc8\xaf\1\0\1\0", "This is a GIF"),
    "19 GIF with 10,000 frames": (b"GIF89a" + b"," * 10_000, "This is a GIF"),
    "20 truncated JPEG": (picture(1, 400, 300)[:1500], "damaged or incomplete"),
    "24 JPEG with 10,000 scans": (progressive(10_000, 640), "scans over its pixels"),
    "25 SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "XML or HTML"),
    "25 PDF": (b"%PDF-1.7\n", "a PDF"),
    "25 TIFF": (encoded(Image.new("RGB", (4, 4)), "TIFF"), "a TIFF"),
    "25 BMP that is compressed": (
        b"BM" + bytes(12) + struct.pack("<3I2H6I", 40, 4000, 4000, 1, 8, 1, 0, 0, 0, 0, 0),
        "a BMP. Convert it to JPEG, PNG or WebP",
    ),
    "25 BMP of 49 million pixels more than it holds": (
        b"BM" + bytes(8) + struct.pack("<I3I2H6I", 54, 40, 7000, 7000, 1, 24, 0, 0, 0, 0, 0, 0),
        "damaged or incomplete",
    ),
    "27 WebP of 49 million pixels, lossless": (
        encoded(Image.new("RGB", (7000, 7001)), "WEBP", lossless=True, method=0),
        "7000 x 7001 pixels; the most are 16 million in this format",
    ),
    "27 WebP of 49 million pixels": (
        encoded(Image.new("RGB", (7000, 7001)), "WEBP", method=0),
        "7000 x 7001 pixels; the most are 16 million in this format",
    ),
    "27 WebP of 49 million pixels, moving": (
        encoded(
            Image.new("RGB", (7000, 7001)),
            "WEBP",
            method=0,
            save_all=True,
            append_images=[Image.new("RGB", (7000, 7001), "red")],
        ),
        "7000 x 7001 pixels; the most are 16 million in this format",
    ),
    "25 HEIC": (b"\0\0\0\x18ftypheic", "HEIC"),
    "26 no byte": (b"", "empty"),
    "26 one byte": (b"\xff", "not an image"),
    "26 no height": (png(9, 0), "damaged or incomplete"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_used_is_a_warning_and_left_out(name: str, tmp_path: Path):
    content, says = BAD[name]
    started = time.monotonic()
    found = with_image(tmp_path, content)
    assert time.monotonic() - started < 5
    assert (found.summary.num_samples, found.summary.num_skipped) == (5, 1)
    (warning,) = [one for one in found.summary.warnings if one.where == "cat/odd.jpg"]
    assert says in warning.what


ODD = {
    "19 APNG with many frames": moving("PNG", 500),
    "21 CMYK": encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"),
    "22 sixteen bits": encoded(Image.fromarray(np.full((8, 8), 40_000, np.uint16)), "PNG"),
    "22 palette": encoded(Image.new("P", (8, 8), 3), "PNG"),
    "22 LA": encoded(Image.new("LA", (8, 8), (90, 30)), "PNG"),
    "22 one bit": encoded(Image.new("1", (8, 8), 1), "PNG"),
    "23 giant ICC": encoded(Image.new("RGB", (8, 8)), "JPEG", icc_profile=bytes(3_000_000)),
    "24 JPEG with few pixels and 200 scans": progressive(200, 64),
    "25 WebP called JPEG": encoded(Image.new("RGB", (8, 8), "red"), "WEBP"),
    "25 PNG called JPEG": encoded(Image.new("RGB", (8, 8), "red"), "PNG"),
    "25 BMP": encoded(Image.new("RGB", (8, 8), "red"), "BMP"),
    "25 BMP of one bit": encoded(Image.new("1", (8, 8), 1), "BMP"),
    "25 BMP with alpha": encoded(Image.new("RGBA", (8, 8), "red"), "BMP"),
    "27 moving WebP": moving("WEBP", 20),
}


@pytest.mark.parametrize("name", ODD)
def test_what_is_only_unusual_is_used(name: str, tmp_path: Path):
    found = with_image(tmp_path, ODD[name])
    assert (found.summary.num_samples, found.summary.num_skipped) == (6, 0)
    number = [sample.member for sample in found.index.samples].index("cat/odd.jpg")
    kept = found.copy(number)
    assert len(kept) <= prepared.MOST_KEPT_BYTES
    assert decode(kept).size == (found.index.samples[number].width, found.index.samples[number].height)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_23_sizes_are_those_of_the_upright_image(orientation: int, tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = orientation >= 5
    for width, height in ((30, 20), (1500, 900)):
        image = Image.new("RGB", (width, height))
        image.paste("white", (0, 0, width // 2, height // 2))
        data = encoded(image, "JPEG", exif=exif)
        seen = prepared.prepare(data, "classification")
        assert (seen.width, seen.height) == ((height, width) if turned else (width, height))
        copy = decode(seen.data)
        scale = copy.width / seen.width
        small = decode(data).resize(copy.size, Image.Resampling.BILINEAR)
        assert scale <= 1
        assert np.abs(np.asarray(copy, np.int16) - np.asarray(small, np.int16)).mean() < 3


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 1200), st.integers(1, 1200), st.sampled_from(["classification", "detection"]))
def test_prepared_copies_are_bounded_and_keep_proportions(width: int, height: int, task: Any):
    seen = prepared.prepare(picture(0, width, height), task)
    copy = decode(seen.data)
    assert (seen.width, seen.height) == (width, height)
    side, most = (min, prepared.SHORTER) if task == "classification" else (max, prepared.LONGER)
    assert side(copy.size) == min(most, side(width, height))
    assert abs(copy.width * height - copy.height * width) <= max(width, height)


def test_a_small_original_is_its_own_copy():
    data = picture(3, 200, 300)
    assert prepared.prepare(data, "classification").data == data


def test_decoding_at_a_fraction_looks_the_same():
    data = picture(5, 2400, 1800)
    image, original = decode_reduced(data, 200)
    assert original == (2400, 1800)
    assert 400 <= min(image.size) < 1800
    whole = decode(data).resize(image.size, Image.Resampling.BILINEAR)
    assert np.abs(np.asarray(image, np.int16) - np.asarray(whole, np.int16)).mean() < 2


def test_the_hash_hardly_changes_with_size_and_quality():
    one, other = picture(7, 600, 400), picture(8, 600, 400)
    small = encoded(decode(one).resize((300, 200)), "JPEG", quality=60)
    first, second, third = (prepared.prepare(data, "classification").dhash for data in (one, small, other))
    assert (first ^ second).bit_count() <= 2
    assert (first ^ third).bit_count() > 10


def test_colours_are_those_of_all_pixels():
    data = encoded(Image.fromarray(np.arange(300, dtype=np.uint8).reshape(10, 10, 3)), "PNG")
    pixels = np.asarray(decode(data)).reshape(-1, 3) / 255
    seen = prepared.prepare(data, "classification")
    np.testing.assert_allclose(seen.mean, pixels.mean(axis=0))
    np.testing.assert_allclose(seen.mean_of_squares, (pixels**2).mean(axis=0))


def test_the_sheet_is_the_same_for_the_same_and_bounded():
    thumb = sheet.thumbnail(decode(picture(1, 300, 100)), [(0.1, 0.1, 0.5, 0.9)])
    assert max(thumb.size) == sheet.THUMB
    rows = [sheet.Row(f"class {number}", "3 images", [thumb] * 20) for number in range(100)]
    made = sheet.sheet("Title", "about", rows, "and 60 more classes")
    assert made == sheet.sheet("Title", "about", rows, "and 60 more classes")
    assert decode(made).height < (sheet.MOST_ROWS + 2) * (sheet.THUMB + sheet.GAP)
    assert decode(sheet.sheet("x" * 10_000, "", [sheet.Row("", "", [])], "")).width == decode(made).width


def test_true_boxes_and_found_ones_have_their_colours():
    data, box = picture(1, 300, 100), Box(class_id=0, x1=30, y1=10, x2=150, y2=90)
    sample = Sample(member="a.jpg", width=300, height=100, split="val", boxes=(box,), dhash=0, offset=0, size=len(data))
    found = FoundBox(class_id=1, x1=180, y1=20, x2=270, y2=80, confidence=0.7)
    colours = [ImageColor.getrgb(name) for name in (sheet.MARK, sheet.FOUND)]
    for boxes, expected in (([], [True, False]), ([found], [True, True])):
        seen = decode(sheet.thumbnail_of(data, sample, boxes))
        pixels = {colour for _, colour in seen.getcolors(seen.width * seen.height) or []}
        assert [colour in pixels for colour in colours] == expected


def test_names_of_many_scripts_are_drawn():
    def drawn(name: str) -> bytes:
        return sheet.sheet("", "", [sheet.Row(name, "", [])], "")

    names = ["a", "ä", "ł", "ж", "猫", "犬", "ق"]
    assert len({drawn(name) for name in names}) == len(names)
    assert drawn("\U0010fffd") not in map(drawn, names)


class TestVideo:
    def times(self, data: bytes, wanted: Wanted, most: int = 1000) -> list[tuple[int, float, int]]:
        came = frames(io.BytesIO(data), wanted, most)
        return [(frame.number, frame.time_s, round(np.asarray(frame.image).mean() / 5)) for frame in came]

    def test_at_a_rate(self, tmp_path: Path):
        data = video(tmp_path / "a.avi", seconds=3, fps=10)
        assert self.times(data, Wanted(rate=1)) == [(0, 0.0, 0), (10, 1.0, 10), (20, 2.0, 20)]
        assert len(self.times(data, Wanted(rate=60))) == 30, "a frame is given once"
        assert len(self.times(data, Wanted(rate=60), most=7)) == 7

    def test_at_times_and_numbers(self, tmp_path: Path):
        data = video(tmp_path / "a.avi")
        assert self.times(data, Wanted(times=(0.51, 1.2, 99.0))) == [(5, 0.5, 5), (12, 1.2, 12)]
        assert self.times(data, Wanted(numbers=(3, 4, 29))) == [(3, 0.3, 3), (4, 0.4, 4), (29, 2.9, 29)]

    @pytest.mark.parametrize(
        ("times_s", "rate", "given"),
        [
            ([n / 10 for n in range(30)], 1.0, [0, 10, 20]),
            ([n / 10 for n in range(30)], 60.0, list(range(30))),
            ([n / 10 for n in range(12)], 5.0, [0, 2, 4, 6, 8, 10]),
            ([0, 0.1, *(10 + n / 10 for n in range(21))], 1.0, [0, 2, 12, 22]),
        ],
    )
    def test_a_gap_in_a_video_is_not_made_up_for(self, times_s: list[float], rate: float, given: list[int]):
        found = _walk(Clocked(times_s), 10.0, Wanted(rate), 100, lambda: False)
        assert [frame.number for frame in found] == given

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            (b"", "no MP4"),
            (picture(0), "no MP4"),
            (b"#EXTM3U\nfile:///etc/passwd\n", "no MP4"),
            (b"ffconcat version 1.0\nfile /etc/passwd\n", "no MP4"),
            (b"\0\0\0\x18ftypisom" + bytes(100), "cannot be opened|no frame"),
            (b"\x1aE\xdf\xa3" + b"\xff" * 500, "cannot be opened|no frame"),
        ],
    )
    def test_what_is_no_video(self, content: bytes, says: str):
        with pytest.raises(errors.BadImage, match=says):
            self.times(content, Wanted(rate=1))

    def changed(self, tmp_path: Path, offset_of: bytes, offset: int, value: int) -> bytes:
        data = bytearray(video(tmp_path / "a.avi"))
        struct.pack_into("<L", data, data.find(offset_of) + 8 + offset, value)
        return bytes(data)

    def test_frames_of_impossible_size(self, tmp_path: Path):
        data = bytearray(self.changed(tmp_path, b"strf", 4, 60_000))
        at = data.find(b"strf") + 8
        struct.pack_into("<L", data, at + 8, 60_000)
        struct.pack_into("<H4s", data, at + 14, 24, bytes(4))  # pixels as they are, so the header alone says the size
        with pytest.raises((errors.TooLarge, errors.BadImage)):
            self.times(bytes(data), Wanted(rate=1))

    def test_frames_are_bounded_as_images_are(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        data = video(tmp_path / "a.avi")
        monkeypatch.setattr("shared.vision.video.MAX_PIXELS", 64 * 48 - 1)
        with pytest.raises(errors.TooLarge, match="64 x 48"):
            self.times(data, Wanted(rate=1))

    def test_an_absurd_frame_rate(self, tmp_path: Path):
        data = self.changed(tmp_path, b"strh", 24, 4_000_000_000)
        with pytest.raises(errors.BadImage, match="frames a second"):
            self.times(data, Wanted(rate=1))

    @pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
    def test_cut_off_it_gives_what_is_there(self, part: float, tmp_path: Path):
        data = video(tmp_path / "a.avi")
        try:
            came = self.times(data[: int(part * len(data))], Wanted(rate=10))
        except errors.BadImage:
            return
        assert came == [(number, number / 10, number) for number in range(len(came))]

    @settings(max_examples=25, deadline=None)
    @given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=20))
    def test_damage_never_surprises(self, changes: list[tuple[float, int]]):
        data = bytearray(FILM)
        for where, value in changes:
            data[int(where * len(data))] = value
        try:
            assert len(self.times(bytes(data), Wanted(rate=5), most=50)) <= 50
        except (errors.BadImage, errors.TooLarge):
            return


@pytest.fixture(autouse=True, scope="module")
def _film(tmp_path_factory: pytest.TempPathFactory) -> None:
    global FILM  # noqa: PLW0603 - Hypothesis takes no fixtures of a function
    FILM = video(tmp_path_factory.mktemp("film") / "a.avi", seconds=1)


FILM = b""
