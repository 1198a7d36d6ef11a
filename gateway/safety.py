"""What every answer tells a browser: believe its type, keep no copy, run nothing, show it in no frame."""

from __future__ import annotations

from collections.abc import Sequence

Header = tuple[bytes, bytes]

ALWAYS: tuple[Header, ...] = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
)
DATA_POLICY = b"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
PAGE_POLICY = DATA_POLICY + b"; style-src 'unsafe-inline'; img-src data:"
"""Our pages bring their style with them and have no scripts; what is uploaded never becomes a page."""

ENCRYPTED: Header = (b"strict-transport-security", b"max-age=31536000")


def headers_of_every_answer(given: Sequence[Header], *, encrypted: bool) -> list[Header]:
    """The headers to add to those `given` by a handler.

    Args:
        given: Of the answer so far; a caching rule among them stays.
        encrypted: It travels over TLS: the browser shall not come without it again.
    """
    known = {name.lower(): value for name, value in given}
    page = known.get(b"content-type", b"").startswith(b"text/html")
    added = [*ALWAYS, (b"content-security-policy", PAGE_POLICY if page else DATA_POLICY)]
    if b"cache-control" not in known:
        added.append((b"cache-control", b"no-store"))
    if encrypted:
        added.append(ENCRYPTED)
    return added
