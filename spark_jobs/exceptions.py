"""What can go wrong in a job; each message names the thing, the value and the remedy."""

from __future__ import annotations


class JobError(Exception):
    """A job failed for a reason that it understands: its message is all that a reader needs."""


class SpecificationError(JobError):
    """The job's specification is no JSON object of the agreed form."""


class SecretError(JobError):
    """The Lockbox secret cannot be read."""


class StorageError(JobError):
    """The data lake has not got what a job needs, or does not give or take it."""


class FileMissingError(StorageError):
    """There is no such file or folder: the storage was asked, and said so."""


class StorageUnreachableError(StorageError):
    """The storage gave no answer: nothing is known of what lies there, least of all that it is absent."""


class DatasetError(JobError):
    """The dataset cannot be trained on."""


class GpuMissingError(JobError):
    """A GPU was asked for and there is none."""


class TrainingError(JobError):
    """Training failed or makes no sense."""


class PreemptedError(TrainingError):
    """Training was told to end before its time; it goes on from its checkpoint when it is started again."""


class ExportError(JobError):
    """The trained model cannot be exported, or its exports disagree."""
