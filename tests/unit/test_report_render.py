"""The files of a report: complete, repeatable, and safe with hostile names."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pypdf import PdfReader

from reporter import WriteOrder
from reporter.history import history
from reporter.html import environment
from reporter.pdf import printable
from reporter.render import render
from reporter.shapes import COLOURS
from reporter.table import table
from reporter.technical import SAID_BEFORE
from reporter.write import write
from shared import errors
from shared.artifacts import ArtifactStore
from shared.specs import Constraint, Series, canonical_json
from shared.verdict.report import Report, build, verify
from tests.unit.measurements import candidate, measured, measurement_set, series, unavailable

FILES = {f"{level}.{ending}" for level in ("report", "simple", "technical") for ending in ("json", "html")}
FILES |= {"report.pdf", "report.csv", "history.html"}
HOSTILE = "<script>alert(1)</script>&\"'=1+1 {{7*7}} \u202e 车牌 \x00\x07 </style>"

STANDARD = render(build(measurement_set(), "rep_1"))
FAILED = Series(
    candidate=candidate("openvino", 16), status="failed", reason="<b>killed</b>", failures=["=cmd|'/c calc'!A1"]
)
NASTY = render(
    build(
        measurement_set([*series(), FAILED], name=HOSTILE, conditions=["Other processes used <i>0.31</i> cores."]),
        "rep_2",
    )
)
CASES = {
    "nothing passes": measurement_set(constraints=(Constraint(metric="accuracy", op=">=", value=0.9),)),
    "nothing measured": measurement_set([unavailable(candidate("tensorrt"), "no GPU")]),
    "no candidates": measurement_set([]),
    "one candidate": measurement_set(series()[:1], ()),
    "too few calls": measurement_set([measured(candidate("onnxruntime"), 1.0, calls=5)], ()),
    "one call": measurement_set([measured(candidate("onnxruntime"), 1.0, calls=1, rounds=1)], ()),
    "many candidates": measurement_set(
        [measured(candidate("onnxruntime", batch, n), batch, calls=75) for batch in range(1, 17) for n in (1, 2)],
        tuple(Constraint(metric="latency_p95_ms", op="<=", value=float(value)) for value in range(1, 9)),
    ),
}


class Page(HTMLParser):
    """Tags, attributes and text of a page; fails on tags that do not match."""

    VOID = frozenset({"meta", "br", "img"})

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words = ""
        self._open: list[str] = []
        self.feed(data.decode())
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def pdf_text(data: bytes) -> str:
    return "\n".join(page.extract_text() for page in PdfReader(io.BytesIO(data)).pages)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_case_gives_every_file(case: str) -> None:
    files = render(build(CASES[case], "rep_3"))
    assert set(files) == FILES
    assert all(files.values())
    assert verify(files["report.json"])
    for name in ("simple.html", "technical.html", "report.html", "history.html"):
        Page(files[name])
    assert len(PdfReader(io.BytesIO(files["report.pdf"])).pages) >= 2


def test_the_same_report_gives_the_same_bytes() -> None:
    assert render(build(measurement_set(), "rep_1")) == STANDARD
    assert render(build(measurement_set(list(reversed(series()))), "rep_1")) == STANDARD


def test_views_are_json() -> None:
    assert msgspec.json.decode(STANDARD["simple.json"])["level"] == "simple"
    assert msgspec.json.decode(STANDARD["technical.json"])["level"] == "technical"


# --- pages ----------------------------------------------------------------------------------------------------------


def test_pages_ask_nobody_for_anything() -> None:
    page = Page(STANDARD["report.html"])
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    assert not {"href", "src", "action", "srcset", "xlink:href"} & {name for name, _ in page.attributes}
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert b"url(" not in STANDARD["report.html"]
    assert b"@import" not in STANDARD["report.html"]


def test_each_level_shows_its_part() -> None:
    simple, technical, both = (Page(STANDARD[f"{name}.html"]).words for name in ("simple", "technical", "report"))
    assert "How to deploy it" in simple
    assert "Latency of a call" not in simple
    assert "Latency of a call" in technical
    assert "Use ONNX Runtime FP32" in both
    assert "Latency of a call" in both


def test_charts_take_their_colours_from_the_page() -> None:
    text = STANDARD["report.html"].decode()
    drawings = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    assert drawings.count("<svg") == 5
    assert "rgb(" not in drawings
    assert {name for name in COLOURS if f"var(--{name})" in drawings} >= {"ink", "band", "onnxruntime", "openvino-tint"}


def test_every_colour_has_a_light_a_dark_and_a_printed_value() -> None:
    style = environment().get_template("style.css").render()
    for name, value in COLOURS.items():
        assert len(re.findall(rf"--{name}: #[0-9a-f]{{3,6}};", style)) == 3
        if name not in ("paper", "grid"):
            assert f"--{name}: {value};" in style


def test_a_dirty_run_is_marked_on_every_first_page() -> None:
    clean = measurement_set(conditions=["The processor's clock follows the load (governor powersave)."])
    marked = msgspec.structs.replace(clean, dirty=True, conditions=["Other processes used 1.20 of 2 cores."])
    for measurements, heading in ((clean, "Conditions of this run"), (marked, "Dirty run: something else was at work")):
        files = render(build(measurements, "r"))
        assert heading in PdfReader(io.BytesIO(files["report.pdf"])).pages[0].extract_text()
        for name in ("simple.html", "technical.html", "report.html"):
            assert heading in files[name].decode()
        for name in ("simple.json", "technical.json"):
            assert msgspec.json.decode(files[name])["dirty"] is measurements.dirty


def test_conditions_and_fragility_stand_at_the_top() -> None:
    pair = [measured(candidate("onnxruntime"), 1.0, drift=0.05), measured(candidate("openvino"), 1.02, drift=0.05)]
    files = render(build(measurement_set(pair, (), conditions=["The processor slowed down 3 times."]), "r"))
    words = Page(files["simple.html"]).words
    assert words.index("The processor slowed down 3 times.") < words.index("Response time")
    assert words.index("Fragile choice.") < words.index("Response time")
    first_page = PdfReader(io.BytesIO(files["report.pdf"])).pages[0].extract_text()
    assert "The processor slowed down 3 times." in first_page
    assert "Fragile choice." in first_page


# --- hostile names --------------------------------------------------------------------------------------------------


def test_names_are_text_in_pages() -> None:
    for name in ("simple.html", "technical.html", "report.html", "history.html"):
        page = Page(NASTY[name])
        assert not {"script", "b", "i"} & set(page.tags)
        assert "<script>alert(1)</script>" in page.words
        assert "{{7*7}}" in page.words
    assert "<b>killed</b>" in Page(NASTY["technical.html"]).words


@pytest.mark.parametrize("case", ["nothing passes", "nothing measured", "too few calls"])
def test_why_nothing_was_chosen_is_said_once(case: str) -> None:
    report = build(CASES[case], "rep_4")
    files, (first, *_) = render(report), report.decision.reasons
    assert Page(files["report.html"]).words.count(first) == 1
    assert Page(files["technical.html"]).words.count(first) == 1
    paper = " ".join(pdf_text(files["report.pdf"]).split())
    assert paper.count(printable(first)) == 1
    assert SAID_BEFORE in Page(files["report.html"]).words


def test_names_are_text_in_the_pdf() -> None:
    text = pdf_text(NASTY["report.pdf"])
    assert "<script>alert(1)</script>" in text
    assert "<b>killed</b>" in text
    assert "Other processes used <i>0.31</i> cores." in text


def test_characters_without_a_glyph_are_spelt_out() -> None:
    assert printable("Größe ≤ 5 × µ – 车\u202e\x00") == "Größe ≤ 5 × µ – [U+8F66][U+202E][U+0000]"


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "＝1+1"])
def test_no_cell_is_a_formula(name: str) -> None:
    [header, *rows] = csv.reader(io.StringIO(table(build(measurement_set(name=name), "r")).decode(), newline=""))
    column = header.index("model")
    assert {row[column] for row in rows} == {f"'{name}"}


# --- over time ------------------------------------------------------------------------------------------------------


def run(day: int, found: Sequence[Series], version: str = "1.31.1", **config: Any) -> Report:
    """The report of that day."""
    made = measurement_set(found, config.pop("constraints", ()), **config)
    system = msgspec.structs.replace(
        made.system, fingerprint=f"of-{version}", versions=made.system.versions | {"onnxruntime": version}
    )
    created_at = f"2026-01-{day:02}T08:15:30.250Z"
    return build(msgspec.structs.replace(made, created_at=created_at, system=system), f"rep_{day}")


def test_a_models_choices_over_time_and_what_changed_in_between() -> None:
    ort, vino = candidate("onnxruntime"), candidate("openvino")
    too_quick = Constraint(metric="latency_p95_ms", op="<=", value=0.1)
    runs = [
        run(3, [measured(ort, 1.2)]),
        run(5, [measured(ort, 1.1, seed=8)]),
        run(9, [measured(vino, 0.9)], version="1.32.0"),
        run(12, [measured(vino, 0.9)], "1.32.0", constraints=(too_quick,)),
    ]
    found = history([runs[2], runs[0], runs[3], runs[1]])
    assert [(line.report_id, line.choice) for line in found.lines] == [
        ("rep_12", "nothing passed"),
        ("rep_9", "OpenVINO FP32, batch 1"),
        ("rep_5", "ONNX Runtime FP32, batch 1"),
        ("rep_3", "ONNX Runtime FP32, batch 1"),
    ]
    [change] = found.changes
    assert (change.second, change.letter) == (2, "A")
    assert change.text == "2026-01-09 08:15 UTC: onnxruntime 1.31.1 → 1.32.0"
    page = Page(render(runs[3], runs[:3])["history.html"])
    assert page.tags.count("svg") == 2
    assert all(words in page.words for words in ("P95 latency, ms", "Throughput, images/s", "none", change.text))
    assert page.words.count("rep_9") == 1


@pytest.mark.parametrize("count", [1, 7, 13, 40])
def test_the_dates_of_a_long_history_stay_on_the_page(count: int) -> None:
    runs = [run(1 + index % 28, [measured(candidate("onnxruntime"), 1.2, calls=80)]) for index in range(count)]
    for drawing in history(runs).drawings:
        assert max(shape.getBounds()[2] for shape in drawing.contents) <= drawing.width


def test_a_model_that_never_passed_has_a_page_without_charts() -> None:
    page = Page(render(build(CASES["nothing passes"], "rep_1"))["history.html"])
    assert "svg" not in page.tags
    assert "nothing passed" in page.words


# --- table ----------------------------------------------------------------------------------------------------------


def test_a_row_per_candidate_with_plain_numbers() -> None:
    rows = list(csv.DictReader(io.StringIO(STANDARD["report.csv"].decode(), newline="")))
    assert len(rows) == len(series())
    first = rows[0]
    assert (first["selected"], first["engine"], first["batch_size"]) == ("yes", "onnxruntime", "1")
    assert float(first["latency_p95_ms_low"]) < float(first["latency_p95_ms"]) < float(first["latency_p95_ms_high"])
    assert first["accuracy"] == ""
    assert (first["constraint_1"], first["constraint_1_verdict"]) == ("P95 latency ≤ 5 ms", "pass")
    assert rows[4]["reason"].startswith("TensorRT needs")


def test_failures_are_in_the_table() -> None:
    rows = list(csv.DictReader(io.StringIO(NASTY["report.csv"].decode(), newline="")))
    failed = next(row for row in rows if row["status"] == "failed")
    assert failed["notes"].startswith("launch failed: =cmd")


def test_measurements_that_were_changed_on_the_disk_give_no_report(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    path = store.path(store.put(canonical_json(measurement_set())).sha256)
    order = WriteOrder(report_id="rep_1", measurements=str(path), earlier=[], store=str(tmp_path))
    assert write(order).selected_engine == "onnxruntime"
    path.write_bytes(path.read_bytes().replace(b"onnxruntime", b"openvino"))
    with pytest.raises(errors.NotFound, match="changed there"):
        write(order)
