import pytest

from ml_lifecycle.kubernetes.exceptions import (
    AlreadyExistsError,
    ConflictError,
    DeniedError,
    ExpiredError,
    ForbiddenError,
    InvalidError,
    InvalidNameError,
    KubernetesError,
    NotFoundError,
    UnauthorizedError,
    UnavailableError,
    UnknownKindError,
    error_from_status,
)
from ml_lifecycle.kubernetes.resource import DEPLOYMENT, INFERENCE_SERVICE, KINDS, NAMESPACE, POD, ResourceKind, kind_of


def test_paths():
    assert POD.path() == "/api/v1/pods"
    assert POD.path(namespace="models") == "/api/v1/namespaces/models/pods"
    assert POD.path("p", "models", "log") == "/api/v1/namespaces/models/pods/p/log"
    assert DEPLOYMENT.path("d", "models", "scale") == "/apis/apps/v1/namespaces/models/deployments/d/scale"
    assert NAMESPACE.path("models", "ignored") == "/api/v1/namespaces/models"
    assert str(INFERENCE_SERVICE) == "inferenceservices.serving.kserve.io"


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_kind_is_found_by_its_manifest(kind):
    assert kind_of({"apiVersion": kind.api_version, "kind": kind.kind}) is kind


def test_an_unknown_kind_is_named():
    with pytest.raises(UnknownKindError, match=r"'v2'.*'Pod'"):
        kind_of({"apiVersion": "v2", "kind": "Pod"})


@pytest.mark.parametrize(
    ("code", "reason", "message", "error"),
    [
        (404, "NotFound", "", NotFoundError),
        (409, "AlreadyExists", "", AlreadyExistsError),
        (409, "Conflict", "", ConflictError),
        (422, "Invalid", "", InvalidError),
        (400, "BadRequest", "", InvalidError),
        (401, "Unauthorized", "", UnauthorizedError),
        (403, "Forbidden", "", ForbiddenError),
        (410, "Expired", "", ExpiredError),
        (429, "TooManyRequests", "", UnavailableError),
        (500, "InternalError", "", UnavailableError),
        (500, "", "failed to create typed patch object (…)", InvalidError),
        (503, "", "", UnavailableError),
        (405, "MethodNotAllowed", "", KubernetesError),
        (404, "", "404 page not found", NotFoundError),
        (404, "", "<html>no such page</html>", UnavailableError),
        (302, "", "moved", UnavailableError),
        (500, "InternalError", 'Internal error occurred: failed calling webhook "w": refused', UnavailableError),
        (500, "", 'admission webhook "w" denied the request: panic: index out of range [recovered]', DeniedError),
        (500, "", 'admission webhook "w" denied the request: Get "https://10.0.0.1": refused', UnavailableError),
        (403, "Forbidden", 'admission webhook "w" denied the request: no', DeniedError),
        (400, "BadRequest", 'admission webhook "w" denied the request: no', DeniedError),
        (422, "Invalid", "ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no", DeniedError),
    ],
)
def test_errors_by_status(code, reason, message, error):
    made = error_from_status(code, {"reason": reason, "message": message}, "GET /x")
    assert type(made) is error
    assert (made.status, made.reason) == (code, reason)
    assert str(made).startswith("GET /x: ")


def test_a_conflict_names_the_owners_of_fields():
    causes = [
        {"reason": "FieldManagerConflict", "message": 'conflict with "kubectl"', "field": ".spec.replicas"},
        {"reason": "Other", "message": "", "field": "x"},
    ]
    error = error_from_status(409, {"reason": "Conflict", "message": "m", "details": {"causes": causes}})
    assert isinstance(error, ConflictError)
    assert error.owners == {".spec.replicas": 'conflict with "kubectl"'}


NO_NAMES = (
    *("", ".", "..", "a/b", "../kube-system/deployments/coredns", "a?b", "a#b", "a%2e", "%2e%2e", "a\n", "\n", "a b"),
    *("a\\b", "A", "a_b", "-a", "a-", "a..b", "é", "a\x00", "a;b", "x" * 254, None, 5),
)


@pytest.mark.parametrize("part", NO_NAMES)
@pytest.mark.parametrize("place", ["name", "namespace", "plural", "version", "group", "subresource"])
def test_no_part_of_an_address_leads_elsewhere(place, part):
    if (part is None and place not in {"plural", "version"}) or (part == "" and place == "group"):
        pytest.skip("leaving it out is allowed")
    kind = {"group": "apps", "version": "v1", "plural": "deployments"}
    where = {"name": "web", "namespace": "models", "subresource": "scale"}
    (kind if place in kind else where)[place] = part
    with pytest.raises(InvalidNameError, match="is no"):
        ResourceKind(kind["group"], kind["version"], "Deployment", kind["plural"]).path(**where)


@pytest.mark.parametrize("name", ["a", "digits-predictor-00001", "coredns.v1.example.com", "0", "x" * 63])
def test_names_that_kubernetes_allows_are_allowed(name):
    assert DEPLOYMENT.path(name, "models") == f"/apis/apps/v1/namespaces/models/deployments/{name}"
