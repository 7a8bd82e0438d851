"""What is rendered, and that KServe's real schemas accept it."""

import functools
from pathlib import Path

import jsonschema
import pytest
import yaml

from ml_lifecycle.exceptions import SettingsError
from ml_lifecycle.kserve.manifest import Predictor, Templates, is_ours, picked, predictor
from ml_lifecycle.resources import resource
from ml_lifecycle.settings import Serving, parse_settings

TEMPLATES = Templates(resource("k8s_templates"))
SERVING = Serving(namespace="models", service_account="reader", gpus=1)
CRDS = Path(__file__).resolve().parents[4] / "shared" / "crds"


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
    assert container["securityContext"]["runAsNonRoot"] is True


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


def test_a_live_predictor_survives_the_way_back():
    """A roll-back applies what was read from the live service: it must be what was applied before."""
    made = predictor(SERVING, "s3://lake/models/digits/2", "ml-lifecycle-abc")
    assert Predictor.of(rendered(None)) == made
    assert made.version == "2"
    assert Predictor(**made.to_json()) == made


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


@pytest.mark.skipif(not CRDS.is_dir(), reason="the CRDs of KServe are not here")
@pytest.mark.parametrize(
    ("file", "manifest"),
    [
        ("serving.kserve.io_inferenceservices.yaml", rendered()),
        ("serving.kserve.io_inferenceservices.yaml", rendered(None, service_account=None, gpus=0)),
        ("serving.kserve.io_servingruntimes.yaml", runtime()),
    ],
)
def test_the_real_schemas_accept_it(file, manifest):
    definition = _definition(file)
    version = manifest["apiVersion"].rpartition("/")[2]
    schema = next(v["schema"]["openAPIV3Schema"] for v in definition["spec"]["versions"] if v["name"] == version)
    jsonschema.Draft7Validator(_strict(schema, manifest)).validate(manifest)


@functools.cache
def _definition(file):
    return yaml.load((CRDS / file).read_text(), Loader=yaml.CSafeLoader)


def _strict(schema, value):
    """The part of the schema that speaks of `value`; unknown fields are refused, as by `kubectl --validate=strict`."""
    part = {key: rule for key, rule in schema.items() if key not in {"properties", "items", "description"}}
    if part.pop("x-kubernetes-int-or-string", False):
        part.pop("type", None)
    if isinstance(value, dict) and "properties" in schema:
        known = schema["properties"]
        part["properties"] = {key: _strict(known[key], inner) for key, inner in value.items() if key in known}
        if known:
            part.setdefault("additionalProperties", False)
    if isinstance(value, list) and value and "items" in schema:
        part["items"] = {"anyOf": [_strict(schema["items"], inner) for inner in value]}
    return part


@pytest.mark.skipif(not CRDS.is_dir(), reason="the CRDs of KServe are not here")
def test_the_schema_check_would_notice_a_field_that_kserve_does_not_know():
    manifest = runtime()
    manifest["spec"]["containers"][0]["imagePolicy"] = "Always"
    schema = _definition("serving.kserve.io_servingruntimes.yaml")["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    with pytest.raises(jsonschema.ValidationError, match="imagePolicy"):
        jsonschema.Draft7Validator(_strict(schema, manifest)).validate(manifest)


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
