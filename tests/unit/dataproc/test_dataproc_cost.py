from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_lifecycle.dataproc.cost import (
    ENDING_HOURS,
    describe,
    expected_cost,
    hourly_price,
    most_cost,
    refusal,
    time_to_live_hours,
)
from ml_lifecycle.settings import Cluster, Cost

PRICES = {"host_hour": {"cpu": 10.0, "gpu": 100.0}, "preemptible_host_hour": {"gpu": 30.0}}


def cluster(**changes):
    return Cluster(**{"master": {"preset": "cpu"}, "compute": {"preset": "gpu"}, "compute_hosts": 2, **changes})


def cost(**changes):
    return Cost(**{**PRICES, **changes})


def test_an_hour_of_a_cluster_is_an_hour_of_all_its_hosts():
    assert str(hourly_price(cluster(), cost())) == "210.00 RUB"


def test_preemptible_hosts_have_their_own_price_or_the_full_one():
    assert hourly_price(cluster(preemptible=True), cost()).most == 10 + 2 * 30
    assert hourly_price(cluster(preemptible=True), cost(preemptible_host_hour={})).most == 210


def test_every_group_and_every_disk_counts():
    extra = [{"hosts": {"preset": "gpu"}, "count": 1, "preemptible": True}, {"hosts": {"preset": "cpu"}, "count": 3}]
    disks = cost(disk_gib_hour={"network-ssd": 0.01})
    hosts = 1 + 2 + 1 + 3
    assert hourly_price(cluster(extra_compute=extra), disks).most == pytest.approx(210 + 30 + 30 + hosts * 64 * 0.01)


def test_an_autoscaled_cluster_costs_from_to():
    assert str(hourly_price(cluster(compute_max_hosts=5), cost())) == "210.00 to 510.00 RUB"


def test_a_missing_price_is_unknown_and_never_nothing():
    found = hourly_price(cluster(), cost(host_hour={"cpu": 10.0}))
    assert (found.least, found.most) == (None, None)
    assert str(found.times(3)) == "unknown: cost.host_hour has no price for preset 'gpu'"


def test_what_is_free_costs_nothing():
    assert str(hourly_price(cluster(), cost(host_hour={"cpu": 0, "gpu": 0}))) == "0.00 RUB"


def test_expected_and_most_cost_differ_by_their_hours():
    assert expected_cost(cluster(), cost(expected_hours=2)).most == 420
    assert most_cost(cluster(time_to_live_hours=8), cost()).most == 8 * 210
    assert expected_cost(cluster(time_to_live_hours=1), cost(expected_hours=2)).most == 210


def test_a_limit_shortens_the_life_of_a_cluster():
    assert time_to_live_hours(cluster(), cost()) == 8
    assert time_to_live_hours(cluster(), cost(limit=420)) == 2 - ENDING_HOURS
    assert "1.75 h to live (not 8: cost.limit)" in describe(cluster(), cost(limit=420))


def test_a_limit_without_prices_refuses():
    said = refusal(cluster(), Cost(limit=5))
    assert "cost.limit = 5" in said
    assert "no price for preset 'cpu'; cost.host_hour has no price for preset 'gpu'" in said


def test_a_run_that_would_cost_more_is_refused_with_the_remedy():
    said = refusal(cluster(), cost(limit=200))
    for words in ("cost.limit = 200 RUB", "expected to cost 210.00 RUB", "cost.expected_hours = 1", "preemptible"):
        assert words in said
    assert refusal(cluster(), cost(limit=300)) == ""
    assert refusal(cluster(), cost()) == ""


@given(
    hosts=st.integers(1, 32),
    more=st.integers(0, 32),
    limit=st.floats(1, 1e6),
    expected=st.floats(0.1, 24),
    lives=st.floats(0.1, 24),
)
def test_a_run_that_is_not_refused_ends_before_it_costs_the_limit(hosts, more, limit, expected, lives):
    wanted = cluster(compute_hosts=hosts, compute_max_hosts=min(32, hosts + more), time_to_live_hours=lives)
    prices = cost(limit=limit, expected_hours=expected)
    if refusal(wanted, prices):
        return
    hours = time_to_live_hours(wanted, prices)
    assert hours >= min(expected, lives)
    assert hours <= lives
    assert hourly_price(wanted, prices).most * hours <= limit
