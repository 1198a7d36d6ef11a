"""People who use a platform while it is being broken: they predict, upload, order, cancel, and ask again."""

from __future__ import annotations

import random
import threading
import uuid
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx

from benchmarks import models

TIMEOUT_S = 12.0
PAUSE_S = 0.2
OPEN_JOBS = 6
"""Nobody orders more while this many jobs wait."""

ANSWERED = (200, 202)


class Load:
    """The users, a thread each. What they were promised is in `accepted`, what was broken in `broken`."""

    def __init__(self, address: str, headers: dict[str, str], model_id: str, seed: int) -> None:
        self.accepted: list[str] = []
        self.broken: list[str] = []
        self.answers: Counter[tuple[str, str]] = Counter()
        self._address, self._headers, self._model_id, self._seed = address, headers, model_id, seed
        self._images = sorted((models.DIGITS / "held-out").glob("*.png"))
        self._expected: dict[int, str] = {}
        self._stop = threading.Event()
        users = (self._predict, self._predict, self._upload, self._benchmark, self._cancel)
        self._threads = [threading.Thread(target=self._live, args=(user, at)) for at, user in enumerate(users)]

    def __enter__(self) -> Load:
        with self._client() as http:
            for at in range(len(self._images)):
                self._expected[at] = _label(self._send_image(http, at))
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def ask_again(self) -> None:
        """Once everything is up again: every accepted order is still known."""
        with self._client() as http:
            for one in self.accepted:
                path = f"/models/{one}" if one.startswith("mdl") else f"/benchmark/{one}"
                if http.get(path).status_code != httpx.codes.OK:
                    self.broken.append(f"{path} was accepted and is not found")

    def _client(self) -> httpx.Client:
        return httpx.Client(base_url=self._address, headers=self._headers, timeout=TIMEOUT_S)

    def _live(self, user: Callable[[httpx.Client, random.Random], None], number: int) -> None:
        draw = random.Random(self._seed * 100 + number)
        while not self._stop.is_set():
            try:
                with self._client() as http:
                    while not self._stop.wait(PAUSE_S * draw.random()):
                        user(http, draw)
            except httpx.TransportError:
                self._stop.wait(PAUSE_S)

    def _count(self, what: str, call: Callable[[], httpx.Response]) -> httpx.Response:
        try:
            answer = call()
        except httpx.TransportError:
            self.answers[what, "no answer"] += 1
            raise
        self.answers[what, str(answer.status_code)] += 1
        if answer.status_code == httpx.codes.INTERNAL_SERVER_ERROR:
            self.broken.append(f"{what} was answered 500: {answer.text}")
        return answer

    def _send_image(self, http: httpx.Client, at: int) -> httpx.Response:
        return http.post(
            f"/inference/predict?model_id={self._model_id}",
            content=self._images[at].read_bytes(),
            headers={"Content-Type": "image/png"},
        )

    def _predict(self, http: httpx.Client, draw: random.Random) -> None:
        """An answer is the one to the image that was sent."""
        at = draw.randrange(len(self._images))
        answer = self._count("predict", lambda: self._send_image(http, at))
        if answer.is_success and _label(answer) != self._expected[at]:
            self.broken.append(f"image {at} was answered {_label(answer)}, which is not {self._expected[at]}")

    def _upload(self, http: httpx.Client, draw: random.Random) -> None:
        if self._busy(http):
            return
        form = {"name": f"digits {draw.randrange(10**9)}", "task_type": "classification"} | models.digits_facts()
        file = {"file": ("digits.onnx", (models.DIGITS / "digits.onnx").read_bytes())}
        self._order(
            draw, "upload", lambda changes, key: http.post("/models", data=form | changes, files=file, headers=key)
        )

    def _benchmark(self, http: httpx.Client, draw: random.Random) -> None:
        if self._busy(http):
            return
        order: dict[str, Any] = {"model_id": self._model_id, "engines": ["onnxruntime"], "batch_sizes": [1]}
        order |= {
            "num_iterations": 5,
            "num_warmup": 1,
            "max_seconds": 1,
            "isolation": draw.choice(["exclusive", "shared"]),
        }
        self._order(draw, "benchmark", lambda changes, key: http.post("/benchmark", json=order | changes, headers=key))

    def _busy(self, http: httpx.Client) -> bool:
        answer = self._count("list", lambda: http.get("/jobs?status=queued"))
        busy = not answer.is_success or len(answer.json()["items"]) >= OPEN_JOBS
        self._stop.wait(1.0 if busy else 0.0)
        return busy

    def _order(
        self, draw: random.Random, what: str, send: Callable[[dict[str, Any], dict[str, str]], httpx.Response]
    ) -> None:
        """Ask with one key until there is an answer; ask again now and then: the same id, or 409 for another body."""
        key = {"Idempotency-Key": uuid.UUID(int=draw.getrandbits(128)).hex}
        first = self._insist(what, lambda: send({}, key))
        if first is None:
            return
        self.accepted.append(first)
        if draw.random() < 0.5:
            again = self._insist(what, lambda: send({}, key))
            if again not in (first, None):
                self.broken.append(f"one key, two orders: {first} and {again}")
        changes = {"name": "another"} if what == "upload" else {"seed": 7}
        other = self._count(what, lambda: send(changes, key))
        if other.status_code in ANSWERED:
            self.broken.append(f"the key of {first} took another body")

    def _insist(self, what: str, send: Callable[[], httpx.Response]) -> str | None:
        while not self._stop.is_set():
            try:
                answer = self._count(what, send)
            except httpx.TransportError:
                self._stop.wait(PAUSE_S)
                continue
            if answer.status_code in ANSWERED:
                return str(answer.json()["id"])
            self._stop.wait(1.0)
        return None

    def _cancel(self, http: httpx.Client, draw: random.Random) -> None:
        self._stop.wait(3.0)
        if benchmarks := [one for one in list(self.accepted)[-6:] if one.startswith("job")]:
            path = f"/benchmark/{draw.choice(benchmarks)}/cancel"
            self._count("cancel", lambda: http.post(path))


def _label(answer: httpx.Response) -> str:
    return str(answer.json()["predictions"][0][0]["label"]) if answer.is_success else f"status {answer.status_code}"
