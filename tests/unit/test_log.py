"""Every line of a log is JSON, whoever wrote it: our log, a warning, an engine, a crash."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shared import scribe

ROOT = Path(__file__).parents[2]
ORT = "\x1b[0;93m2026-11-21 11:50:26.123456789 [W:onnxruntime:, graph.cc:4885 Clean] Removing initializer 'b'.\x1b[m"

SERVICE = """
import os, sys, threading, warnings
from pathlib import Path
from shared import config, process

def serve(settings, stop):
    {body}

process.service("reporter", serve)
"""


def lines_of(tmp_path: Path, body: str, code: int, **environ: str) -> list[dict[str, Any]]:
    """What a service writes that does this, line by line; it must end with that exit code."""
    done = subprocess.run(
        [sys.executable, "-c", SERVICE.format(body=body)],
        cwd=ROOT,
        env=os.environ | {"DATA_DIR": str(tmp_path)} | environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    return [json.loads(line) for line in done.stderr.splitlines()]


@pytest.mark.parametrize(
    ("line", "level", "text"),
    [
        (ORT, "warn", "[W:onnxruntime:, graph.cc:4885 Clean] Removing initializer 'b'."),
        ("[F:onnxruntime:, x.cc:1 f] gone", "fatal", "[F:onnxruntime:, x.cc:1 f] gone"),
        ("WARNING: from our child", "warn", "from our child"),
        ("CRITICAL: the end", "fatal", "the end"),
        ("Fatal Python error: Segmentation fault", "fatal", None),
        ("terminate called after throwing an instance of 'std::bad_alloc'", "fatal", None),
        ("Traceback (most recent call last):", "error", None),
        ("ZeroDivisionError: division by zero", "error", None),
        ("libpng warning: iCCP: known incorrect sRGB profile", "warn", None),
        ("/a/b.py:3: DeprecationWarning: old", "warn", None),
        ('  File "x.py", line 3, in f', "info", None),
        ("anything else\r", "info", "anything else"),
    ],
)
def test_a_raw_line_says_or_shows_its_level(line: str, level: str, text: str | None) -> None:
    assert scribe.read(line) == (level, line if text is None else text)


def test_records_are_like_those_of_the_log() -> None:
    [record] = scribe.records("gateway", [b"\n", b"\x1b[0m\n", b"\xff broken\n"])
    assert json.loads(record).keys() == {"time", "level", "service", "message", "from"}
    assert json.loads(record)["message"] == "� broken"


def test_warnings_prints_and_native_lines_are_json(tmp_path: Path) -> None:
    told = lines_of(
        tmp_path,
        """
    warnings.warn("Truncated File Read", UserWarning)
    print("printed")
    os.write(2, b"\\x1b[0;93m2026-11-21 11:50:26.1 [W:onnxruntime:, a.cc:1 f] careful\\x1b[m\\n")
""",
        0,
    )
    by_message = {line["message"]: line for line in told}
    assert by_message["Truncated File Read"]["warning"] == "UserWarning"
    assert by_message["[W:onnxruntime:, a.cc:1 f] careful"]["level"] == "warn"
    assert by_message["printed"]["from"] == "stderr"
    assert {"started", "stopped"} <= by_message.keys()
    assert {line["service"] for line in told} == {"reporter"}


def test_the_last_words_of_a_crash_are_json(tmp_path: Path) -> None:
    told = lines_of(tmp_path, "import ctypes; ctypes.string_at(0)", -11)
    crash = [line for line in told if line["message"] == "Fatal Python error: Segmentation fault"]
    assert crash and crash[0]["level"] == "fatal"
    assert any("string_at" in line["message"] for line in told), "and where it was"


def test_an_exception_and_a_bad_setting_are_fatal_lines(tmp_path: Path) -> None:
    [*_, last] = lines_of(tmp_path, "1 / 0", 1)
    assert last["level"] == "fatal" and "ZeroDivisionError" in last["trace"]
    [only] = lines_of(tmp_path, "pass", 64, PORT="none")
    assert only["level"] == "fatal" and only["message"].startswith("PORT='none'")


def test_a_service_whose_scribe_is_gone_goes_on(tmp_path: Path) -> None:
    told = lines_of(
        tmp_path,
        """
    from shared import log
    log._scribes[0].kill(); log._scribes[0].wait()
    os.system("true"); warnings.warn("still heard")
    try: os.write(2, b"lost")
    except BrokenPipeError: pass
""",
        0,
    )
    assert [line["message"] for line in told] == ["started", "still heard", "stopped"]
