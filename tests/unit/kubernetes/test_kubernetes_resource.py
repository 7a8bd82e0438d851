import pytest

from ml_lifecycle.kubernetes.exceptions import (
    AlreadyExistsError,
    ConflictError,
    ExpiredError,
    ForbiddenError,
    InvalidError,
    KubernetesError,
    NotFoundError,
    UnauthorizedError,
    UnavailableError,
    UnknownKindError,
    error_from_status,
)
from ml_lifecycle.kubernetes.resource import DEPLOYMENT, INFERENCE_SERVICE, KINDS, NAMESPACE, POD, kind_of


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
