"""What the controllers refuse, in the words that a status shows."""

from __future__ import annotations


class InvalidServiceError(Exception):
    """An InferenceService that KServe would not deploy; `reason` is one of KServe's failure reasons."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason, self.message = reason, message


class ImageUnknownError(Exception):
    """An image that the laptop has no command for."""


class VolumeUnsupportedError(Exception):
    """A volume or a value's source that the laptop cannot provide."""
