"""What the data lake refuses or cannot do."""

from __future__ import annotations

from ml_lifecycle.exceptions import LifecycleError, RefusalError, SettingsError


class DataLakeError(LifecycleError):
    """The root of the data lake's errors."""


class DataLakeUnreachableError(DataLakeError):
    """The storage does not answer, or refuses the connection's credentials."""

    def __init__(self, uri: str, connection_id: str | None, reason: Exception) -> None:
        through = f" through connection {connection_id!r}" if connection_id else ""
        super().__init__(
            f"data_lake: {uri} cannot be reached{through}: {type(reason).__name__}: {reason}; check the setting "
            "data_lake and the connection's keys and endpoint_url"
        )


class DataLakeConnectionError(DataLakeError, RefusalError):
    """The connection that settings name is not there."""

    def __init__(self, connection_id: str) -> None:
        super().__init__(
            f"connections.storage = {connection_id!r}: there is no such connection, and this machine's own credentials "
            "are not used in its place; create it (type aws), or correct the setting"
        )


class ObjectMissingError(DataLakeError):
    """Nothing lies at a URI."""

    def __init__(self, uri: str) -> None:
        super().__init__(f"nothing lies at {uri}: the job that writes it has not, or it was deleted")
        self.uri = uri


class PathPartError(DataLakeError, RefusalError):
    """A name that cannot be one part of a path in the data lake."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name!r} names nothing in the data lake: allowed are letters, digits, hyphens, underscores and dots"
        )


class OutsideDataLakeError(DataLakeError, RefusalError):
    """A URI leads elsewhere than into the data lake: whoever wrote it must not choose what this machine asks."""

    def __init__(self, uri: str, base_uri: str) -> None:
        super().__init__(f"{uri!r} does not lie in the data lake {base_uri!r}: nothing is read or written there")


class BrokenJsonError(DataLakeError):
    """A file that should hold a JSON object does not."""

    def __init__(self, uri: str, reason: Exception) -> None:
        super().__init__(f"{uri} holds no JSON object: {reason}; delete it and run the task that writes it again")


class DatasetError(SettingsError):
    """The data set of a training is missing, unreadable or no image folder."""


class ServingFilesDifferError(DataLakeError, RefusalError):
    """Other files were already published under a version; they may be served, so they stay."""

    def __init__(self, uri: str, names: list[str]) -> None:
        super().__init__(
            f"{uri} already holds other content for {', '.join(names)}: published files never change; register the "
            "model as a new version"
        )


class NotPublishedError(DataLakeError, RefusalError):
    """A version has no serving files in the data lake, whatever its tags and aliases say."""

    def __init__(self, model: str, version: str, uri: str) -> None:
        super().__init__(
            f"version {version} of {model!r} was never published: {uri} has no checksums.json; run promote_model, or "
            "copy the folder there where another data_lake holds it"
        )


class ServingFilesChangedError(DataLakeError, RefusalError):
    """Published files are not what they were when the version was promoted."""

    def __init__(self, uri: str, reason: str) -> None:
        super().__init__(
            f"{uri} is not what was promoted: {reason}; restore it from a copy, find out who writes there, or train "
            "and promote a new version"
        )


class WriteMismatchError(DataLakeError):
    """What was read back is not what was written."""

    def __init__(self, uri: str) -> None:
        super().__init__(f"{uri} reads back differently from what was written: storage is broken or shared; try again")
