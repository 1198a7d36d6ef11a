"""LitServe with two workers; images come as a form, which is how it takes files."""

import sys
from typing import Any

from fastapi import Request
from litserve import LitAPI, LitServer

from benchmarks.peers.model import served


class Peer(LitAPI):
    def setup(self, device: str) -> None:
        self._model = served()

    def decode_request(self, request: Request) -> bytes:
        body: bytes = request["body"].file.read()
        return body

    def predict(self, body: bytes) -> dict[str, Any]:
        return self._model.answer(body)

    def encode_response(self, answer: dict[str, Any]) -> dict[str, Any]:
        return answer


if __name__ == "__main__":
    server = LitServer(Peer(), accelerator="cpu", workers_per_device=2, timeout=60)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
