"""Backup and restore: whole or not at all, checked before anything is touched, former data moved aside."""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import click
import msgspec
import pytest

from console import archive, backup, restore
from shared import clock, config, failpoints, process
from shared.artifacts import ArtifactStore
from shared.db import accounts, connection, jobs, registry, snapshot
from shared.db.tables import Session
from shared.specs import ReportSpec, Stored


def silent(_: int) -> None:
    """Nobody watches."""


def place(root: Path) -> config.Settings:
    settings = config.load({"DATA_DIR": str(root), "RUN_DIR": str(root / "run")})
    settings.make_folders()
    return settings


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[config.Settings]:
    made = place(tmp_path / "here")
    connection.migrate(made.db_file)
    connection.open_db(made.db_file)
    yield made
    connection.database.close()


@pytest.fixture
def elsewhere(tmp_path: Path) -> config.Settings:
    return place(tmp_path / "there")


@pytest.fixture
def user_id(settings: config.Settings) -> str:
    return accounts.add_user("root", "unusable", "admin").id


def add_model(settings: config.Settings, user_id: str, content: bytes) -> tuple[str, Stored]:
    stored = ArtifactStore(settings.models).put(content)
    with connection.write():
        registry.keep_artifact(stored, "models")
        fields = {"description": "", "framework": "onnx", "preprocessing": None, "labels": None}
        return registry.add_model(stored, user_id, name="m", task_type="classification", **fields), stored


@pytest.fixture
def saved(settings: config.Settings, user_id: str, tmp_path: Path) -> Path:
    """A backup with two models, a sign-in and a running job in it."""
    for content in (b"one", b"two"):
        add_model(settings, user_id, content)
    accounts.open_session(user_id, 10**9)
    with connection.write():
        job_id = jobs.insert("report", ReportSpec(benchmark_id="job_0"), user_id=user_id, job_id="job_1")
    assert jobs.claim("report", "reporter", clock.now_ms(), job_id) is not None
    path, manifest = backup.write(settings, tmp_path / "saved.tar", silent)
    assert manifest.lost == []
    return path


def everything(root: Path) -> dict[str, bytes]:
    """All files but the locks."""
    files = (path for path in root.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def test_a_backup_is_a_private_tar_with_a_manifest(saved: Path, settings: config.Settings):
    assert saved.stat().st_mode & 0o777 == 0o600
    with tarfile.open(saved) as tar:
        names = tar.getnames()
    assert (names[0], names[-1], len(names)) == ("database.db", "manifest.json", 4)
    assert [path.name for path in saved.parent.iterdir() if path.name.startswith(".")] == []
    assert list(settings.models.glob("staging/*")) == []


def test_a_restored_platform_has_all_of_it(saved: Path, elsewhere: config.Settings, user_id: str):
    done = restore.read(elsewhere, saved, replace=False, advance=silent)
    assert (done.jobs, done.aside) == (1, [])
    connection.open_db(elsewhere.db_file)
    store = ArtifactStore(elsewhere.models)
    with connection.read():
        models = registry.models(limit=10, cursor=None).rows
        assert [store.path(model.file_sha256).read_bytes() for model in models] == [b"two", b"one"]
        assert [row.revoked_at_ms is None for row in Session.select()] == [False]
    job = jobs.find("job_1")
    assert (job.status, job.attempt, job.worker) == ("queued", 0, None)
    assert accounts.account(user_id) is not None
    assert [path.name for path in elsewhere.models.glob("restore-*")] == []
    connection.database.close()
    assert sorted(path.name for path in elsewhere.db_file.parent.iterdir() if path.suffix != ".lock") == [
        elsewhere.db_file.name
    ]


def test_an_occupied_place_is_refused_or_moved_aside_whole(saved: Path, elsewhere: config.Settings):
    restore.read(elsewhere, saved, replace=False, advance=silent)
    ArtifactStore(elsewhere.reports).put(b"mine")
    before = everything(elsewhere.root)
    with pytest.raises(click.ClickException, match="--replace"):
        restore.read(elsewhere, saved, replace=False, advance=silent)
    assert everything(elsewhere.root) == before
    done = restore.read(elsewhere, saved, replace=True, advance=silent)
    aside = {
        str(folder.parent.relative_to(elsewhere.root) / name): content
        for folder in done.aside
        for name, content in everything(folder).items()
    }
    assert aside == before
    assert not ArtifactStore(elsewhere.reports).path(hashlib.sha256(b"mine").hexdigest()).exists()


@pytest.mark.parametrize("lock", ["supervisord", "gateway", "reporter"])
def test_nothing_is_restored_under_a_running_platform(
    saved: Path, elsewhere: config.Settings, lock: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(restore, "ENDING_S", 0.1)
    held = process.FileLock(elsewhere.run / f"{lock}.lock").acquire()
    with pytest.raises(click.ClickException, match="cvp down"):
        restore.read(elsewhere, saved, replace=True, advance=silent)
    held.release()
    assert not elsewhere.db_file.exists()


def broken_copies(saved: Path) -> Iterator[tuple[str, bytes]]:
    content = saved.read_bytes()
    with tarfile.open(saved) as tar:
        for member in tar.getmembers():
            at = member.offset_data + member.size // 2
            yield f"a bit of {member.name[:10]}", content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
            yield f"cut at {member.name[:10]}", content[:at]
    yield "nothing", b""
    yield "another file", b"PK\x03\x04" * 1000


def test_a_damaged_backup_is_refused_before_anything_is_touched(
    saved: Path, elsewhere: config.Settings, tmp_path: Path
):
    ArtifactStore(elsewhere.models).put(b"mine")
    before = everything(elsewhere.root)
    for name, content in broken_copies(saved):
        bad = tmp_path / "bad.tar"
        bad.write_bytes(content)
        if name == "a bit of manifest.j" and readable(bad):
            continue  # the bit was in the time or the version
        with pytest.raises(click.ClickException) as refused:
            restore.read(elsewhere, bad, replace=True, advance=silent)
        assert "backup" in refused.value.message, name
        assert everything(elsewhere.root) == before, name


def readable(path: Path) -> bool:
    with tarfile.open(path) as tar:
        file = tar.extractfile("manifest.json")
        assert file is not None
        try:
            found = msgspec.json.decode(file.read(), type=archive.Manifest)
        except msgspec.MsgspecError:
            return False
    return all(len(entry.sha256) == 64 for entry in found.files)


def forged(saved: Path, target: Path, name: str) -> Path:
    """A backup whose manifest names a file of its own, with a hash that fits."""
    with tarfile.open(saved) as tar:
        file = tar.extractfile("manifest.json")
        assert file is not None
        manifest = msgspec.json.decode(file.read(), type=archive.Manifest)
    evil = target.with_suffix(".evil")
    evil.write_bytes(b"evil")
    with archive.Writer(target) as writer:
        entries = [writer.add(name, evil, silent)]
        writer.finish(msgspec.structs.replace(manifest, files=[*manifest.files, *entries]))
    return target


@pytest.mark.parametrize("name", ["../../evil", "/tmp/evil", "models/../evil", "secrets/key", "models/evil"])
def test_no_name_in_a_backup_leads_elsewhere(saved: Path, elsewhere: config.Settings, tmp_path: Path, name: str):
    bad = forged(saved, tmp_path / "bad.tar", name)
    with pytest.raises(click.ClickException, match="no name of ours"):
        restore.read(elsewhere, bad, replace=False, advance=silent)


def test_a_backup_of_a_later_version_is_refused(settings: config.Settings, elsewhere: config.Settings, tmp_path: Path):
    with connection.write():
        sql = "INSERT INTO schema_migration (name, applied) VALUES ('9999_later', '2030')"
        connection.database.execute_sql(sql)
    copy = tmp_path / "database.db"
    snapshot.take(copy)
    with archive.Writer(tmp_path / "later.tar") as writer:
        entry = writer.add(archive.DATABASE, copy, silent)
        writer.finish(archive.Manifest(created_at="", version="9", files=[entry], lost=[]))
    with pytest.raises(click.ClickException, match="newer version"):
        restore.read(elsewhere, tmp_path / "later.tar", replace=False, advance=silent)
    assert not elsewhere.db_file.exists()
    assert list(elsewhere.root.rglob("restore-*")) == []


def test_only_what_a_killed_restore_left_is_removed(settings: config.Settings):
    folder = settings.db_file.parent
    for name in ("restore-0123abcd", "restore-points", "restore-0123abcd-of-mine"):
        (folder / name).mkdir()
        (folder / name / "file").touch()
    (folder / "restore-me.tar").touch()
    restore.settle(settings)
    assert sorted(path.name for path in folder.glob("restore-*")) == [
        "restore-0123abcd-of-mine",
        "restore-me.tar",
        "restore-points",
    ]


@pytest.mark.parametrize("content", [b"", b"[", b"{}", b'[["only one"]]', b"\xff"])
def test_a_damaged_journal_moves_nothing_and_says_what_to_do(settings: config.Settings, content: bytes):
    journal = settings.db_file.parent / restore.JOURNAL
    journal.write_bytes(content)
    before = everything(settings.root)
    with pytest.raises(click.ClickException, match=f"{restore.JOURNAL} is damaged"):
        restore.settle(settings)
    assert everything(settings.root) == before


def test_a_failure_half_way_puts_everything_back(
    saved: Path, elsewhere: config.Settings, monkeypatch: pytest.MonkeyPatch
):
    restore.read(elsewhere, saved, replace=False, advance=silent)
    before = everything(elsewhere.root)
    for failing in range(1, 6):
        calls = iter(range(1, 100))

        def fail(point: str, *, at: int = failing) -> None:
            if next(calls) == at:  # noqa: B023  # used up within this turn
                raise OSError(28, "No space left on device")

        monkeypatch.setattr(failpoints, "reach", fail)
        with pytest.raises(click.ClickException, match="as it was"):
            restore.read(elsewhere, saved, replace=True, advance=silent)
        assert everything(elsewhere.root) == before


def test_a_model_deleted_while_it_is_saved_is_in_it_or_not_but_never_half(
    settings: config.Settings, user_id: str, tmp_path: Path, elsewhere: config.Settings, monkeypatch: pytest.MonkeyPatch
):
    kept, _ = add_model(settings, user_id, b"kept")
    doomed, stored = add_model(settings, user_id, b"doomed")
    take = snapshot.take
    taken: list[Path] = []

    def take_then_delete(target: Path) -> None:
        take(target)
        taken.append(target)
        if len(taken) == 1:
            with connection.write():
                registry.delete_model(doomed)
            ArtifactStore(settings.models).remove(stored.sha256)

    monkeypatch.setattr(snapshot, "take", take_then_delete)
    path, manifest = backup.write(settings, tmp_path / "b.tar", silent)
    assert (len(taken), manifest.lost, len(manifest.files)) == (2, [], 2)
    restore.read(elsewhere, path, replace=False, advance=silent)
    connection.open_db(elsewhere.db_file)
    assert [row.id for row in registry.models(limit=5, cursor=None).rows] == [kept]


def test_a_file_deleted_after_it_was_pinned_is_still_saved(
    settings: config.Settings, user_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    _, stored = add_model(settings, user_id, b"doomed")
    pin = ArtifactStore.pin

    def pin_and_delete(store: ArtifactStore, sha256: str, folder: Path) -> bool:
        pinned = pin(store, sha256, folder)
        store.remove(sha256)
        return pinned

    monkeypatch.setattr(ArtifactStore, "pin", pin_and_delete)
    _, manifest = backup.write(settings, tmp_path / "b.tar", silent)
    assert f"models/{stored.sha256}" in {entry.name for entry in manifest.files}


def test_what_was_lost_before_is_said_and_the_rest_is_saved(settings: config.Settings, user_id: str, tmp_path: Path):
    stored = [add_model(settings, user_id, content)[1] for content in (b"gone", b"rotten", b"well")]
    store = ArtifactStore(settings.models)
    store.remove(stored[0].sha256)
    store.path(stored[1].sha256).write_bytes(b"rotter")
    _, manifest = backup.write(settings, tmp_path / "b.tar", silent)
    assert set(manifest.lost) == {f"models/{each.sha256}" for each in stored[:2]}
    assert f"models/{stored[2].sha256}" in {entry.name for entry in manifest.files}


def test_a_backup_never_takes_the_place_of_another(saved: Path, settings: config.Settings, tmp_path: Path):
    content = saved.read_bytes()
    with pytest.raises(click.ClickException, match="exists already"):
        backup.write(settings, saved, silent)
    assert saved.read_bytes() == content
    with pytest.raises(click.ClickException, match="no folder"):
        backup.write(settings, tmp_path / "none" / "b.tar", silent)
    path, _ = backup.write(settings, tmp_path, silent)
    assert path.parent == tmp_path
    assert path.name.startswith("cvp-backup-")


def test_a_backup_that_fails_leaves_nothing(
    settings: config.Settings, user_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    target = tmp_path / "to"
    target.mkdir()
    monkeypatch.setattr(archive.Writer, "finish", full)
    with pytest.raises(click.ClickException, match="No space left"):
        backup.write(settings, target / "b.tar", silent)
    assert list(target.iterdir()) == []
    assert list(settings.models.glob("staging/*")) == []


def test_a_disk_that_is_too_small_is_known_before(
    settings: config.Settings, user_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(backup.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(click.ClickException, match="choose another disk"):
        backup.write(settings, tmp_path / "b.tar", silent)
    assert not (tmp_path / "b.tar").exists()


def test_where_nothing_is_nothing_is_made(elsewhere: config.Settings, tmp_path: Path):
    with pytest.raises(click.ClickException, match="nothing to back up"):
        backup.write(elsewhere, tmp_path / "b.tar", silent)
    assert not elsewhere.db_file.exists()
