"""What the service is sent, and how requests carry their credential."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
from PIL import Image

from benchmarker import Bodies, BodiesOrder, DatasetFiles, DriveOrder, ServiceAccess, bodies, driving, load
from benchmarker.service import drive
from shared import errors
from shared.specs import ModelDescription, Preprocessing, Resize, ServiceLoad, TensorInfo
from tests.conftest import make_certificate
from tests.dataset_kit import check_here, zipped
from tests.unit.test_load import PREDICTION, Reply, serving
from tests.unit.test_measure import DESCRIPTION, INPUTS
from tests.unit.test_measure import order as measure_order

KEY = "cvp_" + "x" * 36


CONTRACT = Preprocessing(resize=Resize(height=20, width=30), mean=(0.0,), std=(1.0,))
OF_IMAGES = msgspec.structs.replace(DESCRIPTION, preprocessing=CONTRACT)


def made(
    description: ModelDescription, inputs: list[TensorInfo] = INPUTS, dataset: DatasetFiles | None = None
) -> tuple[Bodies, list[Any]]:
    with tempfile.TemporaryFile() as file:
        order = BodiesOrder(dataset=dataset, description=description, inputs=inputs, seed=1, output=file.fileno())
        found = bodies.make(order)
        file.seek(0)
        return found, msgspec.msgpack.decode(file.read(), type=list[bodies.Body])


def test_a_model_without_a_contract_is_sent_tensors() -> None:
    found, ((kind, content),) = made(DESCRIPTION)
    assert (found.source, found.count, found.middle_bytes) == ("drawn tensors", 1, len(content))
    assert kind == "application/json"
    assert list(msgspec.json.decode(content)["inputs"]) == [INPUTS[0].name]


def test_images_of_the_test_split_are_sent_as_they_were_uploaded(tmp_path: Path) -> None:
    pictures = {f"{part}/{name}/{at}.png": png(at) for part in ("train", "test") for name in "ab" for at in range(3)}
    archive = zipped(tmp_path / "some.zip", pictures)
    checked = check_here(archive)
    dataset = DatasetFiles(
        id="dst_1",
        name="some",
        index=str(checked.paths["index"]),
        index_sha256="0" * 64,
        pack=str(checked.paths["pack"]),
        archive=str(archive),
        num_test=6,
        classes=["a", "b"],
        class_ids=[0, 1],
    )
    found, sent = made(OF_IMAGES, dataset=dataset)
    assert (found.source, found.count) == ("test split", 6)
    uploaded = {content for name, content in pictures.items() if name.startswith("test")}
    assert {content for _, content in sent} <= uploaded


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((24, 24), 20 + 10 * number).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_model_with_text_as_input_is_sent_nothing() -> None:
    with pytest.raises(errors.AppError):
        made(DESCRIPTION, [TensorInfo(name="words", dtype="str", shape=["batch", 4])])


def access(port: int = 1, certificate: Path | None = None) -> ServiceAccess:
    return ServiceAccess(host="127.0.0.1", port=port, certificate=certificate and str(certificate), key=KEY)


def test_the_key_is_in_the_requests_and_not_in_what_is_printed() -> None:
    assert KEY not in repr(access())
    order = DriveOrder(load=ServiceLoad(users=1), access=access(), model_id="mdl_1", seed=0, bodies=0)
    assert KEY not in repr(order)
    request = driving._request(order)("image/jpeg", b"abc")
    head, _, body = request.partition(b"\r\n\r\n")
    assert body == b"abc"
    assert head.splitlines() == [
        b"POST /api/v1/inference/predict?model_id=mdl_1 HTTP/1.1",
        b"Host: localhost:1",
        f"Authorization: Bearer {KEY}".encode(),
        b"Content-Type: image/jpeg",
        b"Content-Length: 3",
    ]


def driven(port: int, certificate: Path | None = None, **wanted: Any) -> Any:
    with tempfile.TemporaryFile() as file:
        file.write(msgspec.msgpack.encode([("image/png", b"abc")]))
        file.flush()
        order = DriveOrder(
            load=ServiceLoad(**({"users": 2, "seconds": 1.0} | wanted)),
            access=access(port, certificate),
            model_id="mdl_1",
            seed=0,
            bodies=file.fileno(),
        )
        return driving.drive(order, lambda _: None)


def test_both_loops_and_the_rate_that_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driving, "WARM_UP_REQUESTS", 10)
    with serving(well) as target:
        found = driven(target.port)
        ordered = driven(target.port, arrival_rate=20.0)
    assert found.reason is None
    reached = found.closed.answered / (found.closed.elapsed_ns / 1e9)
    assert found.open.rate == pytest.approx(reached / 2)
    assert found.requests > found.closed.sent + found.open.sent
    assert ordered.open.rate == 20.0
    assert ordered.open.scheduled_ns == load.schedule(20.0, 1.0, 0)


def well(_number: int) -> Reply:
    return 200, PREDICTION


def test_the_service_is_reached_over_https_by_its_own_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driving, "WARM_UP_REQUESTS", 10)
    monkeypatch.setattr(driving, "READY_WITHIN_S", 0.1)
    pair = make_certificate(tmp_path)
    (tmp_path / "other").mkdir()
    another, _ = make_certificate(tmp_path / "other")
    with serving(well, pair) as target:
        found = driven(target.port, pair[0], arrival_rate=20.0)
        mistaken = driven(target.port, another)
    assert found.reason is None
    assert found.closed.answered > 0 and found.open.answered == found.open.sent
    assert "TLS failed: CERTIFICATE_VERIFY_FAILED" in mistaken.reason
    assert mistaken.closed is None


def test_a_closed_loop_without_answers_leaves_the_open_one_without_a_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "PAUSE_S", 0.05)

    def once(number: int) -> Reply:
        return well(number) if number == 0 else (503, b"{}")

    with serving(once) as target:
        found = driven(target.port)
    assert found.reason == driving.NO_RATE
    assert found.open is None and found.closed.answered == 0
    assert [(each.code, each.status) for each in found.closed.failures] == [("http 503", 503)]


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        ((422, b'{"code": "bad_model", "detail": "It wants text."}'), "(bad_model): It wants text."),
        ((503, b'{"code": "unavailable", "detail": "No inference worker is running."}'), "No inference worker"),
    ],
)
def test_a_service_that_does_not_serve_the_model(reply: Reply, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driving, "READY_WITHIN_S", 0.5)
    monkeypatch.setattr(driving, "AGAIN_S", 0.1)

    def answer(_number: int) -> Reply:
        return reply

    with serving(answer) as target:
        found = driven(target.port)
    assert says in found.reason
    assert (found.closed, found.open) == (None, None)


def test_a_load_generator_that_cannot_start_is_a_reason() -> None:
    order = msgspec.structs.replace(measure_order(), service=access())
    text = [TensorInfo(name="words", dtype="str", shape=["batch", 4])]
    model = msgspec.structs.replace(order.model, inputs=text)
    order = msgspec.structs.replace(order, model=model)
    found = drive(order, ServiceLoad(users=1), access(), lambda _: None)
    assert found.reason is not None
    assert found.reason.startswith("The load generator gave no result: ")


def test_images_are_drawn_as_large_as_the_contract_says() -> None:
    found, drawn = made(OF_IMAGES)
    assert found.source == "drawn images"
    assert len({content for _, content in drawn}) == found.count == 8
    with Image.open(io.BytesIO(drawn[0][1])) as image:
        assert image.size == (30, 20)
