"""What a cluster costs: an hour of it, as expected, at most, and in fact. Prices come from settings. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ml_lifecycle.settings import Cluster, Cost, Hosts

# What stays of a limit for ending the cluster: clean_up comes every ten minutes, and a deletion takes its time.
ENDING_HOURS = 0.25


@dataclass(frozen=True)
class Amount:
    """Money: from `least` to `most`, which differ where hosts are autoscaled; both None where `unknown` says why."""

    currency: str
    least: float | None
    most: float | None
    unknown: str = ""

    def times(self, factor: float) -> Amount:
        """`factor` times as much."""
        if self.least is None or self.most is None:
            return self
        return Amount(self.currency, self.least * factor, self.most * factor)

    def __str__(self) -> str:
        if self.least is None or self.most is None:
            return f"unknown: {self.unknown}"
        if self.least == self.most:
            return f"{self.most:.2f} {self.currency}"
        return f"{self.least:.2f} to {self.most:.2f} {self.currency}"


@dataclass(frozen=True)
class _Group:
    hosts: Hosts
    least: int
    most: int
    preemptible: bool = False


def hourly_price(cluster: Cluster, cost: Cost) -> Amount:
    """An hour of the cluster with its fewest and with its most hosts."""
    least = most = 0.0
    missing: dict[str, None] = {}
    for group in _groups(cluster):
        host = cost.host_hour.get(group.hosts.preset)
        if group.preemptible:
            host = cost.preemptible_host_hour.get(group.hosts.preset, host)
        if host is None:
            missing[f"cost.host_hour has no price for preset {group.hosts.preset!r}"] = None
            continue
        host += group.hosts.disk_gib * cost.disk_gib_hour.get(group.hosts.disk_type, 0.0)
        least += group.least * host
        most += group.most * host
    if missing:
        return Amount(cost.currency, None, None, "; ".join(missing))
    return Amount(cost.currency, least, most)


def _groups(cluster: Cluster) -> Iterator[_Group]:
    yield _Group(cluster.master, 1, 1)
    fewest, most = cluster.compute_hosts, cluster.compute_max_hosts or cluster.compute_hosts
    yield _Group(cluster.compute, fewest, most, cluster.preemptible)
    for extra in cluster.extra_compute:
        yield _Group(extra.hosts, extra.count, extra.max_count or extra.count, extra.preemptible)


def expected_cost(cluster: Cluster, cost: Cost) -> Amount:
    """What a training's cluster is expected to cost."""
    return hourly_price(cluster, cost).times(_expected_hours(cluster, cost))


def most_cost(cluster: Cluster, cost: Cost) -> Amount:
    """What it costs if only the end of its time to live ends it, with the most hosts."""
    hourly = hourly_price(cluster, cost)
    return Amount(hourly.currency, hourly.most, hourly.most, hourly.unknown).times(time_to_live_hours(cluster, cost))


def time_to_live_hours(cluster: Cluster, cost: Cost) -> float:
    """The setting, or less: early enough that the cluster can be ended before it has cost the limit."""
    hourly = hourly_price(cluster, cost).most
    if cost.limit is None or not hourly:
        return cluster.time_to_live_hours
    return min(cluster.time_to_live_hours, cost.limit / hourly - ENDING_HOURS)


def refusal(cluster: Cluster, cost: Cost) -> str:
    """Why the limit forbids the run; empty without a limit, or where it leaves the expected hours."""
    hourly = hourly_price(cluster, cost)
    if cost.limit is None:
        return ""
    limit = f"cost.limit = {cost.limit:g} {cost.currency}"
    if hourly.most is None:
        return f"{limit}: the run's cost is unknown ({hourly.unknown}); add the price, or take the limit away"
    if time_to_live_hours(cluster, cost) >= _expected_hours(cluster, cost):
        return ""
    return (
        f"{limit}: the run is expected to cost {expected_cost(cluster, cost)} (cost.expected_hours = "
        f"{cost.expected_hours:g}, {hourly} an hour), and {hourly.times(ENDING_HOURS)} more are kept for ending its "
        "cluster; raise the limit, lower cost.expected_hours, or choose fewer or cheaper hosts "
        "(cluster.compute_hosts, cluster.compute.preset, cluster.preemptible)"
    )


def describe(cluster: Cluster, cost: Cost) -> str:
    """One sentence for the log, before anything is created."""
    hourly = hourly_price(cluster, cost)
    if hourly.most is None:
        return f"The cluster's cost is {hourly}"
    expected, lives = _expected_hours(cluster, cost), time_to_live_hours(cluster, cost)
    shortened = f" (not {cluster.time_to_live_hours:g}: cost.limit)" if lives < cluster.time_to_live_hours else ""
    return (
        f"The cluster costs {hourly} an hour: {hourly.times(expected)} in the expected {expected:g} h, at most "
        f"{most_cost(cluster, cost)} in its {lives:.3g} h to live{shortened}"
    )


def _expected_hours(cluster: Cluster, cost: Cost) -> float:
    return min(cost.expected_hours, cluster.time_to_live_hours)
