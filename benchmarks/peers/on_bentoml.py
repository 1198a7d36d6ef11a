"""BentoML with two workers; images come as a form, which is how it takes files."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import bentoml

from benchmarks.peers.model import served


@bentoml.service(workers=2, traffic={"timeout": 60})
class Peer:
    def __init__(self) -> None:
        self._model = served()

    @bentoml.api(route="/predict")
    def predict(self, body: Path) -> dict[str, Any]:
        return self._model.answer(body.read_bytes())


if __name__ == "__main__":
    command = Path(sys.executable).with_name("bentoml")
    arguments = ["serve", "benchmarks.peers.on_bentoml:Peer", "--host", "127.0.0.1", "--port", sys.argv[1]]
    os.execv(command, [str(command), *arguments])
