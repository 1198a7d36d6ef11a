"""Reports are what they say, or it is said what is wrong with them."""

from __future__ import annotations

import hashlib

import msgspec
import pytest

from shared.specs import MeasurementSet, NoiseFloor, canonical_json
from shared.verdict.report import build, canonical, measurements_sha256, parse
from shared.verdict.verification import Check, verdict, verification
from tests.unit.measurements import candidate, measured, measurement_set, series

SET = measurement_set()
MEASUREMENTS = msgspec.json.encode(SET)
REPORT = canonical(build(SET, "rep_1"))


def outcomes(checks: list[Check]) -> dict[str, str]:
    return {check.name: check.outcome for check in checks}


def signed(report: bytes, **fields: object) -> bytes:
    """The report with other content and a hash that fits it: what a forger would write."""
    record = msgspec.json.decode(report) | fields
    del record["content_sha256"]
    return canonical_json(record | {"content_sha256": hashlib.sha256(canonical_json(record)).hexdigest()})


def changed_call(source: MeasurementSet) -> MeasurementSet:
    """One call of one candidate took a nanosecond longer."""
    first, *others = source.series
    block, *rest = first.blocks
    longer = msgspec.structs.replace(block, latencies_ns=[block.latencies_ns[0] + 1, *block.latencies_ns[1:]])
    return msgspec.structs.replace(source, series=[msgspec.structs.replace(first, blocks=[longer, *rest]), *others])


def test_a_report_with_its_measurements_holds_in_every_check() -> None:
    checks = verification(REPORT, MEASUREMENTS)
    assert outcomes(checks) == dict.fromkeys(("hash", "source", "decision", "report"), "holds")
    assert verdict(checks) == "holds"
    shuffled = msgspec.json.encode(msgspec.structs.replace(SET, series=list(reversed(series()))))
    assert verdict(verification(REPORT, shuffled)) == "holds", "the order of the candidates does not matter"


def test_without_measurements_the_rest_is_unknown_with_the_reason() -> None:
    checks = verification(REPORT, None, "The platform is down.")
    assert outcomes(checks) == {"hash": "holds", "report": "unknown"}
    assert checks[1].text == "The platform is down."
    assert verdict(checks) == "unknown"


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (REPORT.replace(b'"fragile":false', b'"fragile":true'), "was changed"),
        (REPORT + b"\n", "was changed"),
        (b"%PDF-1.7", "page for people"),
        (b"<!doctype html>", "page for people"),
        (b"{", "no JSON"),
        (b"", "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"[1]", "no report of this platform"),
        (b'{"schema":"cvp.measurements/2"}', "no report of this platform"),
        (b'{"schema":"cvp.report/9"}', "newer version"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_what_is_no_whole_report_fails_with_the_reason(data: bytes, told: str) -> None:
    [check] = verification(data, MEASUREMENTS)
    assert (check.name, check.outcome) == ("hash", "fails")
    assert told in check.text


def test_an_older_report_is_checked_by_its_hash_alone_and_that_is_said() -> None:
    checks = verification(signed(REPORT, schema="cvp.report/1"), MEASUREMENTS)
    assert outcomes(checks) == {"hash": "holds", "report": "unknown"}
    assert "cvp.report/1" in checks[1].text and "only the hash" in checks[1].text


def test_one_other_measurement_is_not_the_source() -> None:
    checks = verification(REPORT, msgspec.json.encode(changed_call(SET)))
    assert outcomes(checks) == {"hash": "holds", "source": "fails"}
    assert checks[1].text.endswith("or were changed since.")
    other = msgspec.json.encode(msgspec.structs.replace(SET, id="job_other"))
    assert "but job_other" in verification(REPORT, other)[1].text
    assert verdict(verification(REPORT, b"{}")) == "fails"


def test_measurements_from_which_nothing_follows_fail_with_the_reason() -> None:
    """A forger may write what no benchmark does, with hashes that fit."""
    noise = NoiseFloor(value=0.02, runs=12, measured_at="soon", fingerprint="f", benchmark_id="job_1")
    odd = msgspec.structs.replace(SET, noise_floor=noise)
    record = msgspec.json.decode(REPORT)
    source = record["metadata"]["measurements"] | {"sha256": measurements_sha256(odd)}
    forged = signed(REPORT, metadata=record["metadata"] | {"measurements": source})
    checks = verification(forged, msgspec.json.encode(odd))
    assert outcomes(checks) == {"hash": "holds", "source": "holds", "decision": "fails"}
    assert "Nothing follows from these measurements: Invalid isoformat string" in checks[2].text


def test_a_forged_decision_with_a_hash_that_fits_fails() -> None:
    record = msgspec.json.decode(REPORT)
    forged = record["decision"] | {"selected": record["candidates"][2] | {}}
    forged["selected"] = {name: forged["selected"][name] for name in record["decision"]["selected"]}
    checks = verification(signed(REPORT, decision=forged), MEASUREMENTS)
    assert outcomes(checks)["decision"] == "fails"


def test_a_forged_figure_with_a_hash_that_fits_fails() -> None:
    record = msgspec.json.decode(REPORT)
    record["candidates"][0]["metrics"]["latency_p95_ms"]["value"] = 0.1
    checks = verification(signed(REPORT, candidates=record["candidates"]), MEASUREMENTS)
    assert outcomes(checks)["report"] == "fails"
    assert "other figures" in checks[-1].text


def test_other_sentences_are_neither_held_nor_denied() -> None:
    checks = verification(signed(REPORT, recommendations=["Buy a larger machine."]), MEASUREMENTS)
    assert outcomes(checks) == {"hash": "holds", "source": "holds", "decision": "holds", "report": "unknown"}
    assert "not recommendations" in checks[-1].text


def test_a_record_with_a_good_hash_and_missing_parts_fails() -> None:
    record = msgspec.json.decode(REPORT)
    del record["candidates"]
    broken = signed(canonical_json(record))
    assert outcomes(verification(broken, MEASUREMENTS)) == {"hash": "holds", "report": "fails"}


def test_measurements_that_contradict_themselves_decide_nothing() -> None:
    twice = measurement_set([measured(candidate("onnxruntime"), 1.0)])
    record = parse(REPORT)
    doubled = msgspec.structs.replace(twice, series=[*twice.series, *twice.series])
    source = msgspec.structs.replace(record.metadata.measurements, sha256=measurements_sha256(doubled))
    metadata = msgspec.to_builtins(msgspec.structs.replace(record.metadata, measurements=source))
    checks = verification(signed(REPORT, metadata=metadata), msgspec.json.encode(doubled))
    assert outcomes(checks) == {"hash": "holds", "source": "holds", "decision": "fails"}
    assert "more than once" in checks[-1].text
