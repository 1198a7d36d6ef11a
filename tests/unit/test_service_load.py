"""What the service is sent, and how requests carry their credential."""

from __future__ import annotations

import io
import tempfile
from typing import Any

import msgspec
import pytest
from PIL import Image

from benchmarker import Bodies, BodiesOrder, DriveOrder, ServiceAccess, bodies, driving, load
from benchmarker.service import drive
from shared import errors
from shared.specs import ModelDescription, Preprocessing, Resize, ServiceLoad, TensorInfo
from tests.unit.test_load import PREDICTION, Reply, serving
from tests.unit.test_measure import DESCRIPTION, INPUTS
from tests.unit.test_measure import order as measure_order

KEY = "cvp_" + "x" * 36


CONTRACT = Preprocessing(resize=Resize(height=20, width=30), mean=(0.0,), std=(1.0,))
OF_IMAGES = msgspec.structs.replace(DESCRIPTION, preprocessing=CONTRACT)


def made(description: ModelDescription, inputs: list[TensorInfo] = INPUTS) -> tuple[Bodies, list[Any]]:
    with tempfile.TemporaryFile() as file:
        order = BodiesOrder(dataset=None, description=description, inputs=inputs, seed=1, output=file.fileno())
        found = bodies.make(order)
        file.seek(0)
        return found, msgspec.msgpack.decode(file.read(), type=list[bodies.Body])


def test_a_model_without_a_contract_is_sent_tensors() -> None:
    found, ((kind, content),) = made(DESCRIPTION)
    assert (found.source, found.count, found.middle_bytes) == ("drawn tensors", 1, len(content))
    assert kind == "application/json"
    assert list(msgspec.json.decode(content)["inputs"]) == [INPUTS[0].name]


def test_a_model_with_text_as_input_is_sent_nothing() -> None:
    with pytest.raises(errors.AppError):
        made(DESCRIPTION, [TensorInfo(name="words", dtype="str", shape=["batch", 4])])


def access(port: int = 1) -> ServiceAccess:
    return ServiceAccess(host="127.0.0.1", port=port, certificate=None, key=KEY)


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


def driven(port: int, **wanted: Any) -> Any:
    with tempfile.TemporaryFile() as file:
        file.write(msgspec.msgpack.encode([("image/png", b"abc")]))
        file.flush()
        order = DriveOrder(
            load=ServiceLoad(**({"users": 2, "seconds": 1.0} | wanted)),
            access=access(port),
            model_id="mdl_1",
            seed=0,
            bodies=file.fileno(),
        )
        return driving.drive(order, lambda _: None)


def test_both_loops_and_the_rate_that_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driving, "WARM_UP_REQUESTS", 10)

    def well(_number: int) -> Reply:
        return 200, PREDICTION

    with serving(well) as target:
        found = driven(target.port)
        ordered = driven(target.port, arrival_rate=20.0)
    assert found.reason is None
    reached = found.closed.answered / (found.closed.elapsed_ns / 1e9)
    assert found.open.rate == pytest.approx(reached / 2)
    assert found.requests > found.closed.sent + found.open.sent
    assert ordered.open.rate == 20.0
    assert ordered.open.scheduled_ns == load.schedule(20.0, 1.0, 0)


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
