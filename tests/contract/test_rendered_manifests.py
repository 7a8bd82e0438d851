"""Everything that the templates render, of every runtime and every setting, is valid by KServe's real schemas."""

import functools

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from local.kubernetes import kinds
from local.kubernetes.schema import unknown_fields
from local.kubernetes.schema import validate as small_problems
from ml_lifecycle.kserve.manifest import Templates
from ml_lifecycle.kserve.predictor import predictor
from ml_lifecycle.resources import resource
from ml_lifecycle.runtimes import RUNTIMES
from ml_lifecycle.settings import Serving
from tests.unit.kserve.serving_settings import servings

TEMPLATES = Templates(resource("k8s_templates"))
SERVICES = "serving.kserve.io_inferenceservices"
RUNTIME_KINDS = ("serving.kserve.io_servingruntimes", "serving.kserve.io_clusterservingruntimes")


@functools.cache
def schema(crds, name, version):
    path = crds / f"{name}.yaml"
    if not path.exists():
        pytest.skip(f"no {path}")
    versions = yaml.load(path.read_text(), yaml.CSafeLoader)["spec"]["versions"]
    return next(found["schema"]["openAPIV3Schema"] for found in versions if found["name"] == version)


def validate(manifest, schema):
    jsonschema.Draft7Validator(strict(schema, manifest)).validate(manifest)


def strict(schema, value):
    """The part of the schema that speaks of `value`; unknown fields, which an API server would prune, are refused."""
    part = {key: rule for key, rule in schema.items() if key not in {"properties", "items", "description"}}
    if part.pop("x-kubernetes-int-or-string", False):
        part.pop("type", None)
    if isinstance(value, dict) and "properties" in schema:
        known = schema["properties"]
        part["properties"] = {key: strict(known[key], inner) for key, inner in value.items() if key in known}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            part.setdefault("additionalProperties", False)
    if isinstance(value, list) and "items" in schema:
        part["items"] = [strict(schema["items"], inner) for inner in value]
    return part


def rendered(serving, percent, *, canary=False):
    made = predictor(serving, "s3://lake/models/digits/2", TEMPLATES.runtime_name(serving))
    return TEMPLATES.inference_service(
        "digits",
        "models",
        made,
        percent,
        made.beside(made, "v2") if canary else None,
        mode=serving.deployment_mode,
        autoscaler=serving.autoscaler,
    )


@settings(deadline=None)
@given(serving=servings(), percent=st.none() | st.integers(0, 100))
def test_every_service_of_knative_mode(crds, serving, percent):
    validate(rendered(serving, percent), schema(crds, SERVICES, "v1beta1"))


@settings(deadline=None)
@given(serving=servings(), percent=st.integers(0, 100))
def test_every_service_with_a_canary_of_standard_mode(crds, serving, percent):
    validate(rendered(serving, percent, canary=True), schema(crds, SERVICES, "v1beta1"))


@settings(deadline=None)
@given(serving=servings())
def test_every_runtime_of_our_own(crds, serving):
    ours = serving.model_copy(update={"runtime": "ml-lifecycle"})
    validate(TEMPLATES.serving_runtime(ours), schema(crds, RUNTIME_KINDS[0], "v1alpha1"))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_all_options_at_once(crds, runtime):
    serving = Serving(
        runtime=runtime,
        deployment_mode="Knative",
        scale_metric="rps",
        scale_target=20,
        container_concurrency=4,
        timeout_seconds=60,
        gpus=1,
        cpu_limit="1",
        memory_limit="1Gi",
        logger_url="http://sink",
        service_account="reader",
        tolerations=[{"key": "gpu", "operator": "Exists", "effect": "NoExecute", "toleration_seconds": 60}],
        node_selector={"node.kubernetes.io/instance-type": "gpu-standard-v3"},
    )
    manifest = rendered(serving, 10)
    validate(manifest, schema(crds, SERVICES, "v1beta1"))
    kind = RUNTIMES[runtime]
    model = manifest["spec"]["predictor"]["model"]
    assert model["modelFormat"] == {"name": kind.model_format, "version": kind.format_version}
    assert (model["protocolVersion"], model["runtime"]) == (kind.protocol, TEMPLATES.runtime_name(serving))
    if runtime == "ml-lifecycle":
        supported = TEMPLATES.serving_runtime(serving)["spec"]["supportedModelFormats"]
        assert model["modelFormat"] in [{key: entry[key] for key in ("name", "version")} for entry in supported]


@settings(deadline=None)
@given(serving=servings(), percent=st.none() | st.integers(0, 100))
def test_the_stand_in_knows_every_field_that_is_rendered(serving, percent):
    definitions = {found["spec"]["names"]["kind"]: found for found in kinds.custom_resource_definitions()}
    ours = serving.model_copy(update={"runtime": "ml-lifecycle"})
    for manifest in (rendered(serving, percent), TEMPLATES.serving_runtime(ours)):
        (version,) = definitions[manifest["kind"]]["spec"]["versions"]
        small = version["schema"]["openAPIV3Schema"]
        assert unknown_fields(manifest, small) == []
        assert list(small_problems(manifest, small)) == []


@pytest.mark.parametrize("path", ["", "predictor", "predictor.model", "predictor.logger", "canary.0.predictor.model"])
def test_a_field_that_kserve_does_not_know_would_be_noticed(crds, path):
    manifest = rendered(Serving(logger_url="http://sink"), 10, canary=True)
    node = manifest["spec"]
    for key in filter(None, path.split(".")):
        node = node[int(key) if key.isdigit() else key]
    node["imagePolicy"] = "Always"
    with pytest.raises(jsonschema.ValidationError, match="imagePolicy"):
        validate(manifest, schema(crds, SERVICES, "v1beta1"))
