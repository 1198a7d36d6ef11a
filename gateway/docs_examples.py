"""One example of every JSON body, made of the structs themselves, so that none can be wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from litestar.openapi.spec import Example, OpenAPI, OpenAPIMediaType, OpenAPIResponse, Reference, RequestBody, Schema

from gateway import schemas
from shared.genes import TrainingOrder
from shared.specs import (
    BenchmarkSpec,
    Candidate,
    ClassCount,
    Constraint,
    DatasetWarning,
    DeploymentOrder,
    EpochFigures,
    HyperParameters,
    ImageSizes,
    NearDuplicate,
    Preprocessing,
    Resize,
    TensorInfo,
)
from shared.wire.open_inference import InferRequest, InputTensor, OutputParameters, RequestedOutput

MODEL, DATASET, JOB, REPORT = (f"{prefix}_0193a5b2c7e04f1c9a2b7d" for prefix in ("mdl", "dst", "job", "rep"))
REQUEST = "req_0193a5b2c7e04f1c9a2b7d"
CREATED, STARTED, FINISHED = (f"2026-01-31T12:0{time}.000Z" for time in ("0:00", "0:02", "1:05"))
SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
INPUTS = [TensorInfo(name="image", dtype="float32", shape=["batch", 3, 224, 224])]
OUTPUTS = [TensorInfo(name="logits", dtype="float32", shape=["batch", 2])]
CONTRACT = Preprocessing(resize=Resize(height=224, width=224), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
LIMIT = Constraint(metric="latency_p95_ms", op="<=", value=20.0)
ORDER = BenchmarkSpec(model_id=MODEL, dataset_id=DATASET, batch_sizes=(1, 8), constraints=(LIMIT,))
TRAINING = TrainingOrder(
    model_id=MODEL, dataset_id=DATASET, max_epochs=20, hyperparams=HyperParameters(learning_rate=0.001, batch_size=64)
)
PERSON = schemas.UserRef(id="usr_0193a5b2c7e04f1c9a2b7d", username="ana", role="engineer")
QUEUE = schemas.Queue(depth=0, limit=1000, mb=0.0)

TRAINED = schemas.TrainingJob(
    id=JOB,
    status="running",
    progress={
        "stage": "training",
        "epoch": 2,
        "max_epochs": 20,
        "fraction": 0.08,
        "eta_s": 31.4,
        "loss": 0.4127,
        "accuracy": 0.883,
    },
    task_type="classification",
    model_id=MODEL,
    model_name="cnn32",
    dataset_id=DATASET,
    dataset_name="digits",
    config=msgspec.to_builtins(TRAINING),
    hyperparams=msgspec.to_builtins(TRAINING.hyperparams),
    ga=None,
    search_id=None,
    final_accuracy=None,
    final_loss=None,
    best_epoch=None,
    duration_s=None,
    latency_ms=None,
    result_model_id=None,
    error=None,
    cancel_requested=False,
    request_id=REQUEST,
    created_by=PERSON.id,
    created_at=CREATED,
    started_at=STARTED,
    finished_at=None,
    epochs=[
        EpochFigures(
            epoch=1,
            loss=0.7241,
            accuracy=0.741,
            val_loss=0.4019,
            val_accuracy=0.883,
            learning_rate=0.001,
            seconds=1.7,
        )
    ],
    result=None,
    search=None,
    report=None,
)

SERVES = schemas.Serves(
    engine="openvino",
    precision="int8",
    batch_size=8,
    threads=1,
    instances=2,
    source="report",
    status="active",
    since=FINISHED,
    file_sha256=SHA256,
    jpeg_scale=2,
)

BODIES: tuple[msgspec.Struct, ...] = (
    schemas.Login(username="ana", password="correct horse battery staple"),
    schemas.SignedIn(access_token="eyJhbGciOiJIUzI1NiJ9.e30.c2lnbmF0dXJl", expires_in=86_400, user=PERSON),
    schemas.PageSession(csrf_token=SHA256, expires_in=86_400, user=PERSON),
    schemas.Ticket(ticket="4fK2uS0pWq7mZx1NcYbT9aLrEo3vHd8G", expires_in=60),
    schemas.Verified(user=PERSON, expires_at=FINISHED, csrf_token=None),
    schemas.NewKey(name="camera 3", expires_in_days=90),
    schemas.ApiKey(
        id="key_0193a5b2c7e04f1c9a2b7d", name="camera 3", hint="cvp_4fK2", created_at=CREATED, expires_at=None
    ),
    schemas.FreshApiKey(
        id="key_0193a5b2c7e04f1c9a2b7d",
        name="camera 3",
        hint="cvp_4fK2",
        created_at=CREATED,
        expires_at=None,
        key="cvp_4fK2...",
    ),
    schemas.NewUser(username="ana", password="correct horse battery staple", role="engineer"),
    schemas.UserChange(role="admin"),
    schemas.User(id=PERSON.id, username=PERSON.username, role=PERSON.role, created_at=CREATED),
    schemas.Model(
        id=MODEL,
        name="cats and dogs",
        description="",
        model_type="custom",
        framework="onnx",
        task_type="classification",
        status="ready",
        error=None,
        file_size=44_776_000,
        onnx_size=44_776_000,
        sha256=SHA256,
        input_shape=INPUTS[0].shape,
        output_shape=OUTPUTS[0].shape,
        inputs=INPUTS,
        outputs=OUTPUTS,
        preprocessing=msgspec.to_builtins(CONTRACT) | {"hash": CONTRACT.hash},
        labels=["cat", "dog"],
        notes=[],
        architecture=None,
        conversion=None,
        preset=None,
        serves=SERVES,
        trainable=False,
        why_not="An ONNX file holds a finished graph.",
        parent_id=None,
        lineage=None,
        job_id=JOB,
        created_by=PERSON.id,
        created_at=CREATED,
    ),
    schemas.Dataset(
        id=DATASET,
        name="cats and dogs",
        description="",
        task_type="classification",
        status="ready",
        error=None,
        file_size=812_400_000,
        sha256=SHA256,
        prepared_size=61_300_000,
        num_samples=4_000,
        num_classes=2,
        num_warnings=1,
        splits={"train": 3_200, "val": 400, "test": 400},
        split="80/10/10",
        seed=0,
        frames_per_second=1.0,
        archive_id=None,
        job_id=JOB,
        created_by=PERSON.id,
        created_at=CREATED,
        classes=["cat", "dog"],
        statistics=schemas.DatasetStatistics(
            layout="folders",
            split_source="made",
            classes=[
                ClassCount(name="cat", train=1_600, val=200, test=200),
                ClassCount(name="dog", train=1_600, val=200, test=200),
            ],
            num_skipped=1,
            sizes=ImageSizes(smallest=(320, 240), median=(1024, 768), largest=(4032, 3024)),
            mean=(0.48, 0.45, 0.41),
            std=(0.26, 0.26, 0.27),
        ),
        warnings=[DatasetWarning(where="cat/0017.jpg", what="is not used: the file is cut off")],
        near_duplicates=[
            NearDuplicate(
                first="dog/0003.jpg", first_split="train", second="dog/0918.jpg", second_split="test", distance=2
            )
        ],
        num_near_duplicates=1,
    ),
    DeploymentOrder(engine="openvino", precision="fp32", batch_size=8, threads=1, instances=2),
    schemas.Deployment(
        model_id=MODEL,
        engine="openvino",
        precision="int8",
        batch_size=8,
        threads=1,
        instances=2,
        source="report",
        status="active",
        report_id=REPORT,
        file_sha256=SHA256,
        golden_sha256=SHA256,
        fingerprint="5d41402abc4b2a76",
        provider="CPU",
        notes=["It answers 8 golden samples (test split) as it did when the benchmark checked it."],
        job_id=JOB,
        created_by=PERSON.id,
        created_at=CREATED,
        activated_at=FINISHED,
        serves=SERVES,
        processes=[
            schemas.ServingProcess(
                process="inferencer-0",
                engine="openvino",
                precision="int8",
                batch_size=8,
                threads=1,
                sessions=1,
                current=True,
                problem=None,
            )
        ],
    ),
    schemas.Job(
        id=JOB,
        kind="benchmark",
        lane="accelerator",
        status="running",
        priority=0,
        attempt=1,
        max_attempts=3,
        progress={"fraction": 0.4},
        error=None,
        cancel_requested=False,
        parent_id=None,
        request_id=REQUEST,
        created_by=PERSON.id,
        created_at=CREATED,
        started_at=STARTED,
        finished_at=None,
        events=[schemas.JobEvent(time=CREATED, attempt=0, event="queued", detail="", request_id=REQUEST)],
    ),
    schemas.JobLog(
        id=JOB,
        request_id=REQUEST,
        events=[schemas.JobEvent(time=STARTED, attempt=1, event="started", detail="benchmarker-0", request_id=REQUEST)],
        attempts=[schemas.AttemptLog(time=FINISHED, attempt=1, lines=["round 1 of 10"])],
    ),
    TRAINING,
    TRAINED,
    schemas.TrainingComparison(
        a=TRAINED,
        b=TRAINED,
        order=[schemas.TrainingDifference(name="learning_rate", a=0.001, b=0.003, delta=0.002)],
        outcome=[schemas.TrainingDifference(name="final_accuracy", a=0.96, b=0.975, delta=0.015)],
    ),
    ORDER,
    schemas.BenchmarkJob(
        id=JOB,
        status="completed",
        progress={"fraction": 1.0},
        model_id=MODEL,
        config=msgspec.to_builtins(ORDER),
        report_id=REPORT,
        error=None,
        cancel_requested=False,
        request_id=REQUEST,
        created_by=PERSON.id,
        created_at=CREATED,
        started_at=STARTED,
        finished_at=FINISHED,
    ),
    schemas.ReportRef(
        id=REPORT,
        benchmark_id=JOB,
        model_id=MODEL,
        selected_engine="openvino",
        content_sha256=SHA256,
        formats=["pdf", "html", "json", "csv"],
        created_at=FINISHED,
    ),
    schemas.PastChoice(
        report_id=REPORT,
        benchmark_id=JOB,
        model_id=MODEL,
        measured_at=FINISHED,
        objective="latency",
        fingerprint="5d41402abc4b2a76",
        dirty=False,
        fragile=False,
        num_measured=8,
        num_rejected=1,
        selected=Candidate(engine="openvino", precision="int8", batch_size=1, threads=2),
        figures={"latency_p95_ms": schemas.PastFigure(value=0.93, low=0.919, high=0.941, n=700)},
    ),
    schemas.ServedModel(
        id=MODEL,
        name="cats and dogs",
        task_type="classification",
        inputs=INPUTS,
        outputs=OUTPUTS,
        labels=["cat", "dog"],
        notes=[],
        engine="onnxruntime",
        precision="fp32",
        batch_size=8,
    ),
    schemas.OpenServer(name="cv-platform", version="0.1.0", extensions=["binary_tensor_data"]),
    schemas.OpenLive(live=True),
    schemas.OpenReady(ready=True),
    schemas.OpenModelReady(name="cats and dogs", ready=True),
    schemas.OpenModel(
        name="cats and dogs",
        versions=["1"],
        platform="onnxruntime_onnx",
        inputs=[schemas.OpenTensor(name="image", datatype="FP32", shape=[-1, 3, 224, 224])],
        outputs=[schemas.OpenTensor(name="logits", datatype="FP32", shape=[-1, 2])],
    ),
    InferRequest(
        id="7",
        inputs=[InputTensor(name="x", shape=[1, 1, 2, 2], datatype="FP32", data=msgspec.Raw(b"[0.1, 0.2, 0.3, 0.4]"))],
        outputs=[RequestedOutput(name="y", parameters=OutputParameters(binary_data=False))],
    ),
    schemas.OpenAnswer(
        model_name="cats and dogs",
        model_version="1",
        id="7",
        outputs=[schemas.OpenOutput(name="y", datatype="FP32", shape=[1, 2], data=msgspec.Raw(b"[0.2, 0.8]"))],
    ),
    schemas.InferenceHealth(
        status="ok",
        workers=schemas.Workers(total=2, busy=1, idle=1, lost=0),
        number_found_by="measured on 2026-11-22: 1.93 times the pace of one",
        processes=[
            schemas.InferenceProcess(
                id="inferencer-0", state="busy", answered=4512, last_answer_s=0.1, last_sign_s=0.1
            ),
            schemas.InferenceProcess(id="inferencer-1", state="idle", answered=0, last_answer_s=None, last_sign_s=0.8),
        ],
        queue=QUEUE,
        waiting=schemas.Waiting(models={}, callers=0, images_per_s=87.5),
        memory=schemas.ModelMemory(
            limit_mb=4096.0,
            used_mb=96.0,
            gpu_limit_mb=0.0,
            gpu_used_mb=0.0,
            loads=3,
            load_s=0.62,
            unloads=2,
            cold_requests=5,
        ),
        models=[
            schemas.LoadedModel(
                id=MODEL,
                engine="onnxruntime",
                precision="fp32",
                batch_size=8,
                threads=1,
                sessions=1,
                problem=None,
                loaded_in=["inferencer-0"],
                health=[
                    schemas.ModelHealth(
                        process="inferencer-0", last_success_s=0.1, probes=3, failed_probes=0, failure=None
                    )
                ],
                memory_mb=96.0,
                gpu_memory_mb=0.0,
            )
        ],
    ),
    schemas.Health(
        status="ok", version="0.1.0", inference="ok", components={"database": schemas.Component(status="ok")}
    ),
    schemas.Probe(status="ok"),
    schemas.Alert(
        id="17",
        name="InferenceQueueFull",
        message="1000 of 1000 predictions wait.",
        raised_at=CREATED,
        cleared_at=None,
    ),
    schemas.AuditEntry(
        id="4711",
        at=CREATED,
        request_id=REQUEST,
        user_id=PERSON.id,
        username=PERSON.username,
        action="DELETE /api/v1/models/{model_id}",
        resource=MODEL,
        result="204",
    ),
    schemas.Setting(name="PORT", value="8080", origin="default", meaning="Port the gateway listens on."),
)
EXAMPLES: dict[str, Any] = {type(body).__name__: msgspec.json.decode(msgspec.json.encode(body)) for body in BODIES}


def complete(openapi: OpenAPI) -> None:
    """Give every JSON body that is a struct, a page of them or a list of them, its example."""
    for content in _contents(openapi):
        body = content.get("application/json")
        if body is not None and body.examples is None and (value := _example(body.schema)) is not None:
            body.examples = {"example": Example(value=value)}


def _contents(openapi: OpenAPI) -> Iterator[dict[str, OpenAPIMediaType]]:
    for path in (openapi.paths or {}).values():
        for operation in (path.get, path.post, path.put, path.patch, path.delete):
            if operation is None:
                continue
            if isinstance(operation.request_body, RequestBody):
                yield operation.request_body.content
            for status, answer in (operation.responses or {}).items():
                if status.startswith("2") and isinstance(answer, OpenAPIResponse) and answer.content:
                    yield answer.content


def _example(shape: Schema | Reference | None) -> Any:
    if isinstance(shape, Reference):
        name = shape.ref.rpartition("/")[2]
        if not name.startswith("Listing_"):
            return EXAMPLES.get(name)
        item = EXAMPLES.get(name.removeprefix("Listing_").removesuffix("_").rpartition(".")[2])
        return None if item is None else {"items": [item], "next_cursor": None}
    if isinstance(shape, Schema) and isinstance(shape.items, Reference):
        item = _example(shape.items)
        return None if item is None else [item]
    return None
