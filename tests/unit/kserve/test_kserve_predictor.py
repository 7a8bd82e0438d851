"""What a rollout exchanges: from settings, to a manifest, back from the live service, and through the Lease."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_lifecycle.kserve.exceptions import CanaryRefusedError
from ml_lifecycle.kserve.manifest import Templates
from ml_lifecycle.kserve.predictor import Predictor, canary_of, check_canary, predictor
from ml_lifecycle.resources import resource
from ml_lifecycle.settings import Serving
from tests.unit.kserve.serving_settings import servings

TEMPLATES = Templates(resource("k8s_templates"))
URI = "s3://lake/models/digits/2"
PERCENTS = st.integers(0, 100)


def made(serving):
    return predictor(serving, URI, TEMPLATES.runtime_name(serving))


def render(served, percent=None, canary=None):
    return TEMPLATES.inference_service("digits", "models", served, percent, canary)


@settings(deadline=None)
@given(servings(), st.none() | PERCENTS)
def test_a_roll_back_restores_exactly_what_was_live(serving, percent):
    before = made(serving)
    assert Predictor.of(render(before, percent)) == before
    assert Predictor.of(render(before.without_replicas(), percent)) == before.without_replicas()


@settings(deadline=None)
@given(servings(), servings(), PERCENTS)
def test_both_sides_of_standard_mode_are_read_back(serving, other, percent):
    stable = made(serving)
    canary = made(other).beside(stable, "v2")
    manifest = render(stable, percent, canary)
    assert Predictor.of(manifest) == stable
    assert canary_of(manifest) == (canary, percent)
    assert canary_of(render(stable)) is None


@settings(deadline=None)
@given(servings(), servings(), PERCENTS)
def test_kserve_takes_the_canary(serving, other, percent):
    """Its rules: a name of its own, minReplicas of at most the stable side's, no maxReplicas and no scale fields."""
    stable = made(serving)
    spec = render(stable, percent, made(other).beside(stable, "v2"))["spec"]
    assert "canaryTrafficPercent" not in spec["predictor"]
    (entry,) = spec["canary"]
    assert entry["trafficPercent"] == percent
    assert entry["predictor"]["name"] == "v2"
    assert 1 <= entry["predictor"]["minReplicas"] <= spec["predictor"]["minReplicas"]
    assert not {"maxReplicas", "scaleMetric", "scaleTarget", "autoScaling", "workerSpec"} & set(entry["predictor"])


def test_a_canary_beside_a_service_whose_replicas_a_scaler_owns_has_a_pod_at_0_percent():
    stable = made(Serving()).without_replicas()
    assert render(stable, 0, stable.beside(stable, "v2"))["spec"]["canary"][0]["predictor"]["minReplicas"] == 1


@pytest.mark.parametrize(
    ("name", "replicas", "percent", "said"),
    [
        ("", 1, 10, r"predictor\.name = '' must be given"),
        ("v1", 1, 10, "another than the stable side's"),
        ("v" * 47, 1, 10, r"must not be longer than 46 for 'digits'"),
        ("v2", 1, 101, r"trafficPercent = 101 must be 0 to 100"),
        ("v2", 1, None, "trafficPercent = None"),
        ("v2", 3, 10, r"minReplicas = 3 must be at least 1, and at most the stable side's 2"),
        ("v2", None, 10, "minReplicas = None must be at least 1"),
    ],
)
def test_a_canary_that_kserve_would_refuse_is_not_rendered(name, replicas, percent, said):
    stable = Predictor(URI, "r", "1", "1Gi", name="v1", min_replicas=2)
    canary = Predictor(URI, "r", "1", "1Gi", name=name, min_replicas=replicas)
    with pytest.raises(CanaryRefusedError, match=said):
        render(stable, percent, canary)


@settings(deadline=None)
@given(servings())
def test_a_predictor_survives_json(serving):
    before = made(serving)
    assert Predictor.from_json(json.loads(json.dumps(before.to_json()))) == before


def test_a_predictor_that_an_older_version_wrote_still_loads():
    written = (
        f'{{"storage_uri": "{URI}", "runtime": "ml-lifecycle-abc", "cpu": "500m", "memory": "512Mi", "gpus": 0, '
        '"service_account": null, "min_replicas": 1, "max_replicas": 5}'
    )
    assert Predictor.from_json(json.loads(written)) == predictor(Serving(), URI, "ml-lifecycle-abc")


def test_what_a_live_service_leaves_out_is_tolerated():
    read = Predictor.of({"spec": {"predictor": {"model": {"resources": {"limits": {"cpu": "2"}}}}}})
    assert (read.cpu, read.cpu_limit, read.memory, read.storage_uri) == ("2", None, "2Gi", "")
    assert Predictor.of({"spec": {"predictor": {}}}).runtime == ""


def test_a_runtime_of_the_cluster_runs_restricted_unless_settings_say_otherwise():
    assert made(Serving()).security_context is None  # it stands in our ServingRuntime
    restricted = render(made(Serving(runtime="mlflow")))["spec"]["predictor"]["model"]["securityContext"]
    assert (restricted["runAsNonRoot"], restricted["seccompProfile"]["type"]) == (True, "RuntimeDefault")
    assert made(Serving(runtime="mlflow", restricted=False)).security_context is None


def test_the_check_asks_nothing_of_replicas_that_are_not_known():
    stable = Predictor(URI, "r", "1", "1Gi")
    check_canary("digits", stable, Predictor(URI, "r", "1", "1Gi", name="v2", min_replicas=9), 0)


def test_our_server_is_told_the_digest_and_a_roll_back_keeps_it():
    own = predictor(Serving(), URI, "ml-lifecycle-abc", "a" * 64)
    manifest = render(own)
    assert manifest["spec"]["predictor"]["model"]["env"] == [{"name": "MODEL_DIGEST", "value": "a" * 64}]
    assert Predictor.of(manifest) == own
    assert canary_of(render(own, 0, own.beside(own, "v2")))[0].digest == "a" * 64


@pytest.mark.parametrize(
    "served", [predictor(Serving(), URI, "r"), predictor(Serving(runtime="sklearn"), URI, "r", "a" * 64)]
)
def test_a_version_from_before_digests_and_a_server_of_kserves_are_told_nothing(served):
    assert "env" not in render(served)["spec"]["predictor"]["model"]
    assert Predictor.of(render(served)).digest == ""
