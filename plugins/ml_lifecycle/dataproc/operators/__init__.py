"""Creates clusters, runs jobs on them, deletes them.

Wire them so: submit (setup) → wait → jobs → delete (teardown of submit). Submit returns as soon as the cluster has an
id, because a setup that fails, or that creates before it fails, would take its teardown with it.
"""

from ml_lifecycle.dataproc.operators.cancel_jobs import CancelJobsOperator
from ml_lifecycle.dataproc.operators.delete_cluster import DeleteClusterOperator
from ml_lifecycle.dataproc.operators.pyspark_job import PysparkJobOperator
from ml_lifecycle.dataproc.operators.submit_cluster import SubmitClusterOperator
from ml_lifecycle.dataproc.operators.sweep_clusters import SweepClustersOperator
from ml_lifecycle.dataproc.operators.wait_for_cluster import WaitForClusterOperator

__all__ = [
    "CancelJobsOperator",
    "DeleteClusterOperator",
    "PysparkJobOperator",
    "SubmitClusterOperator",
    "SweepClustersOperator",
    "WaitForClusterOperator",
]
