"""Bodies made to hurt: cut off half-way, or wrong in so many places that the refusal outgrows them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway import bodies, exchange
from gateway.errors import BodyTooSlow
from gateway.routes.auth import LOGIN_BYTES
from gateway.schemas import ModelForm, NewKey, NewUser
from shared import errors, wording
from shared.db import connection
from tests.unit.gateway_kit import Conversation, context_at, converse, new_key


@pytest.fixture
def refusal() -> Iterator[list[dict[str, str]]]:
    wrong = {"x" * 5000 + str(number): 1 for number in range(1000)}
    with pytest.raises(errors.InvalidInput) as refused:
        bodies.decode(msgspec.json.encode(wrong), NewKey)
    yield refused.value.errors or []


def test_a_refusal_lists_so_many_fields_and_no_more(refusal: list[dict[str, str]]) -> None:
    assert [item["field"] for item in refusal[: bodies.MISFITS]] == ["x" * wording.SHOWN] * bodies.MISFITS
    assert refusal[bodies.MISFITS] == {"field": "body", "message": "and 980 more, not looked at"}
    assert [item["field"] for item in refusal[bodies.MISFITS + 1 :]] == ["name"]


def test_of_a_huge_body_the_first_thing_wrong_is_told_and_nothing_else_looked_at() -> None:
    """Taking millions of fields apart would hold everybody up."""
    wrong = msgspec.json.encode({"x" + str(number): 1 for number in range(bodies.DISSECTED + 1)})
    with pytest.raises(errors.InvalidInput) as refused:
        bodies.decode(wrong, NewKey)
    assert [item["field"] for item in refused.value.errors or []] == ["x0"]


def test_a_client_that_leaves_within_a_body_is_no_failure(
    db_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    headers = {"content-type": "application/json", "content-length": "100"}
    talk = Conversation("POST", "/api/v1/auth/api-keys", new_key("eve", "engineer"), headers)
    talk.say(b'{"name"', more=True)
    talk.leave()
    with caplog.at_level(logging.INFO):
        converse(context_at(tmp_path), talk)
    assert talk.status == 499
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


class Clock:
    """Time that passes only where a client lets us wait."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s

    perf_counter = monotonic


def sent_before_the_end(monkeypatch: pytest.MonkeyPatch, sizes: Iterator[int], every_s: float = 1.0) -> int:
    """Bytes taken of a body whose parts, of these sizes, come every `every_s`, until it is refused or complete."""
    clock, taken = Clock(), 0
    monkeypatch.setattr(exchange, "time", clock)

    async def receive() -> Any:
        await asyncio.sleep(0)
        clock.now_s += every_s
        size = next(sizes, 0)
        return {"type": "http.request", "body": b"x" * size, "more_body": size > 0}

    async def send(_: Any) -> None:
        raise AssertionError("nothing is answered here")

    async def take() -> int:
        nonlocal taken
        headers = [(b"content-length", b"1000000000")]
        scope: Any = {"type": "http", "method": "POST", "path": "/", "headers": headers, "state": {}}
        talk = exchange.Exchange(scope, receive, send)
        with contextlib.suppress(BodyTooSlow):
            while (message := await talk.receive())["more_body"]:
                taken += len(message["body"])
        return taken

    return asyncio.run(take())


def test_a_dripping_body_is_refused_when_patience_is_used_up(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sent_before_the_end(monkeypatch, itertools.repeat(1)) <= exchange.BODY_PATIENCE_S + 1
    under = exchange.BODY_BYTES_PER_S // 2
    assert sent_before_the_end(monkeypatch, itertools.repeat(under)) < 2.1 * exchange.BODY_PATIENCE_S * under


def test_a_quick_start_buys_no_time_for_dripping(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = 2**20
    sizes = itertools.chain([quick], itertools.repeat(1))
    assert sent_before_the_end(monkeypatch, sizes) <= quick + exchange.BODY_PATIENCE_S + 1


@pytest.mark.parametrize(("size", "every_s"), [(32_000, 1.0), (8_192, 1.0), (640_000, 20.0)])
def test_a_slow_and_honest_link_gets_its_upload_through(
    monkeypatch: pytest.MonkeyPatch, size: int, every_s: float
) -> None:
    assert sent_before_the_end(monkeypatch, itertools.repeat(size, 1000), every_s) == 1000 * size


def test_nobody_without_credentials_gets_a_large_body_read(db_file: Path, tmp_path: Path) -> None:
    for headers in ({"content-length": "1000000"}, {"transfer-encoding": "chunked"}):
        talk = Conversation("POST", "/api/v1/auth/login", "", {"content-type": "application/json", **headers})
        talk.say(b'{"username": "' + b"a" * LOGIN_BYTES, more=True)
        talk.say(b"a" * LOGIN_BYTES, more=False)
        converse(context_at(tmp_path), talk)
        assert talk.status == 413


def test_a_full_disk_is_called_by_its_name(db_file: Path) -> None:
    with connection.read():
        pages = connection.database.execute_sql("PRAGMA page_count").fetchone()[0]
        connection.database.execute_sql(f"PRAGMA max_page_count={pages}")
    with pytest.raises(errors.Unavailable, match="full"), connection.write():
        connection.database.execute_sql("CREATE TABLE filler AS SELECT randomblob(1000000) AS data")


def test_the_first_failure_is_told_where_the_rollback_fails_too(db_file: Path) -> None:
    with pytest.raises(errors.Unavailable, match="no such table: nowhere"), connection.write():
        connection.database.execute_sql("ROLLBACK")  # as SQLite does by itself on a full disk
        connection.database.execute_sql("SELECT * FROM nowhere")


@pytest.mark.parametrize(
    "bad", ["\n", "\0", "\x1b[2J", "\r", "\x85", "\u061c", "\u200f", "\u202e", "\u2066", "\u2028", "\x7f"]
)
@pytest.mark.parametrize("text", ["eve{}", "e{}ve", "{}eve"])
def test_names_have_no_characters_that_nobody_sees(bad: str, text: str) -> None:
    name = text.format(bad)
    user, model = {"password": "correct horse battery", "role": "viewer"}, {"task_type": "classification"}
    labelled = model | {"name": "digits"}
    for shape, others, field in (
        (NewKey, {}, "name"),
        (NewUser, user, "username"),
        (ModelForm, model, "name"),
        (ModelForm, labelled, "labels"),
    ):
        good, bad_value = (["eve"], [name]) if field == "labels" else ("eve", name)
        bodies.decode(msgspec.json.encode(others | {field: good}), shape)
        with pytest.raises(errors.InvalidInput) as refused:
            bodies.decode(msgspec.json.encode(others | {field: bad_value}), shape)
        (wrong,) = refused.value.errors or []
        assert wrong["field"].startswith(field)
        assert "control characters" in wrong["message"] or "letters, digits" in wrong["message"]


def test_a_description_may_have_lines_but_no_escapes() -> None:
    def described(text: str) -> ModelForm:
        form = {"name": "Größe 模型 👩‍🔬", "task_type": "classification", "description": text}
        return bodies.decode(msgspec.json.encode(form), ModelForm)

    assert described("one\r\n\ttwo\n").description == "one\r\n\ttwo\n"
    for bad in ("\0", "a\x1b[2J\n", "\u202e", "a\x9b"):
        with pytest.raises(errors.InvalidInput):
            described(bad)
