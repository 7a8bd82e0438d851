"""What goes wrong with clusters and jobs."""

from __future__ import annotations

from collections.abc import Sequence

from ml_lifecycle.exceptions import LifecycleError, RefusalError


class DataprocError(LifecycleError):
    """Any error of this domain."""


class ApiError(DataprocError):
    """The Yandex API answered a call with an error; `code` is the gRPC status's name."""

    remedy = "try again; if it stays so, take this message to Yandex's support"

    def __init__(self, method: str, code: str, message: str) -> None:
        super().__init__(f"{method}: {code}: {message} ({self.remedy})")
        self.method = method
        self.code = code
        self.message = message


class NotFoundError(ApiError):
    """The cluster, job, operation or folder does not exist, or this account may not see it."""

    remedy = "check the id, the folder, and that the service account may see it"


class AlreadyExistsError(ApiError):
    """The name is taken in this folder."""

    remedy = "delete the other cluster or let this one have another name"


class InvalidRequestError(ApiError):
    """The API refuses the request's content."""

    remedy = "correct the settings of the cluster or job"


class PermissionRefusedError(ApiError):
    """The account of the connection lacks a role, or its key is not valid."""

    remedy = (
        "the connection's service account needs dataproc.editor, vpc.user and iam.serviceAccounts.user on the folder; "
        "check its key"
    )


class QuotaExceededError(ApiError):
    """A quota of the cloud is used up."""

    remedy = "ask Yandex for a higher quota, choose smaller hosts, or wait for other clusters to go"


class PreconditionError(ApiError):
    """The thing is not in a state that allows the call."""

    remedy = "another operation may be under way: try again when it has ended"


class UnavailableError(ApiError):
    """The API stayed unreachable for as long as we were willing to try."""

    remedy = "check the connection's endpoint, the network and the root certificates; then run the task again"


class ClusterRefusedError(DataprocError, RefusalError):
    """The cluster's settings are impossible; nothing was created."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("cluster settings refused, nothing was created: " + "; ".join(problems))


class ClusterNameTakenError(DataprocError):
    """A cluster of this name exists, and this run did not make it."""

    def __init__(self, name: str, cluster_id: str, owner: str) -> None:
        super().__init__(
            f"cluster {name!r} exists as {cluster_id}, made by {owner}: it is not this run's to use or to delete; "
            "delete it or rename it"
        )


class ClusterFailedError(DataprocError, RefusalError):
    """The cluster did not come up, or broke."""

    def __init__(self, cluster_id: str, message: str) -> None:
        super().__init__(
            f"cluster {cluster_id} did not start: {message} (the teardown deletes it; look at the subnet's NAT, the "
            "security group's self rule, the service account's roles and the initialization actions)"
        )


class ClusterTimeoutError(DataprocError, RefusalError):
    """The cluster was not running in time."""

    def __init__(self, cluster_id: str, minutes: float) -> None:
        super().__init__(
            f"cluster {cluster_id} is not running after {minutes:g} minutes (the teardown deletes it; raise "
            "cluster.create_timeout_minutes if it was merely slow)"
        )


_ANEW = (
    "clear this task: prepare, submit_cluster and wait_for_cluster are cleared with it and make a new cluster, where "
    "training goes on from its last checkpoint"
)


class ClusterGoneError(DataprocError, RefusalError):
    """The run's cluster was deleted before the job was done."""

    def __init__(self, cluster_id: str) -> None:
        super().__init__(
            f"cluster {cluster_id} of this run does not exist any more: its time to live was over "
            f"(cluster.time_to_live_hours, cost.limit) or somebody deleted it; {_ANEW}"
        )


class ClusterExpiredError(DataprocError, RefusalError):
    """The cluster's time to live is over: it is about to be deleted, whatever runs on it."""

    def __init__(self, cluster_id: str, last_lines: Sequence[str] = ()) -> None:
        said = _driver_said(last_lines) if last_lines else ""
        super().__init__(
            f"the time to live of cluster {cluster_id} is over: raise cluster.time_to_live_hours, or cost.limit where "
            f"that set it; then {_ANEW}{said}"
        )


class ClusterNotDeletedError(DataprocError):
    """The cluster still exists, and costs money."""

    def __init__(self, cluster_id: str, reason: str) -> None:
        super().__init__(
            f"cluster {cluster_id} still exists and costs money: {reason} (delete it in the console; clean_up tries "
            "again once its time to live is over)"
        )


class SweepError(DataprocError):
    """Some expired clusters could not be deleted; the others were."""

    def __init__(self, failures: Sequence[str]) -> None:
        super().__init__("not every expired cluster could be deleted: " + "; ".join(failures))


class JobRefusedError(DataprocError, RefusalError):
    """The job's specification is impossible or carries a secret; nothing was submitted."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("job refused, nothing was submitted: " + "; ".join(problems))


class JobFailedError(DataprocError):
    """The job ended without success; carries the driver's last lines."""

    def __init__(self, name: str, job_id: str, status: str, message: str, last_lines: Sequence[str]) -> None:
        reason = f": {message}" if message else ""
        super().__init__(f"job {name!r} ({job_id}) ended {status}{reason}{_driver_said(last_lines)}")


class JobTimeoutError(DataprocError):
    """The job did not end in time and was cancelled."""

    def __init__(self, name: str, job_id: str, minutes: float, last_lines: Sequence[str]) -> None:
        super().__init__(
            f"job {name!r} ({job_id}) was not done after {minutes:g} minutes and has been cancelled (raise "
            f"cluster.job_timeout_minutes if it was merely slow){_driver_said(last_lines)}"
        )


class JobNotCancelledError(DataprocError):
    """An earlier job of the task still runs: another beside it would do the work twice."""

    def __init__(self, job_ids: Sequence[str]) -> None:
        super().__init__(
            f"jobs {', '.join(job_ids)} of earlier tries have not ended though they were cancelled: nothing was "
            "submitted beside them; run the task again when they have, or let the teardown delete their cluster"
        )


class ResultMissingError(DataprocError):
    """The job succeeded but left no result."""

    def __init__(self, name: str, job_id: str, uri: str) -> None:
        super().__init__(
            f"job {name!r} ({job_id}) ended DONE but wrote no result to {uri}: it must write there before it exits"
        )


def _driver_said(lines: Sequence[str]) -> str:
    said = (
        "\n".join(f"    {line}" for line in lines)
        or "    (none; YARN's own logs lie in cluster.bucket and cluster.log_group_id)"
    )
    return f". The driver's last lines:\n{said}"
