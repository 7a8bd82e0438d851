"""What is rendered; that KServe's real schemas accept it is in tests/contract."""

import pytest

from ml_lifecycle.exceptions import SettingsError
from ml_lifecycle.kserve.manifest import Templates, changed_annotations, is_ours, picked
from ml_lifecycle.kserve.predictor import RESTRICTED, Predictor, predictor
from ml_lifecycle.resources import resource
from ml_lifecycle.settings import Serving, parse_settings

TEMPLATES = Templates(resource("k8s_templates"))
SERVING = Serving(namespace="models", service_account="reader", gpus=1)


def runtime(**fields):
    return TEMPLATES.serving_runtime(Serving(**fields))


def rendered(percent=10, **fields):
    made = predictor(SERVING.model_copy(update=fields), "s3://lake/models/digits/2", "ml-lifecycle-abc")
    return TEMPLATES.inference_service("digits", "models", made, percent)


def test_the_runtime_is_named_after_its_content():
    assert runtime()["metadata"]["name"] == runtime()["metadata"]["name"]
    names = {
        runtime()["metadata"]["name"],
        runtime(image="other:2")["metadata"]["name"],
        runtime(cpu="2")["metadata"]["name"],
    }
    assert len(names) == 3
    container = runtime()["spec"]["containers"][0]
    assert container["args"] == ["--model_name={{.Name}}", "--model_dir=/mnt/models"]
    assert container["securityContext"] == {**RESTRICTED, "privileged": False}


def test_the_service_carries_what_was_asked_and_only_labels_that_never_change():
    manifest = rendered()
    spec = manifest["spec"]["predictor"]
    assert (spec["canaryTrafficPercent"], spec["minReplicas"], spec["serviceAccountName"]) == (10, 1, "reader")
    assert spec["model"]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert set(manifest["metadata"]["labels"]) == {
        "app.kubernetes.io/managed-by",
        "app.kubernetes.io/part-of",
        "ml-lifecycle.io/model",
    }
    assert is_ours(manifest)


def test_without_a_percent_the_field_is_absent_and_zero_is_not():
    assert "canaryTrafficPercent" not in rendered(None)["spec"]["predictor"]
    assert rendered(0)["spec"]["predictor"]["canaryTrafficPercent"] == 0


def test_a_runtime_that_the_cluster_brings_is_named_and_not_made():
    serving = Serving(runtime="sklearn")
    assert (TEMPLATES.serving_runtime(serving), TEMPLATES.runtime_name(serving)) == (None, "kserve-sklearnserver")
    assert TEMPLATES.runtime_name(Serving()) == runtime()["metadata"]["name"]


def live(mode=None, autoscaler=None, **more):
    made = predictor(SERVING, "s3://lake/models/digits/2", "r")
    manifest = TEMPLATES.inference_service("digits", "models", made, None, mode=mode, autoscaler=autoscaler)
    manifest["metadata"]["annotations"] |= more
    return manifest


def test_annotations_say_what_settings_say_and_tags_are_routed_where_there_are_revisions():
    tag_routing = {"serving.kserve.io/enable-tag-routing": "true"}
    assert live()["metadata"]["annotations"] == tag_routing
    knative = {"serving.kserve.io/deploymentMode": "Knative"}
    assert live("Knative")["metadata"]["annotations"] == tag_routing | knative
    assert live("Standard", "external")["metadata"]["annotations"] == {
        "serving.kserve.io/deploymentMode": "Standard",
        "serving.kserve.io/autoscalerClass": "external",
    }


@pytest.mark.parametrize(
    ("fields", "service", "said"),
    [
        ({}, live(), ""),
        ({}, live(**{"serving.kserve.io/deploymentMode": "Standard"}), ""),
        ({"deployment_mode": "Standard", "autoscaler": "hpa"}, live("Standard", "hpa"), ""),
        ({"deployment_mode": "Standard"}, live(), "enable-tag-routing: 'true', and by settings would have None"),
        ({"deployment_mode": "Knative"}, live(), "deploymentMode: None, and by settings would have 'Knative'"),
        ({"autoscaler": "external"}, live(), "autoscalerClass: None, and by settings would have 'external'"),
        ({}, live(None, "hpa"), "autoscalerClass: 'hpa', and by settings would have None"),
    ],
)
def test_annotations_never_change_while_a_service_lives(fields, service, said):
    reason = changed_annotations(Serving(**fields), service)
    assert said in reason
    assert bool(reason) == bool(said)


def test_trap_12_a_canary_without_pods_gives_no_evidence():
    with pytest.raises(SettingsError, match="min_replicas"):
        parse_settings({"defaults": {"data_lake": "file:///lake"}}, "digits", {"serving.min_replicas": 0})
    assert rendered()["spec"]["predictor"]["minReplicas"] >= 1


def test_trap_13_replicas_are_left_out_for_a_scaler():
    made = predictor(SERVING, "s3://lake/models/digits/2", "r").without_replicas()
    spec = TEMPLATES.inference_service("digits", "models", made, 10)["spec"]["predictor"]
    assert not {"minReplicas", "maxReplicas"} & set(spec)


def test_values_are_quoted():
    manifest = TEMPLATES.golden_config_map("digits-golden-2", "models", "digits", '{"cases": ["a: {{b}}"]}')
    assert manifest["data"]["golden.json"] == '{"cases": ["a: {{b}}"]}'


def test_fields_are_picked_as_the_api_names_them_though_keys_hold_dots():
    limits = ".spec.predictor.model.resources.limits"
    found = picked(rendered(), [".spec.predictor.model.storageUri", f"{limits}.nvidia.com/gpu", f"{limits}.cpu"])
    assert found == {
        "spec": {
            "predictor": {
                "model": {
                    "storageUri": "s3://lake/models/digits/2",
                    "resources": {"limits": {"nvidia.com/gpu": "1", "cpu": "500m"}},
                }
            }
        }
    }
    assert picked(rendered(), [".spec.predictor.model.storageUri", ".spec.predictor.model.env"]) is None
    assert picked(rendered(), [".spec.predictor.model.storage"]) is None


def test_no_value_becomes_a_field_of_its_own():
    """Whatever a template writes of a value is data, a number's place included."""
    evil = "5\n    hostNetwork: true"
    odd = Predictor(evil, evil, evil, evil, gpus=evil, min_replicas=evil, max_replicas=evil, timeout_seconds=evil)
    found = TEMPLATES.inference_service("digits", evil, odd, evil)
    assert found["spec"]["predictor"]["maxReplicas"] == evil
    assert found["spec"]["predictor"]["canaryTrafficPercent"] == evil
    assert found["spec"]["predictor"]["model"]["resources"]["limits"]["nvidia.com/gpu"] == evil
    assert "hostNetwork" not in found["spec"]["predictor"]
    assert found["metadata"]["namespace"] == evil
    text = 'a" & <b> {{ x }} {% raw %}\u2028é'
    assert TEMPLATES.golden_config_map(text, "models", "digits", text)["data"]["golden.json"] == text
