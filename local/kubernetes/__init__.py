"""A Kubernetes API server for one machine: as real as the package needs, and no larger."""
