"""Accuracy and its drop: intervals that hold what they promise, verdicts in three values."""

import functools
import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import gammaln

from shared import errors
from shared.specs import Accuracy, Constraint, EngineName, GateResult, MeasuredDataset, Precision
from shared.verdict import accuracy as acc
from shared.verdict.constraints import judge
from shared.verdict.gate import accuracy_limit, judged
from shared.verdict.metrics import drop_metric
from shared.verdict.report import build
from tests.unit.measurements import measurement_set

Counts = st.tuples(st.integers(0, 300), st.integers(0, 300), st.integers(0, 300)).filter(sum)


def answered(right: np.ndarray) -> Accuracy:
    return Accuracy(metric="top1", n=len(right), value=float(right.mean()), correct=acc.packed(right))


def pair(lost: int, won: int, rest: int) -> tuple[Accuracy, Accuracy]:
    """Reference and engine on so many images each."""
    before = np.array([True] * lost + [False] * won + [True] * rest)
    return answered(before), answered(np.array([False] * lost + [True] * won + [True] * rest))


def test_a_change_is_the_drop_seen_from_the_other_side() -> None:
    before, after = pair(lost=9, won=2, rest=389)
    lost, change = acc.drop(before, after).interval, acc.change(before, after)
    assert lost.low is not None and lost.high is not None
    assert change == (-lost.value, -lost.high, -lost.low)
    back = acc.change(after, before)
    assert back.value == -change.value and change.low is not None
    assert back.high == pytest.approx(-change.low, abs=1e-9)


def test_a_change_between_two_detectors_uses_the_draws_they_share() -> None:
    draws = np.random.default_rng(5).normal(0.01, 0.003, 500)
    first, second = (
        Accuracy(metric="map", n=50, value=0.5 - drop, drop=drop, drops=list(draws + drop - 0.01))
        for drop in (0.01, 0.03)
    )
    change = acc.change(first, second)
    assert change.value == pytest.approx(-0.02)
    assert change.low == pytest.approx(-0.02) and change.high == pytest.approx(-0.02), "they differ by as much in all"


def gate(
    found: Accuracy | None, flips: int | None, precision: Precision = "fp32", engine: EngineName = "onnxruntime"
) -> GateResult:
    return GateResult(
        engine=engine, precision=precision, verdict="not_checked", finite=True, flips=flips, accuracy=found
    )


# --- intervals -------------------------------------------------------------------------------------------------------


@given(bits=st.lists(st.booleans(), max_size=70))
def test_answers_survive_their_packing(bits: list[bool]) -> None:
    assert acc.unpacked(acc.packed(bits), len(bits)).tolist() == bits


@pytest.mark.parametrize(("correct", "n"), [("ff", 9), ("ffff", 8), ("xy", 4), ("f", 4)])
def test_answers_that_do_not_fit_their_number_are_refused(correct: str, n: int) -> None:
    with pytest.raises(errors.InvalidInput, match="measure again"):
        acc.unpacked(correct, n)


@given(counts=Counts)
def test_tangos_bounds_are_where_its_score_is_z(counts: tuple[int, int, int]) -> None:
    lost, won, _ = counts
    n = sum(counts)
    value, low, high = acc.tango(lost, won, n)
    assert low is not None and high is not None
    assert -1 <= low <= value <= high <= 1
    mirrored = acc.tango(won, lost, n)
    assert math.isclose(-mirrored.value, value, abs_tol=1e-12)
    assert mirrored.low is not None and math.isclose(-mirrored.low, high, abs_tol=1e-9)


@given(n=st.integers(1, 100_000))
def test_without_a_disagreement_tangos_interval_has_a_closed_form(n: int) -> None:
    wanted = acc.Z**2 / (n + acc.Z**2)
    assert acc.tango(0, 0, n)[1:] == pytest.approx((-wanted, wanted), abs=1e-9)


@given(counts=Counts)
def test_more_of_the_same_makes_the_interval_narrower(counts: tuple[int, int, int]) -> None:
    lost, won, _ = counts
    once, twice = acc.tango(lost, won, sum(counts)), acc.tango(2 * lost, 2 * won, 2 * sum(counts))
    assert once.low is not None and once.high is not None and twice.low is not None and twice.high is not None
    assert twice.high - twice.low <= once.high - once.low + 1e-9


def test_wilsons_interval_as_published() -> None:
    """Newcombe, Statistics in Medicine 17(8), 1998, table I, method 3."""
    assert acc.wilson(0, 400).low == 0.0 and acc.wilson(400, 400).high == 1.0
    for right, n, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)):
        found = acc.wilson(right, n)
        assert found.low == pytest.approx(low, abs=5e-5) and found.high == pytest.approx(high, abs=5e-5)


@functools.cache
def bounds(n: int) -> np.ndarray:
    """Tango's interval for every (lost, won) that n images can give: `[n + 1, n + 1, 2]`."""
    table = np.full((n + 1, n + 1, 2), np.nan)
    for lost in range(n + 1):
        for won in range(n + 1 - lost):
            table[lost, won] = acc.tango(lost, won, n)[1:]
    return table


SHARES = (0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.1, 0.15, 0.2, 0.3)


def covered(n: int, p_lost: float, p_won: float) -> float:
    """Exact: the sum of the probabilities of all outcomes whose interval holds the true drop."""
    lost, won = np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij")
    possible = lost + won <= n
    rest = np.where(possible, n - lost - won, 0)
    logs = gammaln(n + 1) - gammaln(lost + 1) - gammaln(won + 1) - gammaln(rest + 1)
    logs += lost * math.log(p_lost) + won * math.log(p_won) + rest * math.log(1 - p_lost - p_won)
    table, truth = bounds(n), p_lost - p_won
    holds = possible & (table[..., 0] <= truth) & (truth <= table[..., 1])
    return float(np.exp(logs)[holds].sum())


@pytest.mark.parametrize("n", [30, 60, 120])
def test_the_interval_of_the_drop_holds_the_truth_in_95_of_100(n: int) -> None:
    """On average; counts are whole numbers, so at single points it is 93.5 at worst."""
    found = [covered(n, p_lost, p_won) for p_lost in SHARES for p_won in SHARES]
    assert np.mean(found) >= 0.95
    assert min(found) >= 0.93
    assert np.mean(np.array(found) >= 0.94) >= 0.95


# --- verdicts --------------------------------------------------------------------------------------------------------

LIMIT = Constraint(metric="accuracy_drop", op="<=", value=0.01)


@given(n=st.integers(1, 5000))
@settings(max_examples=30)
def test_answers_that_are_all_the_same_pass_whatever_their_number(n: int) -> None:
    reference, found = pair(0, 0, n)
    assert judge(LIMIT, drop_metric(gate(found, 0), reference)) == "pass"
    assert judged(gate(found, 0), reference, 0.0).verdict == "pass"
    assert judge(LIMIT, drop_metric(gate(found, 1), reference)) != "pass" or n > 380, "other answers, equally right"


@pytest.mark.parametrize(
    ("lost", "won", "rest", "verdict"),
    [(20, 0, 380, "fail"), (1, 0, 59, "inconclusive"), (1, 0, 4999, "pass"), (0, 1, 59, "inconclusive")],
)
def test_the_verdict_on_a_drop_has_three_values(lost: int, won: int, rest: int, verdict: str) -> None:
    reference, found = pair(lost, won, rest)
    given_back = judged(gate(found, lost + won), reference, 0.01)
    assert given_back.verdict == verdict
    assert bool(given_back.problems) == (verdict == "fail")


def test_so_many_images_as_are_said_to_be_needed_do_tell() -> None:
    reference, found = pair(1, 1, 58)
    needed = acc.needed(acc.drop(reference, found), 0.01)
    assert needed is not None
    times = math.ceil(needed / 60 * 1.1)
    reference, found = pair(times, times, 58 * times)
    assert judged(gate(found, 2 * times), reference, 0.01).verdict == "pass"


def test_engines_that_saw_different_numbers_of_images_are_compared_on_those_both_saw() -> None:
    reference, found = pair(2, 0, 98)
    short = answered(acc.unpacked(str(found.correct), 100)[:50])
    assert acc.drop(reference, short).n == 50
    assert acc.drop(reference, short).interval.value == pytest.approx(2 / 50)


def test_a_detectors_drop_is_that_of_its_bootstrap() -> None:
    draws = np.random.default_rng(0).normal(0.05, 0.01, 500).round(6).tolist()
    reference = Accuracy(metric="map", n=80, value=0.5, map50=0.7)
    found = Accuracy(metric="map", n=80, value=0.45, map50=0.6, values=draws, drops=draws, drop=0.05)
    assert judged(gate(found, 9), reference, 0.01).verdict == "fail"
    assert judged(gate(found, 9), reference, 0.05).verdict == "inconclusive"
    assert judged(gate(found, 9), reference, 0.1).verdict == "pass"


# --- in the report ---------------------------------------------------------------------------------------------------


def with_accuracy(lost: int, won: int, rest: int, **config: object):
    """Two engines, ONNX Runtime as right as the reference, OpenVINO not quite."""
    reference, found = pair(lost, won, rest)
    n = lost + won + rest
    dataset = MeasuredDataset(id="dst_1", name="bolts", index_sha256="0" * 64, classes=["a", "b"], num_test=n)
    gates = [
        judged(gate(reference, 0), reference, 0.01),
        judged(gate(found, lost + won, engine="openvino"), reference, 0.01),
    ]
    return msgspec.structs.replace(
        measurement_set(constraints=(), **config), dataset=dataset, reference=reference, gates=gates
    )


def test_who_may_have_lost_accuracy_is_not_chosen_and_the_report_says_what_it_takes() -> None:
    record = build(with_accuracy(1, 0, 59, objective="throughput"), "rep_1")
    assert record.decision.selected is not None and record.decision.selected.engine == "onnxruntime"
    why = {each.candidate.key: each.why for each in record.decision.rejected}["openvino/fp32/b8/t2/i1"]
    assert "is inconclusive on accuracy drop ≤ 0.01 with 0.0167" in why and "it takes about" in why
    assert any("The test split of bolts is too small" in each for each in record.recommendations)
    assert not any("speed, not accuracy" in each for each in record.recommendations)


def test_a_model_that_only_guesses_is_suspected_first() -> None:
    found = with_accuracy(0, 0, 60)
    guesses = answered(np.arange(60) % 2 == 0)
    assert not any("belong together" in each for each in build(found, "rep_1").recommendations)
    gates = [msgspec.structs.replace(each, accuracy=guesses) for each in found.gates]
    suspicious = msgspec.structs.replace(found, reference=guesses, gates=gates)
    assert any("belong together" in each for each in build(suspicious, "rep_1").recommendations)


def test_a_limit_on_accuracy_without_a_dataset_says_what_to_order() -> None:
    limit = Constraint(metric="accuracy", op=">=", value=0.9)
    said = build(measurement_set(constraints=(limit,)), "rep_1").recommendations
    assert any("Order with dataset_id" in each for each in said)


def test_a_limit_of_ones_own_replaces_that_of_the_order() -> None:
    own = Constraint(metric="accuracy_drop", op="<=", value=0.2)
    found = with_accuracy(1, 0, 59)
    assert accuracy_limit(found) == LIMIT
    mine = msgspec.structs.replace(found, config=msgspec.structs.replace(found.config, constraints=(own,)))
    assert accuracy_limit(mine) is None
    verdicts = {
        each.key if hasattr(each, "key") else each.engine: each.constraints for each in build(mine, "r").candidates
    }
    assert [each.verdict for each in verdicts["openvino"]] in (["pass"], ["not_measured"])


def test_one_answer_changed_is_another_hash() -> None:
    found = with_accuracy(1, 0, 59)
    bits = acc.unpacked(str(found.gates[1].accuracy.correct), 60)
    bits[7] = not bits[7]
    gates = [found.gates[0], msgspec.structs.replace(found.gates[1], accuracy=answered(bits))]
    changed = msgspec.structs.replace(found, gates=gates)
    shuffled = msgspec.structs.replace(found, gates=found.gates[::-1], series=found.series[::-1])
    hashes = [build(each, "rep_1").content_sha256 for each in (found, changed, shuffled)]
    assert hashes[0] != hashes[1]
    assert hashes[0] == hashes[2]
