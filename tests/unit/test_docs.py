"""The documentation against the code: nothing undocumented, nothing named that is gone."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import click
import pytest

from console.cli import main as cvp
from tests import reference

ROOT = reference.ROOT
REMEDY = "run `.venv/bin/python -m tests.reference` and read what it changed"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])
LINK = re.compile(r"(?<!`)\[[^\]]*\]\((?P<target>[^)\s]+)\)")
CODE = re.compile(r"```.*?\n(?P<block>.*?)```|`(?P<inline>[^`\n]+)`", re.DOTALL)
MAKE = re.compile(r"(?:^|[\s;&(])make ([a-z-]+)")
CVP = re.compile(r"(?:^|[\s;&(]|bin/)cvp ([a-z]+)")


def named(page: Path) -> Path:
    return page.relative_to(ROOT)


def pieces_of_code(page: Path) -> str:
    pieces = "\n".join(found["block"] or found["inline"] for found in CODE.finditer(page.read_text()))
    return re.sub(r"(?m)(?:^|\s)#.*$", "", pieces)  # a shell's comments are prose


@pytest.mark.parametrize("name", ["settings", "error codes", "calls", "jobs"])
def test_the_reference_is_what_the_code_says(name: str) -> None:
    rows = reference.tables()[name]
    assert rows
    assert reference.written(reference.PAGE.read_text(), name) == rows, REMEDY


def test_every_setting_and_error_says_what_it_means() -> None:
    for row in [*reference.settings(), *reference.error_codes(), *reference.jobs(), *reference.routes()]:
        cells = [cell.strip() for cell in row.strip("|").split(" | ")]
        assert len(cells[-1]) > 5, row


def test_rewriting_repairs_what_was_changed_by_hand() -> None:
    page = reference.PAGE.read_text()
    spoilt = page.replace("| 1 to 65535 |", "| any |").replace("`unauthorized`", "`gone`")
    assert spoilt != page
    assert reference.rewritten(spoilt) == page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(named(page)))
def test_links_lead_somewhere(page: Path) -> None:
    for found in LINK.finditer(page.read_text()):
        target, _, anchor = found["target"].partition("#")
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        other = (page.parent / target).resolve() if target else page
        assert other.exists(), f"{named(page)}: {found['target']}"
        assert not anchor or anchor in anchors(other), f"{named(page)}: {found['target']}"


def anchors(page: Path) -> set[str]:
    """The headings of a page as they are linked to."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(named(page)))
def test_commands_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert isinstance(cvp, click.Group)
    code = pieces_of_code(page)
    assert {f"make {target}" for target in MAKE.findall(code)} <= {f"make {target}" for target in targets}
    assert {f"cvp {command}" for command in CVP.findall(code)} <= {f"cvp {command}" for command in cvp.commands}


def test_every_command_and_target_is_told() -> None:
    """What a person can type stands in the README, the runbook or the page for contributors."""
    told = "\n".join(pieces_of_code(ROOT / name) for name in ("README.md", "CONTRIBUTING.md", "docs/RUNBOOK.md"))
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE)) - {"help", "clean"}
    assert isinstance(cvp, click.Group)
    assert targets <= set(MAKE.findall(told))
    missing = {name for name in cvp.commands if not re.search(rf"\b{name}\b", told)}
    assert not missing


REQUIREMENTS = ROOT / "docs" / "requirements.md"
COUNTS = {
    **{f"FR{number}": count for number, count in enumerate((4, 3, 4, 4, 4, 4, 4, 4, 4), start=1)},
    **{f"NFR{number}": count for number, count in enumerate((4, 3, 4, 4, 4, 3), start=1)},
    **{f"AC{number}": count for number, count in enumerate((6, 5, 5, 5, 5, 5, 5, 5, 4, 4, 4, 4), start=1)},
    **{f"T{number}": count for number, count in enumerate((6, 4, 6, 2, 1, 3, 2, 3), start=1)},
}
"""How many items each group has: FR1 to FR9, NFR1 to NFR6, AC1 to AC12, T1 to T8."""
LISTS = {"INV": 8, "C": 9, "A": 9, "SC": 12, "W": 13}
HOSTILE = ("H16–30", "H31–36", "H37–39", "H40–47", "H48", "H49–55", "H56–59", "H60–64", "H65", "H70", "H71")
ASKED_FOR = {
    *HOSTILE,
    *(f"{group}.{number}" for group, count in COUNTS.items() for number in range(1, count + 1)),
    *(f"{prefix}{number}" for prefix, count in LISTS.items() for number in range(1, count + 1)),
}


def requirements() -> list[list[str]]:
    """The rows of the page: id, what, where it stands, proof."""
    rows = [line.strip("| ").split(" | ") for line in REQUIREMENTS.read_text().splitlines() if line.startswith("| ")]
    return [row for row in rows if row[0] != "id"]


def names_in(file: Path) -> set[str]:
    """The tests of a file by name, those of a class as `TestX::test_y`."""
    names = set()
    for node in ast.parse(file.read_text()).body:
        inside = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}::" if isinstance(node, ast.ClassDef) else ""
        names |= {prefix + item.name for item in inside if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)}
    return {name for name in names if name.rpartition("::")[2].startswith("test_")}


def test_everything_asked_for_has_one_row() -> None:
    found = [row[0] for row in requirements()]
    promised = [name for name in found if re.fullmatch(r"P\d+", name)]
    assert promised == [f"P{number}" for number in range(1, len(promised) + 1)]
    assert sorted(set(found) - set(promised)) == sorted(ASKED_FOR)
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("row", requirements(), ids=lambda row: row[0])
def test_a_requirement_is_proved_or_said_to_come_later(row: list[str]) -> None:
    assert len(row) == 4, row
    _, what, stands, proof = row
    assert what and stands
    named, later = re.findall(r"`(tests/[\w/]+\.py)::([\w:]+)`", proof), re.search(r"later: \w+", proof)
    assert named or later
    assert not re.search(r"#\d|issue", proof)
    for file, name in named:
        assert (ROOT / file).is_file(), file
        assert name in names_in(ROOT / file), f"{file}::{name}"
