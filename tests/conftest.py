"""Fixtures that several test files share."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shared import config
from shared.db import accounts, connection

for setting in config.names():  # tests do not depend on the settings of the shell they are typed in
    os.environ.pop(setting, None)
os.environ["PRESETS"] = "false"  # they would be prepared beside whatever is tested; tests of them say otherwise


@pytest.fixture
def db_file(tmp_path: Path) -> Iterator[Path]:
    """A migrated, opened, empty database."""
    path = tmp_path / "db" / "cv-platform.db"
    connection.migrate(path)
    connection.open_db(path)
    yield path
    connection.database.close()


@pytest.fixture
def owner(db_file: Path) -> accounts.Account:
    """An administrator (with a hash that no password matches)."""
    return accounts.add_user("root", "unusable", "admin")


@pytest.fixture
def admin(owner: accounts.Account) -> accounts.Account:
    """The same; in tests of a whole platform this name is a client that is signed in."""
    return owner


def eventually(check: Callable[[], object], within_s: float = 10.0) -> None:
    """Poll until `check()` is true; fails after `within_s`."""
    end = time.monotonic() + within_s
    while not check():
        assert time.monotonic() < end, f"not within {within_s} s"
        time.sleep(0.02)


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for this machine, and its key."""
    openssl = shutil.which("openssl")
    assert openssl, "openssl makes the certificate; deploy/test-packages.sh brings it"
    cert, key = folder / "cert.pem", folder / "key.pem"
    made = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=cv-platform")
    names = ("-addext", "subjectAltName=IP:127.0.0.1")
    subprocess.run(
        [openssl, *made, *names, "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True, timeout=30
    )
    return cert, key


def needs(module: str) -> Any:
    """A module that `make setup` does not bring; without it the test file is skipped.

    Where TESTS_NEED names it, as `make test` does, everything is there and its absence is a failure.
    """
    if module in os.environ.get("TESTS_NEED", "").split():
        return importlib.import_module(module)
    return pytest.importorskip(module, reason=f"{module} is not installed: make setup-train")
