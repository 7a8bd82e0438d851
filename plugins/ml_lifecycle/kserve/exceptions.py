"""What a rollout refuses, and how it ends when not by going live."""

from __future__ import annotations

from ml_lifecycle.exceptions import LifecycleError, RefusalError


class RolloutError(LifecycleError):
    """The root of this domain's errors."""


class RolloutRefusedError(RolloutError, RefusalError):
    """The rollout cannot begin; nothing has been changed."""


class CanaryRefusedError(RolloutRefusedError):
    """A canary that KServe would refuse, or give no pods."""

    def __init__(self, field: str, value: object, allowed: str) -> None:
        super().__init__(f"canary's {field} = {value!r} {allowed}")


class RevisionFailedError(RolloutError):
    """The new revision will not become ready, or did not in time."""


class RolloutInterruptedError(RolloutError):
    """Somebody deleted or edited the service, or took the Lease, in the middle of the rollout."""


class NotifierError(RolloutError):
    """Somebody whom settings name could not be told how a rollout ended; the rollout itself is as it was."""


class RolloutStuckError(RolloutError):
    """The service did not reach the state that closes the rollout in time."""


class UnreadableStateError(RolloutError):
    """What stands on a Lease is not the state of that service's rollout."""


class StateTooLargeError(RolloutRefusedError):
    """The settings of a rollout alone are too large for its Lease."""

    def __init__(self, service: str, size: int, budget: int) -> None:
        super().__init__(
            f"the state of the rollout of {service!r} takes {size} bytes without any evidence, and may take {budget}: "
            "shorten rollout.own_metrics, rollout.errors, serving.tolerations or serving.node_selector"
        )
