"""People look with kubectl: the commands of the README, as they are typed."""

import shutil
import subprocess

import pytest
import yaml

pytestmark = [
    pytest.mark.usefixtures("mlscaler"),
    pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not on PATH"),
]

SCALER = {
    "apiVersion": "ml-lifecycle.io/v1alpha1",
    "kind": "MLScaler",
    "metadata": {"name": "digits"},
    "spec": {
        "targetRef": {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "name": "digits"},
        "maxReplicas": 8,
        "metric": {"preset": "requests_per_second"},
        "capacityPerReplica": 40,
        "mode": "dryRun",
    },
}


@pytest.fixture
def kubectl(kubeconfig, namespace, tmp_path):
    def run(*arguments, manifest=None):
        ended = subprocess.run(
            ["kubectl", "--kubeconfig", str(kubeconfig), "--cache-dir", str(tmp_path), "-n", namespace, *arguments],
            input=None if manifest is None else yaml.safe_dump(manifest),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    return run


def test_a_scaler_reads_well(kubectl):
    assert "created" in kubectl("apply", "-f", "-", manifest=SCALER)
    header, row = kubectl("get", "mlscalers").splitlines()
    assert header.split() == ["NAME", "TARGET", "MIN", "MAX", "CURRENT", "DESIRED", "PREDICTED", "READY", "AGE"]
    assert row.split()[:4] == ["digits", "digits", "1", "8"]
    wide = kubectl("get", "mlscalers", "-o", "wide").splitlines()
    assert "MODE" in wide[0]
    assert "dryRun" in wide[1]


def test_what_is_applied_again_changes_nothing(kubectl):
    kubectl("apply", "-f", "-", manifest=SCALER)
    assert "unchanged" in kubectl("apply", "-f", "-", manifest=SCALER)
    assert "deleted" in kubectl("delete", "mlscaler", "digits", "--wait=false")


def test_logs_events_and_descriptions_are_asked_for_in_ways_that_are_served(kubectl):
    kubectl("apply", "-f", "-", manifest=SCALER)
    assert "Capacity Per Replica:" in kubectl("describe", "mlscaler", "digits")
    assert "digits" in kubectl("get", "mlscaler", "digits", "-o", "jsonpath={.spec.targetRef.name}")
