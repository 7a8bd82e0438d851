"""The Kubernetes API as the package uses it: server-side apply, patches, conditions, leases, waiting."""
