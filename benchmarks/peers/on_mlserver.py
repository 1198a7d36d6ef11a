"""MLServer: a custom runtime in two parallel workers, called by the Open Inference Protocol, which is all it speaks."""

from __future__ import annotations

import base64
import json
import os
import sys
import tempfile
from pathlib import Path

from mlserver import MLModel
from mlserver.codecs import StringCodec
from mlserver.types import InferenceRequest, InferenceResponse

from benchmarks.peers.model import served


class Peer(MLModel):
    async def load(self) -> bool:
        self._model = served()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        given = payload.inputs[0]
        data = list(given.data)
        body = bytes(data) if given.datatype == "UINT8" else base64.b64decode(data[0])
        answer = json.dumps(self._model.answer(body))
        return InferenceResponse(model_name=self.name, outputs=[StringCodec.encode_output("answer", [answer])])


if __name__ == "__main__":
    folder = Path(tempfile.gettempdir())
    port = int(sys.argv[1])
    settings = {
        "host": "127.0.0.1",
        "http_port": port,
        "grpc_port": port + 1,
        "metrics_port": port + 2,
        "metrics_dir": str(folder / "metrics"),
        "parallel_workers": 2,
        "parallel_workers_timeout": 60,
    }
    (folder / "settings.json").write_text(json.dumps(settings | {"debug": False}))
    model = {"name": "peer", "implementation": "benchmarks.peers.on_mlserver.Peer"}
    (folder / "model-settings.json").write_text(json.dumps(model))
    mlserver = Path(sys.executable).with_name("mlserver")
    os.execv(mlserver, [str(mlserver), "start", str(folder)])
