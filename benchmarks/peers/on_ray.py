"""Ray Serve with two replicas in its high-throughput mode, HAProxy in front of them, on a Ray of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from starlette.requests import Request

from benchmarks.peers.model import served

ONGOING = 100
"""At a replica at once: all the clients of the load. With 5, which is the default, replicas that have as many leave the
cores idle while Ray waits up to half a second before it tries again."""


class Peer:
    def __init__(self) -> None:
        self._model = served()
        self._thread = ThreadPoolExecutor(1)  # it has one core: several would only push each other out of its cache

    async def __call__(self, request: Request) -> dict[str, Any]:
        body = await request.body()
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._model.answer, body)


def environment(folder: Path) -> dict[str, str]:
    """What sets Ray up for throughput, with its files in a folder.

    HAProxy stays on its usual side ports (8404, 9101): one near the free port may be taken by Ray, which opens dozens.
    """
    return {
        "RAY_worker_niceness": "0",  # 15 unless told: only this peer would give way to whatever else runs
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_ENABLE_HA_PROXY": "1",  # its proxy in Python takes a whole core for some 200 requests a second
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",  # a line a request, which nobody would read
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
    }


if __name__ == "__main__":
    port = int(sys.argv[1])
    os.environ.update(environment(Path(tempfile.gettempdir())))

    import ray  # not before: it reads them once, when it is imported
    from ray import serve

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    quiet = {"enable_access_log": False}
    serve.start(http_options={"host": "127.0.0.1", "port": port}, logging_config=quiet)
    replicas = serve.deployment(
        num_replicas=2, max_ongoing_requests=ONGOING, ray_actor_options={"num_cpus": 1}, logging_config=quiet
    )(Peer)
    serve.run(replicas.bind(), route_prefix="/predict")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
