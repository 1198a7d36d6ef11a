"""Ray Serve with two replicas, on a Ray of its own."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Any

import ray
from ray import serve
from starlette.requests import Request

from benchmarks.peers.model import served


class Peer:
    def __init__(self) -> None:
        self._model = served()

    async def __call__(self, request: Request) -> dict[str, Any]:
        return await asyncio.to_thread(self._model.answer, await request.body())


if __name__ == "__main__":
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    replicas = serve.deployment(num_replicas=2, ray_actor_options={"num_cpus": 1})(Peer)
    serve.run(replicas.bind(), route_prefix="/predict")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
