"""The stand-in's small schemas say of every field that they name what the real CRDs say."""

import pytest
import yaml

from local.kubernetes import kinds
from local.kubernetes.store import Store

COMPARED = (
    "type",
    "format",
    "enum",
    "pattern",
    "default",
    "minimum",
    "maximum",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-map-type",
)
OPEN = "x-kubernetes-preserve-unknown-fields"
OURS = {
    f"{manifest['spec']['group']}_{manifest['spec']['names']['plural']}": manifest
    for manifest in kinds.custom_resource_definitions()
}
KNOWN = (
    "serving.kserve.io_inferenceservices",
    "serving.kserve.io_servingruntimes",
    "gateway.networking.k8s.io_httproutes",
    "keda.sh_scaledobjects",
)


def load(crds, name):
    path = crds / f"{name}.yaml"
    if not path.exists():
        pytest.skip(f"no {path}")
    return next(filter(None, yaml.load_all(path.read_text(), yaml.CSafeLoader)))


def schemas(manifest):
    return {version["name"]: version["schema"]["openAPIV3Schema"] for version in manifest["spec"]["versions"]}


def differences(ours, real, path=""):
    """What the small schema says otherwise than the real one of the fields that it names."""
    if real.get(OPEN) and "properties" not in real:
        return
    yield from keyword_differences(ours, real, path)
    for name, inner in ours.get("properties", {}).items():
        if name in real.get("properties", {}):
            yield from differences(inner, real["properties"][name], f"{path}.{name}")
        elif not real.get(OPEN):
            yield f"{path}.{name}: the real CRD has no such field"
    for keyword in ("items", "additionalProperties"):
        if keyword in ours:
            yield from differences(ours[keyword], real.get(keyword) or {}, f"{path}[]")


def keyword_differences(ours, real, path):
    for keyword in COMPARED:
        if ours.get(keyword) != real.get(keyword) and not (ours.get(OPEN) and keyword not in ours):
            yield f"{path}: {keyword} is {real.get(keyword)!r}, not {ours.get(keyword)!r}"
    if set(ours.get("required", ())) != set(real.get("required", ())) and not ours.get(OPEN):
        yield f"{path}: required are {real.get('required')}, not {ours.get('required')}"


@pytest.mark.parametrize("name", KNOWN)
def test_small_schema_agrees_with_the_real_one(crds, name):
    real = load(crds, name)
    ours = OURS[name]
    assert ours["spec"]["names"] == {key: real["spec"]["names"][key] for key in ours["spec"]["names"]}
    assert ours["spec"]["scope"] == real["spec"]["scope"]
    for version, schema in schemas(ours).items():
        assert list(differences(schema, schemas(real)[version])) == []


@pytest.mark.parametrize("name", KNOWN)
def test_subresources_agree(crds, name):
    real = {version["name"]: version.get("subresources", {}) for version in load(crds, name)["spec"]["versions"]}
    for version in OURS[name]["spec"]["versions"]:
        assert set(version["subresources"]) == set(real[version["name"]])


@pytest.mark.parametrize("name", ["serving.kserve.io_servingruntimes", "keda.sh_scaledobjects"])
def test_the_stand_in_takes_the_real_definition(crds, name):
    store = Store()
    real = load(crds, name)
    applied = store.apply(real, field_manager="contract", force=True)
    conditions = {item["type"]: item["status"] for item in applied["status"]["conditions"]}
    assert conditions["Established"] == "True"


def test_differences_are_found():
    ours = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}}}
    real = {"type": "object", "required": ["a"], "properties": {"a": {"type": "string"}}}
    found = list(differences(ours, real))
    assert len(found) == 3
