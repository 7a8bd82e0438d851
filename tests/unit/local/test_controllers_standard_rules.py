"""KServe's rules in Standard mode: what a spec is made into, and what is refused."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.kubernetes.controllers.admission import (
    WEBHOOK,
    admit,
    canary_problems,
    change_problems,
    default,
    model_problems,
)
from local.kubernetes.controllers.serving import pod_template
from local.kubernetes.controllers.standard_objects import (
    Predictor,
    autoscaler_of,
    backend_refs,
    beside,
    canary_replicas,
    deployment_of,
    http_route_of,
    overlaid,
    pod_labels,
    predictors_of,
    scaled,
    service_of,
)
from local.kubernetes.controllers.standard_status import Observed, canary_ready
from local.kubernetes.deployment_mode import mode_of
from ml_lifecycle.kserve import predictor as wanted
from ml_lifecycle.kserve import replicas as sizing
from ml_lifecycle.kserve.manifest import Templates
from ml_lifecycle.kubernetes.exceptions import DeniedError, ForbiddenError, KubernetesError, error_from_status
from ml_lifecycle.resources import resource

TEMPLATES = Templates(resource("k8s_templates"))
MODEL = {"modelFormat": {"name": "onnx"}, "storageUri": "file:///models/1"}
RUNTIME = {"metadata": {"name": "server"}, "spec": {"containers": [{"name": "kserve-container", "image": "server:1"}]}}


def service(*canaries, annotations=None, **predictor):
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": "digits", "namespace": "models", "uid": "u", "annotations": annotations or {}},
        "spec": {
            "predictor": {"model": MODEL, **predictor},
            "canary": [
                {"trafficPercent": percent, "predictor": {"model": MODEL, **fields}} for percent, fields in canaries
            ],
        },
    }


def problems(*canaries, mode="Standard", **predictor):
    return list(canary_problems(service(*canaries, **predictor), mode))


@pytest.mark.parametrize(
    ("annotation", "default", "mode"),
    [
        ("Standard", "Knative", "Standard"),
        ("RawDeployment", "Knative", "Standard"),
        ("Serverless", "Standard", "Knative"),
        (None, "Standard", "Standard"),
        (None, "Knative", "Knative"),
    ],
)
def test_the_mode_is_the_annotations_or_the_clusters(annotation, default, mode):
    annotations = {"serving.kserve.io/deploymentMode": annotation} if annotation else None
    assert mode_of(service(annotations=annotations), default) == mode


# Names and replicas


def test_names_follow_the_predictors():
    stable, (canary,) = predictors_of(service((20, {"name": "v2"})))
    assert (stable.name, canary.name) == ("digits-predictor", "digits-v2-predictor")
    promoted, canaries = predictors_of(service(name="v2"))
    assert (promoted.name, canaries) == (canary.name, ())


@pytest.mark.parametrize(
    ("stable", "percent", "minimum", "replicas"),
    [(1, 0, None, 1), (1, 1, None, 1), (10, 20, None, 2), (10, 21, None, 3), (4, 0, 1, 1), (4, 50, 0, 1)],
)
def test_a_canary_has_its_share_of_the_replicas_unless_it_says_otherwise(stable, percent, minimum, replicas):
    assert canary_replicas(stable, percent, minimum) == replicas


@pytest.mark.parametrize("minimum", [{}, {"minReplicas": 0}, {"minReplicas": 1}])
def test_the_stable_predictor_is_never_scaled_to_zero(minimum):
    assert predictors_of(service(**minimum))[0].replicas == 1


@pytest.mark.parametrize(
    ("minimum", "canaries", "replicas"),
    [({}, [3], 1), ({"minReplicas": 10}, [2, 3], 5), ({"minReplicas": 10}, [], 10), ({"minReplicas": 2}, [2], 1)],
)
def test_the_canaries_replicas_come_out_of_the_stable_sides(minimum, canaries, replicas):
    stable, _ = predictors_of(service(**minimum))
    assert beside(stable, [Predictor("c", {}, count, canary="c") for count in canaries]).replicas == replicas


SIX = {"minReplicas": 6, "maxReplicas": 9}
TABLE = {  # of real KServe: class hpa, spec, then the bounds of both autoscalers
    "nothing said, 0 %": ({}, 0, {}, (1, 1), (1, 1)),
    "its share, 50 %": (SIX, 50, {"minReplicas": 3}, (3, 9), (3, 3)),
    "before it has any traffic": (SIX, 0, {"minReplicas": 3}, (3, 9), (3, 3)),
    "all of it": (SIX, 100, {"minReplicas": 6}, (1, 9), (6, 6)),
}


def bounds(whole, predictor):
    spec = autoscaler_of(whole, predictor)["spec"]
    return spec["minReplicas"], spec["maxReplicas"]


@pytest.mark.parametrize("row", TABLE)
def test_kserves_own_autoscalers_have_the_bounds_that_real_ones_have(row):
    minimum, percent, fields, of_stable, of_canary = TABLE[row]
    whole = service((percent, {"name": "v2", **fields}), **minimum)
    stable, (canary,) = predictors_of(whole)
    assert (bounds(whole, beside(stable, [canary])), bounds(whole, canary)) == (of_stable, of_canary)
    assert scaled(beside(stable, [canary]), None, "hpa") == of_stable[0]


@pytest.mark.parametrize(("found", "replicas"), [(None, 1), (6, 6), (1, 1)])
def test_with_an_external_autoscaler_kserve_makes_one_pod_and_keeps_what_others_set(found, replicas):
    stable, (canary,) = predictors_of(service((50, {"name": "v2", "minReplicas": 3}), **SIX))
    deployment = None if found is None else {"metadata": {}, "spec": {"replicas": found}}
    for predictor in (beside(stable, [canary]), canary):
        assert scaled(predictor, deployment, "external") == replicas


@given(
    least=st.none() | st.integers(1, 20),
    room=st.integers(0, 20),
    running=st.integers(1, 60),
    percent=st.integers(0, 100),
)
def test_what_a_rollout_writes_leaves_both_sides_what_they_need_after_kserves_subtraction(
    least, room, running, percent
):
    most = None if least is None else least + room
    stable = wanted.Predictor("file:///models/1", "r", "1", "1Gi", min_replicas=least, max_replicas=most)
    candidate = replace(stable, storage_uri="file:///models/2", name="v2")
    sides = sizing.beside(stable, candidate, running, percent, external=False)
    whole = TEMPLATES.inference_service("digits", "models", sides[0], percent, sides[1])
    whole["metadata"]["uid"] = "u"
    admit(default(whole), None, "Standard")
    kept, (canary,) = predictors_of(whole)
    kept = beside(kept, [canary])
    assert scaled(kept, None, "hpa") >= running, "a roll-back finds all of them"
    assert bounds(whole, kept)[0] <= bounds(whole, kept)[1]
    assert scaled(canary, None, "hpa") >= max(1, running * percent / 100)


def test_a_canary_is_the_stable_predictor_where_it_says_nothing():
    whole = service((10, {"name": "v2", "model": {"storageUri": "file:///models/2"}}), serviceAccountName="storage")
    (canary,) = predictors_of(whole)[1]
    assert canary.spec["serviceAccountName"] == "storage"
    assert canary.spec["model"] == {**MODEL, "storageUri": "file:///models/2"}
    assert overlaid({"a": [1], "b": 1}, {"a": [], "b": 0}) == {"a": [1], "b": 1}


# Objects


def test_a_promotion_leaves_the_canarys_pods_as_they_are():
    before, after = service((50, {"name": "v2", "minReplicas": 1})), service(name="v2", minReplicas=3)
    (canary,), stable = predictors_of(before)[1], predictors_of(after)[0]

    def deployment(whole, predictor):
        template = pod_template(predictor.alone(whole), RUNTIME, pod_labels(whole, predictor))
        return deployment_of(whole, predictor, template)

    old, new = deployment(before, canary), deployment(after, stable)
    assert old["metadata"] == new["metadata"]
    assert (old["spec"].pop("replicas"), new["spec"].pop("replicas")) == (1, 3)
    assert old == new


def test_a_service_selects_its_deployments_pods_and_no_others():
    whole = service((50, {"name": "v2"}))
    stable, (canary,) = predictors_of(whole)
    for predictor in (stable, canary):
        selector = service_of(whole, predictor)["spec"]["selector"]
        template = pod_template(predictor.alone(whole), RUNTIME, pod_labels(whole, predictor))
        deployment = deployment_of(whole, predictor, template)
        assert deployment["spec"]["selector"]["matchLabels"] == selector
        assert selector.items() <= template["metadata"]["labels"].items()
    assert service_of(whole, stable)["spec"]["selector"] != service_of(whole, canary)["spec"]["selector"]


@given(st.lists(st.integers(0, 100), max_size=4).filter(lambda percents: sum(percents) <= 100))
def test_the_weights_of_a_route_are_the_canaries_percents_and_add_up(percents):
    stable = Predictor("stable", {}, 1)
    canaries = [Predictor(f"c{i}", {}, 1, canary=f"c{i}", percent=percent) for i, percent in enumerate(percents)]
    refs = backend_refs(stable, canaries, "models")
    assert [ref["name"] for ref in refs] == ["stable", *(canary.name for canary in canaries)]
    if not canaries:
        assert "weight" not in refs[0]
        return
    assert [ref["weight"] for ref in refs[1:]] == percents
    assert sum(ref["weight"] for ref in refs) == 100


def test_a_route_belongs_to_its_service():
    route = http_route_of(service(), "digits", "digits-models.localhost", [])
    (owner,) = route["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"], owner["controller"]) == ("InferenceService", "u", True)
    assert route["spec"]["hostnames"] == ["digits-models.localhost"]


def test_one_canary_that_waits_keeps_the_condition_false():
    predictors = [Predictor(name, {}, 1, canary=name, percent=10) for name in ("v2", "v3")]
    ready, waiting = {"status": {"availableReplicas": 1}}, {"status": {}}
    condition = canary_ready([Observed(predictors[0], ready), Observed(predictors[1], waiting)])
    assert (condition.status, condition.reason) == ("False", "CanariesNotReady")
    condition = canary_ready([Observed(predictors[0], ready), Observed(predictors[1], ready)])
    assert (condition.status, condition.reason) == ("True", "AllCanariesReady")


# Admission


def test_what_kserve_takes():
    assert problems() == []
    assert problems(mode="Knative") == []
    assert problems((100, {"name": "v2"})) == []
    assert problems((0, {"name": "v2", "minReplicas": 2}), (100, {"name": "v3"}), minReplicas=2, maxReplicas=9) == []


@pytest.mark.parametrize(
    ("canaries", "stable", "problem"),
    [
        ([(10, {})], {}, "predictor.name is required"),
        ([(10, {"name": "v2"}), (10, {"name": "v2"})], {}, "'v2' is duplicated"),
        ([(10, {"name": "v2"})], {"name": "v2"}, "'v2' conflicts with stable"),
        ([(60, {"name": "v2"}), (41, {"name": "v3"})], {}, "must be <= 100, got 101"),
        ([(10, {"name": "v2", "minReplicas": 2})], {}, "minReplicas 2 must not exceed stable minReplicas 1"),
        ([(10, {"name": "v" * 60})], {}, "more than 63 characters"),
        *(
            ([(10, {"name": "v2", field: 1})], {}, rf"canary\[0\] must not set {field}")
            for field in ("maxReplicas", "scaleTarget", "scaleMetric", "autoScaling", "workerSpec")
        ),
    ],
)
def test_what_kserve_refuses(canaries, stable, problem):
    with pytest.raises(ForbiddenError, match=problem) as refusal:
        admit(service(*canaries, **stable), None, "Standard")
    assert str(refusal.value).startswith(f'admission webhook "{WEBHOOK}" denied the request: ')


def test_a_model_has_no_name_of_its_own_be_it_a_canarys():
    named = {**MODEL, "name": "kserve-container"}
    assert list(model_problems(service((10, {"name": "v2", "model": {**MODEL, "name": ""}})))) == []
    for refused in (service(model=named), service((10, {"name": "v2", "model": named}))):
        with pytest.raises(ForbiddenError, match="the 'name' field is not allowed in standard predictor"):
            admit(refused, None, "Standard")


def test_the_defaulter_names_a_canarys_model_by_nothing():
    (canary,) = default(service((10, {"name": "v2"})))["spec"]["canary"]
    assert canary["predictor"]["model"] == {**MODEL, "name": ""}
    assert default(service())["spec"]["predictor"] == {"model": MODEL}


@pytest.mark.parametrize("predictor", [{}, {"minReplicas": 1}, {"containers": []}])
def test_the_defaulter_panics_over_a_service_without_a_model_and_the_client_takes_that_for_a_refusal(predictor):
    with pytest.raises(KubernetesError, match=r"defaulter.*panic: runtime error: index out of range") as panic:
        default({"metadata": {"name": "digits"}, "spec": {"predictor": predictor}})
    assert panic.value.status == 500
    body = {"reason": panic.value.reason, "message": panic.value.message}
    assert isinstance(error_from_status(500, body), DeniedError), "asking again changes nothing"


def test_canaries_are_for_standard_mode_only():
    assert any("only supported in Standard" in problem for problem in problems((10, {"name": "v2"}), mode="Knative"))


def test_a_new_name_needs_a_new_model():
    other = {**MODEL, "storageUri": "file:///models/2"}
    assert list(change_problems(service(name="v2"), None)) == []
    assert list(change_problems(service(name="v2", model=other), service())) == []
    assert list(change_problems(service(model=other), service())) == []
    assert list(change_problems(service(name="v2"), service())) == ["predictor.name change requires a model change"]


def test_the_mode_stays():
    old = {**service(), "status": {"deploymentMode": "Knative"}}
    standard = {"serving.kserve.io/deploymentMode": "Standard"}
    assert list(change_problems(service(), old)) == []
    (problem,) = change_problems(service(annotations=standard), old)
    assert "cannot be changed from 'Knative' to 'Standard'" in problem
