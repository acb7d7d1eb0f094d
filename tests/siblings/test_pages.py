"""One metrics page for several processes, from real pages."""

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as prometheus

from orchestrator.siblings.pages import merged
from projections.measures import Measurement
from projections.meters import Meters

OPEN = "application/openmetrics-text; version=1.0.0"


def page_of(active: float, seconds: float, accept: str) -> str:
    """The page of a process with so many sessions, and one turn that took so long."""
    meters = Meters(lambda: {"orch.session.active": active})
    meters.record(Measurement("orch.turn.response_latency", seconds, (("via", "speech"),)))
    return meters.page(accept)[0].decode()


@pytest.mark.parametrize("accept", ["", OPEN])
def test_the_page_has_each_metric_once_and_the_samples_of_all(accept: str) -> None:
    page = merged([(1, page_of(1, 0.5, accept)), (2, page_of(3, 0.7, accept))])
    families = list((open_metrics if accept else prometheus)(page))
    names = [one.name for one in families]
    assert len(names) == len(set(names))
    found = {one.name: one.samples for one in families}
    active = {sample.labels["process"]: sample.value for sample in found["orch_session_active"]}
    assert active == {"1": 1, "2": 3}
    sums = {
        sample.labels["process"]: sample.value
        for sample in found["orch_turn_response_latency_seconds"]
        if sample.name.endswith("_sum") and sample.labels["via"] == "speech"
    }
    assert sums == {"1": 0.5, "2": 0.7}
