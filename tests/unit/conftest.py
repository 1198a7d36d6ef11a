"""A gateway for the tests of its calls, one a file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.gateway_kit import Gateway, fresh_gateway_at


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with fresh_gateway_at(tmp_path_factory.mktemp("gateway")) as gateway:
        yield gateway


@pytest.fixture
def gateway(running: Gateway) -> Iterator[Gateway]:
    """As it was at first: what the test before left is gone."""
    yield running
    running.reset()
