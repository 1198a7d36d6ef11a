"""mosec: its front in Rust, two Python workers behind it."""

from __future__ import annotations

import sys
from typing import Any

from mosec import Server, Worker

from benchmarks.peers.model import served


class Peer(Worker):
    def __init__(self) -> None:
        super().__init__()
        self._model = served()

    def deserialize(self, data: bytes) -> bytes:
        return data

    def forward(self, data: bytes) -> dict[str, Any]:
        return self._model.answer(data)


if __name__ == "__main__":
    sys.argv[1:] = ["--address", "127.0.0.1", "--port", sys.argv[1], "--timeout", "60000"]
    server = Server()
    server.append_worker(Peer, num=2)
    server.run()
