"""Settings, ids, locks, errors, artifacts: the ground everything stands on."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import clock, config, errors, ids, process, specs
from shared.artifacts import ArtifactStore, intact, scratch
from shared.db import connection, registry
from tests.conftest import make_certificate


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ("400000 100000", 4),
        ("350000 100000", 3),
        ("50000 100000", 1),
        ("900000 100000", 6),
        ("max 100000", 6),
        (None, 6),
    ],
)
def test_a_containers_quota_bounds_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str | None, cores: int
):
    monkeypatch.setattr(config, "CPU_MAX", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    if quota is not None:
        config.CPU_MAX.write_text(f"{quota}\n")
    assert config.cores() == cores
    assert len(config.load({}).inference_farm) == cores


def test_the_seeds_names_and_defaults():
    settings = config.load({})
    assert (settings.max_gpu_workers, settings.inference_workers, settings.log_level) == (2, 10, "info")
    assert settings.port == 8080
    assert settings.db_file == Path(__file__).parents[2] / "data" / "db" / "cv-platform.db"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "x"),
        ("PORT", "0"),
        ("PORT", "65536"),
        ("MAX_GPU_WORKERS", "3"),
        ("LOG_LEVEL", "loud"),
        ("TLS_ENABLED", "maybe"),
        ("TLS_ENABLED", "true"),
        ("QUEUE_TIMEOUT_S", "-1"),
        ("INFERENCE_WORKERS", "0"),
    ],
)
def test_a_bad_setting_stops_the_start_and_names_itself(name: str, value: str):
    with pytest.raises(config.BadSetting) as bad:
        config.load({name: value})
    assert bad.value.code == 64
    assert name in bad.value.message or "TLS_CERT" in bad.value.message


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("PORT", "x", "PORT='x': must be a whole number from 1 to 65535. Port"),
        ("LOG_LEVEL", "loud", "must be one of debug, error, fatal, info or warn."),
        ("TLS_ENABLED", "yes", "must be true or false."),
        ("SMTP_URL", "mail", "SMTP_URL: must be of the form smtp://USER:PASSWORD@HOST:587"),
        ("QUEUE_TIMEOUT_S", "0", "must be a number, above 0 and at most 86400."),
    ],
)
def test_a_bad_setting_is_told_what_it_may_be(name: str, value: str, words: str):
    with pytest.raises(config.BadSetting) as bad:
        config.load({name: value})
    assert words in bad.value.message


def test_a_bad_secret_is_not_repeated():
    with pytest.raises(config.BadSetting) as bad:
        config.load({"SMTP_URL": "smtp://me:secret/1@mail"})
    assert "secret" not in bad.value.message


def test_https_needs_a_certificate_and_its_own_key(tmp_path: Path):
    cert, key = make_certificate(tmp_path)
    (tmp_path / "other").mkdir()
    _, stranger = make_certificate(tmp_path / "other")
    text = tmp_path / "text.pem"
    text.write_text("no certificate")
    for one, other, words in ((cert, stranger, "mismatch"), (text, key, "a PEM certificate"), (cert, text, "its own")):
        pair = config.load({"TLS_ENABLED": "true", "TLS_CERT": str(one), "TLS_KEY": str(other)})
        with pytest.raises(config.BadSetting, match="64") as bad:
            config.require_tls_pair(pair)
        assert str(one) in bad.value.message and words in bad.value.message
    config.require_tls_pair(config.load({"TLS_ENABLED": "true", "TLS_CERT": str(cert), "TLS_KEY": str(key)}))
    config.require_tls_pair(config.load({"TLS_CERT": str(text)}))


@pytest.mark.parametrize(
    "origins", ["*", "https://a.example,*", "https://a.example/", "a.example", "https://*.a.example", "null", "file://"]
)
def test_origins_are_named_one_by_one(origins: str):
    with pytest.raises(config.BadSetting) as bad:
        config.load({"CORS_ORIGINS": origins})
    assert bad.value.code == 64
    assert "CORS_ORIGINS=https://app.example,http://localhost:3000" in bad.value.message


def test_good_origins_stand():
    origins = config.load({"CORS_ORIGINS": "https://a.example, http://localhost:3000,http://[::1]:8080"}).origins
    assert origins == ["https://a.example", "http://localhost:3000", "http://[::1]:8080"]


def test_a_socket_path_that_is_too_long_is_refused():
    with pytest.raises(config.BadSetting, match="64") as bad:
        config.load({"DATA_DIR": "/" + "d" * 100})
    assert "RUN_DIR" in bad.value.message


@given(st.integers(1, 64), st.integers(0, 64))
def test_the_farm_has_every_thread_once(workers: int, processes: int):
    farm = config.load({"INFERENCE_WORKERS": str(workers), "INFERENCE_PROCESSES": str(processes)}).inference_farm
    assert sum(farm) == workers
    assert min(farm) >= 1
    assert max(farm) - min(farm) <= 1


def test_every_setting_is_described():
    assert all(meaning for _, _, _, meaning in config.in_force({}))


@given(st.text())
def test_a_request_id_is_the_clients_only_if_it_is_sane(offered: str):
    given_back = ids.request_id(offered)
    assert given_back == offered or given_back.startswith("req_")
    assert len(given_back) <= 64
    assert given_back.isprintable()


def test_ids_of_one_prefix_sort_by_age():
    made = [ids.new_id("x").split("_")[1][:12] for _ in range(50)]
    assert made == sorted(made)


def test_every_error_code_is_one_class():
    tree = errors._tree(errors.AppError)
    assert len({cls.code for cls in tree}) == len(tree)
    again = errors.from_code("queue_full", "wait", retry_after_s=3)
    assert isinstance(again, errors.QueueFull)
    assert again.retry_after_s == 3


def test_a_lock_is_free_when_its_holder_was_killed(tmp_path: Path):
    path = tmp_path / "a.lock"
    code = "import sys, time; from shared.process import FileLock; from pathlib import Path\n"
    code += "lock = FileLock(Path(sys.argv[1])).acquire(); print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert not process.is_free(path)
        with pytest.raises(process.Locked):
            process.FileLock(path).acquire(patience_s=0.1)
        holder.kill()
    assert process.is_free(path)


def test_a_lock_handed_to_a_child_outlives_our_copy(tmp_path: Path):
    lock = process.FileLock(tmp_path / "slot.lock").acquire()
    with subprocess.Popen(["sleep", "60"], pass_fds=[lock.fd]) as child:
        lock.release()
        assert not process.is_free(tmp_path / "slot.lock")
        child.kill()
    assert process.is_free(tmp_path / "slot.lock")


def test_a_published_file_is_whole_and_named_by_its_hash(tmp_path: Path):
    store = ArtifactStore(tmp_path)
    with store.stage() as staging:
        staging.write(b"hello ")
        staging.write(b"world")
        assert not store.path(hashlib.sha256(b"hello world").hexdigest()).exists()
        stored = staging.publish()
    assert store.path(stored.sha256).read_bytes() == b"hello world"
    assert stored.size_bytes == 11
    assert store.put(b"hello world") == stored
    assert list((tmp_path / "staging").iterdir()) == []


def test_an_interrupted_upload_leaves_nothing(tmp_path: Path):
    store = ArtifactStore(tmp_path)
    with pytest.raises(ZeroDivisionError), store.stage() as staging:
        staging.write(b"half")
        raise ZeroDivisionError
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_who_starts_again_removes_what_it_left_and_nothing_of_others(tmp_path: Path):
    store = ArtifactStore(tmp_path)
    with store.stage("preparer-0") as left, store.stage("preparer-1") as written, store.stage() as uploaded:
        assert store.clear_staging("preparer-0") == 1
        assert (left.path.exists(), written.path.exists(), uploaded.path.exists()) == (False, True, True)


def test_the_scratch_folder_of_a_staged_file_goes_with_it(tmp_path: Path):
    """Its child was killed; or the owner was, and starts again."""
    store = ArtifactStore(tmp_path)
    with store.stage("benchmarker-0") as staging:
        scratch(staging.path).mkdir()
        (scratch(staging.path) / "half.onnx").write_bytes(b"half")
    assert list((tmp_path / "staging").iterdir()) == []
    left = scratch(tmp_path / "staging" / "benchmarker-0_1")
    left.mkdir()
    (left / "half.onnx").write_bytes(b"half")
    assert store.clear_staging("benchmarker-0") == 1
    assert not left.exists()


def test_a_stored_file_is_intact_while_it_is_what_its_name_says(tmp_path: Path):
    store = ArtifactStore(tmp_path)
    path = store.path(store.put(b"whole").sha256)
    assert intact(path)
    path.write_bytes(b"hole")
    assert not intact(path)
    path.unlink()
    assert not intact(path)


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "A" * 64, "0" * 63, "0" * 64 + "\n"])
def test_only_a_hash_names_a_file(tmp_path: Path, name: str):
    with pytest.raises(errors.NotFound):
        ArtifactStore(tmp_path).path(name)


def test_a_newer_or_missing_schema_is_refused(tmp_path: Path):
    path = tmp_path / "db.sqlite"
    with pytest.raises(connection.SchemaMismatch, match="cvp migrate"):
        connection.open_db(path)
    connection.migrate(path)
    with connection.write():
        connection.database.execute_sql("INSERT INTO schema_migration (name, applied) VALUES ('9999_later', '2030')")
    connection.database.close()
    for open_it in (connection.open_db, connection.migrate):
        with pytest.raises(connection.SchemaMismatch, match="newer version"):
            open_it(path)
    connection.database.close()


def test_an_old_sqlite_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connection, "sqlite_version", lambda: (3, 51, 2))
    with pytest.raises(connection.SchemaMismatch, match="can corrupt"):
        connection.require_safe_sqlite()


def test_a_write_is_immediate_and_rolls_back(db_file: Path):
    with pytest.raises(ZeroDivisionError), connection.write():
        connection.database.execute_sql("UPDATE revisions SET value = 7")
        raise ZeroDivisionError
    with connection.read():
        rows = connection.database.execute_sql("SELECT sum(value) FROM revisions").fetchone()
    assert rows == (0,)


def test_revisions_are_read_anew_after_every_commit_and_only_then(db_file: Path):
    def from_elsewhere() -> None:
        with connection.write():
            registry.bump("models")
        connection.database.close()

    before = registry.revisions()["models"]
    for commits in (1, 2):
        other = threading.Thread(target=from_elsewhere)
        other.start()
        other.join()
        assert registry.revisions()["models"] == before + commits
    with connection.write():
        registry.bump("models")
    assert registry.revisions()["models"] == before + 3
    with pytest.raises(ZeroDivisionError), connection.write():
        registry.bump("models")
        assert registry.revisions()["models"] == before + 4
        raise ZeroDivisionError
    assert registry.revisions()["models"] == before + 3  # what was undone is not remembered
    asked: list[str] = []
    connection.database.connection().set_trace_callback(asked.append)
    assert registry.revisions()["models"] == before + 3
    connection.database.connection().set_trace_callback(None)
    assert asked == ["PRAGMA data_version"]


def test_the_database_is_not_carried_across_a_fork(db_file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "getpid", lambda: 1)
    with pytest.raises(RuntimeError, match="fork"):
        connection.database.execute_sql("SELECT 1")


def test_the_contract_hash_depends_on_every_field_and_nothing_else():
    plain = specs.Preprocessing(resize=specs.Resize(height=8, width=8))
    assert plain.hash == specs.Preprocessing(resize=specs.Resize(width=8, height=8)).hash
    changed = [
        specs.Preprocessing(resize=specs.Resize(height=8, width=9)),
        specs.Preprocessing(resize=plain.resize, color="L"),
        specs.Preprocessing(resize=plain.resize, mean=(0.5,)),
        specs.Preprocessing(resize=plain.resize, scores="probabilities"),
    ]
    assert len({contract.hash for contract in [plain, *changed]}) == 5


@given(st.integers(0, 4_000_000_000_000))
def test_times_as_they_are_shown(at_ms: int) -> None:
    shown = clock.iso(at_ms)
    assert len(shown) == len("2026-01-31T08:15:30.250Z")
    assert round(datetime.fromisoformat(shown).timestamp() * 1000) == at_ms
