"""The documentation against the code: nothing undocumented, nothing named that is gone."""

from __future__ import annotations

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
MAKE = re.compile(r"(?:^|[\s;&(])make ([a-z]+)")
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
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert isinstance(cvp, click.Group)
    code = pieces_of_code(page)
    assert {f"make {target}" for target in MAKE.findall(code)} <= {f"make {target}" for target in targets}
    assert {f"cvp {command}" for command in CVP.findall(code)} <= {f"cvp {command}" for command in cvp.commands}


def test_every_command_and_target_is_told() -> None:
    """What a person can type stands in the README, the runbook or the page for contributors."""
    told = "\n".join(pieces_of_code(ROOT / name) for name in ("README.md", "CONTRIBUTING.md", "docs/RUNBOOK.md"))
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):.*## ", makefile, re.MULTILINE)) - {"help", "clean"}
    assert isinstance(cvp, click.Group)
    assert targets <= set(MAKE.findall(told))
    missing = {name for name in cvp.commands if not re.search(rf"\b{name}\b", told)}
    assert not missing
