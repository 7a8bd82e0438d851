from __future__ import annotations

import pytest
from google.protobuf.json_format import ParseDict
from yandex.cloud.dataproc.v1.job_service_pb2 import CreateJobRequest

from local.yandex.validation import violations
from ml_lifecycle.dataproc.job import (
    Job,
    JobStatus,
    PysparkSpecification,
    create_request,
    environment_properties,
    plan_submission,
    problems,
)

WORK = PysparkSpecification("s3a://bucket/train.py", args=("--specification", "{}"))


def _job(name, status, specification=WORK, created_at=0.0):
    return Job(f"id-{name}", name, "cluster", status, created_at, specification=specification)


@pytest.mark.parametrize("archive", [None, "s3a://bucket/environments/abc.tar.gz"])
def test_a_request_satisfies_the_protos_own_annotations(archive):
    work = PysparkSpecification("s3a://b/t.py", ("a",), ("s3a://b/l.zip",), properties=environment_properties(archive))
    assert list(violations(ParseDict(create_request("cluster", "train", work), CreateJobRequest()))) == []
    assert problems("train", work) == []


def test_the_driver_runs_on_a_compute_host_in_the_shipped_environment():
    properties = environment_properties("s3a://b/e.tar.gz")
    assert properties["spark.submit.deployMode"] == "cluster"
    assert properties["spark.yarn.dist.archives"] == "s3a://b/e.tar.gz#environment"
    assert properties["spark.yarn.appMasterEnv.PYSPARK_PYTHON"] == "./environment/bin/python"
    assert properties["spark.executorEnv.PYSPARK_PYTHON"] == "./environment/bin/python"


def test_a_job_brings_its_locale_for_a_host_that_has_none():
    properties = environment_properties(None)
    assert properties["spark.yarn.appMasterEnv.LC_ALL"] == properties["spark.executorEnv.LC_ALL"] == "C.UTF-8"


@pytest.mark.parametrize("status", [JobStatus.PENDING, JobStatus.PROVISIONING, JobStatus.RUNNING, JobStatus.DONE])
def test_a_job_that_lives_or_succeeded_is_not_submitted_again(status):
    plan = plan_submission("train", WORK, [_job("train", status)])
    assert plan.adopted is not None
    assert plan.name == "train"


@pytest.mark.parametrize("status", [JobStatus.ERROR, JobStatus.CANCELLED, JobStatus.CANCELLING])
def test_a_failed_job_is_submitted_under_the_next_name(status):
    existing = [_job("train", status), _job("train-2", status, created_at=1.0), _job("train-loop", JobStatus.DONE)]
    assert plan_submission("train", WORK, existing[:1]).name == "train-2"
    plan = plan_submission("train", WORK, existing)
    assert plan.name == "train-3"
    assert plan.adopted is None


def test_other_work_under_the_same_name_is_no_reason_to_skip_ours():
    other = PysparkSpecification(WORK.main_python_file_uri, args=("--specification", '{"epochs": 9}'))
    assert plan_submission("train", WORK, [_job("train", JobStatus.DONE, other)]).name == "train-2"


@pytest.mark.parametrize(
    "leak",
    [
        {"properties": {"spark.hadoop.fs.s3a.secret.key": "x"}},
        {"properties": {"spark.hadoop.fs.s3a.access.key": "x"}},
        {"properties": {"spark.executorEnv.AWS_SECRET_ACCESS_KEY": "x"}},
        {"properties": {"spark.yarn.appMasterEnv.MLFLOW_TRACKING_PASSWORD": "x"}},
        {"properties": {"spark.yarn.appMasterEnv.X": "YCAJE" + "a" * 20}},
        {"args": ("--key", "YCM" + "b" * 37)},
        {"args": ("AKIA" + "A" * 16,)},
        {"args": ("-----BEGIN RSA PRIVATE KEY-----",)},
        {"properties": {"spark.yarn.appMasterEnv.DB_PASS": "x"}},
        {"properties": {"spark.executorEnv.API_KEY": "x"}},
        {"properties": {"spark.hadoop.fs.azure.account.key.a.blob.core.windows.net": "x"}},
        {"args": ("--database", "postgresql://u:p@h")},
        {"args": ("--specification", '{"tracking_uri": "http://alice:pw@mlflow"}')},
        {"args": ("--api-key", "x")},
        {"args": ("ghp_" + "a" * 36,)},
        {"args": ("https://hooks.slack.com/services/T00000000/B00000000/x",)},
        {"archive_uris": ("https://u:p@files.example.net/e.tar.gz",)},
    ],
)
def test_a_secret_in_a_job_is_refused_without_being_repeated(leak):
    (problem,) = problems("train", PysparkSpecification("s3a://b/t.py", **leak))
    assert "cluster.secret_id" in problem
    assert "YCAJE" not in problem
    assert "AKIA" not in problem


def test_a_secrets_id_and_ordinary_properties_pass():
    work = PysparkSpecification(
        "s3a://b/t.py",
        args=('{"secret_id": "e6q1"}',),
        properties={"spark.hadoop.fs.s3a.aws.credentials.provider": "ru.yandex.cloud.X", "spark.executor.cores": "4"},
    )
    assert problems("train", work) == []


def test_a_cluster_property_and_a_bad_name_are_refused():
    found = problems("Train model", PysparkSpecification("s3a://b/t.py", properties={"spark:spark.x": "1"}))
    assert len(found) == 2
