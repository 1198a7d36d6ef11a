"""Bodies made to hurt: cut off half-way, or wrong in so many places that the refusal outgrows them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from gateway import bodies
from gateway.schemas import ModelForm, NewKey, NewUser
from shared import errors
from shared.db import connection
from tests.unit.gateway_kit import Conversation, context_at, converse, new_key


@pytest.fixture
def refusal() -> Iterator[list[dict[str, str]]]:
    wrong = {"x" * 5000 + str(number): 1 for number in range(1000)}
    with pytest.raises(errors.InvalidInput) as refused:
        bodies.decode(msgspec.json.encode(wrong), NewKey)
    yield refused.value.errors or []


def test_a_refusal_lists_so_many_fields_and_no_more(refusal: list[dict[str, str]]) -> None:
    assert [item["field"] for item in refusal[: bodies.MISFITS]] == ["x" * bodies.SHOWN] * bodies.MISFITS
    assert refusal[bodies.MISFITS] == {"field": "body", "message": "and 980 more, not looked at"}
    assert [item["field"] for item in refusal[bodies.MISFITS + 1 :]] == ["name"]


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


@pytest.mark.parametrize("bad", ["\n", "\0", "\x1b[2J", "\r", "\x85", "\u202e", "\u2066", "\u2028", "\x7f"])
@pytest.mark.parametrize("text", ["eve{}", "e{}ve", "{}eve"])
def test_names_have_no_characters_that_nobody_sees(bad: str, text: str) -> None:
    name = text.format(bad)
    user, model = {"password": "correct horse battery", "role": "viewer"}, {"task_type": "classification"}
    for shape, others, field in ((NewKey, {}, "name"), (NewUser, user, "username"), (ModelForm, model, "name")):
        bodies.decode(msgspec.json.encode(others | {field: "eve"}), shape)
        with pytest.raises(errors.InvalidInput) as refused:
            bodies.decode(msgspec.json.encode(others | {field: name}), shape)
        (wrong,) = refused.value.errors or []
        assert wrong["field"] == field
        assert "control characters" in wrong["message"] or "letters, digits" in wrong["message"]


def test_a_description_may_have_lines_but_no_escapes() -> None:
    def described(text: str) -> ModelForm:
        form = {"name": "Größe 模型 👩‍🔬", "task_type": "classification", "description": text}
        return bodies.decode(msgspec.json.encode(form), ModelForm)

    assert described("one\r\n\ttwo\n").description == "one\r\n\ttwo\n"
    for bad in ("\0", "a\x1b[2J\n", "\u202e", "a\x9b"):
        with pytest.raises(errors.InvalidInput):
            described(bad)
