"""The canonical report: its shape, its hash, its provenance."""

from __future__ import annotations

import hashlib
import json

import msgspec
import pytest

from reporter.technical import technical_view
from shared.specs import Constraint, MetricName, PreparedFile
from shared.verdict.distribution import density, distribution, width_ns
from shared.verdict.report import build, canonical, parse, verify
from shared.verdict.rounds import Rounds
from tests.unit.measurements import candidate, measured, measurement_set, series, unavailable

REPORT = build(measurement_set(), "rep_1")
BYTES = canonical(REPORT)
RECORD = json.loads(BYTES)


def test_the_shape_that_clients_depend_on() -> None:
    assert set(RECORD) == {
        "schema", "id", "metadata", "candidates", "deltas", "decision", "recommendations", "deployment_steps",
        "content_sha256", "present", "service",
    }  # fmt: skip
    assert RECORD["schema"] == "cvp.report/2"
    assert {"model", "config", "system", "fingerprint", "created_at", "conditions"} <= set(RECORD["metadata"])
    first = RECORD["candidates"][0]
    assert {
        "engine", "precision", "batch_size", "threads", "instances", "status", "provider", "device", "metrics",
        "constraints",
    } <= set(first)  # fmt: skip
    assert set(first["metrics"]) == set(MetricName.__args__)
    assert set(first["metrics"]["latency_p95_ms"]) == {"value", "low", "high", "n"}
    assert set(first["metrics"]["accuracy"]) == {"n", "note"}
    assert first["constraints"][0] == {"metric": "latency_p95_ms", "op": "<=", "value": 5.0, "verdict": "pass"}
    assert set(RECORD["deltas"][0]) == {"metric", "from", "to", "ratio", "low", "high"}
    decision = RECORD["decision"]
    assert decision["selected"] == {
        "engine": "onnxruntime", "precision": "fp32", "batch_size": 1, "threads": 2, "instances": 1,
    }  # fmt: skip
    assert set(decision) == {"selected", "tied", "fragile", "reasons", "rejected"}
    assert set(decision["rejected"][0]) == {"candidate", "why"}


def test_nothing_chosen_names_the_nearest() -> None:
    constraints = (Constraint(metric="latency_p95_ms", op="<", value=0.5),)
    decision = json.loads(canonical(build(measurement_set(constraints=constraints), "rep_1")))["decision"]
    assert "selected" not in decision
    assert decision["nearest"]["engine"] == "onnxruntime"
    [relaxation] = decision["relax"]
    assert relaxation == {"metric": "latency_p95_ms", "op": "<", "value": 1.41, "instead_of": 0.5}


def test_candidates_are_in_fixed_order_and_unavailable_ones_say_why() -> None:
    order = [(item["engine"], item["batch_size"], item["status"]) for item in RECORD["candidates"]]
    assert order[:3] == [("onnxruntime", 1, "measured"), ("onnxruntime", 8, "measured"), ("openvino", 1, "measured")]
    assert order[4] == ("tensorrt", 1, "unavailable")
    assert "NVIDIA GPU" in RECORD["candidates"][4]["reason"]


def test_the_hash_is_that_of_the_canonical_content() -> None:
    content = {name: value for name, value in RECORD.items() if name != "content_sha256"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert hashlib.sha256(text.encode()).hexdigest() == RECORD["content_sha256"]


def test_figures_have_six_significant_digits() -> None:
    for item in RECORD["candidates"]:
        for metric in item["metrics"].values():
            for bound in (metric.get("value"), metric.get("low"), metric.get("high")):
                assert bound is None or bound == float(f"{bound:.5e}")


def test_reading_it_back_gives_the_same_report() -> None:
    assert parse(BYTES) == REPORT
    assert canonical(parse(BYTES)) == BYTES


def test_it_verifies() -> None:
    assert verify(BYTES)


def repacked(**changes: object) -> bytes:
    return msgspec.json.encode(RECORD | changes, order="sorted")


@pytest.mark.parametrize(
    "data",
    [
        BYTES.replace(b'"fragile":false', b'"fragile":true'),
        BYTES[:-1] + b',"decision":{}}',
        BYTES[:-1],
        BYTES + b"\n",
        json.dumps(RECORD, indent=2).encode(),
        repacked(id="rep_2"),
        repacked(content_sha256="0" * 64),
        repacked(schema="cvp.report/3"),
        repacked(decision=None),
        b"",
        b"null",
        b"[]",
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_nothing_else_verifies(data: bytes) -> None:
    assert not verify(data)


def test_times_and_ids_come_from_the_measurements() -> None:
    measurements = measurement_set()
    assert REPORT.metadata.created_at == measurements.created_at
    assert REPORT.metadata.measurements.id == measurements.id
    assert REPORT.metadata.fingerprint == measurements.system.fingerprint
    assert build(measurements, "rep_1") == REPORT


def test_measurements_stored_and_read_again_give_the_same_report() -> None:
    stored = msgspec.json.encode(measurement_set())
    read = msgspec.json.decode(stored, type=type(measurement_set()))
    assert canonical(build(read, "rep_1")) == BYTES


def test_deltas_are_against_the_choice() -> None:
    key = REPORT.decision.selected.key
    assert {delta.from_ for delta in REPORT.deltas} == {key}
    values = {candidate(r.engine, r.batch_size).key: r.metrics for r in REPORT.candidates if r.metrics}
    rounds = Rounds(measurement_set().series)
    for delta in REPORT.deltas:
        if delta.metric == "memory_mb":
            expected = values[delta.to][delta.metric].value / values[key][delta.metric].value
        else:
            expected = rounds.ratio(delta.metric, delta.to, key).value
        assert delta.ratio == pytest.approx(expected, rel=1e-5)
        assert (delta.low is None) == (delta.metric == "memory_mb")
        assert delta.low is None or delta.low < delta.ratio < delta.high


def test_advice_follows_the_run() -> None:
    disturbed = build(measurement_set(conditions=["The hypervisor withheld 3.0% of the processor time."]), "r")
    assert disturbed.recommendations[0].startswith("Read the conditions")
    short = build(measurement_set([measured(candidate("onnxruntime"), 1.0, calls=100)], ()), "r")
    assert "Order at least 368 iterations to see P99 latency of every candidate." in short.recommendations
    assert any("PyTorch FP32 and TensorRT FP32" in line for line in REPORT.recommendations)
    assert any("onnxruntime 1.31.1" in step for step in REPORT.deployment_steps)
    assert REPORT.metadata.model.sha256 in REPORT.deployment_steps[0]
    call = f'PUT /api/v1/models/{REPORT.metadata.model.id}/deployment with {{"report_id": "{REPORT.id}"}}'
    assert call in REPORT.deployment_steps[-1]


def test_an_int8_choice_is_fetched_as_the_file_that_was_measured_and_tells_how_it_was_made() -> None:
    int8 = msgspec.structs.replace(candidate("onnxruntime"), precision="int8")
    recipe = {
        "method": "entropy", "calibration_images": 64, "deciding_images": 60, "agreement": 0.95, "seen": "1,2,3",
        "extent": "weighted",
    }  # fmt: skip
    file = PreparedFile(precision="int8", sha256="8" * 64, size_bytes=1234, recipe=recipe, notes=["It is known."])
    found = build(msgspec.structs.replace(measurement_set([measured(int8, 1.0)], ()), files=[file]), "r")
    assert f"/onnx?precision=int8. Its SHA-256 must be {file.sha256}" in found.deployment_steps[0]
    assert "seen" not in found.metadata.files["int8"].recipe
    (told,) = [fact.text for fact in technical_view(found).facts if fact.label == "INT8 file"]
    assert told == (
        "1,234 bytes, calibrated by entropy on 64 images, only layers with weights in INT8; of 60 others it answers "
        "95% as FP32 does; SHA-256 "
        f"{file.sha256}. It is known."
    )


@pytest.mark.parametrize(("contract", "noun"), [("9b1c33f0a2d4e6f8", "image"), (None, "row")])
def test_a_model_that_takes_tensors_is_sent_rows(contract: str | None, noun: str) -> None:
    plain = measurement_set()
    model = msgspec.structs.replace(plain.model, preprocessing_hash=contract)
    steps = build(msgspec.structs.replace(plain, model=model), "r").deployment_steps
    assert any(f"send 1 {noun} per call" in step for step in steps)


def test_an_engine_that_ran_at_some_batch_counts_as_compared() -> None:
    found = [*series()[:1], unavailable(candidate("onnxruntime", 8), "the model's batch is fixed at 1")]
    (line,) = [line for line in build(measurement_set(found, ()), "r").recommendations if "Not compared" in line]
    assert line.startswith("Not compared: ONNX Runtime on CUDA (no NVIDIA GPU found). ")


def test_pytorch_is_deployed_from_the_weights() -> None:
    made = measurement_set([measured(candidate("pytorch"), 1.0)], ())
    first, install, *_ = build(made, "r").deployment_steps
    assert first.startswith("Take the weights that this model was uploaded with")
    assert "/onnx" not in first and "torch" in install


def test_no_steps_without_a_choice() -> None:
    found = build(measurement_set([unavailable(candidate("tensorrt"), "no GPU")]), "r")
    assert found.deployment_steps == []
    assert found.deltas == []


def test_a_histogram_counts_every_call_once_in_bins_that_hold_it() -> None:
    latencies = [31, 32, 63, 64, 65, 66, 1_000, 1_023, 1_024, 1_055, 1_056, 2**40 + 5, 2**40 + 2**35]
    block = msgspec.structs.replace(series()[0].blocks[0], latencies_ns=latencies)
    found = distribution([block])
    assert found is not None and found.n == sum(count for _, count in found.bins) == len(latencies)
    assert [lower for lower, _ in found.bins] == sorted({lower for lower, _ in found.bins})
    for value in latencies:
        assert any(lower <= value < lower + width_ns(lower) for lower, _ in found.bins)
    assert dict(found.bins)[64] == 2, "64 and 65 share a bin, 66 is in the next"
    assert dict(found.bins)[1_024] == 2, "from 1,024 on a bin is 32 wide"
    assert max(height for _, _, height in density(found)) == 1.0
    assert distribution([]) is None


def test_only_measured_candidates_have_a_histogram() -> None:
    for item in REPORT.candidates:
        assert (item.latency is not None) == (item.status == "measured")
        assert item.latency is None or item.latency.n == item.metrics["latency_p50_ms"].n


def test_what_the_choice_changes_is_in_the_record() -> None:
    assert RECORD["present"] == {
        "activated": False,
        "candidate": RECORD["decision"]["selected"],
        "changes": [],
    }, "it is what serves already"
    faster = build(
        measurement_set([measured(candidate("onnxruntime"), 2.0), measured(candidate("openvino"), 1.0)], ()), "r"
    )
    assert faster.present is not None
    assert [change.metric for change in faster.present.changes] == ["latency_p95_ms", "throughput_fps", "memory_mb"]
    ratio = faster.present.changes[0]
    assert ratio.by == pytest.approx(0.5, rel=0.05)
    assert ratio.low is not None and ratio.high is not None and ratio.low < ratio.by < ratio.high < 1
