"""MLflow: runs, model versions, aliases, and the gate that a candidate must pass."""
