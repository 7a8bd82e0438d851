from __future__ import annotations

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_lifecycle.kubernetes.pod_names import revision_deployment
from ml_lifecycle.scaling.history import on_grid
from ml_lifecycle.scaling.queries import NAMES_PER_QUERY, LoadQuery, load_queries
from ml_lifecycle.scaling.resource import Scaler
from tests.unit.scaling.scaler_objects import inference_service_target, scaler

RPS = {"preset": "requests_per_second"}


def asked(scalers: list[Scaler]) -> list[LoadQuery]:
    return load_queries(scalers, {one.key: one.spec.history_points for one in scalers if one.spec is not None})


def test_one_query_for_all_services_of_a_preset_and_step() -> None:
    names = ["digits", "letters"]
    (query,) = asked([scaler(name, targetRef=inference_service_target(name), metric=RPS) for name in names])
    first, *others = query.query.split(" or ")
    assert first == (
        "sum by (namespace, service) (label_replace(label_replace(sum by (k8s_namespace_name, kn_configuration_name) ("
        'rate(kn_serving_invocation_duration_seconds_count{k8s_namespace_name=~"models", '
        'kn_configuration_name=~"(letters|digits)-predictor"}[20s])), '
        '"namespace", "$1", "k8s_namespace_name", "(.+)"), "service", "$1", "kn_configuration_name", "(.+)-predictor"))'
    )
    assert all('kn_configuration_name=""' in other for other in others[1:])  # each series is read once
    labels = {"namespace": "models", "service": "letters"}
    assert query.owners(labels) == (("models", "letters"),)
    assert query.owners({**labels, "namespace": "other"}) == ()


def test_each_source_is_a_query_of_its_own() -> None:
    target = inference_service_target("digits")
    istio = scaler("digits", targetRef=target, metric={**RPS, "source": "istio"})
    queries = asked([istio, scaler("other", targetRef=inference_service_target("other"), metric=RPS)])
    assert len(queries) == 2
    (query,) = asked([istio])
    assert 'destination_service_name=~"(digits)(?:-v[0-9]+)?-predictor(?:-[0-9]{5})?", reporter="source"' in query.query
    labels = {"namespace": "models", "service": "digits"}
    assert query.owners(labels) == (("models", "digits"),)


def test_other_steps_and_many_names_make_more_queries() -> None:
    services = [
        scaler(f"s{number}", targetRef=inference_service_target(f"s{number}"), metric=RPS)
        for number in range(NAMES_PER_QUERY + 1)
    ]
    slower = scaler("slow", targetRef=inference_service_target("slow"), metric=RPS, stepSeconds=60)
    queries = asked([*services, slower])
    assert sorted(len(query.members) for query in queries) == [1, 1, NAMES_PER_QUERY]
    assert sum(len(query.scalers) for query in queries) == NAMES_PER_QUERY + 2


def test_scalers_with_the_same_promql_share_its_query() -> None:
    (query,) = asked([scaler("a"), scaler("b", historySize=100), scaler("bad", maxReplicas=0)])
    assert query.owners({"any": "label"}) == (("models", "a"), ("models", "b"))
    assert query.points == 100


def test_scalers_that_need_less_of_the_past_ask_for_less() -> None:
    services = [scaler(name, targetRef=inference_service_target(name), metric=RPS) for name in ("old", "new")]
    known, unknown = load_queries(services, {("models", "old"): 11, ("models", "new"): 500})
    assert [(query.points, query.scalers) for query in (known, unknown)] == [
        (11, (("models", "old"),)),
        (500, (("models", "new"),)),
    ]


def test_the_history_reaches_over_the_stabilisation_window() -> None:
    behavior = {"scaleDown": {"stabilizationWindowSeconds": 600}}
    (query,) = asked([scaler("a", historySize=12, behavior=behavior)])
    assert query.points == 120


def test_samples_fall_on_the_grid_and_gaps_stay() -> None:
    history = on_grid([70.2, 80, 100, 1000], [1, 2, math.nan, 9], end=100, step=10, points=5)
    np.testing.assert_array_equal(history.loads, [math.nan, 1, 2, math.nan, math.nan])
    assert (history.age_steps, history.load) == (2, 2.0)
    assert history.coverage(4) == 0.5
    assert history.highest(4) == 2.0
    assert history.highest(2) is None


@pytest.mark.parametrize("value", [math.inf, -math.inf, -1.0, math.nan])
def test_what_is_no_load_is_a_gap(value: float) -> None:
    history = on_grid([100], [value], end=100, step=10, points=3)
    assert (history.load, history.age_steps, history.highest(3)) == (None, None, None)


def test_a_stale_sample_is_no_load() -> None:
    assert on_grid([70], [5], end=100, step=10, points=5).load is None


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats()), max_size=30))
def test_any_samples_make_a_grid(samples: list[tuple[float, float]]) -> None:
    history = on_grid([at for at, _ in samples], [value for _, value in samples], end=0, step=60, points=20)
    assert len(history.loads) == 20
    assert not (history.loads < 0).any()
    assert 0 <= history.coverage(20) <= 1


@pytest.mark.parametrize("source", ["ml_serving", "kserve", "istio"])
def test_the_load_of_a_service_that_begins_alike_is_never_counted(source: str) -> None:
    """A canary's pods of `digits` may be called as the pods of `digits-v2`."""
    one = preset_scaler("digits", source)
    services = {("models", name): {"metadata": {"name": name}} for name in ("digits", "digits-v2", "digits-v2x")}
    (query,) = load_queries([one], {one.key: 40}, services)
    inner, outer = re.search(r'=~"([^"]*)", \w+!~"([^"]*)"', query.query).groups()  # type: ignore[union-attr]

    def counts(label: str) -> bool:
        return bool(re.fullmatch(inner, label)) and not re.fullmatch(outer, label)

    end = "" if source == "istio" else "-6b8f9c7d5-x2kvq"
    assert counts(f"digits-predictor{end}")
    assert counts(f"digits-v3-predictor{end}")
    assert not counts(f"digits-v2-predictor{end}")
    assert query.owners({query.labels[0]: "models"}) == (one.key,)
    elsewhere = {("other", "digits-v2"): {}}
    (query,) = load_queries([one], {one.key: 40}, elsewhere)
    assert "!~" not in query.query


@pytest.mark.parametrize("source", ["ml_serving", "kserve", "istio"])
def test_a_dot_in_a_name_is_only_a_dot(source: str) -> None:
    one = preset_scaler("digits.eu", source)
    (query,) = load_queries([one], {one.key: 40}, {("models", "digits.eu"): {}})
    assert "digits[.]eu" in query.query
    assert "digits.eu" not in query.query


@pytest.mark.parametrize("length", [18, 20, 24, 30, 36, 40])
@pytest.mark.parametrize("source", ["ml_serving", "kserve"])
def test_pods_of_long_names_are_found(length: int, source: str) -> None:
    service = "customer-churn-scoring-for-the-northern-region"[:length].rstrip("-")
    one = preset_scaler(service, source)
    revision = f"{service}-predictor-00007"
    predictor = {"latestReadyRevision": revision, "traffic": [{"revisionName": revision, "percent": 100}]}
    services = {("models", service): {"status": {"components": {"predictor": predictor}}}}
    (query,) = load_queries([one], {one.key: 40}, services)
    pattern = re.search(r'pod=~"([^"]*)"', query.query).group(1)  # type: ignore[union-attr]
    for deployment in (revision_deployment(revision), f"{service}-predictor", f"{service}-v12-predictor"):
        pod = f"{deployment}-6b8f9c7d5-"[:58] + "x2kvq"
        assert re.fullmatch(pattern, pod), pod
    assert not re.fullmatch(pattern, f"another-{service}-predictor-6b8f9c7d5-x2kvq")


def preset_scaler(service: str, source: str) -> Scaler:
    metric = {"preset": "requests_per_second", "source": source}
    return scaler(service, targetRef=inference_service_target(service), metric=metric)
