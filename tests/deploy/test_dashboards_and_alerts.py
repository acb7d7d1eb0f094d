"""Dashboards and alerts ask for metrics that exist, in PromQL that parses, and are those that the code draws."""

import copy
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from deploy.alerts import ALERTS
from deploy.dashboards import BOARDS, board
from deploy.write import HERE, files
from projections.registry import METRICS

PROMETHEUS = HERE / "prometheus"
QUERIES = {
    **{
        f"{name}: {panel.title}: {legend}": query
        for name, (_, panels) in BOARDS.items()
        for panel in panels
        for legend, query in panel.queries.items()
    },
    **{alert.name: alert.query for alert in ALERTS},
}
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool: apt-get install prometheus")


@pytest.mark.parametrize("name", files())
def test_what_is_drawn_from_the_registry_is_up_to_date(name: str) -> None:
    """`python -m deploy.write` would change nothing."""
    assert (HERE / name).read_text() == files()[name]


@pytest.mark.parametrize("what", QUERIES)
def test_every_query_parses_and_asks_for_what_exists(what: str) -> None:
    """Series and labels are those of the registry; a histogram is asked by its buckets, its sum or its count."""
    query = QUERIES[what].replace("$__rate_interval", "5m")
    promql_parser.parse(query)
    series = {
        name: metric
        for metric in METRICS.values()
        for name in (
            [f"{metric.prometheus}_{part}" for part in ("bucket", "sum", "count")]
            if metric.kind == "histogram"
            else [metric.prometheus]
        )
    }
    asked = set(re.findall(r"\borch_\w+", query))
    assert asked
    assert asked <= series.keys()
    grouped = {label.strip() for labels in re.findall(r"by \((.*?)\)", query) for label in labels.split(",")}
    filtered = set(re.findall(r"[{,](\w+)=", query))
    known = {label for name in asked for label in series[name].labels} | {"le", "instance"}
    assert grouped | filtered <= known


def test_every_metric_is_on_a_dashboard() -> None:
    """Who adds one shows it."""
    asked = "\n".join(json.dumps(board(name)) for name in BOARDS)
    assert [metric.name for metric in METRICS.values() if metric.prometheus not in asked] == []


def test_a_query_that_is_none_would_be_noticed() -> None:
    """The parser is no formality."""
    with pytest.raises(ValueError, match="unclosed left parenthesis"):
        promql_parser.parse("sum by (le (rate(orch_turn_count_total[5m]))")


@pytest.mark.parametrize("name", BOARDS)
def test_a_dashboard_has_what_grafana_needs(name: str) -> None:
    """A fixed uid, panels that do not overlap, a data source that can be chosen."""
    it = board(name)
    assert it["uid"] == f"orch-{name}"
    taken = set()
    for panel in it["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells
        assert panel["description"]
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])
    assert len({panel["id"] for panel in it["panels"]}) == len(it["panels"])


@needs_promtool
def test_promtool_takes_the_rules() -> None:
    """And the configuration that loads them."""
    promtool("check", "rules", "rules.yaml")
    promtool("check", "config", "--syntax-only", "prometheus.yml")


@needs_promtool
def test_no_alert_is_raised_while_all_is_well() -> None:
    """`promtool test rules`, over an hour in which everything is as it should be."""
    promtool("test", "rules", "rules_test.yaml")


BAD: dict[str, dict[str, str]] = {
    "OrchSlowAnswers": {'orch_turn_response_latency_seconds_bucket{via="speech",le="0.8"}': "0+0x60"},
    "OrchTurnsFail": {'orch_turn_count_total{outcome="failed"}': "0+10x60"},
    "OrchFallbackAnswers": {'orch_turn_fallback_total{reason="answer_deadline"}': "0+10x60"},
    "OrchServiceFails": {'orch_service_duration_seconds_count{service="answer",outcome="timed_out"}': "0+10x60"},
    "OrchSlowToStop": {
        'orch_interruption_stop_latency_seconds_bucket{le="0.01"}': "0+0x60",
        'orch_interruption_stop_latency_seconds_bucket{le="0.3"}': "0+1x60",
        'orch_interruption_stop_latency_seconds_bucket{le="1.0"}': "0+6x60",
    },
    "OrchNoShards": {"orch_shard_owned": "0+0x60"},
    "OrchRedisDoesNotAnswer": {"orch_redis_silence_seconds": "60+60x60"},
    "OrchLostVersions": {"orch_redis_lost_version_total": "0+1x60"},
    "OrchReducerFailures": {"orch_reducer_failure_total": "0+1x60"},
    "OrchUnrecoverable": {"orch_session_unrecoverable_total": "0+1x60"},
    "OrchDeadLetters": {"orch_input_dead_letter_total": "0+1x60"},
    "OrchLoopLags": {
        'orch_eventloop_lag_seconds_bucket{le="0.01"}': "0+0x60",
        'orch_eventloop_lag_seconds_bucket{le="0.5"}': "0+240x60",
    },
    "OrchHistoryLags": {"orch_history_lag_seconds": "0+60x60"},
    "OrchHistoryFails": {"orch_history_failure_total": "0+2x60"},
    "OrchTelemetryDrops": {"orch_telemetry_span_dropped_total": "0+9x60"},
}
SLOW = {'orch_turn_response_latency_seconds_bucket{via="speech",le="3.0"}': "0+60x60"}


def test_every_alert_has_a_case() -> None:
    assert BAD.keys() == {alert.name for alert in ALERTS}


@needs_promtool
@pytest.mark.parametrize("name", BAD)
def test_an_alert_is_raised_when_its_case_comes(name: str, tmp_path: Path) -> None:
    """It alone, in an hour that is otherwise as it should be."""
    case = copy.deepcopy(yaml.safe_load((PROMETHEUS / "rules_test.yaml").read_text()))
    (test,) = case["tests"]
    series = {one["series"]: one["values"] for one in test["input_series"]} | BAD[name]
    series |= SLOW if name == "OrchSlowAnswers" else {}
    test["input_series"] = [{"series": key, "values": values} for key, values in series.items()]
    for expected in test["alert_rule_test"]:
        if expected["alertname"] == name:
            expected["exp_alerts"] = [raised(name)]
    case["rule_files"] = [str(PROMETHEUS / "rules.yaml")]
    file = tmp_path / "case.yaml"
    file.write_text(yaml.safe_dump(case))
    promtool("test", "rules", str(file))


def raised(name: str) -> dict[str, Any]:
    (alert,) = (alert for alert in ALERTS if alert.name == name)
    labels = {"severity": alert.severity} | ({"service": "answer"} if name == "OrchServiceFails" else {})
    return {"exp_labels": labels, "exp_annotations": {"summary": alert.summary, "description": alert.todo}}


def promtool(*arguments: str) -> None:
    done = subprocess.run(["promtool", *arguments], cwd=PROMETHEUS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_compose_file_names_files_that_exist_and_images_that_do_not_move() -> None:
    """Whatever it mounts is here; no image is `latest`."""
    compose = yaml.safe_load((HERE / "compose.yaml").read_text())
    services = compose["services"]
    mounted = [volume.split(":")[0] for one in services.values() for volume in one.get("volumes", ())]
    for path in mounted:
        assert path in compose["volumes"] or (HERE / path).exists(), path
    images = [one["image"] for one in services.values() if "image" in one]
    assert all(re.fullmatch(r"[\w./-]+:v?\d[\w.-]*", image) for image in images)
    assert (HERE / services["orch"]["build"]["context"] / services["orch"]["build"]["dockerfile"]).exists()
    scraped = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["scrape_configs"]
    hosts = {
        target.partition(":")[0] for one in scraped for part in one["static_configs"] for target in part["targets"]
    }
    assert hosts <= services.keys()
