"""The tables of docs/REFERENCE.md, made from the code: `python -m tests.reference` writes them anew."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any, get_args

import msgspec

from gateway.access import TABLE
from gateway.app import create_app
from gateway.errors import BodyTooSlow, CsrfRefused, MethodNotAllowed, OriginRefused, UpgradeRequired
from shared import config, errors
from shared.specs import LANE_OF, JobKind
from tests.unit.gateway_kit import context_at

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "REFERENCE.md"
CARRIED_OUT_BY = {
    "cpu": "a preparer",
    "report": "the reporter",
    "train": "a trainer",
    "trial": "a trainer",
    "measure": "a trainer",
    "search": "the coordinator",
    "benchmark": "a benchmarker",
}
"""By kind, or by lane where one service works it."""


def settings() -> list[str]:
    """A row for each setting: name, default, what is allowed, meaning."""
    rows = []
    for field in msgspec.structs.fields(config.Settings):
        name = field.encode_name
        default = f"`{msgspec.to_builtins(field.default)}`" if field.default != "" else ""
        rows.append(
            _row(f"`{name}`", default.lower(), allowed(msgspec.inspect.type_info(field.type)), config.describe(name))
        )
    return rows


def allowed(kind: Any) -> str:
    """The values of a setting, in words."""
    match kind:
        case msgspec.inspect.Metadata():
            return allowed(kind.type)
        case msgspec.inspect.LiteralType():
            return " ".join(f"`{value}`" for value in sorted(kind.values))
        case msgspec.inspect.BoolType():
            return "`true` `false`"
        case msgspec.inspect.IntType() | msgspec.inspect.FloatType():
            least = f"over {kind.gt}" if kind.gt is not None else f"{kind.ge}"
            return f"{least} to {kind.le}"
        case msgspec.inspect.StrType():
            return "text"
    raise TypeError(f"say in words what {kind} allows")


def error_codes() -> list[str]:
    """A row for each error code: code, HTTP status, whether trying again helps, meaning."""
    known = sorted(
        {*errors.BY_CODE.values(), BodyTooSlow, CsrfRefused, MethodNotAllowed, OriginRefused, UpgradeRequired},
        key=lambda error: (error.status, error.code),
    )
    return [
        _row(f"`{error.code}`", str(error.status), "yes" if error.retryable else "", _first_line(error))
        for error in known
    ]


def routes() -> list[str]:
    """A row for each call: method and path, least role, what it does (the first sentence of its description)."""
    with tempfile.TemporaryDirectory() as folder:
        paths = create_app(context_at(Path(folder))).openapi_schema.to_schema()["paths"]
    return [
        _row(f"`{method} {path}`", role, paths.get(path, {}).get(method.lower(), {}).get("summary", "this description"))
        for (method, path), role in TABLE.items()
    ]


def jobs() -> list[str]:
    """A row for each kind of job: kind, lane, who carries it out."""
    return [
        _row(f"`{kind}`", f"`{LANE_OF[kind]}`", CARRIED_OUT_BY.get(kind) or CARRIED_OUT_BY[LANE_OF[kind]])
        for kind in get_args(JobKind)
    ]


def tables() -> dict[str, list[str]]:
    """All of it, by the name of its table."""
    return {"settings": settings(), "error codes": error_codes(), "calls": routes(), "jobs": jobs()}


def written(page: str, name: str) -> list[str]:
    """The rows that stand on the page between the marks of that table, without its heading."""
    found = _between(name).search(page)
    return found["rows"].splitlines() if found else []


def rewritten(page: str) -> str:
    """The page with every table as the code says."""
    for name, rows in tables().items():
        text = "".join(f"{row}\n" for row in rows)
        page = _between(name).sub(lambda found, text=text: found["head"] + text + found["end"], page)
    return page


def _between(name: str) -> re.Pattern[str]:
    begin, end = f"<!-- {name}: made by tests/reference.py -->\n", f"<!-- end of {name} -->"
    return re.compile(rf"(?P<head>{re.escape(begin)}(?:.*\n){{2}})(?P<rows>(?:\|.*\n)*)(?P<end>{re.escape(end)})")


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _first_line(error: type[errors.AppError]) -> str:
    if error is errors.AppError:
        return "Nobody foresaw this failure; the log has it under the request id."
    return (error.__doc__ or "").strip().splitlines()[0]


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text()))
