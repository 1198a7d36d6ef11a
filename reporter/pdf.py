"""The report on paper: the simple view on the first page, the technical view after it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import partial
from xml.sax.saxutils import escape

from reportlab.lib.pagesizes import A4
from reportlab.lib.units import mm
from reportlab.pdfbase.pdfmetrics import stringWidth
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import (
    BaseDocTemplate,
    CondPageBreak,
    Flowable,
    Frame,
    KeepTogether,
    PageBreak,
    PageTemplate,
    Paragraph,
    Spacer,
    Table,
)

from reporter.charts import WIDTH
from reporter.figures import Figure, figures, overview_figure, service_figure
from reporter.lookup import heading
from reporter.paper import (
    BODY,
    CAPTION,
    CELL,
    CELL_APART,
    CELL_BOLD,
    CELL_RIGHT,
    CELL_RIGHT_BOLD,
    FACTS,
    FIGURE,
    FIGURES,
    HEAD_APART,
    HEAD_LEFT,
    HEAD_RIGHT,
    HEADING,
    KICKER,
    LEAD,
    LIST,
    MEANING,
    SIGNS,
    SMALL_MUTED,
    SUBHEADING,
    TITLE,
    TONES,
    WARNING,
    rows_style,
    warning_style,
)
from reporter.parts import Cell, Fact
from reporter.parts import Table as DataTable
from reporter.shapes import BOLD, COLOURS, FONT, PAINTS
from reporter.simple import SimpleView
from reporter.technical import TechnicalView
from shared.verdict.report import Report

SURE_TONES = {"fragile": TONES["inconclusive"], "clear": TONES["pass"]}
CHANGE_TONES = {"good": TONES["pass"], "bad": TONES["fail"], "same": COLOURS["muted"]}
KEY_HEIGHT = 20
"""A drawing lower than this explains the one after it."""

KEPT_TOGETHER = 10
"""A table of at most so many rows is not broken between pages."""
_SIGNS = "≤≥"
"""Helvetica has none, and readers stand in for Symbol with other widths; so these are set in an embedded font."""

MARGIN = (A4[0] - WIDTH) / 2
"""Left and right, so that the charts fill the text's width."""


def pdf(report: Report, simple: SimpleView, technical: TechnicalView) -> bytes:
    """The document; the same report gives the same bytes."""
    out = io.BytesIO()
    document = BaseDocTemplate(
        out,
        pagesize=A4,
        title=printable(f"{report.metadata.model.name}: benchmark report"),
        author="cv-platform",
        subject=report.id,
        lang="en",
        invariant=1,
    )
    frame = Frame(MARGIN, 20 * mm, WIDTH, A4[1] - 38 * mm, leftPadding=0, rightPadding=0, topPadding=0, bottomPadding=0)
    document.addPageTemplates(PageTemplate(frames=[frame]))
    foot = f"{report.id}   SHA-256 {report.content_sha256[:16]}…"
    story = [*_simple(report, simple), PageBreak(), *_technical(report, technical)]
    document.build(story, canvasmaker=partial(NumberedCanvas, foot=foot))
    return out.getvalue()


def printable(text: str) -> str:
    """The text with every character that the page's fonts lack spelt as its code point, `U+8F66`."""
    return "".join(c if _has_glyph(c) else f"[U+{ord(c):04X}]" for c in text)


def markup(text: str) -> str:
    """Text as paragraph markup: escaped, and what Helvetica lacks set in the embedded font."""
    safe = escape(printable(text))
    return "".join(f"<font name='{SIGNS}'>{c}</font>" if c in _SIGNS else c for c in safe)


def _has_glyph(character: str) -> bool:
    if character in _SIGNS:
        return True
    try:
        character.encode("cp1252")
    except UnicodeEncodeError:
        return False
    return character.isprintable()


class NumberedCanvas(Canvas):  # type: ignore[misc]
    """Writes the foot of every page once the number of pages is known."""

    def __init__(self, *args: object, foot: str, **options: object) -> None:
        super().__init__(*args, **options)
        self._foot = foot
        self._pages: list[dict[str, object]] = []

    def showPage(self) -> None:
        """Keep the page for later."""
        self._pages.append(dict(self.__dict__))
        self._startPage()

    def save(self) -> None:
        """Write all pages."""
        for number, page in enumerate(self._pages, start=1):
            self.__dict__.update(page)
            self.setFont(FONT, 7.5)
            self.setFillColor(PAINTS["muted"])
            self.drawString(MARGIN, 12 * mm, self._foot)
            self.drawRightString(A4[0] - MARGIN, 12 * mm, f"Page {number} of {len(self._pages)}")
            super().showPage()
        super().save()


# --- parts ----------------------------------------------------------------------------------------------------------


def _paragraph(text: str, style: object) -> Paragraph:
    return Paragraph(markup(text), style)


def _list(items: Sequence[str], numbered: bool = False) -> list[Flowable]:
    return [
        Paragraph(markup(item), LIST, bulletText=f"{index}." if numbered else "•")
        for index, item in enumerate(items, start=1)
    ]


def _section(title: str, parts: Sequence[Flowable]) -> list[Flowable]:
    """A heading that stays with the first of its parts."""
    if not parts:
        return []
    return [KeepTogether([_paragraph(title, HEADING), parts[0]]), *parts[1:]]


def _conditions(report: Report) -> list[Flowable]:
    said = [f"• {markup(condition)}" for condition in report.metadata.conditions]
    lines = [f"<b>{escape(heading(report))}</b>", *said] if said else []
    if report.decision.fragile:
        lines.append("<b>Fragile choice.</b> The intervals do not settle which candidate is fastest.")
    if not lines:
        return []
    return [Table([[Paragraph("<br/>".join(lines), WARNING)]], colWidths=[WIDTH], style=warning_style()), Spacer(0, 8)]


# --- first page -----------------------------------------------------------------------------------------------------


def _simple(report: Report, view: SimpleView) -> list[Flowable]:
    parts: list[Flowable] = [
        _paragraph(f"Benchmark report  ·  {view.model}  ·  {view.created_at}", KICKER),
        _paragraph(view.headline, TITLE),
        _paragraph(view.summary, LEAD),
        *_conditions(report),
    ]
    if view.figures:
        if view.selected is None:
            parts.append(_paragraph(f"What comes nearest: {view.figures_of}", HEADING))
        parts.append(_key_figures(view))
    if view.selected:
        parts += _section("How sure is this?", [_sure(view)])
        parts += _section("What it changes", _changes(view))
    shown = overview_figure(report)
    parts += _figure(shown) if shown else []
    parts += _section("Before the model: decoding", [_paragraph(view.decoding, BODY)] if view.decoding else [])
    parts += _section("Through this platform's service", [_paragraph(view.service, BODY)] if view.service else [])
    parts += _section("Why", _list(view.why))
    parts += _section("Before you rely on it", _list(view.caveats))
    parts += _section("How to deploy it", _list(view.deployment_steps, numbered=True))
    return parts


def _sure(view: SimpleView) -> Paragraph:
    tone = SURE_TONES.get(view.sureness.level, COLOURS["ink"])
    return Paragraph(f"<font color='{tone}'><b>{view.sureness.title}.</b></font> {markup(view.sureness.text)}", BODY)


def _changes(view: SimpleView) -> list[Flowable]:
    """What serves now beside the choice."""
    parts: list[Flowable] = [_paragraph(view.serving, BODY)]
    if not view.changes:
        return parts
    head = [_paragraph("", HEAD_LEFT), *(_paragraph(name, HEAD_RIGHT) for name in ("Now", "Then"))]
    rows = [[*head, _paragraph("Difference", HEAD_APART)]]
    for change in view.changes:
        said = f"<font color='{CHANGE_TONES[change.tone]}'>{markup(change.text)}</font>"
        figures = (_paragraph(value, CELL_RIGHT) for value in (change.now, change.then))
        rows.append([_paragraph(change.label, CELL), *figures, Paragraph(said, CELL_APART)])
    widths = [80.0, 75.0, 75.0, WIDTH - 230.0]
    return [*parts, Table(rows, colWidths=widths, style=rows_style(()))]


def _key_figures(view: SimpleView) -> Table:
    width = WIDTH / len(view.figures)
    cells = [
        [
            _paragraph(item.label, MEANING),
            Paragraph(f"{markup(item.figure)} <font size='10'>{markup(item.unit)}</font>", FIGURE),
            _paragraph(item.meaning, MEANING),
        ]
        for item in view.figures
    ]
    return Table([cells], colWidths=[width] * len(cells), style=FIGURES)


# --- technical pages ------------------------------------------------------------------------------------------------


def _technical(report: Report, view: TechnicalView) -> list[Flowable]:
    return [
        *_section("How the choice was made", _list(view.reasons, numbered=True)),
        *[part for figure in figures(report) for part in _figure(figure)],
        *[part for table in view.tables for part in _table(table)],
        *_section("Not chosen, and why", _facts(view.passed_over)),
        *_section("Remarks", _facts(view.notes)),
        *_through_the_service(report, view),
        *_section("Method", _list(view.method)),
        *_section("Model, machine and order", _facts(view.facts)),
    ]


def _through_the_service(report: Report, view: TechnicalView) -> list[Flowable]:
    if not view.service:
        return []
    shown = service_figure(report)
    tables = [part for table in view.service_tables for part in _table(table)]
    return [*(_figure(shown) if shown else []), *tables, *_section("Remarks on the service", _facts(view.service))]


def _figure(figure: Figure) -> list[Flowable]:
    """The heading stays with the first panel, the caption with the last."""
    *others, last = figure.drawings
    ending = KeepTogether([last, _paragraph(figure.caption, CAPTION)])
    if not others:
        return [KeepTogether([_paragraph(figure.title, HEADING), last, _paragraph(figure.caption, CAPTION)])]
    first, *middle = [*others, ending]
    if first.height < KEY_HEIGHT and middle:
        start = [_paragraph(figure.title, HEADING), first, middle.pop(0)]
    else:
        start = [_paragraph(figure.title, HEADING), first]
    return [KeepTogether(start), *[part for panel in middle for part in (Spacer(0, 5), panel)]]


def _table(table: DataTable) -> list[Flowable]:
    first = _names_width([row.name for row in table.rows])
    width = (WIDTH - first) / len(table.columns)
    head = [_paragraph(table.of, HEAD_LEFT)] + [
        Paragraph("<br/>".join(markup(part) for part in column if part), HEAD_RIGHT) for column in table.columns
    ]
    rows = [
        [_paragraph(row.name, CELL_BOLD if row.selected else CELL), *(_cell(cell, row.selected) for cell in row.cells)]
        for row in table.rows
    ]
    chosen = [index for index, row in enumerate(table.rows, start=1) if row.selected]
    grid = Table(
        [head, *rows], colWidths=[first, *[width] * len(table.columns)], repeatRows=1, style=rows_style(chosen)
    )
    parts = [_paragraph(table.title, SUBHEADING), grid, *([_paragraph(table.note, CAPTION)] if table.note else [])]
    if len(rows) <= KEPT_TOGETHER:
        return [KeepTogether(parts)]
    return [CondPageBreak(110), *parts]


def _names_width(names: Sequence[str]) -> float:
    """Wide enough for the longest name, within reason."""
    return min(190.0, max([stringWidth(name, BOLD, 8.5) + 10 for name in names], default=0.0))


def _cell(cell: Cell, selected: bool) -> Paragraph:
    text = markup(cell.text)
    if cell.tone:
        text = f"<font color='{TONES[cell.tone]}'>{text}</font>"
    if cell.detail:
        text += f"<br/><font name='Helvetica' size='7' color='#5b6673'>{markup(cell.detail)}</font>"
    return Paragraph(text, CELL_RIGHT_BOLD if selected else CELL_RIGHT)


def _facts(facts: Sequence[Fact]) -> list[Flowable]:
    """One table a line, so that a long list breaks between pages."""
    first = max(80.0, _names_width([fact.label for fact in facts]))
    return [
        Table(
            [[_paragraph(fact.label, SMALL_MUTED), _paragraph(fact.text, CELL)]],
            colWidths=[first, WIDTH - first],
            style=FACTS,
        )
        for fact in facts
    ]
