"""Rules for Prometheus and a dashboard for Grafana: promtool reads the rules, they fire when they must, and both use
metrics and labels that exist."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus"
BOARD = ROOT / "deploy" / "grafana" / "cv-platform.json"


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


def documented() -> dict[str, tuple[str, set[str]]]:
    """Kind and labels of each series that is sent, as docs/METRICS.md has them."""
    rows = re.findall(
        r"^\| `(cvp_\w+)` \| (\w+) \| ([^|]*) \|", (ROOT / "docs" / "METRICS.md").read_text(), re.MULTILINE
    )
    found = {}
    for name, kind, labels in rows:
        named = set(re.findall(r"`(\w+)`", labels))
        parts = {"_bucket": named | {"le"}, "_sum": named, "_count": named} if kind == "histogram" else {"": named}
        found |= {name + end: (kind, known) for end, known in parts.items()}
    return found


def expressions() -> list[str]:
    """Of the alerts, and of every panel and variable of the dashboard."""
    alerts = yaml.safe_load((RULES / "alerts.yml").read_text())
    board = json.loads(BOARD.read_text())
    found = [rule["expr"] for group in alerts["groups"] for rule in group["rules"]]
    found += [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    return found + [variable["definition"] for variable in board["templating"]["list"] if "definition" in variable]


@pytest.mark.parametrize("expression", expressions())
def test_what_is_drawn_or_watched_exists(expression: str) -> None:
    """Each name is sent, each label is one it has, what only rises is taken as a rate; brackets close."""
    series, used = documented(), re.findall(r"\b(cvp_\w+)(?:\{([^}]*)\})?", expression)
    assert used or "up{" in expression
    known: set[str] = set()
    for name, selector in used:
        kind, labels = series[name]
        known |= labels
        assert set(re.findall(r"(\w+)\s*[=!]", selector or "")) <= labels
        if kind != "gauge" and not expression.startswith("label_values("):
            assert re.search(rf"(rate|increase)\({name}(\{{[^}}]*\}})?\[", expression), f"{name} only rises"
    for grouped in re.findall(r"\bby \(([^)]*)\)", expression):
        assert {label.strip() for label in grouped.split(",")} <= known
    for opening, closing in ("()", "[]", "{}"):
        assert expression.count(opening) == expression.count(closing)


def test_the_dashboard_can_be_imported() -> None:
    """What Grafana wants: panels with ids of their own that do not overlap, and a data source to be chosen."""
    board = json.loads(BOARD.read_text())
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids)) and board["uid"] == "cv-platform" and board["title"]
    assert {variable["name"] for variable in board["templating"]["list"]} == {"datasource", "model"}
    places = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        squares = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert place["x"] + place["w"] <= 24 and not squares & places
        places |= squares
        if panel["type"] != "row":
            assert panel["description"] and panel["targets"]
            assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])
            named = set(re.findall(r"\{\{(\w+)\}\}", "".join(target["legendFormat"] for target in panel["targets"])))
            assert named <= set().union(*(labels for _, labels in documented().values()))


def test_every_metric_of_predictions_is_drawn() -> None:
    drawn = " ".join(expressions())
    wanted = {name for name in documented() if name.startswith(("cvp_inference", "cvp_model", "cvp_gpu"))}
    left_out = {"cvp_inference_workers", "cvp_inference_workers_busy", "cvp_gpu_temperature_celsius"}
    assert {name for name in wanted - left_out if re.sub("_(bucket|sum|count)$", "", name) not in drawn} == set()


def test_every_alert_is_tested_to_fire_and_says_what_to_do() -> None:
    text = (RULES / "alerts.yml").read_text()
    alerts = re.findall(r"- alert: (\w+)", text)
    tested = re.findall(r'alertname="(\w+)"', (RULES / "alerts_test.yml").read_text())
    assert len(alerts) == len(set(alerts)) == text.count("action: ") == text.count("summary: ")
    assert set(tested) == set(alerts)
    runbook = (ROOT / "docs" / "RUNBOOK.md").read_text()
    assert [name for name in alerts if f"`{name}`" not in runbook] == [], "say in docs/RUNBOOK.md what to do"
