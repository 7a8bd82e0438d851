"""The smoke test: a pod that asks the new revision, at its own address, before any user does.

Only the pod's own report decides about the version. A pod that never started, was evicted or whose end Airflow missed
says nothing: the next try runs the test again, which asks a few questions and changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.providers.cncf.kubernetes.triggers.pod import KubernetesPodTrigger
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException
from airflow.triggers.base import TriggerEvent

from ml_lifecycle.deferral import BookedTrigger
from ml_lifecycle.kserve.operators.base import holder, refusing
from ml_lifecycle.runtimes import RUNTIMES

if TYPE_CHECKING:
    from ml_lifecycle.kserve.request import RolloutRequest

# serving/smoke_test.py ends so when a check failed; a pod that was killed ends otherwise.
VERSION_FAILED = 1
# More than the longest start and test that settings allow.
_LONGEST = timedelta(minutes=100)


class SmokeTestOperator(KubernetesPodOperator):
    """Runs `python -m serving.smoke_test` in the serving image, with the version's golden cases mounted.

    It asks for readiness, the contract, the golden answers and the latency budget; the pod's report is the task's log.
    The pod is of our image whatever runtime serves the model: it is the client. A version that fails the test fails the
    task for good; all else is tried again, from the second try on without a deferral.

    :param rollout: JSON of a RolloutRequest. (templated)
    :param revision: what OpenRolloutOperator returned: `{"revision", "url", …}`. (templated)
    """

    template_fields: Sequence[str] = (*KubernetesPodOperator.template_fields, "rollout", "revision")

    def __init__(self, *, rollout: Mapping[str, Any], revision: Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__(
            name="smoke-test",
            cmds=["python", "-m", "serving.smoke_test"],
            container_security_context={
                "allowPrivilegeEscalation": False,
                "runAsNonRoot": True,
                "capabilities": {"drop": ["ALL"]},
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            startup_check_interval_seconds=1,
            do_xcom_push=False,
            automount_service_account_token=False,
            **{"execution_timeout": _LONGEST, **kwargs},
        )
        self.rollout = rollout
        self.revision = revision

    def execute(self, context: Any) -> Any:
        """Renews the rollout's Lease, which lives for as long as the test may last, and runs the pod."""
        request = self._configure()
        with refusing():
            asyncio.run(_renew(request, holder(context)))
        if context["ti"].try_number > 1:
            self.deferrable = False
        return super().execute(context)

    def defer(self, *, trigger: KubernetesPodTrigger, **how: Any) -> None:
        """By a trigger whose event comes none too early."""
        super().defer(trigger=SmokeTestTrigger(**trigger.serialize()[1]).booked(), **how)

    def trigger_reentry(self, context: Any, event: dict[str, Any]) -> Any:
        """Goes on after a deferral, which makes the operator anew."""
        self._configure()
        return super().trigger_reentry(context, event)

    def cleanup(self, pod: Any, remote_pod: Any, *args: Any, **kwargs: Any) -> None:
        """Removes the pod; AirflowFailException where its report says that the version is not what it should be."""
        try:
            super().cleanup(pod, remote_pod, *args, **kwargs)
        except AirflowException as error:
            if exit_code(remote_pod, self.base_container_name) == VERSION_FAILED:
                raise AirflowFailException("the version failed its smoke test; its report stands above") from error
            raise

    def _configure(self) -> RolloutRequest:
        from ml_lifecycle.kserve.request import RolloutRequest

        request = RolloutRequest.model_validate(self.rollout)
        serving = request.serving
        self.kubernetes_conn_id = request.connections.kubernetes
        self.namespace = request.namespace
        self.image = serving.image
        self.name = f"{request.model}-smoke-test"
        self.labels = {
            "app.kubernetes.io/managed-by": "ml-lifecycle",
            "app.kubernetes.io/part-of": "ml-lifecycle",
            "ml-lifecycle.io/model": request.model,
        }
        self.arguments = arguments(request, str(self.revision["url"]))
        self.env_vars = _environment(request)
        self.volumes, self.volume_mounts = _golden(request)
        self.container_resources = _resources(request)
        self.startup_timeout_seconds = round(60 * serving.smoke_test_start_minutes)
        self.active_deadline_seconds = round(60 * (serving.smoke_test_start_minutes + serving.smoke_test_minutes)) + 30
        return request


class SmokeTestTrigger(BookedTrigger, KubernetesPodTrigger):
    """The provider's trigger, whose event comes none too early."""

    def arguments(self) -> dict[str, Any]:
        """The provider's."""
        return dict(KubernetesPodTrigger.serialize(self)[1])

    async def events(self) -> AsyncIterator[TriggerEvent]:
        """The provider's."""
        async for event in KubernetesPodTrigger.run(self):
            yield event


async def _renew(request: RolloutRequest, held_by: str) -> None:
    from ml_lifecycle.kserve.client import connect

    async with connect(request.connections.kubernetes, held_by) as client:
        await client.save(await client.own(request.namespace, request.model))


def exit_code(pod: Any, container: str) -> int | None:
    """Of a pod's container (as the Kubernetes client models it); None where it has not ended by itself."""
    for status in (pod.status.container_statuses if pod and pod.status else None) or []:
        if status.name == container and status.state and status.state.terminated:
            return int(status.state.terminated.exit_code)
    return None


def arguments(request: RolloutRequest, url: str) -> list[str]:
    """What the smoke test is told; `--connect` where the address does not resolve."""
    serving, runtime = request.serving, RUNTIMES[request.serving.runtime]
    told = ["--url", url, "--model", request.model, "--golden", "/golden/golden.json"]
    told += ["--protocol", runtime.protocol, "--cases", runtime.cases]
    if serving.smoke_test_latency_ms is not None:
        told += ["--latency-budget", f"{serving.smoke_test_latency_ms / 1000:g}"]
    return [*told, "--connect", serving.ingress] if serving.ingress else told


def _environment(request: RolloutRequest) -> list[Any]:
    from kubernetes.client import models

    return [models.V1EnvVar(name="SMOKE_TEST_SECONDS", value=f"{60 * request.serving.smoke_test_minutes:g}")]


def _resources(request: RolloutRequest) -> Any:
    """Request and limit alike, so that a namespace with quotas takes the pod."""
    from kubernetes.client import models

    amounts = {"cpu": request.serving.smoke_test_cpu, "memory": request.serving.smoke_test_memory}
    return models.V1ResourceRequirements(requests=amounts, limits=amounts)


def _golden(request: RolloutRequest) -> tuple[list[Any], list[Any]]:
    from kubernetes.client import models

    source = models.V1ConfigMapVolumeSource(name=request.golden_name)
    volume = models.V1Volume(name="golden", config_map=source)
    return [volume], [models.V1VolumeMount(name="golden", mount_path="/golden", read_only=True)]
