"""The jobs that run on the Spark cluster: ingest, train, evaluate."""

import os

# MLflow's telemetry thread writes to os.environ while other threads read it, which breaks a training now and then.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
