"""The styles of the printed report."""

from __future__ import annotations

from collections.abc import Sequence

from reportlab.lib.enums import TA_RIGHT
from reportlab.lib.styles import ParagraphStyle
from reportlab.pdfbase.pdfmetrics import registerFont
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.platypus import TableStyle

from reporter.shapes import BOLD, COLOURS, FONT, PAINTS

SIGNS = "Vera"
"""Bitstream Vera, which comes with ReportLab."""
registerFont(TTFont(SIGNS, "Vera.ttf"))

INK, MUTED, GRID, BAND = PAINTS["ink"], PAINTS["muted"], PAINTS["grid"], PAINTS["band"]
ACCENT = "#0b5cad"
TONES = {"pass": "#00694c", "fail": "#b3261e", "inconclusive": "#8a4b00", "not_measured": COLOURS["muted"]}


def _style(name: str, size: float, **more: object) -> ParagraphStyle:
    leading = more.pop("leading", size * 1.35)
    return ParagraphStyle(name, fontName=FONT, fontSize=size, leading=leading, textColor=INK, **more)


TITLE = _style("title", 24, leading=29, spaceAfter=4).clone("title", fontName=BOLD)
KICKER = _style("kicker", 9).clone("kicker", textColor=MUTED, spaceAfter=5)
LEAD = _style("lead", 11.5, leading=16, spaceAfter=10)
HEADING = _style("heading", 13, spaceBefore=16, spaceAfter=5).clone("heading", fontName=BOLD)
SUBHEADING = _style("subheading", 10, spaceBefore=13, spaceAfter=4).clone("subheading", fontName=BOLD)
BODY = _style("body", 9.5, leading=13.2, spaceAfter=3)
LIST = _style("list", 9.5, leading=13.2, leftIndent=15, bulletIndent=2, spaceAfter=3)
FIGURE = _style("figure", 22, leading=28).clone("figure", fontName=BOLD)
MEANING = _style("meaning", 8.5, leading=11.5).clone("meaning", textColor=MUTED)
CAPTION = _style("caption", 8, spaceBefore=3).clone("caption", textColor=MUTED)
WARNING = _style("warning", 9.5, leading=13.2)
CELL = _style("cell", 8.5, leading=11)
CELL_BOLD = CELL.clone("cell bold", fontName=BOLD)
CELL_RIGHT = CELL.clone("cell right", alignment=TA_RIGHT)
CELL_RIGHT_BOLD = CELL_RIGHT.clone("cell right bold", fontName=BOLD)
HEAD_LEFT = CELL.clone("head", fontName=BOLD, fontSize=8, textColor=MUTED, leading=10)
CELL_APART = CELL.clone("cell apart", leftIndent=16)
HEAD_APART = HEAD_LEFT.clone("head apart", leftIndent=16)
HEAD_RIGHT = HEAD_LEFT.clone("head right", alignment=TA_RIGHT)
SMALL_MUTED = CELL.clone("small muted", textColor=MUTED)

FIGURES = TableStyle(
    [
        ("VALIGN", (0, 0), (-1, -1), "TOP"),
        ("LINEABOVE", (0, 0), (-1, 0), 2, ACCENT),
        ("LEFTPADDING", (0, 0), (-1, -1), 0),
        ("RIGHTPADDING", (0, 0), (-1, -1), 14),
        ("TOPPADDING", (0, 0), (-1, -1), 6),
    ]
)
FACTS = TableStyle(
    [
        ("VALIGN", (0, 0), (-1, -1), "TOP"),
        ("LEFTPADDING", (0, 0), (0, -1), 0),
        ("RIGHTPADDING", (-1, 0), (-1, -1), 0),
        ("TOPPADDING", (0, 0), (-1, -1), 1),
        ("BOTTOMPADDING", (0, 0), (-1, -1), 2),
    ]
)


def rows_style(chosen: Sequence[int]) -> TableStyle:
    """A table of candidates: hairlines between rows, the chosen one tinted."""
    return TableStyle(
        [
            ("VALIGN", (0, 0), (-1, -1), "TOP"),
            ("VALIGN", (0, 0), (-1, 0), "BOTTOM"),
            ("LINEBELOW", (0, 0), (-1, 0), 0.8, MUTED),
            ("LINEBELOW", (0, 1), (-1, -1), 0.4, GRID),
            ("LEFTPADDING", (0, 0), (-1, -1), 4),
            ("RIGHTPADDING", (0, 0), (-1, -1), 4),
            ("TOPPADDING", (0, 0), (-1, -1), 3),
            ("BOTTOMPADDING", (0, 0), (-1, -1), 4),
            *(("BACKGROUND", (0, row), (-1, row), BAND) for row in chosen),
        ]
    )


def warning_style() -> TableStyle:
    """A box for what qualifies the whole run."""
    return TableStyle(
        [
            ("BACKGROUND", (0, 0), (-1, -1), "#fff4e0"),
            ("LINEBEFORE", (0, 0), (0, -1), 3, "#e0a030"),
            ("LEFTPADDING", (0, 0), (-1, -1), 9),
            ("TOPPADDING", (0, 0), (-1, -1), 6),
            ("BOTTOMPADDING", (0, 0), (-1, -1), 7),
        ]
    )
