-- A database of the first schema with a row in every table, as `iterdump` wrote it. It stays as it is: every later
-- version must be able to bring it up to date.
PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
CREATE TABLE alerts (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    message TEXT NOT NULL,
    raised_at_ms INTEGER NOT NULL,
    cleared_at_ms INTEGER
) STRICT;
INSERT INTO "alerts" VALUES(1,'disk','full',1000,NULL);
CREATE TABLE api_keys (
    id TEXT PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES users (id),
    name TEXT NOT NULL,
    key_sha256 TEXT NOT NULL UNIQUE CHECK (length(key_sha256) = 64),
    hint TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    expires_at_ms INTEGER,
    revoked_at_ms INTEGER
) STRICT;
INSERT INTO "api_keys" VALUES('key_1','usr_1','ci','aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','cvp_abcd',1000,NULL,NULL);
CREATE TABLE artifacts (
    sha256 TEXT PRIMARY KEY CHECK (length(sha256) = 64),
    store TEXT NOT NULL CHECK (store IN ('models', 'datasets', 'reports')),
    size_bytes INTEGER NOT NULL CHECK (size_bytes >= 0),
    created_at_ms INTEGER NOT NULL
) STRICT;
INSERT INTO "artifacts" VALUES('cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc','models',100,1000);
INSERT INTO "artifacts" VALUES('dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd','reports',200,1001);
CREATE TABLE audit_log (
    id INTEGER PRIMARY KEY,
    at_ms INTEGER NOT NULL,
    request_id TEXT NOT NULL,
    user_id TEXT,
    action TEXT NOT NULL,
    resource TEXT NOT NULL,
    result TEXT NOT NULL
) STRICT;
INSERT INTO "audit_log" VALUES(1,1000,'req_1','usr_1','POST /api/v1/models','mdl_1','202');
CREATE TABLE benchmark_jobs (
    id TEXT PRIMARY KEY REFERENCES jobs (id),
    model_id TEXT NOT NULL REFERENCES models (id),
    user_id TEXT NOT NULL REFERENCES users (id),
    measurements_sha256 TEXT REFERENCES artifacts (sha256),
    created_at_ms INTEGER NOT NULL
) STRICT;
INSERT INTO "benchmark_jobs" VALUES('job_1','mdl_1','usr_1','dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd',1000);
CREATE TABLE benchmark_results (
    id INTEGER PRIMARY KEY,
    benchmark_id TEXT NOT NULL REFERENCES benchmark_jobs (id),
    engine TEXT NOT NULL,
    precision TEXT NOT NULL,
    batch_size INTEGER NOT NULL,
    threads INTEGER NOT NULL,
    instances INTEGER NOT NULL,
    status TEXT NOT NULL,
    reason TEXT,
    latency_mean_ms REAL,
    latency_p50_ms REAL,
    latency_p95_ms REAL,
    latency_p99_ms REAL,
    throughput_fps REAL,
    cpu_util_pct REAL,
    gpu_util_pct REAL,
    memory_mb REAL,
    vram_usage_mb REAL,
    power_draw_w REAL,
    load_ms REAL,
    artifact_mb REAL,
    UNIQUE (benchmark_id, engine, precision, batch_size, threads, instances)
) STRICT;
INSERT INTO "benchmark_results" VALUES(1,'job_1','onnxruntime','fp32',1,2,1,'measured',NULL,NULL,NULL,1.25,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
CREATE TABLE datasets (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    description TEXT NOT NULL DEFAULT '',
    task_type TEXT NOT NULL CHECK (task_type IN ('classification', 'detection')),
    status TEXT NOT NULL CHECK (status IN ('preprocessing', 'ready', 'failed')),
    error TEXT,
    file_sha256 TEXT NOT NULL REFERENCES artifacts (sha256),
    file_size INTEGER NOT NULL,
    num_samples INTEGER,
    num_classes INTEGER,
    split_config TEXT NOT NULL CHECK (json_valid(split_config)),
    created_by TEXT NOT NULL REFERENCES users (id),
    created_at_ms INTEGER NOT NULL,
    deleted_at_ms INTEGER
) STRICT;
INSERT INTO "datasets" VALUES('dst_1','digits','','classification','ready',NULL,'cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc',1,NULL,NULL,'{}','usr_1',1,NULL);
CREATE TABLE deployment_packages (
    id TEXT PRIMARY KEY REFERENCES jobs (id),
    model_id TEXT NOT NULL REFERENCES models (id),
    version TEXT NOT NULL,
    selected_engine TEXT,
    config TEXT NOT NULL CHECK (json_valid(config)),
    docker_image_tag TEXT,
    artifacts TEXT NOT NULL DEFAULT '[]' CHECK (json_valid(artifacts)),
    package_size INTEGER,
    checksum TEXT,
    created_by TEXT NOT NULL REFERENCES users (id),
    created_at_ms INTEGER NOT NULL,
    UNIQUE (model_id, version)
) STRICT;
INSERT INTO "deployment_packages" VALUES('job_3','mdl_1','x',NULL,'{}',NULL,'[]',NULL,NULL,'usr_1',1);
CREATE TABLE deployments (
    id TEXT PRIMARY KEY,
    model_id TEXT NOT NULL REFERENCES models (id),
    engine TEXT NOT NULL,
    precision TEXT NOT NULL,
    batch_size INTEGER NOT NULL,
    threads INTEGER NOT NULL,
    source TEXT NOT NULL CHECK (source IN ('default', 'report', 'manual')),
    status TEXT NOT NULL CHECK (status IN ('activating', 'active', 'stale', 'failed', 'retired')),
    report_id TEXT REFERENCES reports (id),
    fingerprint TEXT NOT NULL,
    created_by TEXT NOT NULL REFERENCES users (id),
    created_at_ms INTEGER NOT NULL
) STRICT;
INSERT INTO "deployments" VALUES('dep_1','mdl_1','onnxruntime','fp32',4,1,'manual','active','rep_1','fp','usr_1',1002);
CREATE TABLE idempotency (
    user_id TEXT NOT NULL REFERENCES users (id),
    route TEXT NOT NULL,
    key TEXT NOT NULL,
    body_sha256 TEXT NOT NULL,
    status INTEGER,
    response TEXT CHECK (response IS NULL OR json_valid(response)),
    location TEXT,
    created_at_ms INTEGER NOT NULL,
    PRIMARY KEY (user_id, route, key),
    CHECK ((status IS NULL) = (response IS NULL))
) STRICT;
INSERT INTO "idempotency" VALUES('usr_1','POST /api/v1/models','k1','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb',202,'{"id":"mdl_1"}','/api/v1/models/mdl_1',1000);
CREATE TABLE job_events (
    id INTEGER PRIMARY KEY,
    job_id TEXT NOT NULL REFERENCES jobs (id),
    at_ms INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    event TEXT NOT NULL,
    detail TEXT NOT NULL DEFAULT ''
) STRICT;
INSERT INTO "job_events" VALUES(1,'job_1',1000,0,'queued','');
INSERT INTO "job_events" VALUES(2,'job_1',1001,1,'started','benchmarker-0');
CREATE TABLE jobs (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    lane TEXT NOT NULL CHECK (lane IN ('accelerator', 'cpu', 'report')),
    isolation TEXT NOT NULL DEFAULT 'shared' CHECK (isolation IN ('exclusive', 'shared')),
    spec TEXT NOT NULL CHECK (json_valid(spec)),
    spec_version INTEGER NOT NULL DEFAULT 1,
    status TEXT NOT NULL CHECK (status IN ('queued', 'running', 'completed', 'failed', 'cancelled')),
    priority INTEGER NOT NULL DEFAULT 0 CHECK (priority BETWEEN -100 AND 100),
    attempt INTEGER NOT NULL DEFAULT 0 CHECK (attempt >= 0),
    max_attempts INTEGER NOT NULL DEFAULT 3 CHECK (max_attempts >= 1),
    max_runtime_s REAL NOT NULL CHECK (max_runtime_s > 0),
    not_before_ms INTEGER NOT NULL DEFAULT 0,
    ordered_at_ms INTEGER NOT NULL,
    progress TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(progress)),
    error TEXT,
    cancel_requested INTEGER NOT NULL DEFAULT 0 CHECK (cancel_requested IN (0, 1)),
    worker TEXT,
    parent_id TEXT REFERENCES jobs (id),
    created_by TEXT NOT NULL REFERENCES users (id),
    created_at_ms INTEGER NOT NULL,
    started_at_ms INTEGER,
    finished_at_ms INTEGER,
    CHECK ((status = 'running') = (worker IS NOT NULL)),
    CHECK ((status IN ('completed', 'failed', 'cancelled')) = (finished_at_ms IS NOT NULL)),
    CHECK ((status = 'failed') = (error IS NOT NULL)),
    CHECK (status <> 'running' OR attempt >= 1)
) STRICT;
INSERT INTO "jobs" VALUES('job_1','benchmark','accelerator','exclusive','{"model_id":"mdl_1"}',1,'completed',0,1,3,60.0,0,1000,'{}',NULL,0,NULL,NULL,'usr_1',1000,1001,1002);
INSERT INTO "jobs" VALUES('job_2','report','report','shared','{"benchmark_id":"job_1"}',1,'queued',5,0,3,60.0,0,1000,'{}',NULL,0,NULL,'job_1','usr_1',1000,NULL,NULL);
INSERT INTO "jobs" VALUES('job_3','convert','cpu','shared','{"model_id":"mdl_2"}',1,'failed',0,3,3,60.0,0,1000,'{}','No model.',0,NULL,NULL,'usr_1',1000,1001,1002);
CREATE TABLE models (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    description TEXT NOT NULL DEFAULT '',
    model_type TEXT NOT NULL CHECK (model_type IN ('preset', 'custom')),
    framework TEXT NOT NULL CHECK (framework IN ('pytorch', 'tensorflow', 'onnx')),
    task_type TEXT NOT NULL CHECK (task_type IN ('classification', 'detection')),
    status TEXT NOT NULL CHECK (status IN ('converting', 'ready', 'failed')),
    error TEXT,
    file_sha256 TEXT NOT NULL,
    file_size INTEGER NOT NULL,
    onnx_sha256 TEXT,
    onnx_size INTEGER,
    preprocessing TEXT CHECK (preprocessing IS NULL OR json_valid(preprocessing)),
    labels TEXT CHECK (labels IS NULL OR json_valid(labels)),
    description_json TEXT CHECK (description_json IS NULL OR json_valid(description_json)),
    parent_id TEXT REFERENCES models (id),
    created_by TEXT NOT NULL REFERENCES users (id),
    created_at_ms INTEGER NOT NULL,
    deleted_at_ms INTEGER,
    CHECK (status <> 'ready' OR (onnx_sha256 IS NOT NULL AND description_json IS NOT NULL)),
    CHECK ((status = 'failed') = (error IS NOT NULL))
) STRICT;
INSERT INTO "models" VALUES('mdl_1','digits','','custom','onnx','classification','ready',NULL,'cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc',100,'cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc',100,NULL,'["0","1"]','{"dynamic_batch":true,"inputs":[],"ir_version":8,"labels":["0","1"],"notes":[],"opset":17,"outputs":[],"parameters":10,"preprocessing":null}',NULL,'usr_1',1000,NULL);
INSERT INTO "models" VALUES('mdl_2','broken','','custom','onnx','detection','failed','No model.','eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee',5,NULL,NULL,NULL,NULL,NULL,NULL,'usr_1',1002,1003);
CREATE TABLE reports (
    id TEXT PRIMARY KEY,
    benchmark_id TEXT NOT NULL UNIQUE REFERENCES benchmark_jobs (id),
    model_id TEXT NOT NULL REFERENCES models (id),
    selected_engine TEXT,
    content_sha256 TEXT NOT NULL,
    files TEXT NOT NULL CHECK (json_valid(files)),
    created_at_ms INTEGER NOT NULL
) STRICT;
INSERT INTO "reports" VALUES('rep_1','job_1','mdl_1','onnxruntime','ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff','{"report.json":"dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd"}',1002);
CREATE TABLE revisions (
    name TEXT PRIMARY KEY CHECK (name IN ('access', 'models')),
    value INTEGER NOT NULL
) STRICT;
INSERT INTO "revisions" VALUES('access',0);
INSERT INTO "revisions" VALUES('models',7);
CREATE TABLE "schema_migration" ("id" INTEGER NOT NULL PRIMARY KEY, "name" VARCHAR(255) NOT NULL, "applied" DATETIME NOT NULL);
INSERT INTO "schema_migration" VALUES(1,'0001_first','2026-01-01 00:00:00');
CREATE TABLE sessions (
    id TEXT PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES users (id),
    created_at_ms INTEGER NOT NULL,
    expires_at_ms INTEGER NOT NULL CHECK (expires_at_ms > created_at_ms),
    revoked_at_ms INTEGER
) STRICT;
INSERT INTO "sessions" VALUES('ses_1','usr_1',1000,99999999999999,NULL);
INSERT INTO "sessions" VALUES('ses_2','usr_1',1000,2000,1500);
CREATE TABLE training_jobs (
    id TEXT PRIMARY KEY REFERENCES jobs (id),
    model_id TEXT NOT NULL REFERENCES models (id),
    dataset_id TEXT NOT NULL REFERENCES datasets (id),
    user_id TEXT NOT NULL REFERENCES users (id),
    hyperparams TEXT NOT NULL CHECK (json_valid(hyperparams)),
    ga_config TEXT CHECK (ga_config IS NULL OR json_valid(ga_config)),
    max_epochs INTEGER NOT NULL,
    validation_split REAL,
    final_accuracy REAL,
    final_loss REAL,
    best_epoch INTEGER,
    result_model_id TEXT REFERENCES models (id)
) STRICT;
INSERT INTO "training_jobs" VALUES('job_3','mdl_1','dst_1','usr_1','{}',NULL,1,NULL,NULL,NULL,NULL,NULL);
CREATE TABLE users (
    id TEXT PRIMARY KEY,
    username TEXT NOT NULL COLLATE NOCASE CHECK (length(username) BETWEEN 1 AND 64),
    password_hash TEXT NOT NULL,
    role TEXT NOT NULL CHECK (role IN ('admin', 'engineer', 'viewer')),
    created_at_ms INTEGER NOT NULL,
    deleted_at_ms INTEGER
) STRICT;
INSERT INTO "users" VALUES('usr_1','ada','$argon2id$not-a-hash','admin',1000,NULL);
INSERT INTO "users" VALUES('usr_2','bob','$argon2id$gone','viewer',1001,2000);
CREATE UNIQUE INDEX "schema_migration_name" ON "schema_migration" ("name");
CREATE UNIQUE INDEX users_username ON users (username) WHERE deleted_at_ms IS NULL;
CREATE INDEX sessions_expiry ON sessions (expires_at_ms);
CREATE INDEX api_keys_user ON api_keys (user_id);
CREATE INDEX models_file ON models (file_sha256);
CREATE INDEX models_onnx ON models (onnx_sha256);
CREATE INDEX jobs_open ON jobs (status, lane) WHERE status IN ('queued', 'running');
CREATE INDEX job_events_job ON job_events (job_id);
CREATE INDEX benchmark_jobs_model ON benchmark_jobs (model_id);
CREATE INDEX reports_model ON reports (model_id);
CREATE UNIQUE INDEX deployments_active ON deployments (model_id) WHERE status IN ('active', 'stale');
CREATE INDEX audit_log_time ON audit_log (at_ms);
CREATE UNIQUE INDEX alerts_raised ON alerts (name) WHERE cleared_at_ms IS NULL;
COMMIT;
