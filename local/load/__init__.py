"""The laptop's users: a constant rate of inference requests through the ingress."""

from local.load.generator import LoadGenerator

__all__ = ["LoadGenerator"]
