"""The root of the package's own errors; each domain derives its own in its `exceptions.py`."""

from __future__ import annotations


class LifecycleError(Exception):
    """Something this package refuses or cannot do; the message names the thing, the value and the remedy."""


class RefusalError(LifecycleError):
    """Refused for a reason that stays until a person removes it: trying the same again cannot help."""


class ParamMissingError(RefusalError):
    """A DAG run lacks a param that it cannot do without."""


class SettingsError(RefusalError):
    """A setting or a param is unknown or impossible; nothing has been created."""


class ResourceMissingError(LifecycleError):
    """A file of the package (template, job) is not where any installation puts it."""
