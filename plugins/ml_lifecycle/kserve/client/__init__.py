"""One service's rollout over the Kubernetes API: its Lease, its InferenceService, what Prometheus says of it."""

from ml_lifecycle.kserve.client.evidence import check_prometheus
from ml_lifecycle.kserve.client.lease import Clock, outlast, utc_now
from ml_lifecycle.kserve.client.rollout_client import RolloutClient, connect
from ml_lifecycle.kserve.revisions import FIELD_MANAGER

__all__ = ["FIELD_MANAGER", "Clock", "RolloutClient", "check_prometheus", "connect", "outlast", "utc_now"]
