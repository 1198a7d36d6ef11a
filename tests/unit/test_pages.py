"""Lists in pages: no row is lost or repeated while others come, and no filter reads rows that it does not show."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.db import accounts, benchmarks, connection, datasets, jobs, registry, tables
from shared.db.pages import Page
from shared.specs import ConvertSpec, Stored

Listing = Callable[..., Page[Any]]


@pytest.fixture(scope="module", autouse=True)
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    path = tmp_path_factory.mktemp("pages") / "pages.db"
    connection.migrate(path)
    connection.open_db(path)
    accounts.add_user("ada", "unusable", "engineer")
    yield
    connection.database.close()


def new_model(status: str) -> str:
    ada = accounts.by_name("ada")
    assert ada is not None
    stored = Stored(sha256=hashlib.sha256(b"one").hexdigest(), size_bytes=3)
    with connection.write():
        model_id = registry.add_model(stored, ada[0].id, name="m", framework="onnx", task_type="classification")
        if status == "failed":
            tables.Model.update(status=status, error="broken").where(tables.Model.id == model_id).execute()
    return model_id


def new_job(status: str) -> str:
    ada = accounts.by_name("ada")
    assert ada is not None
    with connection.write():
        job_id = jobs.insert("convert", ConvertSpec(model_id="mdl"), user_id=ada[0].id)
        if status == "failed":
            ended = {"status": status, "error": "broken", "finished_at_ms": 1}
            tables.Job.update(**ended).where(tables.Job.id == job_id).execute()
    return job_id


KINDS = {
    "models": (registry.models, new_model, tables.Model, "converting"),
    "jobs": (jobs.listing, new_job, tables.Job, "queued"),
}


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    present=st.lists(st.booleans(), max_size=12),
    limit=st.integers(1, 5),
    arriving=st.lists(st.lists(st.booleans(), max_size=3), max_size=13),
    failed_only=st.booleans(),
)
def test_pages_lose_and_repeat_nothing_while_rows_come(
    kind: str, present: list[bool], limit: int, arriving: list[list[bool]], failed_only: bool
) -> None:
    listing, new, table, other = KINDS[kind]
    with connection.write():
        tables.JobEvent.delete().execute()
        table.delete().execute()
    there = {new("failed" if failed else other): failed for failed in present}
    wanted = {"status": "failed"} if failed_only else {}
    comings = iter(arriving)
    seen: list[str] = []
    cursor = None
    while True:
        page = listing(limit=limit, cursor=cursor, **wanted)
        assert 0 < len(page.rows) <= limit or not seen
        seen += [row.id for row in page.rows]
        cursor = page.next_cursor
        if cursor is None:
            break
        for failed in next(comings, []):
            new("failed" if failed else other)
    assert len(set(seen)) == len(seen)
    shown = {row for row, failed in there.items() if failed or not failed_only}
    assert [row for row in seen if row in there] == sorted(shown, reverse=True)  # one that came may be among them


@pytest.mark.parametrize(
    ("listing", "wanted"),
    [
        (registry.models, {}),
        (registry.models, {"status": "failed"}),
        (registry.models, {"name": "m"}),
        (registry.models, {"task_type": "detection"}),
        (datasets.listing, {}),
        (datasets.listing, {"status": "failed"}),
        (datasets.listing, {"name": "d"}),
        (datasets.listing, {"task_type": "detection"}),
        (jobs.listing, {}),
        (jobs.listing, {"status": "failed"}),
        (jobs.listing, {"kind": "report"}),
        (jobs.listing, {"kind": "report", "status": "failed"}),
        (benchmarks.reports, {}),
        (benchmarks.reports, {"model_id": "mdl_1"}),
        (benchmarks.listing, {}),
        (benchmarks.listing, {"status": "failed"}),
    ],
    ids=str,
)
@pytest.mark.parametrize("cursor", [None, "0123456789abcdef012345"])
def test_every_filter_has_an_index_in_the_order_of_its_list(
    listing: Listing, wanted: dict[str, str], cursor: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = {registry.models: "mdl", datasets.listing: "dst", benchmarks.reports: "rep"}.get(listing, "job")
    plans = []
    run = connection.database.execute_sql

    def explained(sql: str, params: Any = None) -> Any:
        plans.extend(row[3] for row in run(f"EXPLAIN QUERY PLAN {sql}", params))
        return run(sql, params)

    monkeypatch.setattr(connection.database.obj, "execute_sql", explained)
    listing(limit=50, cursor=f"{prefix}_{cursor}" if cursor else None, **wanted)
    assert plans
    assert not any("TEMP B-TREE" in step for step in plans), plans
    if wanted:
        assert not any(step.startswith("SCAN") for step in plans), plans


def test_stored_rows_are_what_the_database_holds() -> None:
    job_id = new_job("queued")
    row = jobs.find(job_id)
    peewees = tables.Job.get_by_id(job_id)
    assert row._fields == tuple(tables.Job._meta.sorted_field_names)
    assert (row.spec, row.cancel_requested) == ('{"input_shape":null,"model_id":"mdl"}', 0)
    plain = [name for name in row._fields if name not in ("spec", "progress", "cancel_requested")]
    assert all(getattr(row, name) == getattr(peewees, name) for name in plain)
    assert jobs.listing(limit=1, cursor=None).rows[0].id == job_id
