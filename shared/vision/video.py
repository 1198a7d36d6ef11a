"""Frames of a video file at stated times, decoded in order by FFmpeg from a stream; nothing is written or looked up."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Iterator
from typing import IO, NamedTuple, cast

from PIL import Image

from shared import errors
from shared.vision.decode import MAX_PIXELS

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # read when OpenCV is loaded: FFmpeg's remarks are nobody's log
import cv2

MOST_DECODED = 200_000
"""Frames looked at in one video: nearly two hours at 30 a second."""

MOST_FPS = 1000.0
SIZE_BYTES = 16

_CONTAINERS = ((4, b"ftyp"), (0, b"\x1aE\xdf\xa3"), (8, b"AVI "))
"""MP4 and QuickTime, Matroska and WebM, AVI. FFmpeg reads many more; some of them are lists of other files."""

cv2.setNumThreads(1)
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


class Frame(NamedTuple):
    """One frame: its number in the video, its time from the start, and its upright RGB pixels."""

    number: int
    time_s: float
    image: Image.Image


class Wanted(NamedTuple):
    """Which frames: one every `1 / rate` seconds, or those nearest to `times`, or those of the `numbers`; sorted."""

    rate: float | None = None
    times: tuple[float, ...] = ()
    numbers: tuple[int, ...] = ()


def frames(
    stream: IO[bytes], wanted: Wanted, most: int, expired: Callable[[], bool] = lambda: False
) -> Iterator[Frame]:
    """Decode a video and give the wanted frames in order, at most `most` of them. A time beyond the end gives nothing.

    Args:
        stream: The file; it must seek.
        wanted: Which frames.
        most: Where to stop.
        expired: Asked before each frame of the video, wanted or not.

    Raises:
        errors.BadImage: No video we read, damaged from the start, without frames, or with impossible facts.
        errors.TooLarge: Larger frames than an image may have.
        errors.DeadlineExceeded: `expired()` became true.
    """
    _check_container(stream)
    # Ours to keep: OpenCV lets go of it without the GIL. It takes any `BufferedIOBase`, which its stub does not know.
    capture, source = cv2.VideoCapture(), cast("cv2.IStreamReader", _Readable(stream))
    try:
        capture.open(source, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
        fps = _check_facts(capture)
        yield from _walk(capture, fps, wanted, most, expired)
    except cv2.error as error:
        raise errors.BadImage("The video is damaged. Convert it to MP4 (H.264) again.") from error
    finally:
        capture.release()


class _Readable(io.BufferedIOBase):
    """The stream as FFmpeg may call it, from C++: a part that cannot be read ends it instead of raising."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def read(self, size: int | None = -1, /) -> bytes:
        try:
            return self._stream.read(-1 if size is None else size)
        except Exception:
            return b""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        try:
            return self._stream.seek(offset, whence)
        except Exception:
            return self._stream.tell()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True


def _check_container(stream: IO[bytes]) -> None:
    stream.seek(0)
    head = stream.read(SIZE_BYTES)
    stream.seek(0)
    if not any(head[at : at + len(magic)] == magic for at, magic in _CONTAINERS):
        raise errors.BadImage("This is no MP4, MOV, MKV, WebM or AVI, whatever its name says. Convert it to MP4.")


def _check_facts(capture: cv2.VideoCapture) -> float:
    if not capture.isOpened():
        raise errors.BadImage("The video cannot be opened: it is damaged, or of a codec we have no decoder for.")
    width, height = (int(capture.get(prop)) for prop in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    if width * height > MAX_PIXELS:
        raise errors.TooLarge(
            f"Its frames have {width} x {height} pixels; the most are {MAX_PIXELS // 1_000_000} million."
        )
    fps = capture.get(cv2.CAP_PROP_FPS)
    if not math.isfinite(fps) or not 0 < fps <= MOST_FPS:
        raise errors.BadImage(f"The video claims {fps:g} frames a second. Convert it to MP4 (H.264) again.")
    return float(fps)


def _walk(
    capture: cv2.VideoCapture, fps: float, wanted: Wanted, most: int, expired: Callable[[], bool]
) -> Iterator[Frame]:
    given, seen, last_s, due_s = 0, 0, -1.0, 0.0
    for number in range(MOST_DECODED):
        if expired():
            raise errors.DeadlineExceeded(f"{given} frames of the video were read in time; send a shorter one.")
        if given == most or _done(wanted, given) or not capture.grab():
            break
        seen += 1
        time_s = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        if not last_s < time_s < math.inf:
            time_s = number / fps
        last_s = time_s
        middle_s = time_s + 1 / fps / 2
        if _is_wanted(wanted, given, number, middle_s, due_s):
            good, pixels = capture.retrieve()
            if not good:
                break
            yield Frame(number, round(time_s, 6), Image.fromarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)))
            given += 1
            if wanted.rate is not None:  # what a gap in the video skipped is not made up for by frames after it
                due_s = (math.floor(middle_s * wanted.rate) + 1) / wanted.rate
    if not seen:
        raise errors.BadImage("The video has no frame that can be decoded.")


def _done(wanted: Wanted, given: int) -> bool:
    return wanted.rate is None and given >= len(wanted.times) + len(wanted.numbers)


def _is_wanted(wanted: Wanted, given: int, number: int, middle_s: float, due_s: float) -> bool:
    """Whether this frame is the next one to give; `middle_s` lies between it and the next, `due_s` is of a rate."""
    if wanted.rate is not None:
        return middle_s > due_s
    if wanted.numbers:
        return number == wanted.numbers[given]
    return middle_s > wanted.times[given]
