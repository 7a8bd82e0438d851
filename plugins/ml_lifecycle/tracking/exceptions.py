"""What tracking refuses or cannot do."""

from __future__ import annotations

from collections.abc import Sequence

from ml_lifecycle.exceptions import LifecycleError, RefusalError, SettingsError


class TrackingError(LifecycleError):
    """The root of tracking's errors."""


class TrackingConnectionError(TrackingError, RefusalError):
    """The connection to MLflow is missing or names no server."""

    def __init__(self, connection_id: str, reason: str) -> None:
        super().__init__(
            f"connections.tracking = {connection_id!r}: {reason}; allowed is an Airflow connection of type http with "
            "host, port and schema, and login and password (or a token as password alone) where MLflow asks for them"
        )


class TrackingUnreachableError(TrackingError):
    """MLflow does not answer."""

    def __init__(self, connection_id: str, uri: str, reason: str) -> None:
        super().__init__(
            f"connections.tracking = {connection_id!r}: MLflow at {uri} does not answer ({reason}); start it or "
            "correct the connection"
        )


class TrackingRequestError(TrackingError):
    """MLflow answers with an error."""

    def __init__(self, what: str, reason: Exception) -> None:
        super().__init__(f"MLflow refuses to {what}: {reason}")


class VersionMissingError(TrackingError, RefusalError):
    """A model version is not in the registry."""

    def __init__(self, model: str, version: str) -> None:
        super().__init__(f"model {model!r} has no version {version!r} in MLflow's registry: train it, or name another")


class NoEarlierVersionError(TrackingError, RefusalError):
    """There is no version to return to."""

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(f"{model!r} cannot be rolled back: {reason}; give the param `version`, one that was published")


class ServingArtifactMissingError(TrackingError, RefusalError):
    """A run carries no serving files."""

    def __init__(self, run_id: str, folder: str) -> None:
        super().__init__(f"MLflow run {run_id} has no artifact folder {folder!r}: its evaluate job did not finish")


class EvaluationUnreadableError(TrackingError, RefusalError):
    """A run's evaluation is missing, or of a form that the gate does not know."""

    def __init__(self, run_id: str, file: str, reason: str) -> None:
        super().__init__(
            f"MLflow run {run_id}: the gate cannot read the artifact {file!r} ({reason}): the evaluate job did not "
            "finish, or is of another version than this package; train again"
        )


class EvaluationUnprovenError(TrackingError, RefusalError):
    """A run's evaluation stands on MLflow alone, where anybody who trains may write it."""

    def __init__(self, model: str, version: str, run_id: str) -> None:
        super().__init__(
            f"version {version} of {model!r}: the data lake holds no evaluation of its MLflow run {run_id!r}, and what "
            "stands on MLflow proves nothing; train it with train_model, or set gate.evaluations to 'mlflow' where "
            "everybody who may write to MLflow may decide what is served"
        )


class NotJudgedError(TrackingError, RefusalError):
    """The serving files on a run are not those that its evaluation scored."""

    def __init__(self, run_id: str, names: Sequence[str]) -> None:
        super().__init__(
            f"MLflow run {run_id}: the serving files {', '.join(names)} are not those that were evaluated; nothing is "
            "published: find out who changed them, and train again"
        )


class PromotionOvertakenError(TrackingError, RefusalError):
    """Another version became champion while this one was on its way to be."""

    def __init__(self, model: str, version: str, other: str) -> None:
        super().__init__(
            f"version {version} of {model!r} is not champion: version {other} became it meanwhile, and was not what it "
            "was compared with; run promote_model for it again"
        )


class AliasesStaleError(TrackingError):
    """Aliases of some models do not follow what serves yet; the others do."""

    def __init__(self, failures: Sequence[str]) -> None:
        super().__init__(
            "aliases and tags do not follow what serves: "
            + "; ".join(failures)
            + "; mend the cause and clear this task"
        )


class PromotionByHandError(SettingsError):
    """A promotion by hand lacks what it needs."""


class NoCandidateError(SettingsError):
    """There is no version to judge."""
