"""The laptop's ingress: splits requests over revisions by weight, counts them as Knative does, injects faults."""

from local.ingress.server import Ingress

__all__ = ["Ingress"]
