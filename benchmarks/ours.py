"""Our platform as one of the servers that are compared: a folder of its own, up only while it is measured."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import msgspec
import psutil

from benchmarks import datasets, models, subjects
from benchmarks.peers.model import NULL_SHAPE
from benchmarks.peers.servers import Absent, Door, Request, processor_s
from benchmarks.run import Platform
from benchmarks.subjects import Subject

DECIDE: dict[str, Any] = {
    "objective": "throughput",
    "engines": ["onnxruntime", "openvino"],
    "batch_sizes": [1, 4, 8],
    "threads": [1],
    "max_seconds": 20,
}
"""The benchmark whose decision is activated; one thread, because there are as many inference processes as cores."""
WITH_IMAGES = {"precisions": ["fp32", "int8"], "jpeg_scales": [1, 2]}
"""What it also tries where labelled images come with the model, so that the accuracy on them can decide. At a quarter
images of 480 pixels would end up too small for 224: they are decoded at a half then."""
QUICK_DECIDE = DECIDE | {"engines": ["openvino"], "batch_sizes": [4], "max_seconds": 3}
DECIDED_WITHIN_S = 1800.0
LOOK_S, AT_REST, REST_WITHIN_S = 1.0, 0.1, 120.0
"""It is at rest when its processes together used less than a tenth of a core for a second."""


class Variant(NamedTuple):
    """A way to serve a model."""

    name: str
    order: dict[str, Any] | None
    """What is activated: nothing at all where it is empty; None for what a benchmark of the platform decides."""


DEFAULT, DECIDED = Variant("ours", {}), Variant("ours, decided", None)
VARIANTS = (
    DEFAULT,
    Variant("ours, OpenVINO", {"engine": "openvino", "precision": "fp32", "batch_size": 4}),
    DECIDED,
)


class Ours:
    """The platform with its models, each uploaded and activated once.

    Args:
        folder: Its data.
        decide: The benchmark that decides, without its model.
        settings: Besides the defaults.
    """

    def __init__(self, folder: Path, decide: dict[str, Any] = DECIDE, /, **settings: str) -> None:
        self._folder, self._decide, self._settings = folder, decide, settings
        self._platform: Platform | None = None
        self._ids: dict[tuple[str, str], str] = {}
        self.remarks: dict[tuple[str, str], str] = {}
        """What serves, by variant and model."""

    @contextlib.contextmanager
    def up(self) -> Iterator[Platform]:
        """The platform, which is down again afterwards."""
        if self._platform is None:
            self._platform = Platform(self._folder, models.free_port(), **self._settings)
        else:
            self._platform.up()
        try:
            yield self._platform
        finally:
            self._platform.down()

    @contextlib.contextmanager
    def running(self, subject: Subject, variant: Variant = DEFAULT) -> Iterator[Door]:
        """Up, with the model ready, and at rest."""
        with self.up() as platform:
            door = self.door(platform, subject, variant)
            _rest(platform)
            yield door

    def door(self, platform: Platform, subject: Subject, variant: Variant = DEFAULT) -> Door:
        """Where the model answers; it is uploaded and activated if it is not there yet."""
        key = variant.name, subject.name
        if key not in self._ids:
            model_id = self._ids[key] = _upload(platform, subject, " ".join(key))
            order = _decided(platform, model_id, subject, self._decide) if variant.order is None else variant.order
            _activate(platform, model_id, order)
        serves = platform.http.get(f"/models/{self._ids[key]}/deployment").raise_for_status().json()["serves"]
        scale = serves["jpeg_scale"] or 1
        smaller = f", JPEGs at 1/{scale}" if scale > 1 else ""
        self.remarks[key] = f"{serves['engine']}, {serves['precision']}, batch {serves['batch_size']}{smaller}"
        if subject.contract is None:
            return _tensor_door(platform, self._ids[key])
        return _image_door(platform, self._ids[key])._replace(gated=serves["precision"] == "int8" or scale > 1)

    @contextlib.contextmanager
    def pictures(self, subject: Subject) -> Iterator[Door]:
        """Up, with a model that answers images by its raw outputs."""
        with self.up() as platform:
            yield _image_door(platform, _upload(platform, subject, f"pictures of {subject.name}"), outputs=True)

    def passing(self, platform: Platform, subject: Subject, name: str) -> tuple[Door, Callable[[], None]]:
        """A model of its own, and what deletes it."""
        model_id = _upload(platform, subject, name)

        def forget() -> None:
            platform.http.delete(f"/models/{model_id}").raise_for_status()

        return _image_door(platform, model_id), forget


def _upload(platform: Platform, subject: Subject, name: str) -> str:
    contract = subject.contract or subjects.null_contract()
    fields = {"name": name, "preprocessing": msgspec.json.encode(contract).decode()}
    return platform.ready(platform.upload(subject.path, **fields))


def _activate(platform: Platform, model_id: str, order: dict[str, Any]) -> None:
    """Have it served so; where nothing is ordered it stays as it came."""
    path = f"/models/{model_id}/deployment"
    if order:
        platform.http.put(path, json=order).raise_for_status()
        platform.wait(path, lambda body: body["status"] == "active")


def _decided(platform: Platform, model_id: str, subject: Subject, decide: dict[str, Any]) -> dict[str, Any]:
    """What a benchmark of the platform itself chose; its reasons are printed."""
    order = decide | {"model_id": model_id}
    if subject.images is not None:
        order |= WITH_IMAGES | {"dataset_id": datasets.ready(platform, subject.images)}
    answer = platform.http.post("/benchmark", json=order).raise_for_status()
    job = platform.wait(f"/benchmark/{answer.json()['id']}", lambda body: body["report_id"], DECIDED_WITHIN_S)
    report = platform.http.get(f"/reports/{job['report_id']}").raise_for_status().json()
    scales = [
        f"JPEGs decoded at 1/{each['scale']}: {each['ms']['value']:.2f} ms an image; {each.get('why_not') or 'chosen'}"
        for each in report.get("decoding", {}).get("scales", [])
    ]
    for reason in (*report["decision"]["reasons"], *scales):
        print(f"    {subject.name}: {reason}", flush=True)
    return {"report_id": job["report_id"]}


def _processes(platform: Platform) -> list[psutil.Process]:
    return [process for group in platform.processes().values() for process in group]


def _rest(platform: Platform) -> None:
    """Wait until it has loaded what else was activated in it before: its peers have one model each."""
    end_s, used_s = time.monotonic() + REST_WITHIN_S, math.inf
    while used_s > AT_REST * LOOK_S:
        if time.monotonic() > end_s:
            raise Absent(f"it is still busy {REST_WITHIN_S:g} s after its start")
        before_s = processor_s(_processes(platform))
        time.sleep(LOOK_S)
        used_s = processor_s(_processes(platform)) - before_s


def _address(platform: Platform) -> str:
    return f"http://127.0.0.1:{platform.settings.port}"


def _image_door(platform: Platform, model_id: str, *, outputs: bool = False) -> Door:
    """For a model that takes images; its answer is the predictions, or the raw outputs."""
    headers = platform.headers | {"Content-Type": "application/octet-stream"}
    target = f"/api/v1/inference/predict?model_id={model_id}" + ("&outputs=true" if outputs else "")

    def answer(reply: bytes) -> dict[str, Any]:
        found = json.loads(reply)
        if outputs:
            return {"outputs": next(iter(found["outputs"].values()))[0]}
        return {"predictions": found["predictions"][0]}

    return Door(
        _address(platform),
        lambda body: Request(target, headers, body),
        answer,
        lambda: _processes(platform),
        inside=True,
    )


def _tensor_door(platform: Platform, model_id: str) -> Door:
    """For a model of 768 bytes: the Open Inference Protocol with the tensor as it is.

    Raises:
        Absent: The platform does not speak it.
    """
    if not httpx.get(f"{_address(platform)}/v2", headers=platform.headers).is_success:
        raise Absent("it does not speak the Open Inference Protocol")
    tensor = {"name": "image", "shape": [1, *NULL_SHAPE], "datatype": "UINT8", "parameters": {"binary_data_size": 768}}
    head = json.dumps({"inputs": [tensor]}).encode()
    headers = platform.headers | {
        "Content-Type": "application/octet-stream",
        "Inference-Header-Content-Length": str(len(head)),
    }

    def answer(reply: bytes) -> dict[str, Any]:
        return {"outputs": json.loads(reply)["outputs"][0]["data"]}

    target = f"/v2/models/{model_id}/infer"
    return Door(
        _address(platform), lambda body: Request(target, headers, head + body), answer, lambda: _processes(platform)
    )
