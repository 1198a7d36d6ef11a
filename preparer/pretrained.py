"""Fetches published weights: over HTTPS, bounded in size and time, kept once their SHA-256 is what their name says."""

from __future__ import annotations

import hashlib
import logging
import re
import time
from pathlib import Path

import httpx

from shared import child
from shared.artifacts import ArtifactStore, Staging
from shared.specs import Pretrained

FETCH_S = 180.0
"""For all of it: 100 MB at 5 Mbit/s. A slower line is not waited for."""
SILENCE_S = 10.0
"""Longest without an answer, or without the next bytes."""
NAME = re.compile(r"https://[^?#]+-(?P<sha256>[0-9a-f]{8,64})\.pth")
MB = 2**20

logger = logging.getLogger(__name__)


class NotFetched(Exception):
    """These weights are not to be had; the message is the reason, as a part of a sentence."""


def fetch(wanted: Pretrained, store: ArtifactStore, report: child.Report) -> Path:
    """The file of these weights, from the store where it was fetched before. One process at a time may do this.

    Whoever opens the file trusts it no more than an upload: its name vouches for 32 bits of it, as PyTorch's own does.

    Raises:
        NotFetched: There is no way there, it takes too long, or another file came.
        errors.Unavailable: The disk is full or cannot be written.
    """
    named = NAME.fullmatch(wanted.url)
    if named is None:
        raise NotFetched(f"{wanted.url} is no HTTPS address of a file named by its SHA-256")
    kept = _kept(store, named["sha256"])
    if kept is not None:
        return kept
    store.clear_staging()  # of one that was killed
    with store.stage() as staging:
        try:
            _download(wanted, staging, report)
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, OSError) as error:  # also of proxies and certificates
            raise NotFetched(f"{_host(wanted.url)} was not reached ({_first_line(error)})") from error
        stored = staging.seal()
        if not stored.sha256.startswith(named["sha256"]):
            raise NotFetched(f"{_host(wanted.url)} gave another file, of SHA-256 {stored.sha256[:16]}…")
        staging.publish()
    logger.info("fetched pretrained weights", extra={"url": wanted.url, "size_bytes": stored.size_bytes})
    return store.path(stored.sha256)


def _kept(store: ArtifactStore, digits: str) -> Path | None:
    """What was fetched before; a file that has changed since is removed."""
    for path in store.root.glob(f"{digits[:2]}/{digits}*"):
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == path.name:
                return path
        path.unlink()
    return None


def _download(wanted: Pretrained, staging: Staging, report: child.Report) -> None:
    end, told = time.monotonic() + FETCH_S, 0
    headers = {"Accept-Encoding": "identity"}
    with (
        httpx.Client(timeout=SILENCE_S, headers=headers) as client,
        client.stream("GET", wanted.url) as answer,  # a redirect is no answer: nobody but this host is asked
    ):
        if answer.status_code != httpx.codes.OK:
            raise NotFetched(f"{_host(wanted.url)} answered {answer.status_code} {answer.reason_phrase}".strip())
        for chunk in answer.iter_raw():
            staging.write(chunk)
            if staging.size_bytes > wanted.max_bytes:
                raise NotFetched(f"{_host(wanted.url)} gave more than {wanted.max_bytes:,} bytes")
            if time.monotonic() > end:
                raise NotFetched(f"{_host(wanted.url)} takes longer than {FETCH_S:g} s")
            if staging.size_bytes // MB > told:
                told = staging.size_bytes // MB
                report({"stage": f"fetching {wanted.name}", "mb": told})


def _host(url: str) -> str:
    return httpx.URL(url).host


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
