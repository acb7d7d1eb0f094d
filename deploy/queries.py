"""Builds PromQL over metrics of the registry. Raises KeyError for a name that the registry does not have."""

from projections.registry import METRICS

RANGE = "$__rate_interval"
"""Grafana's variable for panels; alert rules pass a fixed range."""


def rate(name: str, by: str = "", over: str = RANGE, where: str = "") -> str:
    """Events per second."""
    return f"sum{_by(by)} (rate({_series(name)}{_where(where)}[{over}]))"


def increase(name: str, over: str, where: str = "") -> str:
    return f"sum (increase({_series(name)}{_where(where)}[{over}]))"


def quantile(part: float, name: str, by: str = "", over: str = RANGE, where: str = "") -> str:
    """Quantile `part` (0 to 1) of a histogram, estimated from its buckets."""
    labels = ", ".join(("le", by) if by else ("le",))
    buckets = f"{METRICS[name].prometheus}_bucket{_where(where)}"
    return f"histogram_quantile({part}, sum by ({labels}) (rate({buckets}[{over}])))"


def portions(name: str, by: str, whole: str, over: str = RANGE) -> str:
    """Mean of each part per observation of `whole`; the parts add up to its mean, even if some are missing."""
    parts = f"sum by ({by}) (rate({METRICS[name].prometheus}_sum[{over}]))"
    return f"{parts} / ignoring ({by}) group_left () {rate(whole, over=over)}"


def share_within(name: str, limit: float, over: str = RANGE, where: str = "") -> str:
    """Share (0 to 1) of observations within `limit`, which must be a bucket of the metric."""
    metric = METRICS[name]
    assert limit in metric.buckets, f"{limit} is no bucket of {name}"
    bucket = ",".join(filter(None, (f'le="{limit}"', where)))
    return f"sum (rate({metric.prometheus}_bucket{{{bucket}}}[{over}])) / {rate(name, over=over, where=where)}"


def gauge(name: str, by: str = "") -> str:
    """The gauge over all nodes, or over the processes of each: numbers are added, of times the longest counts."""
    over = "max" if METRICS[name].unit == "s" else "sum"
    return f"{over}{_by(by)} ({METRICS[name].prometheus})"


def _series(name: str) -> str:
    metric = METRICS[name]
    return f"{metric.prometheus}_count" if metric.kind == "histogram" else metric.prometheus


def _by(labels: str) -> str:
    return f" by ({labels})" if labels else ""


def _where(condition: str) -> str:
    return f"{{{condition}}}" if condition else ""
