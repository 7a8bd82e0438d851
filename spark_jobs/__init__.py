"""The jobs that run on the Spark cluster: ingest, train, evaluate."""
