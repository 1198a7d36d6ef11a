"""Presets on the whole platform, with PyTorch: prepared in the background, never in anybody's way, whatever happens."""

from __future__ import annotations

import hashlib
import io
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from gateway import presets
from shared import config
from shared.artifacts import ArtifactStore
from shared.db import connection, jobs
from shared.db.tables import Job
from shared.specs import Preset, Pretrained
from tests.conftest import make_certificate, needs
from tests.process.platform import Platform, photograph, running, settled, upload_digits, wait_for

pytestmark = [pytest.mark.process, pytest.mark.timeout(300)]

NAMES = ["cnn32", "efficientnet_b0", "resnet50", "yolov8n", "yolov8s"]
CNN32 = presets.PRESETS[-1]
PREPARED_S = 200


class Weights(BaseHTTPRequestHandler):
    """Gives whoever asks the weights of a small network."""

    content = b""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content)

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def server(certificate: tuple[Path, Path]) -> Iterator[str]:
    """The address of published weights, on a server whose certificate the platform is told to trust."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Weights) as https:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        https.socket = context.wrap_socket(https.socket, server_side=True)
        thread = threading.Thread(target=https.serve_forever, args=(0.05,))
        thread.start()
        yield f"https://127.0.0.1:{https.server_address[1]}/models"
        https.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def platform(certificate: tuple[Path, Path]) -> Iterator[Platform]:
    """With one preparer, and without presets of its own: each test adds the one that it is about."""
    needs("torch")
    with running(PREPARERS="1", SSL_CERT_FILE=str(certificate[0]), NO_PROXY="127.0.0.1") as up:
        yield up


@pytest.fixture(scope="module")
def client(platform: Platform) -> Iterator[httpx.Client]:
    with platform.login() as client:
        yield client


@pytest.fixture
def models(platform: Platform) -> Iterator[ArtifactStore]:
    """Its models' files, with its database open beside it."""
    settings = config.load(platform.env)
    connection.open_db(settings.db_file)
    yield ArtifactStore(settings.models)
    connection.database.close()


def wanting(preset: Preset, name: str, url: str) -> Preset:
    """The preset under another name, with pretrained weights to be fetched from there."""
    return msgspec.structs.replace(
        preset, name=name, pretrained=Pretrained(name="weights of the test", url=url, max_bytes=50_000_000)
    )


def job_of(model_id: str) -> Any:
    """The job that prepares a model."""
    return Job.select().where(Job.spec.contains(model_id)).get()


def events(model_id: str) -> list[str]:
    """The story of that job."""
    return [event.event for event in jobs.history(job_of(model_id).id)]


def starts(model_id: str) -> int:
    return events(model_id).count("started")


def ready(client: httpx.Client, model_id: str) -> dict[str, Any]:
    found = settled(client, f"/models/{model_id}", PREPARED_S)
    assert found["status"] == "ready", found["error"]
    return found


def served(client: httpx.Client) -> dict[str, list[str]]:
    """The notes of every model that predicts, by its id."""
    return {each["id"]: each["notes"] for each in client.get("/inference/models").raise_for_status().json()}


def predicted(client: httpx.Client, model_id: str) -> list[dict[str, Any]]:
    headers = {"Content-Type": "image/jpeg"}
    answer = client.post(f"/inference/predict?model_id={model_id}", content=photograph(), headers=headers)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["predictions"][0])


def test_pretrained_weights_are_fetched_and_bring_their_labels(
    client: httpx.Client, models: ArtifactStore, server: str
) -> None:
    torch = needs("torch")
    from shared.nets.architectures import build

    net = build("squeezenet1_1", seed=5)
    buffer = io.BytesIO()
    torch.save(net.module.state_dict(), buffer)
    Weights.content = buffer.getvalue()
    architecture: Any = net.architecture
    small = Preset(
        name="squeezenet", description="", architecture=architecture, parameters=1_235_496, seed=0, pretrained=None
    )
    digits = hashlib.sha256(Weights.content).hexdigest()[:8]
    model_id, _ = presets.add(wanting(small, "squeezenet", f"{server}/squeezenet1_1-{digits}.pth"), models)
    found = ready(client, model_id)
    assert found["preset"]["pretrained"] is True and found["preset"]["weights"] == "weights of the test"
    assert found["notes"][0] == "Weights: weights of the test."
    assert [each["batch"] for each in found["conversion"]["parity"]] == [1, 2, 8]
    assert max(each["max_abs_diff"] for each in found["conversion"]["parity"]) < 1e-4
    assert len(found["labels"]) == 1000 and "goldfish" in found["labels"] and found["trainable"]
    assert predicted(client, model_id)[0]["label"] in found["labels"]


def test_weights_that_are_not_safe_to_open_are_refused_like_an_upload(
    client: httpx.Client, models: ArtifactStore, server: str
) -> None:
    """A server, or whoever speaks for it, that knows a file with the same first digits."""
    torch = needs("torch")
    buffer = io.BytesIO()
    torch.save({"state_dict": subprocess.Popen}, buffer)
    Weights.content = buffer.getvalue()
    digits = hashlib.sha256(Weights.content).hexdigest()[:8]
    model_id, _ = presets.add(wanting(CNN32, "hostile", f"{server}/cnn32-{digits}.pth"), models)
    found = settled(client, f"/models/{model_id}", PREPARED_S)
    assert found["status"] == "failed" and "Popen when it is opened" in found["error"]


def test_nobody_waits_for_presets_and_one_that_is_offline_is_seeded_in_the_end(
    platform: Platform, client: httpx.Client, models: ArtifactStore
) -> None:
    """One preset is being prepared and another waits; a death of the preparer changes nothing about it."""
    ours, _ = presets.add(wanting(CNN32, "offline", "https://127.0.0.1:1/cnn32-01234567.pth"), models)
    other, _ = presets.add(wanting(CNN32, "waits", "https://127.0.0.1:1/cnn32-01234567.pth"), models)
    wait_for(lambda: starts(ours) == 1, PREPARED_S, "its start")
    digits = upload_digits(client)
    assert client.get(f"/models/{ours}").json()["status"] == "converting" and "put back" in events(ours)
    wait_for(lambda: starts(ours) == 2, PREPARED_S, "its second start")
    order = {"model_id": digits, "batch_sizes": [1], "engines": ["onnxruntime"], "max_seconds": 2}
    benchmark = client.post("/benchmark", json=order).json()["id"]
    assert settled(client, f"/benchmark/{benchmark}")["status"] == "completed"
    assert {client.get(f"/models/{each}").json()["status"] for each in (ours, other)} == {"converting"}
    assert starts(other) == 0 and client.delete(f"/models/{other}").is_success
    wait_for(lambda: starts(ours) == 3, PREPARED_S, "its third start")
    platform.kill("preparer")
    found = ready(client, ours)
    assert job_of(ours).attempt == 2, "to give way costs no attempt, a death does"
    said = "seeded initialisation (seed 0), nothing learned; pretrained ones could not be fetched: 127.0.0.1 was not"
    assert found["preset"]["pretrained"] is False and found["preset"]["weights"].startswith(said)
    assert found in client.get("/models?model_type=preset").raise_for_status().json()["items"]
    notes = wait_for(lambda: served(client).get(ours), 10, "its place among those that predict")
    assert notes[0].startswith(f"Weights: {said}")
    assert len(predicted(client, ours)) == 5


@pytest.mark.parametrize("with_pytorch", [True, False])
def test_the_list_is_whole_when_the_platform_is_ready_and_deletions_last(with_pytorch: bool, tmp_path: Path) -> None:
    hidden = tmp_path / "sitecustomize.py"
    hidden.write_text(
        "import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'torch' else find(name, *rest)\n"
    )
    if with_pytorch:
        needs("torch")
        hidden.unlink()
    with running(PRESETS="true", PRESET_WEIGHTS="false", PYTHONPATH=str(tmp_path)) as platform:
        with platform.login() as client:
            found = client.get("/models").raise_for_status().json()["items"]
            assert sorted(model["name"] for model in found) == NAMES
            assert {model["status"] for model in found} == {"converting" if with_pytorch else "failed"}
            if not with_pytorch:
                assert {model["error"] for model in found} == {
                    "PyTorch is not installed here: run `make setup-train` and then `cvp restart gateway`; "
                    "the preset is prepared by itself after that."
                }
            for model in found[:2]:
                assert client.delete(f"/models/{model['id']}").status_code == 204
            platform.cvp("restart", "gateway")
            left = client.get("/models").raise_for_status().json()["items"]
            assert sorted(model["name"] for model in left) == sorted(model["name"] for model in found[2:])
        assert "presets" not in platform.cvp("status").stdout
