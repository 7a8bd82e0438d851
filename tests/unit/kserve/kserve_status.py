"""InferenceServices and pods as KServe shows them."""

from ml_lifecycle.kserve.revisions import read

GOOD, BAD, RESTORED = "digits-predictor-00001", "digits-predictor-00002", "digits-predictor-00003"


def service(
    uri="file:///lake/models/digits/1",
    percent=None,
    created=GOOD,
    ready=GOOD,
    rolled_out=GOOD,
    traffic=None,
    model_status=None,
    conditions=(),
    managers=(),
    **status,
):
    traffic = {GOOD: 100} if traffic is None else traffic
    predictor = {"model": {"storageUri": uri, "runtime": "r", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}}
    if percent is not None:
        predictor["canaryTrafficPercent"] = percent
    component = {
        "latestCreatedRevision": created,
        "latestReadyRevision": ready,
        "latestRolledoutRevision": rolled_out,
        "traffic": [{"revisionName": name, "percent": share} for name, share in traffic.items()],
    }
    return {
        "metadata": {
            "name": "digits",
            "namespace": "models",
            "managedFields": [{"manager": name, "fieldsV1": {"f:spec": {}}} for name in managers],
        },
        "spec": {"predictor": predictor},
        "status": {
            "components": {"predictor": component},
            "modelStatus": model_status or {},
            "conditions": list(conditions),
            **status,
        },
    }


def seen(**fields):
    return read(service(**fields))


def pod(*, ready=True, name="pod", **container):
    return {
        "metadata": {"name": name},
        "status": {
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
            "containerStatuses": [{"name": "kserve-container", "ready": ready, "state": {}, **container}],
        },
    }
