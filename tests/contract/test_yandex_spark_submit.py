"""One job through a real spark-submit: Spark starts, Python workers run, the job ends by itself."""

from __future__ import annotations

import pytest

from ml_lifecycle.dataproc.job import environment_properties
from tests.unit.dataproc.simulated_run import SimulatedRun, assert_clean, served

SPARK_JOB = """
import json, pathlib, sys
from pyspark.sql import SparkSession
import shipped

spark = SparkSession.builder.getOrCreate()
total = spark.sparkContext.parallelize(range(100), 2).map(shipped.double).sum()
setting = spark.conf.get("spark.sql.shuffle.partitions")
pathlib.Path(sys.argv[1]).write_text(json.dumps({"total": total, "setting": setting}))
spark.stop()
"""


@pytest.mark.slow
def test_a_pyspark_job_runs_under_a_real_spark_submit(tmp_path):
    # As below a home or a folder of any name; a host has no locale but the one that the job brings.
    tmp_path = tmp_path / "My Projects" / "иван"
    tmp_path.mkdir(parents=True)
    (tmp_path / "shipped.py").write_text("def double(number):\n    return 2 * number\n")
    with served(tmp_path, runner="spark-submit") as cloud:
        run = SimulatedRun(cloud, tmp_path, "spark")
        run.submit()
        run.wait()
        result = run.job(
            SPARK_JOB,
            timeout_minutes=5,
            grace_seconds=60,
            python_file_uris=[f"file://{tmp_path}/shipped.py"],
            properties=environment_properties(None) | {"spark.sql.shuffle.partitions": "3"},
        )
        run.teardown()
        assert result == {"total": 9900, "setting": "3"}
        assert [job["status"] for job in run.jobs()] == ["DONE"]
        assert_clean(cloud)
