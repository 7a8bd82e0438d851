"""KServe: manifests, revisions, and the rollout of a version by canary."""
