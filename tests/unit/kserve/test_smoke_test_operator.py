"""The smoke test's pod: what it may use, and what its end says about the version."""

from types import SimpleNamespace

import pytest
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.providers.cncf.kubernetes.triggers.pod import KubernetesPodTrigger
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, TaskDeferred
from kubernetes.client import models

from ml_lifecycle.kserve import smoke_test
from ml_lifecycle.kserve.predictor import RESTRICTED
from ml_lifecycle.kserve.request import RolloutRequest
from ml_lifecycle.kserve.smoke_test import SmokeTestOperator, SmokeTestTrigger
from ml_lifecycle.settings import parse_settings


def operator(**settings):
    lake = "file:///lake"
    parsed = parse_settings({"defaults": {"data_lake": lake}}, "digits", settings)
    request = RolloutRequest.of(parsed, version="2")
    revision = {"revision": "digits-predictor-00002", "url": "http://latest-digits.example.com"}
    return SmokeTestOperator(task_id="smoke_test", rollout=request.to_json(), revision=revision, deferrable=True)


def ended(code, phase="Failed"):
    """A pod whose container ended with `code`; None: it never ran."""
    state = models.V1ContainerState(
        terminated=None if code is None else models.V1ContainerStateTerminated(exit_code=code)
    )
    container = models.V1ContainerStatus(
        name="base", image="serving:1", image_id="", ready=False, restart_count=0, state=state
    )
    status = models.V1PodStatus(phase=phase, container_statuses=[container])
    return models.V1Pod(metadata=models.V1ObjectMeta(name="smoke", namespace="models"), status=status)


@pytest.fixture
def provider(monkeypatch):
    """The provider's part does nothing but what a test says."""

    def fail(self, pod, remote_pod, *_, **__):
        raise AirflowException("Pod smoke returned a failure.")

    async def renew(request, held_by):
        renewed.append(held_by)

    renewed = []
    monkeypatch.setattr(KubernetesPodOperator, "cleanup", fail)
    monkeypatch.setattr(smoke_test, "_renew", renew)
    return renewed


def test_a_version_that_fails_its_test_fails_the_task_for_good(provider):
    with pytest.raises(AirflowFailException, match="failed its smoke test"):
        operator().cleanup(ended(1), ended(1))


@pytest.mark.parametrize("code", [None, 137, 143, 2])
def test_a_pod_that_was_ended_by_others_says_nothing_about_the_version(provider, code):
    with pytest.raises(AirflowException) as error:
        operator().cleanup(ended(code), ended(code))
    assert not isinstance(error.value, AirflowFailException)


def test_a_pod_that_cannot_be_found_says_nothing_about_the_version(provider):
    with pytest.raises(AirflowException) as error:
        operator().cleanup(None, None)
    assert not isinstance(error.value, AirflowFailException)


@pytest.mark.parametrize(("number", "deferrable"), [(1, True), (2, False)])
def test_a_later_try_does_not_defer_and_every_try_renews_the_lease(provider, monkeypatch, number, deferrable):
    seen = []
    monkeypatch.setattr(KubernetesPodOperator, "execute", lambda self, context: seen.append(self.deferrable))
    context = {
        "ti": SimpleNamespace(try_number=number),
        "dag_run": SimpleNamespace(dag_id="roll_out_model", run_id="one"),
    }
    operator().execute(context)
    assert (seen, provider) == ([deferrable], ["roll_out_model/one"])


def test_the_providers_trigger_is_kept_back_and_survives_its_serialisation():
    stock = KubernetesPodTrigger(
        pod_name="smoke", pod_namespace="models", trigger_start_time=None, base_container_name="base"
    )
    with pytest.raises(TaskDeferred) as deferred:
        operator().defer(trigger=stock, method_name="trigger_reentry")
    path, arguments = deferred.value.trigger.serialize()
    assert path == "ml_lifecycle.kserve.smoke_test.SmokeTestTrigger"
    assert arguments["not_before"] > 0
    assert SmokeTestTrigger(**arguments).serialize() == (path, arguments)


def test_the_pod_has_resources_and_time_as_settings_say():
    built = operator(
        **{
            "serving.smoke_test_start_minutes": 20,
            "serving.smoke_test_minutes": 3,
            "serving.smoke_test_cpu": "250m",
            "serving.smoke_test_memory": "1Gi",
        }
    )
    request = built._configure()
    amounts = {"cpu": "250m", "memory": "1Gi"}
    assert (built.container_resources.requests, built.container_resources.limits) == (amounts, amounts)
    assert built.startup_timeout_seconds == 1200
    assert built.active_deadline_seconds > 1380
    assert [(item.name, item.value) for item in built.env_vars] == [("SMOKE_TEST_SECONDS", "180")]
    assert request.lease_seconds == 1500


def test_its_pod_has_all_that_the_restricted_profile_asks_for():
    made = operator()
    made._configure()
    assert made.container_security_context == RESTRICTED
    assert made.automount_service_account_token is False
    assert (made.hostnetwork, made.service_account_name) == (False, None)
    assert all(volume.host_path is None for volume in made.volumes)
