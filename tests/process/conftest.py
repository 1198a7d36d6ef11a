"""What most tests of a whole platform begin with. A module that needs other settings has a `platform` of its own."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.process.platform import Platform, running, upload_digits


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    """With the usual settings of tests."""
    with running() as platform:
        yield platform


@pytest.fixture(scope="module")
def admin(platform: Platform) -> Iterator[httpx.Client]:
    """Signed in as the administrator, at `/api/v1`."""
    with platform.login() as client:
        yield client


@pytest.fixture(scope="module")
def digits(admin: httpx.Client) -> str:
    """The id of the digits' model, ready."""
    return upload_digits(admin)
