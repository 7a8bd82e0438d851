"""InferenceServices of Standard mode as KServe shows them, with their HTTPRoutes."""

from ml_lifecycle.kserve.revisions import read

STABLE, CANARY = "digits-predictor", "digits-v2-predictor"
URI = "file:///lake/models/digits/"


def service(uri=URI + "1", name="", canary=None, percent=0, ready=True, canary_ready=True, **status):
    """`canary`: the version that is open beside."""
    spec = {"predictor": _predictor(uri, name, minReplicas=2)}
    conditions = [{"type": "PredictorReady", "status": "True" if ready else "Unknown"}]
    conditions.append({"type": "IngressReady", "status": "True"})
    found = {
        "deploymentMode": "Standard",
        "conditions": conditions,
        "url": "http://digits-models.example.com",
        **status,
    }
    if canary:
        spec["canary"] = [
            {"trafficPercent": percent, "predictor": _predictor(URI + canary, f"v{canary}", minReplicas=1)}
        ]
        found["canaryStatuses"] = [{"name": f"v{canary}", "ready": canary_ready, "trafficPercent": percent}]
    return {"metadata": {"name": "digits", "namespace": "models"}, "spec": spec, "status": found}


def _predictor(uri, name, **fields):
    model = {"storageUri": uri, "runtime": "r", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}
    return {"model": model, **({"name": name} if name else {}), **fields}


def route(**weights):
    """Backend to weight, with `_` for `-`; one backend alone has no weight."""
    backends = [{"name": name.replace("_", "-"), "weight": weight} for name, weight in weights.items()]
    if len(backends) == 1:
        del backends[0]["weight"]
    return {"spec": {"rules": [{"backendRefs": backends}]}}


def deployment(uri, *, replicas=2, updated=2, total=2, generation=3, observed=3):
    return {
        "metadata": {"generation": generation},
        "spec": {"replicas": replicas, "template": {"spec": {"initContainers": [{"args": [uri, "/mnt/models"]}]}}},
        "status": {
            "observedGeneration": observed,
            "updatedReplicas": updated,
            "availableReplicas": replicas,
            "replicas": total,
        },
    }


def seen(weights=None, own=None, **fields):
    return read(service(**fields), route(**(weights or {"digits_predictor": 100})), own)
