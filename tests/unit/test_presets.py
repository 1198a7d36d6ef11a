"""Presets as rows: there from the first start, remembered when they are deleted, tried again, owned by the platform."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway import presets
from preparer.__main__ import Convert
from shared import config, nets
from shared.artifacts import ArtifactStore, Outputs
from shared.db import accounts, connection, jobs, registry
from shared.db.tables import Job, Model, User
from shared.specs import ConversionFacts, ModelDescription, TensorInfo
from tests.conftest import needs
from tests.unit.gateway_kit import Gateway, problem, settings_at

NAMES = {"yolov8n", "yolov8s", "resnet50", "efficientnet_b0", "cnn32"}


@pytest.fixture
def gateway(running: Gateway, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    """With PyTorch, as far as it can tell."""
    monkeypatch.setattr(nets, "missing", lambda then="": None)
    yield running
    running.reset()


def start(gateway: Gateway, **changes: Any) -> None:
    """What a gateway does when it starts."""
    settings = msgspec.structs.replace(gateway.context.settings, presets=True, **changes)
    presets.prepare(settings, gateway.context.models)


def without_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nets, "missing", lambda then="": f"There is no PyTorch, {then}.")


def listed(gateway: Gateway, query: str = "?model_type=preset") -> dict[str, Any]:
    return {model["name"]: model for model in gateway.get(f"/models{query}").json()["items"]}


def finish(name: str, source: str) -> None:
    """As the preparer leaves a preset."""
    tensor = TensorInfo(name="x", dtype="float32", shape=["batch", 3])
    description = ModelDescription(
        inputs=[tensor],
        outputs=[tensor],
        opset=18,
        ir_version=10,
        parameters=0,
        dynamic_batch=True,
        preprocessing=None,
        labels=None,
    )
    facts = ConversionFacts(
        source=source, exporter="", opset=18, dynamic_batch=True, parity=[], seconds=1, peak_memory_mb=1
    )
    ready = {"status": "ready", "onnx_sha256": Model.file_sha256, "description_json": description, "conversion": facts}
    with connection.write():
        Model.update(**ready).where((Model.name == name) & Model.deleted_at_ms.is_null()).execute()


# --- without a gateway: they come first, for that of the others lives until the end of the file -----------------------


def test_the_preparer_is_told_which_network_and_where_fetched_weights_are_kept(db_file: Path, tmp_path: Path) -> None:
    settings = config.load({"DATA_DIR": str(tmp_path), "DB_PATH": str(db_file)})
    settings.make_folders()
    preset = presets.PRESETS[2]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nets, "missing", lambda then="": None)
        model_id, _ = presets.add(preset, ArtifactStore(settings.models))
    job = jobs.claim("cpu", "preparer", 10**13, str(Job.get().id))
    assert job is not None and job.priority == jobs.BACKGROUND
    with Outputs("preparer-0") as outputs:
        order, _ = Convert(settings).order(job, outputs)
        assert (order.preset, order.pretrained) == (preset, str(tmp_path / "pretrained"))
        off = msgspec.structs.replace(settings, preset_weights=False)
        assert Convert(off).order(job, outputs)[0].pretrained is None
    assert registry.model(model_id).preset == preset


def test_nobody_can_be_the_platform(db_file: Path) -> None:
    assert User.get_by_id(registry.PLATFORM).username == "cv-platform"
    assert accounts.by_name("cv-platform") is None and accounts.account(registry.PLATFORM) is None
    assert accounts.users(limit=10, cursor=None).rows == []
    accounts.add_user("cv-platform", "unusable", "viewer")


# --- through the gateway ----------------------------------------------------------------------------------------------


def test_the_table_is_what_the_networks_are() -> None:
    torchvision = needs("torchvision")
    from shared.nets.architectures import build

    for preset in presets.PRESETS:
        net = build(preset.architecture.name)
        assert net.architecture == preset.architecture
        assert sum(weight.numel() for weight in net.module.parameters()) == preset.parameters
        if preset.pretrained is not None:
            published = torchvision.models.get_model_weights(preset.name).DEFAULT
            assert preset.pretrained.url == published.url
            assert preset.pretrained.name == f"{published} of torchvision"
            assert preset.pretrained.max_bytes > published.meta["_file_size"] * 2**20
    (nano,) = (preset for preset in presets.PRESETS if preset.name == "yolov8n")
    assert nano.parameters == 3_157_200


def test_from_the_first_start_they_are_there_with_their_details(gateway: Gateway) -> None:
    start(gateway)
    found = listed(gateway)
    assert found.keys() == NAMES and {model["status"] for model in found.values()} == {"converting"}
    nano, resnet = found["yolov8n"], found["resnet50"]
    assert (nano["task_type"], nano["architecture"], nano["input_shape"]) == (
        "detection",
        "yolov8n",
        ["batch", 3, 640, 640],
    )
    assert (nano["preset"]["parameters"], nano["preset"]["num_classes"]) == (3_157_200, 80)
    assert nano["preset"]["source"] is None and "nothing learned" in nano["preset"]["weights"]
    assert resnet["preset"]["source"].startswith("https://") and resnet["preset"]["pretrained"] is None
    assert resnet["preprocessing"]["resize"]["scale_to"] == 232
    assert resnet["created_by"] == registry.PLATFORM
    assert gateway.get(f"/models/{resnet['id']}").json() == resnet
    queued = list(Job.select())
    assert {(job.kind, job.priority, job.status) for job in queued} == {("convert", jobs.BACKGROUND, "queued")}
    assert gateway.context.models.path(resnet["sha256"]).stat().st_size == resnet["file_size"]
    start(gateway)
    assert (Model.select().count(), Job.select().count()) == (5, 5), "the second start adds nothing"


def test_a_list_can_be_of_presets_or_of_uploads_only(gateway: Gateway) -> None:
    start(gateway)
    assert len(listed(gateway, "")) == 5 and listed(gateway, "?model_type=custom") == {}
    assert problem(gateway.get("/models?model_type=other"), 422, "invalid")


def test_without_pytorch_it_is_said_and_made_up_for_after_it_was_installed(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as bare:
        without_pytorch(bare)
        start(gateway)
        start(gateway)
        found = listed(gateway)["resnet50"]
        assert (found["status"], Job.select().count()) == ("failed", 0)
        assert "There is no PyTorch, then `cvp restart gateway`" in found["error"]
        assert found["why_not"] == "It was not converted." and found["input_shape"] == ["batch", 3, 224, 224]
        refused = gateway.post("/models/presets/resnet50", "admin")
        assert "There is no PyTorch" in problem(refused, 409, "conflict")["detail"]
    start(gateway)
    assert {model["status"] for model in listed(gateway).values()} == {"converting"}
    assert Job.select().count() == 5


def test_switched_off_there_are_none_and_what_is_there_stays(gateway: Gateway) -> None:
    presets.prepare(settings_at(gateway.folder), gateway.context.models)
    assert listed(gateway) == {}
    start(gateway)
    presets.prepare(settings_at(gateway.folder), gateway.context.models)
    assert listed(gateway).keys() == NAMES


def test_a_deleted_one_does_not_come_back_until_somebody_wants_it(gateway: Gateway) -> None:
    start(gateway)
    first = listed(gateway)["cnn32"]
    problem(gateway.delete(f"/models/{first['id']}", "engineer"), 403, "forbidden")
    assert gateway.delete(f"/models/{first['id']}").is_success
    start(gateway)
    assert listed(gateway).keys() == NAMES - {"cnn32"}
    assert {job.status for job in Job.select().where(Job.spec.contains(first["id"]))} == {"cancelled"}
    problem(gateway.post("/models/presets/cnn32"), 403, "forbidden")
    answer = gateway.post("/models/presets/cnn32", "admin")
    assert answer.status_code == 202, answer.text
    again = answer.json()
    assert answer.headers["location"] == f"/api/v1/models/{again['id']}"
    assert (again["status"], again["sha256"], listed(gateway)["cnn32"]) == ("converting", first["sha256"], again)
    assert gateway.broker.rung == ["cpu"]
    start(gateway)
    assert listed(gateway)["cnn32"]["id"] == again["id"]


def test_one_is_made_anew_only_where_that_can_help(gateway: Gateway) -> None:
    start(gateway)

    def refused(name: str) -> str:
        return str(problem(gateway.post(f"/models/presets/{name}", "admin"), 409, "conflict")["detail"])

    assert "is being prepared" in refused("resnet50")
    finish("resnet50", "seeded initialisation (seed 0), nothing learned; pretrained ones could not be fetched: no")
    seeded = listed(gateway)["resnet50"]
    assert seeded["preset"]["pretrained"] is False and "could not be fetched: no" in seeded["preset"]["weights"]
    again = gateway.post("/models/presets/resnet50", "admin").json()
    assert again["id"] != seeded["id"] and listed(gateway)["resnet50"]["id"] == again["id"]
    finish("resnet50", again["preset"]["weights"].removeprefix("not prepared yet: ").partition(";")[0])
    assert listed(gateway)["resnet50"]["preset"]["pretrained"] is True
    assert "is ready" in refused("resnet50")
    finish("yolov8n", "seeded initialisation (seed 0), nothing learned")
    assert "is ready" in refused("yolov8n")
    unknown = gateway.post("/models/presets/resnet51", "admin")
    assert "there are yolov8n" in problem(unknown, 404, "not_found")["detail"]


def test_where_nothing_is_fetched_a_seeded_one_stays(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    start(gateway)
    finish("resnet50", "seeded initialisation (seed 0), nothing learned")
    off = msgspec.structs.replace(gateway.context.settings, preset_weights=False)
    monkeypatch.setattr(gateway.context, "settings", off)
    told = problem(gateway.post("/models/presets/resnet50", "admin"), 409, "conflict")
    assert "PRESET_WEIGHTS is off" in told["detail"]
