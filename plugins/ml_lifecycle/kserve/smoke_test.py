"""The smoke test: a pod that asks the new revision, at its own address, before any user does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator

from ml_lifecycle.kserve.request import RolloutRequest
from ml_lifecycle.runtimes import RUNTIMES


class SmokeTestOperator(KubernetesPodOperator):
    """Runs `python -m serving.smoke_test` in the serving image, with the version's golden cases mounted.

    It asks for readiness, the contract, the golden answers and the latency budget; the pod's report is the task's log.
    The pod is of our image whatever runtime serves the model: it is the client.

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
            **kwargs,
        )
        self.rollout = rollout
        self.revision = revision

    def execute(self, context: Any) -> Any:
        """Runs the pod."""
        self._configure()
        return super().execute(context)

    def trigger_reentry(self, context: Any, event: dict[str, Any]) -> Any:
        """Goes on after a deferral, which makes the operator anew."""
        self._configure()
        return super().trigger_reentry(context, event)

    def _configure(self) -> None:
        request = RolloutRequest.model_validate(self.rollout)
        self.kubernetes_conn_id = request.connections.kubernetes
        self.namespace = request.namespace
        self.image = request.serving.image
        self.name = f"{request.model}-smoke-test"
        self.labels = {
            "app.kubernetes.io/managed-by": "ml-lifecycle",
            "app.kubernetes.io/part-of": "ml-lifecycle",
            "ml-lifecycle.io/model": request.model,
        }
        self.arguments = arguments(request, str(self.revision["url"]))
        self.volumes, self.volume_mounts = _golden(request)


def arguments(request: RolloutRequest, url: str) -> list[str]:
    """What the smoke test is told; `--connect` where the address does not resolve."""
    serving, runtime = request.serving, RUNTIMES[request.serving.runtime]
    told = ["--url", url, "--model", request.model, "--golden", "/golden/golden.json"]
    told += ["--protocol", runtime.protocol, "--cases", runtime.cases]
    if serving.smoke_test_latency_ms is not None:
        told += ["--latency-budget", f"{serving.smoke_test_latency_ms / 1000:g}"]
    return [*told, "--connect", serving.ingress] if serving.ingress else told


def _golden(request: RolloutRequest) -> tuple[list[Any], list[Any]]:
    from kubernetes.client import models

    source = models.V1ConfigMapVolumeSource(name=request.golden_name)
    volume = models.V1Volume(name="golden", config_map=source)
    return [volume], [models.V1VolumeMount(name="golden", mount_path="/golden", read_only=True)]
