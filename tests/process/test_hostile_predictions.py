"""Images, tensors and requests made to break predictions, by `inference/predict` and by `/v2`: each gets its stated
answer, within seconds, and takes no memory that stays."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import socket
import struct
import time
import zlib
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image

from tests.process.platform import Platform, running, upload_digits, wait_for

pytestmark = [pytest.mark.process, pytest.mark.timeout(180)]

GOOD, REFUSED, LARGE = 200, 422, 413
SOON_S = 10.0
"""The list says a second; that is of a machine that does nothing else."""
FAILURES = ("Traceback", "unexpected failure", '"status":500', '"level":"FATAL"')
DIGIT = np.random.default_rng(5).random((1, 1, 8, 8), np.float32)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes, bits: int = 8) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks) + chunk(b"IEND", b"")


def flood(side: int) -> bytes:
    """A valid picture of black and white pixels, a few hundred kilobytes of file."""
    squeeze, row = zlib.compressobj(1), bytes(1 + (side + 7) // 8)
    rows = b"".join(squeeze.compress(row * 100) for _ in range(side // 100)) + squeeze.flush()
    return png(side, side, chunk(b"IDAT", rows), bits=1)


def saved(kind: str, mode: str = "RGB", size: tuple[int, int] = (64, 48), **options: Any) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(1).integers(0, 256, (size[1], size[0]), np.uint8)
    Image.fromarray(noise).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def sixteen_bits() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000).save(buffer, "PNG")
    return buffer.getvalue()


def gif(left: int, frames: int) -> bytes:
    frame = b"," + struct.pack("<HHHH", left, left, 1, 1) + b"\0\x02\x02\x44\x01\0"
    return b"GIF89a" + struct.pack("<HH", 1, 1) + b"\x80\0\0\0\0\0\xff\xff\xff" + frame * frames + b";"


def moving_png(frames: int) -> bytes:
    pixels = zlib.compress(b"\0\x7f")
    control = struct.pack(">IIIIHHBB", 1, 1, 0, 0, 1, 10, 0, 0)
    parts = [chunk(b"acTL", struct.pack(">II", frames, 0))]
    parts += [chunk(b"fcTL", struct.pack(">I", 0) + control), chunk(b"IDAT", pixels)]
    for number in range(1, 2 * frames - 1, 2):
        parts.append(chunk(b"fcTL", struct.pack(">I", number) + control))
        parts.append(chunk(b"fdAT", struct.pack(">I", number + 1) + pixels))
    return png(1, 1, *parts)


def scans(count: int) -> bytes:
    """A large progressive JPEG whose last scan comes again and again."""
    whole = saved("JPEG", "L", (4000, 4000), progressive=True, quality=5)
    last = whole[whole.rindex(b"\xff\xda") : -2]
    return whole[:-2] + last[:40] * count + b"\xff\xd9"


def with_exif(tag: bytes) -> bytes:
    return saved("JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01" + tag + bytes(4))


EXIF = {
    f"EXIF orientation {turned}": (with_exif(struct.pack(">HHIHH", 0x0112, 3, 1, turned, 0)), GOOD)
    for turned in range(1, 10)
}
IMAGES: dict[str, tuple[bytes, int]] = {
    "a header of 65,535 by 65,535": (png(65_535, 65_535, chunk(b"IDAT", zlib.compress(b"\0\0"))), LARGE),
    "50,000 by 50,000 bits": (flood(50_000), LARGE),
    "a GIF with an offset of 45,000": (gif(45_000, 1), REFUSED),
    "a GIF of 10,000 frames": (gif(0, 10_000), REFUSED),
    "a PNG of 10,000 frames": (moving_png(10_000), GOOD),
    "half a JPEG": (saved("JPEG")[:700], REFUSED),
    "a CMYK JPEG": (saved("JPEG", "CMYK"), GOOD),
    "a 16-bit PNG": (sixteen_bits(), GOOD),
    "a PNG with a palette": (saved("PNG", "P"), GOOD),
    "a PNG of grey and transparency": (saved("PNG", "LA"), GOOD),
    "a PNG of bits": (saved("PNG", "1"), GOOD),
    **EXIF,
    "EXIF of 17 MB": (
        saved("JPEG")[:20] + (b"\xff\xe1\xff\xffExif\0\0" + bytes(65_527)) * 260 + saved("JPEG")[20:],
        REFUSED,
    ),
    "ICC of 3 MB": (saved("JPEG", icc_profile=bytes(3_000_000)), GOOD),
    "a JPEG of 10,000 scans": (scans(10_000), LARGE),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', REFUSED),
    "PDF": (b"%PDF-1.7\n1 0 obj", REFUSED),
    "TIFF": (saved("TIFF"), REFUSED),
    "HEIC": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", REFUSED),
    "nothing": (b"", REFUSED),
    "one byte": (b"\xff", REFUSED),
    "no pixels": (png(0, 5, chunk(b"IDAT", zlib.compress(b""))), REFUSED),
    "an animated WebP": (
        saved("WEBP", save_all=True, append_images=[Image.new("RGB", (64, 48), "red")] * 3),
        GOOD,
    ),
}

MANY = [{"name": f"n{number}", "shape": [1], "datatype": "FP32", "data": []} for number in range(10_000)]
NUMBER = {"name": "image", "shape": [1, 1, 8, 8], "datatype": "FP32"}


def tensor(changes: dict[str, Any], binary: bytes = DIGIT.tobytes()) -> tuple[dict[str, Any], bytes]:
    return NUMBER | {"parameters": {"binary_data_size": len(binary)}} | changes, binary


TENSORS: dict[str, tuple[tuple[dict[str, Any], bytes], int]] = {
    "all is well": (tensor({}), 200),
    "denormal": (tensor({}, np.full((1, 1, 8, 8), 1e-42, np.float32).tobytes()), 200),
    "the other end first": (tensor({}, DIGIT.astype(">f4").tobytes()), 200),
    "doubles": (tensor({"datatype": "FP64"}), 400),
    "no datatype there is": (tensor({"datatype": "FP31"}), 400),
    "another shape": (tensor({"shape": [1, 1, 4, 16]}), 400),
    "rows of nothing": (tensor({"shape": [0, 1, 8, 8]}, b""), 400),
    "a negative shape": (tensor({"shape": [-1, 1, 8, 8]}), 400),
    "a shape beyond all": (tensor({"shape": [2**62, 2**62, 8, 8]}), 400),
    "a negative size": (tensor({"parameters": {"binary_data_size": -256}}), 400),
    "a size too large": (tensor({"parameters": {"binary_data_size": 2**40}}), 400),
    "a size of one byte less": (tensor({"parameters": {"binary_data_size": 255}}), 400),
    "a size that is no number": (tensor({"parameters": {"binary_data_size": "256"}}), 400),
    "data as well": (tensor({"data": [0.5] * 64}), 400),
    "a number beyond all": ((NUMBER | {"data": [1e300] * 64}, b""), 400),
    "text for numbers": ((NUMBER | {"data": ["a"] * 64}, b""), 400),
    "true for a number": ((NUMBER | {"data": [True] * 64}, b""), 400),
    "too few": ((NUMBER | {"data": [0.5] * 63}, b""), 400),
}

JSON = {
    "depth": b"[" * 100_000,
    "deep objects": b'{"inputs":' * 100_000,
    "deep data": b'{"inputs":[{"name":"image","shape":[1,1,8,8],"datatype":"FP32","data":' + b"[" * 100_000,
    "1e400": b'{"inputs":[{"name":"image","shape":[1e400,1,8,8],"datatype":"FP32","data":[]}]}',
    "many digits": b'{"inputs":[{"name":"image","shape":[' + b"9" * 5000 + b',1,8,8],"datatype":"FP32","data":[]}]}',
    "NaN": b'{"inputs":[{"name":"image","shape":[1,1,8,8],"datatype":"FP32","data":[NaN]}]}',
    "a lone surrogate": b'{"inputs":[{"name":"\\ud800","shape":[1,1,8,8],"datatype":"FP32","data":[]}]}',
    "true for a size": b'{"inputs":[{"name":"image","shape":[true,1,8,8],"datatype":"FP32","data":[]}]}',
    "no UTF-8": b'{"inputs":[{"name":"\xff"}]}',
    "no UTF-8 in a name": b'{"inputs":{"\xff":[1]}}',
    "nothing": b"",
    "null": b"null",
    "no inputs": b'{"inputs":[]}',
    "ten thousand inputs": json.dumps(
        {"inputs": [NUMBER | {"name": f"n{n}", "data": []} for n in range(10_000)]}
    ).encode(),
}
NAMES = (
    "x'%20OR%201=1--",
    "..%2f..%2fetc%2fpasswd",
    "a%0d%0aX-Evil:%20b",
    "%00",
    "{{7*7}}",
    "%F0%9F%92%A9",
    "a" * 3000,
)

PROVES: dict[int, tuple[str, ...]] = {
    16: ("a header of 65,535 by 65,535",),
    17: ("50,000 by 50,000 bits",),
    18: ("a GIF with an offset of 45,000",),
    19: ("a PNG of 10,000 frames", "a GIF of 10,000 frames"),
    20: ("half a JPEG",),
    21: ("a CMYK JPEG",),
    22: ("a 16-bit PNG", "a PNG with a palette", "a PNG of grey and transparency", "a PNG of bits"),
    23: (*EXIF, "EXIF of 17 MB", "ICC of 3 MB"),
    24: ("a JPEG of 10,000 scans",),
    25: ("SVG", "PDF", "TIFF", "HEIC"),
    26: ("nothing", "one byte", "no pixels"),
    27: ("an animated WebP",),
    28: ("denormal", "a number beyond all"),
    29: ("doubles", "another shape", "the other end first"),
    30: ("a negative size", "a size too large", "a size of one byte less", "data as well"),
}
"""The numbers of the list of hostile inputs that are images or tensors, and the cases that are their stated answer;
NaN and infinity are `test_numbers_that_are_none`."""


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    """At the end nothing of it may be left: no failure of ours in the logs, no memory, no process that died."""
    with running(PREPARERS="1", INFERENCE_WORKERS="2", INFERENCE_PROCESSES="1") as up:
        wait_for(up.ready, what="readiness")
        yield up


@pytest.fixture(scope="module")
def key(admin: httpx.Client) -> str:
    return str(admin.post("/auth/api-keys", json={"name": "hostile"}).json()["key"])


@pytest.fixture(scope="module")
def digits(platform: Platform, admin: httpx.Client) -> Iterator[str]:
    """The model; afterwards the processes are those that were there, as large as they were."""
    model_id = upload_digits(admin, "digits")
    assert by_predict(admin, model_id, saved("PNG", "L", (8, 8))).status_code == GOOD
    processes = [psutil.Process(pid) for service in ("gateway", "inferencer") for pid in platform.pids(service)]
    before = [process.memory_info().rss for process in processes]
    yield model_id
    assert by_predict(admin, model_id, saved("PNG", "L", (8, 8))).status_code == GOOD
    assert admin.get("/inference/health").json()["status"] == "ok"
    for process, size in zip(processes, before, strict=True):
        assert process.is_running(), f"{process.cmdline()} died"
        assert (process.memory_info().rss - size) / 2**20 < 100, process.cmdline()
    lines = [
        line for path in (platform.data_dir / "logs").glob("*") for line in path.read_text(errors="replace").split("\n")
    ]
    assert [line[-3000:] for line in lines if any(sign in line for sign in FAILURES)] == []


def by_predict(admin: httpx.Client, model_id: str, image: bytes) -> httpx.Response:
    headers = {"Content-Type": "image/jpeg"}
    return admin.post(f"/inference/predict?model_id={model_id}", content=image, headers=headers)


def infer(platform: Platform, key: str, model: str, head: bytes, binary: bytes = b"", **headers: str) -> httpx.Response:
    told = {"X-API-Key": key, "Inference-Header-Content-Length": str(len(head)), **headers}
    return httpx.post(f"{platform.url}/v2/models/{model}/infer", content=head + binary, headers=told, timeout=60)


@pytest.mark.parametrize("case", IMAGES)
def test_an_image(platform: Platform, admin: httpx.Client, key: str, digits: str, case: str) -> None:
    image, status = IMAGES[case]
    started_s = time.monotonic()
    answer = by_predict(admin, digits, image)
    assert answer.status_code == status, answer.text
    if status != GOOD:
        assert answer.headers["Content-Type"].startswith("application/problem+json") and answer.json()["detail"]
    binary = struct.pack("<I", len(image)) + image
    head, _ = tensor({"datatype": "BYTES", "shape": [1]}, binary)
    answer = infer(platform, key, digits, json.dumps({"inputs": [head]}).encode(), binary)
    assert answer.status_code == {REFUSED: 400}.get(status, status), answer.text[:300]
    if status != GOOD:
        assert set(answer.json()) == {"error"}
    assert time.monotonic() - started_s < SOON_S


@pytest.mark.parametrize("case", TENSORS)
def test_a_tensor(platform: Platform, key: str, digits: str, case: str) -> None:
    (head, binary), status = TENSORS[case]
    answer = infer(platform, key, digits, json.dumps({"inputs": [head]}).encode(), binary)
    assert answer.status_code == status, answer.text[:300]
    if status != GOOD:
        assert set(answer.json()) == {"error"}


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_are_none(platform: Platform, admin: httpx.Client, key: str, digits: str, number: float) -> None:
    """They pass as bytes and come back as bytes; JSON has no way to write them, so it is refused there."""
    head, binary = tensor({}, np.full((1, 1, 8, 8), number, np.float32).tobytes())
    wanted = [{"name": "logits", "parameters": {"binary_data": True}}]
    answer = infer(platform, key, digits, json.dumps({"inputs": [head], "outputs": wanted}).encode(), binary)
    assert answer.status_code == GOOD, answer.text[:300]
    assert infer(platform, key, digits, json.dumps({"inputs": [head]}).encode(), binary).status_code == 400
    for written in ("NaN", "Infinity", "1e400", "null"):
        body = f'{{"model_id": "{digits}", "inputs": [[{[[written] * 8] * 8}]]}}'.replace("'", "")
        answer = admin.post("/inference/predict", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == REFUSED, answer.text


@pytest.mark.parametrize("case", JSON)
def test_json(platform: Platform, admin: httpx.Client, key: str, digits: str, case: str) -> None:
    answer = infer(platform, key, digits, JSON[case])
    assert answer.status_code == 400, answer.text[:300]
    assert set(answer.json()) == {"error"} and len(answer.content) < 4096
    path = f"/inference/predict?model_id={digits}"
    answer = admin.post(path, content=JSON[case], headers={"Content-Type": "application/json"})
    assert answer.status_code == REFUSED, answer.text[:300]
    assert len(answer.content) < 8192


def test_a_name_given_twice_has_one_meaning(platform: Platform, key: str, digits: str) -> None:
    first, last = (json.dumps(NUMBER | {"data": [value] * 64}) for value in (0.1, 0.9))
    once = infer(platform, key, digits, f'{{"inputs": [{last}]}}'.encode()).json()["outputs"]
    twice = infer(platform, key, digits, f'{{"inputs": [{first}], "inputs": [{last}]}}'.encode()).json()["outputs"]
    np.testing.assert_allclose(twice[0]["data"], once[0]["data"], rtol=1e-4)
    assert infer(platform, key, digits, f'{{"inputs": [{first}, {last}]}}'.encode()).status_code == 400


def test_names_stay_names(platform: Platform, admin: httpx.Client, key: str, digits: str) -> None:
    good = json.dumps({"inputs": [NUMBER | {"data": [0.5] * 64}]}).encode()
    for name in NAMES:
        answer = infer(platform, key, name, good)
        assert answer.status_code == 404 and "x-evil" not in answer.headers, answer.text[:300]
        answer = admin.post(f"/inference/predict?model_id={name}", content=saved("PNG"))
        assert answer.status_code in (404, REFUSED) and "x-evil" not in answer.headers, answer.text[:300]
    assert infer(platform, key, digits, good, **{"X-Forwarded-For": "127.0.0.1"}).status_code == GOOD


def test_bombs(platform: Platform, admin: httpx.Client, key: str, digits: str) -> None:
    """`/v2` undoes compression, to the size it takes; `predict` does not."""
    bomb = gzip.compress(b" " * 200_000_000, 1)
    answer = infer(platform, key, digits, bomb, **{"Content-Encoding": "gzip"})
    assert answer.status_code == 413, answer.text[:300]
    doubled = gzip.compress(gzip.compress(b"{}"))
    assert infer(platform, key, digits, doubled, **{"Content-Encoding": "gzip, gzip"}).status_code == 415
    assert infer(platform, key, digits, b"\x1f\x8b" + bytes(50), **{"Content-Encoding": "gzip"}).status_code == 400
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    answer = admin.post(f"/inference/predict?model_id={digits}", content=bomb, headers=headers)
    assert answer.status_code == REFUSED, answer.text


PATHS = ("/api/v1/inference/predict?model_id=%s", "/v2/models/%s/infer")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Content-Length: 2\r\nContent-Length: 40\r\n\r\n{}",
        b"Content-Length: -1\r\n\r\n{}",
        b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
    ],
    ids=["both", "two lengths", "a negative length", "an unknown encoding", "a chunk beyond all"],
)
def test_two_readings_of_one_request(platform: Platform, key: str, digits: str, path: str, headers: bytes) -> None:
    head = f"POST {path % digits} HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\n".encode()
    answer = raw(platform, head + headers + b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.count(b"HTTP/1.1 ") == 1 and answer.startswith(b"HTTP/1.1 400 "), answer[:300]


@pytest.mark.parametrize("path", PATHS)
def test_slow_bodies_hold_no_worker(platform: Platform, admin: httpx.Client, key: str, digits: str, path: str) -> None:
    """A hundred bodies that never end, and answers that nobody reads: others are served as before."""
    head = f"POST {path % digits} HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\nContent-Type: image/png\r\n".encode()
    with contextlib.ExitStack() as stack:
        for number in range(100):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", int(platform.env["PORT"]))))
            whole = saved("PNG", "L", (8, 8))
            body = whole if number % 2 else whole[:20]
            connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(whole) + body)
        for _ in range(10):
            started_s = time.monotonic()
            assert by_predict(admin, digits, saved("PNG", "L", (8, 8))).status_code == GOOD
            assert time.monotonic() - started_s < SOON_S
        # The gateway asks the broker once a second how much waits: what it knows may be of the moment all came at once.
        wait_for(lambda: admin.get("/inference/health").json()["queue"]["depth"] == 0)


def raw(platform: Platform, request: bytes) -> bytes:
    """Everything the server answers to these bytes until it closes or falls silent."""
    answer = b""
    place = "127.0.0.1", int(platform.env["PORT"])
    with socket.create_connection(place, timeout=3) as connection, contextlib.suppress(OSError):
        connection.sendall(request)
        while chunk := connection.recv(1 << 16):
            answer += chunk
    return answer
