"""Settings: one typed class read from the environment, each with its name, default, range and meaning."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from shared import trace, wording

IPC_PATH_MAX = 107
"""Bytes of a Unix socket path on Linux (`sun_path` less its NUL)."""

GIVEN = "CVP_SETTINGS_GIVEN"
"""Names, separated by commas, of the settings somebody chose, for processes whose environment holds all of them."""

ORIGIN = r"https?://[a-z0-9._\-]+(:[0-9]{1,5})?|https?://\[[0-9a-f:]+\](:[0-9]{1,5})?"
"""As browsers write the origin of a page: lower case, no path."""

SECRETS = frozenset({"METRICS_TOKEN", "SMTP_URL"})
"""Settings that are a password, or have one in them: shown to nobody."""

Count = Annotated[int, Meta(ge=1, le=4096)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Text = Annotated[str, Meta(max_length=4096)]


CPU_MAX = Path("/sys/fs/cgroup/cpu.max")

HOME = Path(__file__).absolute().parents[1]
"""The checkout this runs from (`make setup` installs in place)."""

TENSORFLOW = HOME / ".venv-tensorflow"
"""The environment of `make setup-tensorflow`, which copies its list of pins there when all of it is installed."""
NO_TENSORFLOW = "TensorFlow is not installed here: run `make setup-tensorflow` and upload the file again."


def tensorflow_python() -> Path | None:
    """The Python that converts TensorFlow files; None where that was not installed, or not as this version needs it."""
    try:
        installed = (TENSORFLOW / ".installed-tensorflow").read_bytes()
        wanted = (HOME / "deploy" / "tensorflow.txt").read_bytes()
    except OSError:
        return None
    return TENSORFLOW / "bin" / "python" if installed == wanted else None


class BadSetting(SystemExit):
    """A setting out of range: stops the start with exit code 64, which supervisord does not retry."""

    def __init__(self, message: str) -> None:
        super().__init__(64)
        self.message = message


class Settings(msgspec.Struct, frozen=True, kw_only=True, rename="upper"):
    """All settings in force. Paths default below `DATA_DIR`."""

    data_dir: Annotated[Text, Meta(description="Where everything is kept (default data, beside the code).")] = ""
    db_path: Annotated[Text, Meta(description="The SQLite file (default DATA_DIR/db/cv-platform.db).")] = ""
    model_path: Annotated[Text, Meta(description="Model files (default DATA_DIR/models).")] = ""
    dataset_path: Annotated[Text, Meta(description="Dataset files (default DATA_DIR/datasets).")] = ""
    report_path: Annotated[Text, Meta(description="Reports and measurements (default DATA_DIR/reports).")] = ""
    run_dir: Annotated[Text, Meta(description="Sockets and locks (default DATA_DIR/run); keep it short.")] = ""
    log_level: Annotated[
        Literal["debug", "info", "warn", "error", "fatal"], Meta(description="Least severe level that is logged.")
    ] = "info"

    host: Annotated[Text, Meta(description="Address the gateway listens on; 0.0.0.0 for all.")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65_535, description="Port the gateway listens on.")] = 8080
    tls_enabled: Annotated[bool, Meta(description="Serve HTTPS with TLS_CERT and TLS_KEY.")] = False
    tls_cert: Annotated[Text, Meta(description="PEM certificate chain.")] = ""
    tls_key: Annotated[Text, Meta(description="PEM private key.")] = ""
    cors_origins: Annotated[
        Text, Meta(description="Origins browsers may call from, https://a.example,https://b.example; no wildcard.")
    ] = ""

    max_gpu_workers: Annotated[
        int, Meta(ge=1, le=2, description="Accelerator slots: training and benchmark jobs that run at once.")
    ] = 2
    exclusive_wait_s: Annotated[
        Seconds, Meta(description="Longest wait of a benchmark for a training, which then makes room at a checkpoint.")
    ] = 300.0
    gpu_memory_mb: Annotated[
        int,
        Meta(
            ge=0,
            le=1_000_000,
            description="Most MB of the GPU's memory that one training takes, and as much that all served models take "
            "together, divided among the inference processes; of these the least recently used makes room. They run "
            "beside each other. 0: all of it, for each.",
        ),
    ] = 0
    preparers: Annotated[
        int,
        Meta(ge=1, le=16, description="Uploads checked at once; of large datasets, and of conversions, one at a time."),
    ] = 3
    inference_workers: Annotated[
        Count, Meta(description="Inference threads in all; a process starts no more than its share of the cores.")
    ] = 10
    inference_processes: Annotated[
        int,
        Meta(
            ge=0,
            le=256,
            description="Inference processes; 0: as many as paid when it was measured, at the first start on this "
            "machine, up to one a core and INFERENCE_WORKERS in all.",
        ),
    ] = 0
    inference_queue: Annotated[int, Meta(ge=1, le=1_000_000, description="Requests that may wait for inference.")] = (
        1000
    )
    inference_queue_mb: Annotated[int, Meta(ge=1, le=1_000_000, description="MB that may wait for inference.")] = 256
    inference_queue_s: Annotated[
        Seconds, Meta(description="Longest wait that is begun, at the measured pace; 128 images may always wait.")
    ] = 2.0
    inference_memory_mb: Annotated[
        int,
        Meta(
            ge=0,
            le=100_000_000,
            description="MB that loaded models take at most, divided among the inference processes; the least recently "
            "used makes room. 0: half of the machine's memory.",
        ),
    ] = 0
    queue_timeout_s: Annotated[Seconds, Meta(description="Longest wait for a free inference worker.")] = 30.0
    inference_timeout_s: Annotated[Seconds, Meta(description="Longest inference of one request.")] = 30.0
    max_queued_jobs: Annotated[int, Meta(ge=1, le=1_000_000, description="Jobs that may wait, all kinds together.")] = (
        1000
    )

    presets: Annotated[bool, Meta(description="Offer the models that come with the platform.")] = True
    preset_weights: Annotated[
        bool, Meta(description="Fetch pretrained weights of presets from download.pytorch.org, some 120 MB in all.")
    ] = True

    metrics_token: Annotated[
        Text, Meta(description="Bearer token that opens /metrics, for Prometheus; nothing else takes it.")
    ] = ""

    otel_exporter_otlp_endpoint: Annotated[
        str,
        Meta(
            max_length=4096,
            pattern=r"^(https?://[^\s/]+\S*)?$",
            extra={"rule": "of the form http://HOST:4318 or https://HOST/PATH"},
            description="Collector of OpenTelemetry spans, http://HOST:4318 (OTLP over HTTP); needs the extra `otel`.",
        ),
    ] = ""

    smtp_url: Annotated[
        str,
        Meta(
            max_length=4096,
            pattern=r"^(smtps?://([^/@]+@)?(\[[0-9a-fA-F:]+\]|[^/@:\[\]]+)(:[0-9]{1,5})?/?)?$",
            extra={"rule": "of the form smtp://USER:PASSWORD@HOST:587, with %40 for an @ in USER or PASSWORD"},
            description="Mail server for alerts: smtp://USER:PASSWORD@HOST:587, or smtps:// for TLS from the start.",
        ),
    ] = ""
    alert_email: Annotated[Text, Meta(description="Who gets alerts by e-mail; addresses separated by commas.")] = ""

    @property
    def local_host(self) -> str:
        """The name or address under which this machine reaches the gateway."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)

    @property
    def root(self) -> Path:
        """`DATA_DIR`, absolute; unset it is the same folder from wherever the command is typed."""
        return Path(self.data_dir).absolute() if self.data_dir else HOME / "data"

    @property
    def db_file(self) -> Path:
        """The SQLite database."""
        return Path(self.db_path).absolute() if self.db_path else self.root / "db" / "cv-platform.db"

    @property
    def models(self) -> Path:
        """Root of the model artifacts."""
        return Path(self.model_path).absolute() if self.model_path else self.root / "models"

    @property
    def datasets(self) -> Path:
        """Root of the dataset artifacts."""
        return Path(self.dataset_path).absolute() if self.dataset_path else self.root / "datasets"

    @property
    def reports(self) -> Path:
        """Root of reports and measurement sets."""
        return Path(self.report_path).absolute() if self.report_path else self.root / "reports"

    @property
    def run(self) -> Path:
        """Sockets, locks and pid files."""
        return Path(self.run_dir).absolute() if self.run_dir else self.root / "run"

    @property
    def pretrained(self) -> Path:
        """Pretrained weights that were fetched: a store of its own, whose files can be fetched again."""
        return self.root / "pretrained"

    @property
    def training(self) -> Path:
        """Checkpoints of trainings that have not ended, a folder each."""
        return self.root / "training"

    @property
    def plans(self) -> Path:
        """What TensorRT has built for this machine's GPU; can be built again."""
        return self.root / "plans"

    @property
    def logs(self) -> Path:
        """Log files, one a process."""
        return self.root / "logs"

    @property
    def secrets(self) -> Path:
        """Signing key of the sign-in tokens."""
        return self.root / "secrets"

    @property
    def broker_endpoint(self) -> str:
        """ZeroMQ address of the broker's ROUTER."""
        return f"ipc://{self.run / 'broker.sock'}"

    @property
    def events_endpoint(self) -> str:
        """ZeroMQ address of the broker's PUB."""
        return f"ipc://{self.run / 'events.sock'}"

    @property
    def origins(self) -> list[str]:
        """`CORS_ORIGINS` one by one."""
        return [origin.strip() for origin in self.cors_origins.split(",") if origin.strip()]

    @property
    def inference_farm(self) -> list[int]:
        """Threads of each inference process: `INFERENCE_WORKERS` divided as evenly as they go."""
        processes = min(self.inference_processes or min(self.inference_workers, cores()), self.inference_workers)
        share, rest = divmod(self.inference_workers, processes)
        return [share + (1 if index < rest else 0) for index in range(processes)]

    @property
    def inference_share_mb(self) -> float:
        """What the models of each inference process may take."""
        return (self.inference_memory_mb or memory_mb() / 2) / len(self.inference_farm)

    def sessions(self, instances: int | None) -> int:
        """How many sessions of a model each inference process holds, so that it has `instances` in all.

        One at least in each, for any process may be given any request; None means just that.
        """
        return max(1, (instances or 1) // len(self.inference_farm))

    def make_folders(self) -> None:
        """Create every folder; sockets and secrets are for this user only."""
        for folder in (self.db_file.parent, self.models, self.datasets, self.reports, self.logs):
            folder.mkdir(parents=True, exist_ok=True)
        for private in (self.run, self.secrets):
            private.mkdir(parents=True, exist_ok=True)
            private.chmod(0o700)


def cores() -> int:
    """CPU cores this process may use: those it may run on, or the fewer whole ones of a container's quota; at least 1.

    More threads than that would use the quota up early in each period, and all of them stand still for the rest of it.
    """
    present = len(os.sched_getaffinity(0))
    try:
        quota = quota_cores(CPU_MAX.read_text())
    except OSError:  # no cgroup of ours
        quota = None
    return max(1, present if quota is None else min(present, int(quota)))


def quota_cores(cpu_max: str) -> float | None:
    """Cores a quota allows, from the text of the control group's `cpu.max`: `<quota or "max"> <period>`."""
    fields = cpu_max.split()
    return int(fields[0]) / int(fields[1]) if len(fields) == 2 and fields[0] != "max" else None


def memory_mb() -> float:
    """Memory of the machine, or of the container that has less."""
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20
    try:
        return min(installed, int(Path("/sys/fs/cgroup/memory.max").read_text()) / 2**20)
    except (OSError, ValueError):  # no cgroup of ours, or `max`
        return installed


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """The settings in force.

    Raises:
        BadSetting: A value has the wrong type or is out of range, or a socket path would be too long.
    """
    environ = os.environ if environ is None else environ
    texts = {name: environ[name] for name in names() if environ.get(name, "") != ""}
    for name, value in texts.items():
        _check(name, value)
    settings = msgspec.convert(texts, Settings, strict=False)
    longest = str(settings.run / "supervisor.sock")
    if len(longest.encode()) > IPC_PATH_MAX:
        raise BadSetting(
            f"RUN_DIR: the socket path {longest!r} has {len(longest.encode())} bytes, Linux allows {IPC_PATH_MAX}. "
            "Set RUN_DIR to a shorter folder, for example /tmp/cvp."
        )
    for origin in settings.origins:
        if not re.fullmatch(ORIGIN, origin):
            raise BadSetting(
                f"CORS_ORIGINS={settings.cors_origins!r}: {origin!r} is no origin. Pages act with the rights of "
                "whoever is signed in, so each is named, as the browser sends it: scheme, host and port, no path, no "
                "wildcard, for example CORS_ORIGINS=https://app.example,http://localhost:3000"
            )
    if settings.otel_exporter_otlp_endpoint and not trace.installed():
        raise BadSetting(
            "OTEL_EXPORTER_OTLP_ENDPOINT is set, and what sends spans is not installed: "
            "`.venv/bin/pip install -c constraints.txt -e .[otel]`, or leave the setting out."
        )
    if settings.tls_enabled:
        for name, path in (("TLS_CERT", settings.tls_cert), ("TLS_KEY", settings.tls_key)):
            if not Path(path).is_file():
                raise BadSetting(f"{name}={path!r}: TLS_ENABLED needs a readable PEM file here.")
    return settings


def _check(name: str, value: str) -> None:
    try:
        msgspec.convert({name: value}, Settings, strict=False)
    except msgspec.ValidationError:
        given_as = name if name in SECRETS else f"{name}={value!r}"
        raise BadSetting(f"{given_as}: must be {wording.described(_type(name))}. {describe(name)}") from None


def require_tls_pair(settings: Settings) -> None:
    """Look into the certificate and its key, where HTTPS is served; not by `load`, for a renewal replaces them singly.

    Raises:
        BadSetting: They cannot be read, or are not one of the other.
    """
    if not settings.tls_enabled:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.tls_cert, settings.tls_key, password="")
    except OSError as error:
        reason = getattr(error, "reason", None) or ("" if isinstance(error, ssl.SSLError) else error.strerror)
        why = f" ({reason.replace('_', ' ').lower()})" if reason else ""
        raise BadSetting(
            f"TLS_CERT={settings.tls_cert!r}, TLS_KEY={settings.tls_key!r}: HTTPS needs a PEM certificate and its own "
            f"PEM key, without a passphrase{why}."
        ) from None


def trusting(certificate: str) -> ssl.SSLContext:
    """Trust exactly the gateway's own certificate, self-signed or not, under whatever name we reach it."""
    context = ssl.create_default_context(cafile=certificate)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.check_hostname = False
    return context


def names() -> list[str]:
    """The environment names of all settings, in order."""
    return [field.encode_name for field in msgspec.structs.fields(Settings)]


def describe(name: str) -> str:
    """What a setting means."""
    return str((_type(name).extra_json_schema or {}).get("description", ""))


def _type(name: str) -> Any:
    field = next(field for field in msgspec.structs.fields(Settings) if field.encode_name == name)
    return msgspec.inspect.type_info(field.type)


def shown(name: str, value: object) -> str:
    """A value as people may see it: secrets hidden, `true` and `false` as they are typed."""
    if value and name in SECRETS:
        return "(hidden)"
    return str(value).lower() if isinstance(value, bool) else str(value)


def given(environ: Mapping[str, str]) -> list[str]:
    """The settings somebody chose: those that are set, less those that `cvp up` only passes on."""
    chosen = environ[GIVEN].split(",") if GIVEN in environ else names()
    return [name for name in names() if name in chosen and environ.get(name, "") != ""]


def in_force(environ: Mapping[str, str] | None = None) -> list[tuple[str, str, str, str]]:
    """Rows `(name, value, origin, meaning)` for `cvp config`; origin is `environment` or `default`."""
    environ = os.environ if environ is None else environ
    values, chosen = msgspec.to_builtins(load(environ)), given(environ)
    return [
        (name, shown(name, values[name]), "environment" if name in chosen else "default", describe(name))
        for name in names()
    ]
