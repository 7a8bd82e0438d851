"""The table of sources, and the PromQL that it makes."""

import re
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_lifecycle.exceptions import SettingsError
from ml_lifecycle.kserve.data_planes import PRESETS, filled, queries, source
from ml_lifecycle.settings import PLACEHOLDERS, Rollout, parse_settings


def test_settings_offer_what_the_table_has():
    named, _ = get_args(Rollout.model_fields["metrics"].annotation)
    assert set(get_args(named)) == set(PRESETS)


@pytest.mark.parametrize("preset", list(PRESETS))
def test_every_query_asks_for_both_sides_and_nothing_else(preset):
    asked = queries(
        PRESETS[preset], namespace="models", sides=("digits-v2-predictor", "digits-predictor"), window_seconds=5.2
    )
    for query in (asked.codes, asked.buckets, asked.known):
        assert re.search('digits-v2-predictor[^"]*[|][^"]*digits-predictor', query)
        assert f'{PRESETS[preset].namespace}="models"' in query
        assert "offset 10400ms" in query
    assert "[5200ms]" in asked.codes


@pytest.mark.parametrize(
    ("pod", "side"),
    [
        ("digits-predictor-00001-deployment-6b8f9c7d5-x2kvq", "digits-predictor-00001"),
        ("digits-predictor-6b8f9c7d5-x2kvq", "digits-predictor"),
        ("digits-v2-predictor-6b8f9c7d5-x2kvq", None),
        ("digits-predictor-00002-deployment-6b8f9c7d5-x2kvq", None),
        ("other-digits-predictor-6b8f9c7d5-x2kvq", None),
        ("digits-predictor-worker-6b8f9c7d5-x2kvq", None),
        ("digits-predictor-worker-x2kvq", None),
    ],
)
def test_pods_are_told_apart_by_their_names(pod, side):
    for one in ("digits-predictor", "digits-predictor-00001"):
        pods = filled("$pods", side=one, service="digits", namespace="models", window_seconds=5)
        assert bool(re.fullmatch(pods, pod)) is (one == side)


@pytest.mark.parametrize(
    "text", ['x"} or vector(1) #', "a\\b", "a|b", ".*", "a\nb", "a,b", "{x}", "$side", "a b", "[a]", "a'b", "a`b"]
)
def test_no_name_of_a_model_or_a_namespace_is_more_than_a_name_in_a_query(text):
    lake = {"defaults": {"data_lake": "file:///lake"}, "locked": []}
    for model, overrides in ((text, {}), ("digits", {"serving.namespace": text})):
        with pytest.raises(SettingsError):
            parse_settings(lake, model, overrides)


def test_a_query_of_ones_own_is_filled():
    template = (
        'sum(x{s="$side",i="$service",n="$namespace"}[$window]) or label_replace(y{p=~"$pods$"}, "a", "$1", "b", "")'
    )
    found = filled(template, side="digits-predictor", service="digits", namespace="models", window_seconds=30)
    assert 's="digits-predictor",i="digits",n="models"}[30000ms]' in found
    assert re.search(r'p=~"[(][?]:digits-predictor-[^"]+[)][$]"', found)
    assert '"$1"' in found


@given(st.sampled_from(PLACEHOLDERS))
def test_every_placeholder_that_settings_allow_is_filled(name):
    assert "$" not in filled(f"a ${name} b", side="s", service="i", namespace="n", window_seconds=1)


def test_a_rollout_brings_its_own_queries_and_its_lag():
    own = {"kind": "gauge", "name": "score", "value": 'avg(score{pod=~"$pods"})', "tolerance": 0.1}
    errors = {"events": 'sum(failed{pod=~"$pods"})', "total": 'sum(all{pod=~"$pods"})'}
    found = source(Rollout(metrics="kserve", errors=errors, own_metrics=[own], lag_seconds=7))
    assert found.count == PRESETS["kserve"].count
    assert found.errors.total == errors["total"]
    assert (found.own[0].value, found.lag_seconds) == (own["value"], 7)
