"""The URLs of one InferenceService. No I/O."""

from __future__ import annotations

from dataclasses import dataclass

LONGEST_LABEL = 63
"""Characters between two dots of a host."""


@dataclass(frozen=True)
class Addresses:
    """Hosts that the laptop's ingress routes."""

    name: str
    namespace: str
    ingress_port: int

    @property
    def service(self) -> str:
        """Where users ask."""
        return self.component(self.name)

    @property
    def predictor(self) -> str:
        """The same, of the predictor."""
        return self.component(f"{self.name}-predictor")

    def component(self, component: str) -> str:
        """Where the predictor of that name is asked, as `<name>-predictor`."""
        return f"http://{self.host(component)}:{self.ingress_port}"

    def tag(self, tag: str) -> str:
        """Where the revision under `tag` is asked."""
        return self.component(f"{tag}-{self.name}-predictor")

    def host(self, component: str) -> str:
        """The component's host."""
        return f"{component}-{self.namespace}.localhost"

    def problem(self, component: str) -> str:
        """What KServe says of a host that DNS does not allow, and serves nothing; empty where it does."""
        host = self.host(component)
        if len(host.partition(".")[0]) <= LONGEST_LABEL:
            return ""
        return (
            f'failed creating host name: invalid domain name "{host}": must be no more than {LONGEST_LABEL} characters'
        )

    def in_cluster(self, service: str) -> str:
        """Where pods ask the Service of that name."""
        return f"http://{service}.{self.namespace}.svc.cluster.local"
