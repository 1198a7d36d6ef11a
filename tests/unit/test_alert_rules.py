"""The rules for Prometheus: promtool reads them, they fire when they must, and they use metrics that exist."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus"


@pytest.fixture
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        how = "promtool is not installed; deploy/test-packages.sh brings it (Debian, Ubuntu: apt install prometheus)"
        assert os.environ.get("CI") != "true", how
        pytest.skip(how)
    return found


@pytest.mark.parametrize(
    ("what", "arguments"),
    [
        ("the rules", ["check", "rules", "--lint-fatal", "alerts.yml"]),
        ("the scrape example", ["check", "config", "--syntax-only", "prometheus.yml"]),
        ("what fires when", ["test", "rules", "alerts_test.yml"]),
    ],
)
def test_promtool_finds_nothing_wrong_with(promtool: str, what: str, arguments: list[str]) -> None:
    done = subprocess.run([promtool, *arguments], cwd=RULES, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{what}:\n{done.stdout}{done.stderr}"


def test_every_metric_in_a_rule_is_documented() -> None:
    text = (RULES / "alerts.yml").read_text()
    used = set(re.findall(r"\bcvp_\w+", text))
    documented = set(re.findall(r"^\| `(cvp_\w+)`", (ROOT / "docs" / "METRICS.md").read_text(), re.MULTILINE))
    assert used and used <= documented


def test_every_alert_is_tested_to_fire_and_says_what_to_do() -> None:
    text = (RULES / "alerts.yml").read_text()
    alerts = re.findall(r"- alert: (\w+)", text)
    tested = re.findall(r'alertname="(\w+)"', (RULES / "alerts_test.yml").read_text())
    assert len(alerts) == len(set(alerts)) == text.count("action: ") == text.count("summary: ")
    assert set(tested) == set(alerts)
    runbook = (ROOT / "docs" / "RUNBOOK.md").read_text()
    assert [name for name in alerts if f"`{name}`" not in runbook] == [], "say in docs/RUNBOOK.md what to do"
