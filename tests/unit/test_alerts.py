"""Alerts: when they are due, raised and cleared; rows, events and e-mail to a real mail server."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from gateway import mail
from gateway.alerts import CLEAR_AFTER_S, Standing, Watch, due
from gateway.context import Context
from gateway.host import Disk, HostFigures, Service
from gateway.mail import Post
from gateway.monitor import OURS, Minute, View, minute
from gateway.tally import Tally
from shared import config, errors
from shared.config import BadSetting
from shared.db import alerts, connection, jobs
from shared.db.tables import Alert
from shared.wire.messages import LoadedModel, Status
from tests.conftest import eventually
from tests.unit.gateway_kit import FakeBroker, Feed, Gateway, fields_of, fresh_gateway_at

RULES = Path(__file__).parents[2] / "deploy" / "prometheus" / "alerts.yml"
SETTINGS = config.load({"MAX_QUEUED_JOBS": "10"})


def quiet() -> Minute:
    mark = Tally().mark(0.0, OURS)
    return minute(mark, mark._replace(at_s=60.0))


def view(**changes: Any) -> View:
    disk = Disk(free_bytes=100, size_bytes=1000)
    host = HostFigures(
        cores=2, cpu_pct=0, memory_bytes=1, memory_available_bytes=1, disks={"models": disk}, services={}
    )
    return msgspec.structs.replace(View(host=host, gpus=None, jobs=[]), **changes)


def lane(**changes: Any) -> Status:
    status = FakeBroker().status()[0]
    assert status is not None
    return msgspec.structs.replace(status, **changes)


def serving(problem: str) -> Status:
    model = LoadedModel(
        model_id="m", engine="onnxruntime", precision="fp32", batch_size=1, memory_mb=1.0, problem=problem
    )
    return lane(workers=[msgspec.structs.replace(worker, models=[model]) for worker in FakeBroker().workers])


def waiting(count: int) -> list[jobs.Count]:
    return [
        jobs.Count(kind="benchmark", status="queued", jobs=count),
        jobs.Count(kind="report", status="running", jobs=9),
    ]


def full_disk() -> HostFigures:
    return msgspec.structs.replace(view().host, disks={"models": Disk(free_bytes=99, size_bytes=1000)})


def locked_disk() -> HostFigures:
    locked = Disk(free_bytes=100, size_bytes=1000, writable=False)
    return msgspec.structs.replace(view().host, disks={"models": locked})


def without(service: str) -> HostFigures:
    """A machine on which one service of ours has no process."""
    there = Service(processes=2, memory_bytes=1, cpu_s=1.0, cpu_pct=0.0)
    services = dict.fromkeys(("gateway", "preparer", "trainer", "benchmarker", "reporter"), there)
    return msgspec.structs.replace(
        view().host, services=services | {service: msgspec.structs.replace(there, processes=0)}
    )


def last(**changes: Any) -> Minute:
    return msgspec.structs.replace(quiet(), **changes)


# --- decisions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "at_its_limit", "over_it"),
    [
        ("NoInferenceWorker", (view(), quiet(), lane()), (view(), quiet(), lane(workers=[]))),
        ("NoInferenceWorker", (view(), quiet(), lane()), (view(), quiet(), None)),
        ("WorkerFlapping", (view(), last(workers_lost=2), lane()), (view(), last(workers_lost=3), lane())),
        ("InferenceQueueFull", (view(), quiet(), lane(depth=999)), (view(), quiet(), lane(depth=1000))),
        ("InferenceQueueFull", (view(), quiet(), lane()), (view(), last(refused_full=1), lane())),
        ("DeploymentStale", (view(), quiet(), lane()), (view(stale=[("digits", "It changed.")]), quiet(), lane())),
        ("DeploymentRefused", (view(), quiet(), serving("")), (view(), quiet(), serving("It cannot serve."))),
        ("JobQueueFull", (view(jobs=waiting(9)), quiet(), lane()), (view(jobs=waiting(10)), quiet(), lane())),
        (
            "ErrorRate",
            (view(), last(http_failed=5, http_error_rate=0.05), lane()),
            (view(), last(http_failed=5, http_error_rate=0.051), lane()),
        ),
        (
            "ErrorRate",
            (view(), last(http_failed=4, http_error_rate=1.0), lane()),
            (view(), last(http_failed=5, http_error_rate=1.0), lane()),
        ),
        ("DatabaseErrors", (view(), quiet(), lane()), (view(), last(database_errors=1), lane())),
        ("DatabaseErrors", (view(), quiet(), lane()), (view(jobs=None), quiet(), lane())),
        ("DiskLow", (view(), quiet(), lane()), (view(host=full_disk()), quiet(), lane())),
        ("EmailFailing", (view(), quiet(), lane()), (view(), last(email_failure="refused"), lane())),
        ("NoJobWorker", (view(), quiet(), lane()), (view(host=without("benchmarker")), quiet(), lane())),
        ("DiskReadOnly", (view(), quiet(), lane()), (view(host=locked_disk()), quiet(), lane())),
    ],
)
def test_what_is_due(name: str, at_its_limit: tuple[Any, ...], over_it: tuple[Any, ...]) -> None:
    assert due(*at_its_limit, SETTINGS) == {}
    assert list(due(*over_it, SETTINGS)) == [name]


def test_prometheus_knows_the_same_alerts() -> None:
    both = re.findall(r"- alert: (\w+)(?:(?!- alert:).)*platform: raised", RULES.read_text(), re.DOTALL)
    disks = full_disk().disks | {"reports": locked_disk().disks["models"]}
    bad = view(
        jobs=waiting(10),
        stale=[("digits", "It changed.")],
        host=msgspec.structs.replace(without("preparer"), disks=disks),
    )
    minute_ = last(
        workers_lost=3, refused_full=1, http_failed=9, http_error_rate=0.9, database_errors=1, email_failure="no"
    )
    found = due(bad, minute_, None, SETTINGS) | due(bad, minute_, serving("It cannot serve."), SETTINGS)
    assert set(both) == set(found)


def test_an_alert_stands_until_its_condition_was_gone_for_a_while() -> None:
    standing, wrong = Standing({}, 0.0), {"DiskLow": "full"}
    assert standing.step({}, 0.0) == []
    assert [(change.name, change.raised) for change in standing.step(wrong, 1.0)] == [("DiskLow", True)]
    assert standing.step({"DiskLow": "fuller"}, 10.0) == []
    assert standing.step({}, 10.0 + CLEAR_AFTER_S - 0.1) == []
    assert standing.step(wrong, 50.0) == [], "it came back in time: still the same alert"
    assert [change.raised for change in standing.step({}, 50.0 + CLEAR_AFTER_S)] == [False]
    assert standing.alerts == {} and standing.step({}, 200.0) == []


def test_a_restart_of_the_workers_is_no_alert() -> None:
    standing, gone = Standing({}, 0.0), {"NoInferenceWorker": "none"}
    assert standing.step(gone, 0.0) == standing.step(gone, 14.9) == standing.step({}, 16.0) == []
    assert standing.step(gone, 20.0) == standing.step(gone, 34.9) == []
    assert [change.raised for change in standing.step(gone, 35.0)] == [True]


def test_what_stood_before_a_restart_is_cleared_later_and_not_raised_again() -> None:
    standing = Standing({"DiskLow": "full", "ErrorRate": "many"}, 100.0)
    assert standing.step({"DiskLow": "full"}, 100.0) == []
    assert [(change.name, change.raised) for change in standing.step({"DiskLow": "full"}, 140.0)] == [
        ("ErrorRate", False)
    ]


# --- rows, events, the call -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gateway.alerts.LOOK_S", 3600.0)  # it looks at its start; then the tests decide when
        with fresh_gateway_at(tmp_path_factory.mktemp("gateway")) as gateway:
            eventually(lambda: gateway.context.watch._settled is not None)
            yield gateway


@pytest.fixture
def gateway(running: Gateway) -> Gateway:
    running.reset()
    with connection.write():
        Alert.delete().execute()
    return running


def test_rows_come_and_go(gateway: Gateway) -> None:
    alerts.settle({"DiskLow": "one", "ErrorRate": "two"}, 1000)
    alerts.settle({"DiskLow": "later words"}, 2000)
    assert alerts.raised() == {"DiskLow": "one"}
    alerts.settle({}, 3000)
    alerts.settle({"DiskLow": "again"}, 4000)
    listed = gateway.get("/alerts", role="admin").json()["items"]
    told = [(item["name"], item["message"], item["cleared_at"] is None) for item in listed]
    assert told[0] == ("DiskLow", "again", True)
    assert sorted(told[1:]) == [("DiskLow", "one", False), ("ErrorRate", "two", False)]
    assert [item["message"] for item in gateway.get("/alerts?active=true", role="admin").json()["items"]] == ["again"]
    assert len(gateway.get("/alerts?active=false", role="admin").json()["items"]) == 2


def test_alerts_come_in_pages_and_old_ones_go(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "KEPT", 4)
    for moment in range(6):
        alerts.settle({"DiskLow": str(moment)}, moment)
        alerts.settle({}, moment)
    first = gateway.get("/alerts?limit=3", role="admin").json()
    second = gateway.get(f"/alerts?limit=3&cursor={first['next_cursor']}", role="admin").json()
    assert [item["message"] for item in first["items"] + second["items"]] == ["5", "4", "3", "2"]
    assert second["next_cursor"] is None
    assert fields_of(gateway.get("/alerts?cursor=job_1", role="admin")) == {"cursor"}


def watch_of(gateway: Gateway, post: Post) -> Watch:
    context = gateway.context
    return Watch(context.settings, context.store, context.monitor, context.broker, post)


def test_a_raised_alert_is_a_row_and_an_event(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.alerts.due", lambda *_: {"DiskLow": "full"})
    watch = watch_of(gateway, Post("", "", Tally()))
    for _ in range(2):
        gateway.client.blocking_portal.call(watch.step)
    assert alerts.raised() == {"DiskLow": "full"}
    event = {"name": "DiskLow", "state": "raised", "message": "full"}
    assert gateway.broker.alerts.count(event) == 1


def test_an_alert_about_the_database_reaches_people_and_is_written_once_it_can_be(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(*_: Any) -> None:
        raise errors.Unavailable("The database is locked.")

    monkeypatch.setattr("gateway.alerts.due", lambda *_: {"DatabaseErrors": "locked"})
    watch, settle = watch_of(gateway, Post("", "", Tally())), alerts.settle
    monkeypatch.setattr(alerts, "settle", locked)
    with pytest.raises(errors.Unavailable):
        gateway.client.blocking_portal.call(watch.step)
    event = {"name": "DatabaseErrors", "state": "raised", "message": "locked"}
    assert event in gateway.broker.alerts and alerts.raised() == {}
    monkeypatch.setattr(alerts, "settle", settle)
    gateway.client.blocking_portal.call(watch.step)
    assert alerts.raised() == {"DatabaseErrors": "locked"}
    assert gateway.broker.alerts.count(event) == 1


# --- e-mail -----------------------------------------------------------------------------------------------------------


class Inbox:
    """What a real mail server received; it refuses the first `refusals` messages."""

    def __init__(self, refusals: int = 0) -> None:
        self.messages: list[Envelope] = []
        self.refusals = refusals

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        if self.refusals:
            self.refusals -= 1
            return "451 try again later"
        self.messages.append(envelope)
        return "250 OK"


@pytest.fixture
def inbox() -> Iterator[tuple[Inbox, int]]:
    box = Inbox()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = Controller(box, hostname="127.0.0.1", port=port)
    server.start()
    yield box, port
    server.stop()


def deliver(post: Post, until: Any) -> None:
    async def main() -> None:
        delivering = asyncio.create_task(post.deliver())
        async with asyncio.timeout(10):
            while not until():
                await asyncio.sleep(0.01)
        delivering.cancel()
        await asyncio.gather(delivering, return_exceptions=True)

    asyncio.run(main())


def test_an_alert_is_mailed(inbox: tuple[Inbox, int]) -> None:
    box, port = inbox
    post = Post(f"smtp://127.0.0.1:{port}", "ops@example.org, boss@example.org", Tally())
    post.put("[cv-platform] DiskLow raised", "The disk is füll.")
    deliver(post, lambda: box.messages)
    [message] = box.messages
    assert message.rcpt_tos == ["ops@example.org", "boss@example.org"]
    content = message.content.decode() if isinstance(message.content, bytes) else str(message.content)
    assert "Subject: [cv-platform] DiskLow raised" in content and "RUNBOOK" in content


def test_mail_is_tried_again(inbox: tuple[Inbox, int], monkeypatch: pytest.MonkeyPatch) -> None:
    box, port = inbox
    box.refusals = 2
    monkeypatch.setattr(mail, "PAUSE_S", 0.01)
    post = Post(f"smtp://127.0.0.1:{port}", "ops@example.org", Tally())
    post.put("subject", "text")
    deliver(post, lambda: box.messages)
    assert box.refusals == 0


def test_a_password_is_not_sent_in_the_clear(
    inbox: tuple[Inbox, int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    box, port = inbox
    monkeypatch.setattr(mail, "PAUSE_S", 0.01)
    post = Post(f"smtp://me:secret@127.0.0.1:{port}", "ops@example.org", Tally())
    post.put("subject", "text")
    deliver(post, lambda: "given up" in caplog.text)
    assert not box.messages and "secret" not in caplog.text
    assert "STARTTLS" in str([vars(record).get("error") for record in caplog.records])


@pytest.mark.parametrize(("url", "receivers"), [("", "ops@example.org"), ("smtp://127.0.0.1", ""), ("", "")])
def test_without_a_server_or_a_receiver_nothing_is_mailed(url: str, receivers: str) -> None:
    post = Post(url, receivers, Tally())
    post.put("subject", "text")
    assert post._line.empty()


def test_a_mail_server_that_is_away_fills_nothing(caplog: pytest.LogCaptureFixture) -> None:
    post = Post("smtp://127.0.0.1:1", "ops@example.org", Tally())
    for _ in range(mail.WAITING + 1):
        post.put("subject", "text")
    assert post._line.qsize() == mail.WAITING and "dropped" in caplog.text


@pytest.mark.parametrize("url", ["http://a", "smtp://", "a.example", "smtp://h:port", "smtp://a b@c@d"])
def test_a_wrong_mail_server_stops_the_start(url: str) -> None:
    with pytest.raises(BadSetting) as refused:
        config.load({"SMTP_URL": url})
    assert "SMTP_URL" in refused.value.message and "smtp://USER" in refused.value.message


@pytest.mark.parametrize("url", ["smtp://mail", "smtps://u:p@mail.example:465", "smtp://[::1]:25/"])
def test_mail_servers_that_are_taken(url: str) -> None:
    assert config.load({"SMTP_URL": url}).smtp_url == url


def test_the_settings_reach_the_post_and_the_password_stays_hidden(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMTP_URL", "smtp://me:secret@mail")
    assert "secret" not in gateway.get("/config").text
    settings = config.load(
        {"DATA_DIR": str(gateway.folder), "SMTP_URL": "smtp://mail", "ALERT_EMAIL": "me@example.org"}
    )
    post = Context(settings, FakeBroker(), Feed()).post
    assert (post._url.hostname, post._receivers) == ("mail", ["me@example.org"])
