"""Sign-in tokens (JWT), and the secret they are signed with."""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
from pathlib import Path

import jwt
import msgspec

from shared import errors

SESSION_S = 24 * 3600
ISSUER = "cv-platform"
AUDIENCE = "cv-platform-api"
ALGORITHM = "HS256"


class Claims(msgspec.Struct, frozen=True, kw_only=True):
    """What a valid sign-in token says: which session it belongs to, and until when."""

    session_id: str
    expires_at_ms: int


class Signer:
    """Signs and checks the sign-in tokens of this installation."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    @classmethod
    def at(cls, folder: Path) -> Signer:
        """The signer with the secret in `folder`, which is generated at the first start, readable by its owner only."""
        path = folder / "jwt.key"
        if not path.exists():
            _create_private(path, secrets.token_bytes(32))
        return cls(path.read_bytes())

    def sign(self, user_id: str, session_id: str, created_at_ms: int, expires_at_ms: int) -> str:
        """A token for a session; times in wall-clock milliseconds."""
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": user_id,
            "jti": session_id,
            "iat": created_at_ms // 1000,
            "exp": expires_at_ms // 1000,
        }
        return jwt.encode(claims, self._secret, algorithm=ALGORITHM)

    def csrf(self, session_id: str) -> str:
        """The second proof of pages that sign in with a cookie; it belongs to one session and ends with it."""
        return hmac.digest(self._secret, f"csrf {session_id}".encode(), "sha256").hex()

    def read(self, token: str) -> Claims:
        """What a token says.

        Raises:
            errors.Unauthorized: Forged, expired, or for somebody else.
        """
        required = ["iss", "aud", "sub", "jti", "iat", "exp"]
        try:
            claims = jwt.decode(
                token,
                self._secret,
                algorithms=[ALGORITHM],
                issuer=ISSUER,
                audience=AUDIENCE,
                options={"require": required},
            )
        except jwt.ExpiredSignatureError:
            raise errors.Unauthorized("The sign-in has expired; sign in again.") from None
        except jwt.InvalidTokenError:
            raise errors.Unauthorized("The token is not valid; sign in again, or send an API key.") from None
        return Claims(session_id=str(claims["jti"]), expires_at_ms=int(claims["exp"]) * 1000)


def _create_private(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, mode 0600; a file that is there already stays."""
    draft = path.with_suffix(f".{os.getpid()}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    with contextlib.suppress(FileExistsError):
        os.link(draft, path)
    draft.unlink()
