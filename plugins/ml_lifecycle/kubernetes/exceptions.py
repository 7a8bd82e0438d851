"""What the Kubernetes API refuses, by cause; every error carries the API's own status, reason and message."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ml_lifecycle.exceptions import LifecycleError


class UnknownKindError(LifecycleError):
    """An object of a kind that the package does not know."""


class KubernetesError(LifecycleError):
    """The API refused a request or could not be reached.

    `status` is the HTTP code (0: no answer), `reason` the API's word for it ("NotFound"), `message` its sentence,
    `details` the API's structured causes.
    """

    status = 0
    reason = ""

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        reason: str | None = None,
        details: Mapping[str, Any] | None = None,
        request: str = "",
    ) -> None:
        super().__init__(f"{request}: {message}" if request else message)
        self.message = message
        self.status = self.status if status is None else status
        self.reason = self.reason if reason is None else reason
        self.details = dict(details or {})


class NotFoundError(KubernetesError):
    """The object, its namespace or its kind does not exist."""

    status = 404
    reason = "NotFound"

    @property
    def of_object(self) -> bool:
        """Whether the API says that the object is absent; not that it, or what stands before it, has no such path."""
        return self.reason == NotFoundError.reason


class AlreadyExistsError(KubernetesError):
    """An object of this name exists."""

    status = 409
    reason = "AlreadyExists"


class ConflictError(KubernetesError):
    """The object changed since it was read, or another field manager owns a field that was applied."""

    status = 409
    reason = "Conflict"

    @property
    def owners(self) -> dict[str, str]:
        """Field to what the API says of its owner, as in `conflict with "kubectl"`; empty if no field is disputed."""
        causes = self.details.get("causes") or []
        return {
            str(cause.get("field", "")): str(cause.get("message", ""))
            for cause in causes
            if cause.get("reason") == "FieldManagerConflict"
        }


class InvalidError(KubernetesError):
    """The object breaks its schema or a rule of the API; repeating the request cannot help."""

    status = 422
    reason = "Invalid"


class InvalidNameError(InvalidError):
    """A name, namespace or kind that no object can have: it is no part of an address, and nothing was sent."""


class DeniedError(InvalidError):
    """An admission webhook or policy refuses the object, or breaks over it; repeating the request cannot help."""


class ForbiddenError(KubernetesError):
    """The credentials may not do this."""

    status = 403
    reason = "Forbidden"


class ExpiredError(KubernetesError):
    """The resourceVersion is too old to watch from: list again."""

    status = 410
    reason = "Expired"


class UnavailableError(KubernetesError):
    """The API could not be reached, or did not answer sensibly, after every retry."""

    status = 503
    reason = "ServiceUnavailable"


class UnauthorizedError(UnavailableError):
    """The API does not know the credentials: expired, wrong, or the API server is only starting.

    It says nothing about any object. The client has fetched the credentials anew before it raises this.
    """

    status = 401
    reason = "Unauthorized"


class TooLargeError(UnavailableError):
    """The answer is larger than this client keeps."""

    status = 200
    reason = ""


class LeaseHeldError(LifecycleError):
    """Another holder has the Lease."""

    def __init__(self, name: str, holder: str, expires: str) -> None:
        super().__init__(f"Lease {name!r} is held by {holder!r} until {expires}: wait for it, or end that run")
        self.name = name
        self.holder = holder


class LeaseLostError(LifecycleError):
    """The Lease that was to be renewed or released is another's by now, or is gone."""


class LeaseOvertakenError(LeaseLostError):
    """Another driver of the same holder has written what this one does not know: it goes on, this one does not."""


class WaitFailedError(LifecycleError):
    """The object that was waited for reached a state from which it cannot become what was awaited."""


class WaitTimeoutError(LifecycleError):
    """The object that was waited for did not get there in time."""


_BY_STATUS: dict[int, type[KubernetesError]] = {
    400: InvalidError,
    401: UnauthorizedError,
    403: ForbiddenError,
    404: NotFoundError,
    408: UnavailableError,
    409: ConflictError,
    410: ExpiredError,
    413: InvalidError,
    415: InvalidError,
    422: InvalidError,
    429: UnavailableError,
}
# The API server answers 500 to an applied object that does not fit its schema.
_UNTYPED = "failed to create typed patch object"
# The API server's words for a webhook that judged an object, and for one that it could not ask.
_DENIED = re.compile(r"^(admission webhook \S+ denied the request|ValidatingAdmissionPolicy .* denied request)")
_UNASKED = re.compile(r"failed (calling|to call) webhook")
# What a Go server says of a path that it does not have; the API server does so for a group that it does not serve.
_NO_PATH = "404 page not found"


def error_from_status(code: int, body: Mapping[str, Any], request: str = "") -> KubernetesError:
    """The error that a metav1.Status (or any other body of an error response) stands for."""
    reason = str(body.get("reason") or "")
    message = str(body.get("message") or reason or f"HTTP {code}")
    error = _BY_STATUS.get(code, KubernetesError if 400 <= code < 500 else UnavailableError)
    details = body.get("details")
    if code == 409 and reason == "AlreadyExists":
        error = AlreadyExistsError
    if code == 404 and not reason and message.strip() != _NO_PATH:
        error = UnavailableError  # a gateway's page; the API's own word has a reason
    if code == 500 and message.startswith(_UNTYPED):
        error = InvalidError
    if _denied(code, message):
        error = DeniedError
    return error(
        message,
        status=code,
        reason=reason,
        details=details if isinstance(details, Mapping) else None,
        request=request,
    )


def _denied(code: int, message: str) -> bool:
    """Whether a webhook refuses the object; one that fails for a reason of its own does not, one that panics does."""
    if _DENIED.match(message) is None:
        return False
    return code < 500 or "panic: " in message


def never_reached_storage(body: Mapping[str, Any]) -> bool:
    """Whether the API refused a write before storing anything, because a webhook could not be asked."""
    return _UNASKED.search(str(body.get("message") or "")) is not None
