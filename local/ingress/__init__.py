"""The laptop's ingress: splits requests by weight, counts them as Knative or a mesh does, injects faults."""

from local.ingress.server import Ingress

__all__ = ["Ingress"]
