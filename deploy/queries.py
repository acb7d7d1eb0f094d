"""PromQL over metrics of the registry: a name that the registry does not have cannot be asked for."""

from projections.registry import METRICS

RANGE = "$__rate_interval"
"""Grafana's own; rules have a range of their own."""


def rate(name: str, by: str = "", over: str = RANGE, where: str = "") -> str:
    """So many per second."""
    return f"sum{_by(by)} (rate({_series(name)}{_where(where)}[{over}]))"


def increase(name: str, over: str, where: str = "") -> str:
    return f"sum (increase({_series(name)}{_where(where)}[{over}]))"


def quantile(part: float, name: str, by: str = "", over: str = RANGE, where: str = "") -> str:
    """The value below which such a part of all lies, as the buckets have it."""
    labels = ", ".join(("le", by) if by else ("le",))
    buckets = f"{METRICS[name].prometheus}_bucket{_where(where)}"
    return f"histogram_quantile({part}, sum by ({labels}) (rate({buckets}[{over}])))"


def portions(name: str, by: str, whole: str, over: str = RANGE) -> str:
    """What each part comes to, spread over the whole: so parts that only some have add up to its mean as well."""
    parts = f"sum by ({by}) (rate({METRICS[name].prometheus}_sum[{over}]))"
    return f"{parts} / ignoring ({by}) group_left () {rate(whole, over=over)}"


def share_within(name: str, limit: float, over: str = RANGE, where: str = "") -> str:
    """The part of all that took no longer than a limit, which must be a bucket."""
    metric = METRICS[name]
    assert limit in metric.buckets, f"{limit} is no bucket of {name}"
    bucket = ",".join(filter(None, (f'le="{limit}"', where)))
    return f"sum (rate({metric.prometheus}_bucket{{{bucket}}}[{over}])) / {rate(name, over=over, where=where)}"


def gauge(name: str, by: str = "") -> str:
    return f"sum{_by(by)} ({METRICS[name].prometheus})"


def _series(name: str) -> str:
    metric = METRICS[name]
    return f"{metric.prometheus}_count" if metric.kind == "histogram" else metric.prometheus


def _by(labels: str) -> str:
    return f" by ({labels})" if labels else ""


def _where(condition: str) -> str:
    return f"{{{condition}}}" if condition else ""
