"""What the server refuses, as HTTP says it."""

from __future__ import annotations


class ModelFilesError(Exception):
    """The model's folder does not hold what it must; the server cannot start."""


class RequestError(Exception):
    """A request that is refused; `status` is the HTTP status."""

    status = 400


class UnknownModelError(RequestError):
    """The path names a model that is not served here."""

    status = 404


class TooLargeError(RequestError):
    """The request is larger than this server accepts."""

    status = 413


class NotReadyError(RequestError):
    """The model is not loaded yet, or the server is on its way out."""

    status = 503


class OverloadedError(RequestError):
    """More requests wait than this server lets wait."""

    status = 503
