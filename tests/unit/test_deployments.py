"""What serves a model: ordered, tried by a job, taken back, and stale when the machine under it changes."""

from __future__ import annotations

import hashlib
import threading
from typing import Any

import httpx
import msgspec
import pytest

from gateway.routes import deployments as routes
from inferencer.catalog import DatabaseCatalog
from preparer import activation
from preparer.activation import Lookout
from shared import clock, config, ids
from shared.artifacts import ArtifactStore
from shared.db import accounts, benchmarks, connection, deployments, jobs, registry
from shared.db.tables import Benchmark, BenchmarkResult, Deployment, Job, Model, Report
from shared.machine import system_info
from shared.specs import BenchmarkSpec, Candidate, PreparedFile, canonical_json
from shared.verdict.decoding import DecodingRecord
from shared.verdict.report import build, canonical
from shared.wire.messages import LoadedModel
from tests.unit.gateway_kit import Gateway, fields_of, problem, ready_model
from tests.unit.measurements import measurement_set

HERE = system_info().fingerprint
OPENVINO = {"engine": "openvino", "precision": "fp32"}


def put(gateway: Gateway, model_id: str, role: str = "engineer", **order: Any) -> httpx.Response:
    headers = {"Idempotency-Key": key} if (key := order.pop("key", None)) else {}
    return gateway.call(role, "PUT", f"/models/{model_id}/deployment", json=order, headers=headers)


def shown(gateway: Gateway, model_id: str) -> dict[str, Any]:
    answer = gateway.get(f"/models/{model_id}/deployment")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def run_next(fail: str = "") -> str:
    """The job that is next, as a worker ends it; returns the id of its deployment."""
    ticket = jobs.peek("cpu", clock.now_ms())
    assert ticket is not None and ticket.kind == "activate"
    job = jobs.claim("cpu", "preparer-0", clock.now_ms(), ticket.id)
    assert job is not None
    deployment_id = str(msgspec.json.decode(job.spec)["deployment_id"])
    if fail:
        jobs.fail(job, fail, lambda: deployments.fail(deployment_id, fail))
    else:
        jobs.finish(job, lambda: assert_none(deployments.activated(deployment_id, HERE, "CPU", ["It was run."])))
    return deployment_id


def assert_none(_: bool) -> None:
    """A commit returns nothing."""


def report_on(
    gateway: Gateway,
    model_id: str,
    *,
    fingerprint: str = HERE,
    sha256: str | None = None,
    chooses: bool = True,
    int8: PreparedFile | None = None,
    decoding: DecodingRecord | None = None,
) -> str:
    """A report on the model, and the measurement set behind it, as benchmarker and reporter leave them."""
    owner = accounts.by_name("a-engineer")
    assert owner is not None
    made = measurement_set()
    system = msgspec.structs.replace(made.system, fingerprint=fingerprint)
    model = msgspec.structs.replace(made.model, id=model_id, sha256=sha256 or str(registry.model(model_id).onnx_sha256))
    made = msgspec.structs.replace(made, model=model, system=system, files=[int8] if int8 else [])
    report_id = ids.new_id("rep")
    report = build(made, report_id)
    if int8:
        assert report.decision.selected is not None
        chosen = msgspec.structs.replace(report.decision.selected, precision="int8")
        report = msgspec.structs.replace(report, decision=msgspec.structs.replace(report.decision, selected=chosen))
    if decoding:
        report = msgspec.structs.replace(report, decoding=decoding)
    if not chooses:
        nothing = msgspec.structs.replace(report.decision, selected=None, reasons=["Every one was too slow."])
        report = msgspec.structs.replace(report, decision=nothing)
    with connection.write():
        benchmark_id = benchmarks.order(BenchmarkSpec(model_id=model_id), owner[0].id, 100)
        Job.update(status="completed", finished_at_ms=1).where(Job.id == benchmark_id).execute()
        measurements = gateway.context.reports.put(canonical_json(made))
        record = gateway.context.reports.put(canonical(report))
        golden = gateway.context.models.put(b"golden " + benchmark_id.encode())
        for stored in (measurements, record):
            registry.keep_artifact(stored, "reports")
        registry.keep_artifact(golden, "models")
        Benchmark.update(measurements_sha256=measurements.sha256).where(Benchmark.id == benchmark_id).execute()
        for series in made.series:
            BenchmarkResult.insert(
                benchmark_id=benchmark_id,
                status="measured",
                golden_sha256=golden.sha256,
                **msgspec.structs.asdict(series.candidate) | ({"precision": "int8"} if int8 else {}),
            ).execute()
        Report.insert(
            id=report_id,
            benchmark_id=benchmark_id,
            model_id=model_id,
            content_sha256=report.content_sha256,
            files={"report.json": record.sha256},
            created_at_ms=1,
        ).execute()
    return report_id


def selected(gateway: Gateway, report_id: str) -> Candidate:
    record = gateway.get(f"/reports/{report_id}").json()
    return msgspec.convert(record["decision"]["selected"], Candidate)


# --- orders -----------------------------------------------------------------------------------------------------------


def test_an_order_by_name_serves_once_it_was_tried(gateway: Gateway) -> None:
    model_id = ready_model(gateway)
    answer = put(gateway, model_id, **OPENVINO, batch_size=8, threads=1)
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"/api/v1/models/{model_id}/deployment"
    ordered = answer.json()
    assert (ordered["status"], ordered["engine"], ordered["source"]) == ("activating", "openvino", "manual")
    assert ordered["serves"]["engine"] == "onnxruntime"
    assert gateway.broker.rung == ["cpu"]
    assert gateway.get(f"/jobs/{ordered['job_id']}").json()["kind"] == "activate"
    run_next()
    now = shown(gateway, model_id)
    assert (now["status"], now["provider"], now["notes"][0]) == ("active", "CPU", "It was run.")
    assert now["serves"].items() >= {"engine": "openvino", "batch_size": 8, "source": "manual"}.items()
    gateway.refresh()
    (served,) = gateway.get("/inference/models").json()
    assert (served["engine"], served["batch_size"]) == ("openvino", 8)


def test_what_cannot_serve_changes_nothing(gateway: Gateway) -> None:
    model_id = ready_model(gateway)
    put(gateway, model_id, **OPENVINO)
    first = run_next()
    put(gateway, model_id, engine="onnxruntime", precision="fp32", batch_size=2)
    run_next(fail="It answers otherwise.")
    now = shown(gateway, model_id)
    assert (now["status"], now["error"]) == ("failed", "It answers otherwise.")
    assert now["serves"]["engine"] == "openvino"
    assert registry.catalog_entry(model_id).serves.deployment_id == first


def test_of_two_orders_the_later_wins_and_the_first_is_given_up(gateway: Gateway) -> None:
    model_id = ready_model(gateway)
    first = put(gateway, model_id, **OPENVINO).json()
    job = jobs.claim("cpu", "preparer-0", clock.now_ms(), first["job_id"])  # it is being tried already
    assert job is not None
    second = put(gateway, model_id, engine="onnxruntime", precision="fp32", batch_size=2).json()
    assert jobs.find(first["job_id"]).cancel_requested
    late = str(msgspec.json.decode(job.spec)["deployment_id"])
    jobs.finish(job, lambda: assert_none(deployments.activated(late, HERE, "CPU", [])))  # it was faster than the flag
    assert shown(gateway, model_id)["serves"]["source"] == "default"
    run_next()
    now = shown(gateway, model_id)
    assert (now["job_id"], now["serves"]["batch_size"]) == (second["job_id"], 2)
    assert deployments.find(late).status == "retired"


def test_an_order_that_still_waits_is_cancelled_by_the_next(gateway: Gateway) -> None:
    model_id = ready_model(gateway)
    first = put(gateway, model_id, **OPENVINO).json()
    put(gateway, model_id, **OPENVINO)
    assert jobs.find(first["job_id"]).status == "cancelled"


def test_a_key_makes_one_order(gateway: Gateway) -> None:
    model_id, other = ready_model(gateway), ready_model(gateway, content=b"\x08\x07 another")
    first, again = (put(gateway, model_id, key="k", **OPENVINO) for _ in range(2))
    assert first.json() == again.json()
    assert Deployment.select().count() == 1
    problem(put(gateway, other, key="k", **OPENVINO), 409, "conflict")


def test_back_to_the_default(gateway: Gateway) -> None:
    model_id = ready_model(gateway)
    put(gateway, model_id, **OPENVINO)
    run_next()
    pending = put(gateway, model_id, engine="onnxruntime", precision="fp32").json()
    before = registry.revisions()["models"]
    for _ in range(2):  # once more changes nothing
        assert gateway.delete(f"/models/{model_id}/deployment", role="engineer").status_code == 204
    now = shown(gateway, model_id)
    assert (now["source"], now["status"], now["serves"]["engine"]) == ("default", "active", "onnxruntime")
    assert jobs.find(pending["job_id"]).status == "cancelled"
    assert registry.revisions()["models"] > before


def test_only_engineers_order(gateway: Gateway) -> None:
    model_id = ready_model(gateway)
    problem(put(gateway, model_id, role="viewer", **OPENVINO), 403, "forbidden")
    problem(gateway.delete(f"/models/{model_id}/deployment", role="viewer"), 403, "forbidden")


@pytest.mark.parametrize(
    ("order", "fields"),
    [
        ({}, {"engine", "precision"}),
        ({"engine": "openvino"}, {"precision"}),
        ({"report_id": "rep_1", "engine": "openvino", "threads": 1}, {"engine", "threads"}),
        (OPENVINO | {"threads": 256}, {"threads"}),
        (OPENVINO | {"batch_size": 0}, {"batch_size"}),
        (OPENVINO | {"engine": "magic"}, {"engine"}),
        (OPENVINO | {"colour": 1}, {"colour"}),
        (OPENVINO | {"jpeg_scale": 3}, {"jpeg_scale"}),
        (OPENVINO | {"jpeg_scale": "2"}, {"jpeg_scale"}),
        ({"report_id": "rep_1", "jpeg_scale": 2}, {"jpeg_scale"}),
    ],
)
def test_bad_orders(gateway: Gateway, order: dict[str, Any], fields: set[str]) -> None:
    assert fields_of(put(gateway, ready_model(gateway), **order)) == fields


def test_a_fixed_batch_is_kept(gateway: Gateway) -> None:
    model_id = ready_model(gateway)
    row = registry.model(model_id)
    first = msgspec.structs.replace(row.description_json.inputs[0], shape=[3, 1, 8, 8])
    fixed = msgspec.structs.replace(row.description_json, inputs=[first], dynamic_batch=False)
    Model.update(description_json=fixed).where(Model.id == model_id).execute()
    assert fields_of(put(gateway, model_id, **OPENVINO, batch_size=2)) == {"batch_size"}
    assert put(gateway, model_id, **OPENVINO).json()["batch_size"] == 3


def test_pytorch_serves_the_weights_of_a_model_and_nothing_else(gateway: Gateway) -> None:
    model_id = ready_model(gateway)
    asked = {"engine": "pytorch", "precision": "fp32"}
    assert "uploaded as weights" in problem(put(gateway, model_id, **asked), 409, "conflict")["detail"]
    weights = gateway.context.models.put(b"weights")
    with connection.write():
        registry.keep_artifact(weights, "models")
        Model.update(weights_sha256=weights.sha256).where(Model.id == model_id).execute()
    assert put(gateway, model_id, **asked).status_code == 202
    row = Deployment.select().where(Deployment.model_id == model_id).get()
    assert (row.engine, row.file_sha256) == ("pytorch", weights.sha256)
    assert registry.has_file(model_id, weights.sha256)


def test_orders_about_what_is_not_there(gateway: Gateway) -> None:
    problem(put(gateway, "mdl_1", **OPENVINO), 404, "not_found")
    problem(gateway.delete("/models/mdl_1/deployment"), 404, "not_found")
    model_id = ready_model(gateway)
    problem(put(gateway, model_id, report_id="rep_1"), 404, "not_found")
    detail = problem(put(gateway, model_id, engine="openvino", precision="int8"), 409, "conflict")["detail"]
    assert detail.startswith("There is no INT8 file of this model here. POST /api/v1/benchmark")
    gateway.context.models.path(str(registry.model(model_id).onnx_sha256)).unlink()
    problem(put(gateway, model_id, **OPENVINO), 409, "conflict")
    Model.update(status="failed", error="No graph.").where(Model.id == model_id).execute()
    problem(put(gateway, model_id, **OPENVINO), 409, "conflict")


# --- reports ----------------------------------------------------------------------------------------------------------


def test_a_reports_choice_serves_as_it_was_measured(gateway: Gateway) -> None:
    model_id = ready_model(gateway)
    report_id = report_on(gateway, model_id)
    answer = put(gateway, model_id, report_id=report_id)
    assert answer.status_code == 202, answer.text
    ordered = answer.json()
    chosen = selected(gateway, report_id)
    assert msgspec.structs.asdict(chosen).items() <= ordered.items()
    assert (ordered["source"], ordered["report_id"]) == ("report", report_id)
    assert ordered["file_sha256"] == registry.model(model_id).onnx_sha256
    assert ordered["golden_sha256"] is not None
    run_next()
    assert registry.incumbent(model_id) == chosen


def test_an_int8_choice_serves_the_very_file_that_was_measured(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "open_db", lambda _: None)  # it is open, and the gateway writes to it
    model_id = ready_model(gateway)
    files = []
    for content in (b"int8 one", b"int8 two"):
        with connection.write():
            stored = gateway.context.models.put(content)
            file = PreparedFile(
                precision="int8", sha256=stored.sha256, size_bytes=stored.size_bytes, recipe={}, notes=[]
            )
            registry.keep_engine_file(model_id, file)
            files.append(file)
    ordered = put(gateway, model_id, report_id=report_on(gateway, model_id, int8=files[0])).json()
    assert (ordered["precision"], ordered["file_sha256"]) == ("int8", files[0].sha256)
    newest = gateway.get(f"/models/{model_id}/onnx?precision=int8")
    assert newest.content == b"int8 two" and "-int8.onnx" in newest.headers["content-disposition"]
    refused = gateway.get(f"/models/{model_id}/onnx?precision=fp16")
    assert (refused.status_code, "no FP16 file of this model" in refused.text) == (409, True)
    settings = gateway.context.settings
    run_next()
    serving = DatabaseCatalog(settings).lookup(model_id)
    assert serving is not None and serving.onnx == ArtifactStore(settings.models).path(files[0].sha256)
    default = DatabaseCatalog(settings).default(model_id)
    assert default is not None and (default.precision, default.deployment_id) == ("fp32", "")


def test_a_report_brings_the_scale_at_which_jpegs_are_decoded(gateway: Gateway) -> None:
    model_id = ready_model(gateway)
    report_id = report_on(gateway, model_id, decoding=DecodingRecord(own=1, serves=1, selected=2))
    ordered = put(gateway, model_id, report_id=report_id).json()
    assert ordered["jpeg_scale"] == 2 and ordered["serves"]["jpeg_scale"] is None
    run_next()
    now = shown(gateway, model_id)
    assert now["serves"]["jpeg_scale"] == 2 and not any("JPEGs" in note for note in now["notes"])
    catalog = DatabaseCatalog(gateway.context.settings)
    serving, default = catalog.lookup(model_id), catalog.default(model_id)
    assert serving is not None and serving.preprocessing is not None and serving.preprocessing.reduction == 2
    assert default is not None and default.preprocessing is not None and default.preprocessing.reduction == 1
    deployments.mark_stale("another machine")
    again = deployments.latest(model_id)
    assert again is not None and (again.status, again.jpeg_scale) == ("activating", 2)


def test_a_scale_by_hand_is_taken_and_said_to_be_unmeasured(gateway: Gateway) -> None:
    model_id = ready_model(gateway)
    assert put(gateway, model_id, **OPENVINO, jpeg_scale=4).json()["jpeg_scale"] == 4
    run_next()
    assert any("what that costs in accuracy was not measured" in note for note in shown(gateway, model_id)["notes"])
    assert not any("JPEGs" in note for note in put(gateway, model_id, **OPENVINO, jpeg_scale=1).json()["notes"])


def test_a_scale_of_a_model_that_takes_tensors_is_refused(gateway: Gateway) -> None:
    model_id = ready_model(gateway)
    tensors = msgspec.structs.replace(registry.model(model_id).description_json, preprocessing=None)
    Model.update(description_json=tensors).where(Model.id == model_id).execute()
    refused = put(gateway, model_id, **OPENVINO, jpeg_scale=2)
    assert fields_of(refused) == {"jpeg_scale"} and "takes tensors, not images" in refused.text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"fingerprint": "other"}, "was measured on another machine"),
        ({"sha256": hashlib.sha256(b"other").hexdigest()}, "measured another file"),
        ({"chooses": False}, "chose nothing. Every one was too slow. Name an"),
    ],
)
def test_reports_that_say_nothing_about_this_model_here(gateway: Gateway, changes: dict[str, Any], said: str) -> None:
    model_id = ready_model(gateway)
    refused = put(gateway, model_id, report_id=report_on(gateway, model_id, **changes))
    assert said in problem(refused, 409, "conflict")["detail"]


@pytest.mark.parametrize("which", ["record", "measurements"])
def test_a_report_that_was_changed_on_the_disk_chooses_nothing(gateway: Gateway, which: str) -> None:
    """Somebody lets it choose what was rejected; the file's name is the hash of what it said."""
    model_id = ready_model(gateway)
    report_id = report_on(gateway, model_id)
    report = benchmarks.report(report_id)
    sha256 = report.files["report.json"] if which == "record" else benchmarks.measurements_of(report.benchmark_id)
    path = gateway.context.reports.path(str(sha256))
    path.write_bytes(path.read_bytes().replace(b'"engine":"onnxruntime"', b'"engine":"openvino"'))
    refused = put(gateway, model_id, report_id=report_id)
    assert "was changed there" in problem(refused, 404, "not_found")["detail"]


def test_a_report_on_another_model(gateway: Gateway) -> None:
    model_id, other = ready_model(gateway), ready_model(gateway, content=b"\x08\x07 another")
    refused = put(gateway, model_id, report_id=report_on(gateway, other))
    assert f"is about model {other}" in problem(refused, 409, "conflict")["detail"]


@pytest.mark.parametrize(("fingerprint", "taken"), [(HERE, True), ("other", False)])
def test_an_order_by_name_takes_golden_samples_of_this_machine_only(
    gateway: Gateway, fingerprint: str, taken: bool
) -> None:
    model_id = ready_model(gateway)
    chosen = selected(gateway, report_on(gateway, model_id, fingerprint=fingerprint))
    ordered = put(gateway, model_id, engine=chosen.engine, precision="fp32").json()
    assert (ordered["golden_sha256"] is not None) is taken


# --- what processes make of it ----------------------------------------------------------------------------------------


def loaded(deployment_id: str, problem: str = "") -> LoadedModel:
    return LoadedModel(
        model_id="",
        engine="onnxruntime",
        precision="fp32",
        batch_size=4,
        memory_mb=1.0,
        deployment_id=deployment_id,
        problem=problem,
    )


def test_a_process_that_cannot_take_over_is_shown(gateway: Gateway) -> None:
    model_id = ready_model(gateway)
    put(gateway, model_id, **OPENVINO)
    run_next()
    (worker,) = gateway.broker.workers
    held = msgspec.structs.replace(loaded("", "openvino in fp32 cannot serve: No."), model_id=model_id)
    gateway.broker.workers = [msgspec.structs.replace(worker, models=[held])]
    now = shown(gateway, model_id)
    (process,) = now["processes"]
    assert (process["current"], process["problem"]) == (False, "openvino in fp32 cannot serve: No.")
    (told,) = gateway.get("/inference/health").json()["models"]
    assert told["problem"] == process["problem"]
    gateway.refresh()
    (served,) = gateway.get("/inference/models").json()
    assert served["engine"] == "onnxruntime", "what answers, not what should"


@pytest.mark.parametrize(
    ("processes", "instances", "each"),
    [("1", None, 1), ("1", 3, 3), ("2", 1, 1), ("2", 2, 1), ("2", 5, 2), ("4", 2, 1)],
)
def test_sessions_are_divided_among_the_processes(processes: str, instances: int | None, each: int) -> None:
    settings = config.load({"INFERENCE_PROCESSES": processes, "INFERENCE_WORKERS": "4"})
    assert settings.sessions(instances) == each


def test_what_is_not_as_measured_is_said(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config.load({"INFERENCE_PROCESSES": "3", "INFERENCE_WORKERS": "3"})
    monkeypatch.setattr(routes.config, "cores", lambda: 2)
    row = Deployment(instances=1, threads=1, source="report")
    first, second = routes._mapping(settings, row)
    assert first.startswith("It was measured with 1 session; 3 inference processes serve it with 1 each.")
    assert second.startswith("3 sessions of 1 thread share 2 cores")
    assert routes._mapping(settings, Deployment(instances=3, threads=1, source="report")) == [second]


def test_models_name_what_serves_them(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, served, stale = (ready_model(gateway, content=b"\x08\x07 %d" % number) for number in range(3))
    for model_id in (served, stale):
        put(gateway, model_id, **OPENVINO, batch_size=8, threads=1, instances=1)
        run_next()
    Deployment.update(status="stale").where(Deployment.model_id == stale).execute()
    put(gateway, served, engine="onnxruntime", precision="fp32")  # only tried: it does not serve
    said = []
    run = connection.database.execute_sql

    def noted(*sql: Any) -> Any:
        said.append(threading.get_ident())  # the gateway's threads ask as well
        return run(*sql)

    monkeypatch.setattr(connection.database.obj, "execute_sql", noted)
    rows = {row.id: row for row in registry.models(limit=200, cursor=None).rows}
    assert said.count(threading.get_ident()) == 1, "one query, however many models there are"
    assert registry.activated(rows[plain]) is None
    listed = {item["id"]: item["serves"] for item in gateway.get("/models?limit=200").json()["items"]}
    assert listed[plain] == {
        "engine": "onnxruntime",
        "precision": "fp32",
        "batch_size": 4,
        "threads": 1,
        "instances": None,
        "source": "default",
        "status": "active",
        "since": None,
        "file_sha256": None,
        "jpeg_scale": None,
    }
    activated_at = shown(gateway, stale)["activated_at"]
    assert listed[served].items() >= {"engine": "openvino", "batch_size": 8, "instances": 1, "status": "active"}.items()
    assert listed[stale].items() >= {"engine": "openvino", "status": "stale", "since": activated_at}.items()
    for model_id, serves in listed.items():
        assert gateway.get(f"/models/{model_id}").json()["serves"] == serves
    Model.update(status="failed", error="No graph.", description_json=None).where(Model.id == plain).execute()
    assert gateway.get(f"/models/{plain}").json()["serves"] is None


# --- staleness --------------------------------------------------------------------------------------------------------


def test_another_machine_makes_it_stale_and_it_is_tried_anew(gateway: Gateway) -> None:
    model_id = ready_model(gateway)
    put(gateway, model_id, **OPENVINO, batch_size=8)
    first = run_next()
    assert not deployments.is_stale(HERE)
    assert deployments.is_stale("other")
    assert deployments.mark_stale("other") == [model_id]
    assert deployments.mark_stale("other") == [], "ordered once"
    assert deployments.find(first).status == "stale"
    now = shown(gateway, model_id)
    assert now["status"] == "activating"
    assert (now["serves"]["status"], now["serves"]["batch_size"]) == ("stale", 8)
    (trouble,) = deployments.in_trouble()
    assert trouble == ("digits", f"The machine, a driver or an engine changed: {HERE} is other now.")
    again = run_next()
    assert shown(gateway, model_id)["status"] == "active"
    assert (deployments.find(first).status, deployments.find(again).batch_size) == ("retired", 8)
    assert deployments.in_trouble() == []


def test_what_cannot_be_tried_anew_serves_on_and_is_not_tried_for_ever(gateway: Gateway) -> None:
    model_id = ready_model(gateway)
    put(gateway, model_id, **OPENVINO)
    run_next()
    deployments.mark_stale("other")
    run_next(fail="It is not installed.")
    assert deployments.mark_stale("other") == []
    now = shown(gateway, model_id)
    assert (now["status"], now["error"]) == ("failed", "It is not installed.")
    assert now["serves"].items() >= {"engine": "openvino", "status": "stale"}.items()


def test_another_file_makes_it_stale_and_drops_its_golden_samples(gateway: Gateway) -> None:
    model_id = ready_model(gateway)
    put(gateway, model_id, report_id=report_on(gateway, model_id))
    run_next()
    with connection.write():
        other = gateway.context.models.put(b"another file")
        registry.keep_artifact(other, "models")
        Model.update(onnx_sha256=other.sha256).where(Model.id == model_id).execute()
    assert deployments.mark_stale(HERE) == [model_id]
    now = shown(gateway, model_id)
    assert (now["file_sha256"], now["golden_sha256"]) == (other.sha256, None)


def test_an_order_under_way_is_not_replaced_by_staleness(gateway: Gateway) -> None:
    model_id = ready_model(gateway)
    put(gateway, model_id, **OPENVINO)
    run_next()
    ordered = put(gateway, model_id, engine="onnxruntime", precision="fp32").json()
    deployments.mark_stale("other")
    assert shown(gateway, model_id)["job_id"] == ordered["job_id"]


def test_the_lookout_looks_now_and_then(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    model_id = ready_model(gateway)
    put(gateway, model_id, **OPENVINO)
    run_next()
    changed = msgspec.structs.replace(system_info(), fingerprint="other")
    now_s = 0.0
    lookout = Lookout(lambda: now_s)
    lookout.look()
    monkeypatch.setattr(activation, "system_info", lambda: changed)
    lookout.look()
    assert not deployments.in_trouble()
    now_s = activation.LOOK_S
    lookout.look()
    assert deployments.in_trouble()


def test_a_deleted_model_is_served_by_nothing(gateway: Gateway) -> None:
    model_id = ready_model(gateway)
    put(gateway, model_id, **OPENVINO)
    run_next()
    pending = put(gateway, model_id, engine="onnxruntime", precision="fp32").json()
    assert gateway.delete(f"/models/{model_id}").status_code == 204
    assert jobs.find(pending["job_id"]).status == "cancelled"
    assert {row.status for row in Deployment.select()} == {"retired"}
    assert not deployments.is_stale("other")
