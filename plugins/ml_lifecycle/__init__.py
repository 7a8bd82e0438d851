"""The life of a model as Airflow runs it: train, promote, roll out, scale, clean up."""
