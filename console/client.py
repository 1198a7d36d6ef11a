"""The REST API as a person's command uses it: thin calls, bounded waits, errors as the classes of `shared.errors`."""

from __future__ import annotations

import http
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal

import httpx
import msgspec

from shared import config, errors
from shared.genes import TrainingOrder
from shared.specs import BenchmarkSpec, DeploymentOrder

Json = dict[str, Any]
Noun = Literal["models", "datasets"]
"""What is uploaded and has a name."""
Format = Literal["html", "pdf", "json", "csv", "measurements"]

ENDED = ("completed", "failed", "cancelled")
"""States in which a job stays."""

POLL_S = 0.25
REPORT_BOUND_S = 120.0
PAGE = 200
"""Rows that the API gives at once."""
UPLOAD_ANSWER_S = 600.0
"""How long the answer to a large upload may take: it is written to the disk before it is accepted."""

OUTAGE_S = 30.0
"""How long a wait puts up with a gateway that does not answer: longer than a restart takes."""


def ended_badly(what: str, job: Json) -> str:
    """The sentence about an order that failed, with the reason, or was cancelled."""
    reason = job["error"]
    if job["status"] == "cancelled":
        return f"{what} was cancelled{f': {reason}' if reason else '.'}"
    return f"{what} failed: {reason or 'no reason given'}"


def address(settings: config.Settings) -> str:
    """Where this machine reaches the gateway, e.g. `http://127.0.0.1:8080`."""
    host = settings.local_host
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    return f"{'https' if settings.tls_enabled else 'http'}://{host}:{settings.port}"


class Client:
    """One signed-in user of one platform. Not for use by several threads."""

    def __init__(self, settings: config.Settings, key: str = "", transport: httpx.BaseTransport | None = None) -> None:
        self.address = address(settings)
        self._http = httpx.Client(
            base_url=f"{self.address}/api/v1/",
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(60, connect=5),
            verify=config.trusting(settings.tls_cert) if settings.tls_enabled else True,
            trust_env=False,  # a proxy for the world is none for this machine
            transport=transport,
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def not_ready(self) -> str:
        """Why the platform does not serve yet; empty when it does."""
        try:
            answer = self._http.get("health/ready", timeout=2)
            return "" if answer.is_success else str(answer.json()["detail"])
        except httpx.TransportError:
            return f"the gateway does not answer at {self.address}"
        except (ValueError, KeyError, TypeError):
            return self._not_ours(answer).message

    def health(self) -> Json:
        """Status of the platform; with its components for a signed-in user."""
        return self._call("GET", "health")

    def signed_in(self) -> bool:
        """Whether the credential is good."""
        try:
            self._call("GET", "auth/verify")
        except errors.Unauthorized:
            return False
        return True

    def items(self, noun: Noun, **wanted: str | None) -> Iterator[Json]:
        """All models or datasets, newest first; of those `wanted` (`name`, `status`, `task_type`) only these."""
        return self._pages(noun, **wanted)

    def item(self, noun: Noun, item_id: str) -> Json:
        """A model or dataset with all that is known of it."""
        return self._call("GET", f"{noun}/{item_id}")

    def delete(self, noun: Noun, item_id: str) -> None:
        """Delete a model or dataset and the files nobody else uses."""
        self._send("DELETE", f"{noun}/{item_id}")

    def reports(self, **wanted: str | None) -> Iterator[Json]:
        """All reports of benchmarks, newest first; of those `wanted` (`model_id`) only these."""
        return self._pages("reports", **wanted)

    def jobs(self, **wanted: str | None) -> Iterator[Json]:
        """All jobs, newest first; of those `wanted` (`kind`, `status`) only these."""
        return self._pages("jobs", **wanted)

    def job(self, job_id: str) -> Json:
        """A job and its story."""
        return self._call("GET", f"jobs/{job_id}")

    def upload(self, noun: Noun, path: Path, fields: Mapping[str, object], on_bytes: Callable[[int], None]) -> Json:
        """Stream a file, its fields first.

        Args:
            noun: What it is.
            path: Read in pieces, never as a whole.
            fields: Text as it is, anything else as JSON; None is not sent.
            on_bytes: Hears how many bytes have left so far.
        """
        data = {
            name: value if isinstance(value, str) else msgspec.json.encode(value).decode()
            for name, value in fields.items()
            if value is not None
        }
        with path.open("rb") as file:
            sent = {"file": (path.name, _Counted(file, on_bytes))}
            return self._call("POST", noun, data=data, files=sent, timeout=httpx.Timeout(UPLOAD_ANSWER_S, connect=5))

    def wait_for_job(self, job_id: str, bound_s: float, on_progress: Callable[[Json], None]) -> Json:
        """Wait until a job of any kind has ended, well or not; `on_progress` hears every state. Returns the last one.

        Raises:
            errors.DeadlineExceeded: It takes longer than `bound_s`.
        """
        for job in self._watch(f"jobs/{job_id}", bound_s, f"job {job_id}"):
            on_progress(job)
            if job["status"] in ENDED:
                return job
        raise AssertionError("a watch ends with a return or an error")

    def wait_for_model(self, model_id: str, bound_s: float) -> Json:
        """Wait until the check of an upload has ended.

        Raises:
            errors.BadModel: The model was refused.
            errors.DeadlineExceeded: It takes longer than `bound_s`.
        """
        for model in self._watch(f"models/{model_id}", bound_s, "the check of the model"):
            if model["status"] == "failed":
                raise errors.BadModel(f"The model was refused: {model['error']}")
            if model["status"] == "ready":
                return model
        raise AssertionError("a watch ends with a return or an error")

    def benchmark(self, spec: BenchmarkSpec) -> Json:
        """Order a benchmark."""
        return self._call("POST", "benchmark", json=msgspec.to_builtins(spec))

    def train(self, spec: TrainingOrder) -> Json:
        """Order a training, or a search for the best one."""
        return self._call("POST", "training", json=msgspec.to_builtins(spec))

    def trainings(self, **wanted: str | None) -> Iterator[Json]:
        """All trainings, newest first; of those `wanted` (`model_id`, `dataset_id`, `status`) only these."""
        return self._pages("training", **wanted)

    def training(self, training_id: str) -> Json:
        """A training with its learning curves, and what it reached."""
        return self._call("GET", f"training/{training_id}")

    def wait_for_training_report(self, training_id: str) -> Json:
        """Wait, for `REPORT_BOUND_S`, while the report of a training is being written; the training as it is then."""
        began = time.monotonic()
        for training in self._watch(f"training/{training_id}", 2 * REPORT_BOUND_S, "the report of the training"):
            writing = (training["report"] or {}).get("status") in ("queued", "running")
            if not writing or time.monotonic() - began > REPORT_BOUND_S:
                return training
        raise AssertionError("a watch ends with a return or an error")

    def compared(self, a: str, b: str) -> Json:
        """Two trainings side by side."""
        return self._call("GET", "training/compare", params={"a": a, "b": b})

    def trainings_table(self, most: int, **wanted: str | None) -> Iterator[str]:
        """The newest trainings as CSV, a heading and `most` lines of it, page by page; of those `wanted` only these."""
        asked = {"format": "csv"} | {name: value for name, value in wanted.items() if value is not None}
        cursor, heading = None, True
        while most:
            page = {"limit": str(min(most, PAGE)), **({"cursor": cursor} if cursor else {})}
            answer = self._send("GET", "training", params=asked | page)
            yield answer.text if heading else answer.text.partition("\n")[2]
            cursor, heading = answer.headers.get("x-next-cursor"), False
            most = most - min(most, PAGE) if cursor else 0

    def wait_for_benchmark(self, job_id: str, bound_s: float, on_progress: Callable[[Json], None]) -> Json:
        """Wait until a benchmark has ended and its report is written; `on_progress` hears every state.

        Raises:
            errors.EngineFailed: The job failed or was cancelled; the message has the reason.
            errors.DeadlineExceeded: It takes longer than `bound_s`, or its report longer than `REPORT_BOUND_S`.
        """
        measured_at = None
        for job in self._watch(f"benchmark/{job_id}", bound_s, "the benchmark"):
            on_progress(job)
            if job["status"] in ("failed", "cancelled"):
                raise errors.EngineFailed(ended_badly(f"Benchmark {job_id}", job))
            if job["status"] != "completed":
                continue
            if job["report_id"]:
                return job
            report = job.get("report") or {}
            if report.get("status") in ("failed", "cancelled"):
                raise errors.EngineFailed(
                    f"The report on benchmark {job_id} failed: {report.get('error', 'cancelled')}"
                )
            measured_at = measured_at or time.monotonic()
            if time.monotonic() - measured_at > REPORT_BOUND_S:
                break
        raise errors.DeadlineExceeded(f"Benchmark {job_id} has no report yet; `cvp logs reporter` shows why.")

    def cancel(self, call: str, job_id: str) -> Json:
        """Take an order back, whether it waits or runs; `call` is `benchmark` or `training`."""
        return self._call("POST", f"{call}/{job_id}/cancel")

    def deploy(self, model_id: str, order: DeploymentOrder) -> Json:
        """Order what serves a model."""
        said = {name: value for name, value in msgspec.to_builtins(order).items() if value is not None}
        return self._call("PUT", f"models/{model_id}/deployment", json=said)

    def revert(self, model_id: str) -> None:
        """Let the default serve a model again."""
        self._send("DELETE", f"models/{model_id}/deployment")

    def deployment(self, model_id: str) -> Json:
        """The last order for a model, and what serves it."""
        return self._call("GET", f"models/{model_id}/deployment")

    def wait_for_deployment(self, model_id: str, bound_s: float, take_over_s: float) -> Json:
        """Wait until an order has been tried, and until the processes that hold the model have taken it over.

        The latter for `take_over_s` at most: what is wrong there is in the answer.

        Raises:
            errors.DeadlineExceeded: It is still being tried after `bound_s`.
        """
        tried_at = None
        for found in self._watch(f"models/{model_id}/deployment", bound_s, "the activation"):
            if found["status"] == "activating":
                continue
            tried_at = tried_at or time.monotonic()
            waits = any(not one["current"] and not one["problem"] for one in found["processes"])
            if found["status"] == "failed" or not waits or time.monotonic() - tried_at > take_over_s:
                return found
        raise AssertionError("a watch ends with a return or an error")

    def export(self, report_id: str, form: Format) -> bytes:
        """A report as a file."""
        return self._send("GET", f"reports/{report_id}/export", params={"format": form}).content

    def training_report(self, training_id: str, form: Format) -> bytes:
        """The report of a training as a file."""
        return self._send("GET", f"training/{training_id}/report", params={"format": form}).content

    def predict(self, model_id: str, image: bytes) -> Json:
        """Classify one image file; the answer has `predictions` and `latency_ms`."""
        return self._call("POST", "inference/predict", params={"model_id": model_id, "top_k": "1"}, content=image)

    def _pages(self, path: str, **wanted: str | None) -> Iterator[Json]:
        asked = {name: value for name, value in wanted.items() if value is not None}
        cursor = None
        while True:
            page = self._call("GET", path, params=asked | ({"cursor": cursor} if cursor else {}))
            yield from page["items"]
            cursor = page.get("next_cursor")
            if not cursor:
                return

    def _watch(self, path: str, bound_s: float, what: str) -> Iterator[Json]:
        end = time.monotonic() + bound_s
        seen = time.monotonic()
        while time.monotonic() < end:
            try:
                yield self._call("GET", path)
                seen = time.monotonic()
            except errors.AppError as error:
                if not error.retryable or time.monotonic() - seen > OUTAGE_S:
                    raise
            time.sleep(POLL_S)
        raise errors.DeadlineExceeded(f"After {bound_s:.0f} s {what} is not done; `cvp status` shows what is wrong.")

    def _call(self, method: str, path: str, **options: Any) -> Json:
        answer = self._send(method, path, **options)
        try:
            return dict(answer.json())
        except ValueError:
            raise self._not_ours(answer) from None

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            answer = self._http.request(method, path, **options)
        except httpx.TimeoutException:
            raise errors.DeadlineExceeded(f"{self.address} took too long to answer.") from None
        except httpx.TransportError as error:
            raise errors.Unavailable(
                f"Nothing answers at {self.address} ({error}). `cvp up` starts the platform, `cvp status` shows it."
            ) from error
        if answer.is_success:
            return answer
        raise self._problem(answer)

    def _problem(self, answer: httpx.Response) -> errors.AppError:
        try:
            body = dict(answer.json())
            code, message = str(body["code"]), str(body["detail"])
        except (ValueError, KeyError, TypeError):
            return self._not_ours(answer)
        fields = "; ".join(f"{each.get('field')}: {each.get('message')}" for each in body.get("errors") or [])
        return errors.from_code(code, f"{message} {fields}".strip())

    def _not_ours(self, answer: httpx.Response) -> errors.AppError:
        phrase = http.HTTPStatus(answer.status_code).phrase if answer.status_code in list(http.HTTPStatus) else "?"
        return errors.AppError(
            f"{self.address} answered {answer.status_code} {phrase} in a way the platform does not: "
            "is another program listening on this port? `cvp doctor` tells."
        )


class _Counted:
    """A file that tells how much of it has been read."""

    def __init__(self, file: BinaryIO, on_bytes: Callable[[int], None]) -> None:
        self._file, self._on_bytes = file, on_bytes
        self.fileno = file.fileno

    def read(self, size: int = -1) -> bytes:
        chunk = self._file.read(size)
        self._on_bytes(self._file.tell())
        return chunk
