"""What the package relies on in Yandex's API, said once: the stand-in is held to it, through the unmodified SDK."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import grpc
import psutil
import pytest
import yandexcloud
from google.protobuf.duration_pb2 import Duration
from yandex.cloud.dataproc.v1.cluster_pb2 import Cluster, HadoopConfig
from yandex.cloud.dataproc.v1.cluster_service_pb2 import (
    CreateClusterConfigSpec,
    CreateClusterMetadata,
    CreateClusterRequest,
    CreateSubclusterConfigSpec,
    DeleteClusterRequest,
    GetClusterRequest,
    ListClustersRequest,
)
from yandex.cloud.dataproc.v1.cluster_service_pb2_grpc import ClusterServiceStub
from yandex.cloud.dataproc.v1.common_pb2 import Resources
from yandex.cloud.dataproc.v1.job_pb2 import Job, PysparkJob
from yandex.cloud.dataproc.v1.job_service_pb2 import (
    CancelJobRequest,
    CreateJobMetadata,
    CreateJobRequest,
    GetJobRequest,
    ListJobLogRequest,
)
from yandex.cloud.dataproc.v1.job_service_pb2_grpc import JobServiceStub
from yandex.cloud.dataproc.v1.resource_preset_service_pb2 import ListResourcePresetsRequest
from yandex.cloud.dataproc.v1.resource_preset_service_pb2_grpc import ResourcePresetServiceStub
from yandex.cloud.dataproc.v1.subcluster_pb2 import AutoscalingConfig, Role
from yandex.cloud.lockbox.v1.payload_service_pb2 import GetPayloadRequest
from yandex.cloud.lockbox.v1.payload_service_pb2_grpc import PayloadServiceStub
from yandex.cloud.operation.operation_service_pb2 import GetOperationRequest
from yandex.cloud.operation.operation_service_pb2_grpc import OperationServiceStub

from tests.unit.dataproc.simulated_run import served

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def cloud(tmp_path_factory):
    secrets = {"e6q1": {"AWS_ACCESS_KEY_ID": "id", "MLFLOW_TRACKING_PASSWORD": "hunter2"}}
    with served(tmp_path_factory.mktemp("cloud"), secrets=secrets) as stand_in:
        yield stand_in


@pytest.fixture(scope="module")
def sdk(cloud):
    key = json.loads(Path(json.loads(cloud.connection())["extra"]["service_account_json_path"]).read_text())
    roots = Path(cloud.environment()["GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"]).read_bytes()
    return yandexcloud.SDK(service_account_key=key, endpoint=cloud.endpoint, root_certificates=roots)


def subcluster(role, **changes):
    resources = Resources(resource_preset_id="s3-c4-m16", disk_type_id="network-ssd", disk_size=64 << 30)
    wanted = {"name": Role.Name(role).lower(), "role": role, "resources": resources, "subnet_id": "s", "hosts_count": 1}
    return CreateSubclusterConfigSpec(**{**wanted, **changes})


def cluster_request(name, **changes):
    config = CreateClusterConfigSpec(
        version_id="2.2",
        hadoop=HadoopConfig(services=[HadoopConfig.YARN, HadoopConfig.SPARK], oslogin_enabled=True),
        subclusters_spec=[subcluster(Role.MASTERNODE), subcluster(Role.COMPUTENODE)],
    )
    wanted = {"folder_id": "folder", "name": name, "zone_id": "ru-central1-a", "service_account_id": "account"}
    return CreateClusterRequest(**{**wanted, "config_spec": config, **changes})


def finished(sdk, operation):
    deadline = time.monotonic() + 20
    while not operation.done:
        assert time.monotonic() < deadline
        time.sleep(0.05)
        operation = sdk.client(OperationServiceStub).Get(GetOperationRequest(operation_id=operation.id))
    return operation


def refused(call, request):
    with pytest.raises(grpc.RpcError) as refusal:
        call(request)
    return refusal.value


@pytest.fixture
def cluster_id(sdk, request):
    clusters = sdk.client(ClusterServiceStub)
    name = "job-" + request.node.name.replace("_", "-")[:50].strip("-[]")
    operation = finished(sdk, clusters.Create(cluster_request(name)))
    cluster = Cluster()
    assert operation.response.Unpack(cluster)
    yield cluster.id
    finished(sdk, clusters.Delete(DeleteClusterRequest(cluster_id=cluster.id)))


class TestClusters:
    def test_the_id_is_known_at_once_and_the_cluster_runs_later(self, sdk):
        clusters = sdk.client(ClusterServiceStub)
        operation = clusters.Create(cluster_request("life"))
        metadata = CreateClusterMetadata()
        assert operation.metadata.Unpack(metadata)
        assert not operation.done
        get = GetClusterRequest(cluster_id=metadata.cluster_id)
        assert clusters.Get(get).status == Cluster.CREATING
        finished(sdk, operation)
        assert clusters.Get(get).status == Cluster.RUNNING
        finished(sdk, clusters.Delete(DeleteClusterRequest(cluster_id=metadata.cluster_id)))
        assert refused(clusters.Get, get).code() == grpc.StatusCode.NOT_FOUND
        again = DeleteClusterRequest(cluster_id=metadata.cluster_id)
        assert refused(clusters.Delete, again).code() == grpc.StatusCode.NOT_FOUND

    def test_names_are_unique_in_a_folder_and_the_list_filters_by_name(self, sdk):
        clusters = sdk.client(ClusterServiceStub)
        first = finished(sdk, clusters.Create(cluster_request("taken", labels={"a": "b"})))
        assert refused(clusters.Create, cluster_request("taken")).code() == grpc.StatusCode.ALREADY_EXISTS
        elsewhere = finished(sdk, clusters.Create(cluster_request("taken", folder_id="other")))
        found = clusters.List(ListClustersRequest(folder_id="folder", filter='name = "taken"')).clusters
        assert [(cluster.name, dict(cluster.labels)) for cluster in found] == [("taken", {"a": "b"})]
        assert clusters.List(ListClustersRequest(folder_id="folder", filter='name = "free"')).clusters == []
        for operation in (first, elsewhere):
            metadata = CreateClusterMetadata()
            operation.metadata.Unpack(metadata)
            finished(sdk, clusters.Delete(DeleteClusterRequest(cluster_id=metadata.cluster_id)))

    @pytest.mark.parametrize(
        "changes",
        [
            {"name": "Upper"},
            {"name": "a"},
            {"name": "manual__2026-01-01T00:00:00"},
            {"name": ""},
            {"folder_id": ""},
            {"service_account_id": ""},
            {"zone_id": "eu-west-1"},
            {"labels": {"Key": "value"}},
            {"labels": {"key": "Value"}},
            {"labels": {"key": "v" * 64}},
            {"labels": {f"k{number}": "" for number in range(65)}},
            {"description": "d" * 257},
        ],
        ids=str,
    )
    def test_a_request_against_the_protos_annotations_is_refused(self, sdk, changes):
        request = cluster_request("refused", **{key: value for key, value in changes.items() if key != "name"})
        request.name = changes.get("name", "refused")
        assert refused(sdk.client(ClusterServiceStub).Create, request).code() == grpc.StatusCode.INVALID_ARGUMENT

    @pytest.mark.parametrize(
        "scaling",
        [
            {"max_hosts_count": 2},
            {"max_hosts_count": 101, "measurement_duration": Duration(seconds=60)},
            {"max_hosts_count": 2, "measurement_duration": Duration(seconds=30)},
            {"max_hosts_count": 2, "measurement_duration": Duration(seconds=60), "decommission_timeout": 90_000},
        ],
        ids=str,
    )
    def test_autoscaling_out_of_range_is_refused(self, sdk, scaling):
        request = cluster_request("refused")
        request.config_spec.subclusters_spec[1].autoscaling_config.CopyFrom(AutoscalingConfig(**scaling))
        assert refused(sdk.client(ClusterServiceStub).Create, request).code() == grpc.StatusCode.INVALID_ARGUMENT

    def test_an_unknown_preset_is_refused_and_the_known_ones_are_listed(self, sdk):
        request = cluster_request("refused")
        request.config_spec.subclusters_spec[1].resources.resource_preset_id = "h100"
        assert refused(sdk.client(ClusterServiceStub).Create, request).code() == grpc.StatusCode.INVALID_ARGUMENT
        listed = sdk.client(ResourcePresetServiceStub).List(ListResourcePresetsRequest()).resource_presets
        assert "s3-c4-m16" in {preset.id for preset in listed}

    def test_the_same_idempotency_key_is_the_same_operation(self, sdk):
        clusters = sdk.client(ClusterServiceStub)
        metadata = (("idempotency-key", "6f1d"),)
        first = clusters.Create(cluster_request("once"), metadata=metadata)
        again = clusters.Create(cluster_request("once"), metadata=metadata)
        assert first.id == again.id
        created = CreateClusterMetadata()
        finished(sdk, first).metadata.Unpack(created)
        finished(sdk, clusters.Delete(DeleteClusterRequest(cluster_id=created.cluster_id)))


class TestJobs:
    def submit(self, sdk, cluster_id, folder, code, name="job", **job):
        main = folder / f"{name}.py"
        main.write_text(code)
        wanted = PysparkJob(main_python_file_uri=main.as_uri(), **job)
        request = CreateJobRequest(cluster_id=cluster_id, name=name, pyspark_job=wanted)
        operation = sdk.client(JobServiceStub).Create(request)
        metadata = CreateJobMetadata()
        assert operation.metadata.Unpack(metadata)
        return operation, GetJobRequest(cluster_id=cluster_id, job_id=metadata.job_id)

    def test_a_job_runs_and_its_output_can_be_read_in_pages(self, sdk, cluster_id, tmp_path):
        code = "import sys\nprint('x' * 30)\nprint(sys.argv[1], file=sys.stderr)\n"
        operation, get = self.submit(sdk, cluster_id, tmp_path, code, args=["argument"])
        finished(sdk, operation)
        jobs = sdk.client(JobServiceStub)
        assert jobs.Get(get).status == Job.DONE
        read, token = "", ""
        while True:
            request = ListJobLogRequest(cluster_id=cluster_id, job_id=get.job_id, page_size=7, page_token=token)
            page = jobs.ListLog(request)
            assert len(page.content) <= 7
            read, token = read + page.content, page.next_page_token
            if not token:
                break
        assert read == "x" * 30 + "\nargument\n"

    def test_a_failing_job_is_in_error_and_cannot_be_cancelled(self, sdk, cluster_id, tmp_path):
        operation, get = self.submit(sdk, cluster_id, tmp_path, "raise SystemExit(3)")
        assert "exit code 3" in finished(sdk, operation).error.message
        jobs = sdk.client(JobServiceStub)
        assert jobs.Get(get).status == Job.ERROR
        cancel = CancelJobRequest(cluster_id=cluster_id, job_id=get.job_id)
        assert refused(jobs.Cancel, cancel).code() == grpc.StatusCode.FAILED_PRECONDITION

    def test_a_cancelled_job_ends_with_everything_it_started(self, sdk, cluster_id, tmp_path):
        code = "import os, subprocess, sys, time\n"
        code += "child = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        code += "open(sys.argv[1], 'w').write(f'{os.getpid()} {child.pid}')\ntime.sleep(600)\n"
        started = tmp_path / "pids"
        operation, get = self.submit(sdk, cluster_id, tmp_path, code, args=[str(started)])
        deadline = time.monotonic() + 20
        while not started.exists() or not started.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        jobs = sdk.client(JobServiceStub)
        finished(sdk, jobs.Cancel(CancelJobRequest(cluster_id=cluster_id, job_id=get.job_id)))
        finished(sdk, operation)
        assert jobs.Get(get).status == Job.CANCELLED
        assert not any(alive(int(pid)) for pid in started.read_text().split())

    @pytest.mark.parametrize(
        "changes",
        [{"name": "Pyspark job"}, {"properties": {"spark:spark.x": "1"}}, {"args": ["x"] * 2501}],
        ids=lambda changes: next(iter(changes)),
    )
    def test_a_job_against_the_protos_annotations_is_refused(self, sdk, cluster_id, changes):
        name = changes.pop("name", "job")
        wanted = PysparkJob(main_python_file_uri="file:///main.py", **changes)
        request = CreateJobRequest(cluster_id=cluster_id, name=name, pyspark_job=wanted)
        assert refused(sdk.client(JobServiceStub).Create, request).code() == grpc.StatusCode.INVALID_ARGUMENT

    def test_a_file_that_cannot_be_had_fails_the_job_with_the_reason_in_its_log(self, sdk, cluster_id):
        wanted = PysparkJob(main_python_file_uri="s3a://bucket/main.py")
        request = CreateJobRequest(cluster_id=cluster_id, name="job", pyspark_job=wanted)
        operation = finished(sdk, sdk.client(JobServiceStub).Create(request))
        metadata = CreateJobMetadata()
        operation.metadata.Unpack(metadata)
        log = ListJobLogRequest(cluster_id=cluster_id, job_id=metadata.job_id)
        assert "file:///" in sdk.client(JobServiceStub).ListLog(log).content

    def test_a_job_that_cannot_be_started_is_in_error_and_says_why(self, sdk, cluster_id, tmp_path):
        properties = {"spark.yarn.appMasterEnv.PYSPARK_PYTHON": "./environment/bin/python"}
        operation, get = self.submit(sdk, cluster_id, tmp_path, "print(1)", properties=properties)
        finished(sdk, operation)
        assert sdk.client(JobServiceStub).Get(get).status == Job.ERROR
        log = ListJobLogRequest(cluster_id=cluster_id, job_id=get.job_id)
        assert "environment/bin/python" in sdk.client(JobServiceStub).ListLog(log).content

    def test_files_that_were_not_submitted_are_not_there(self, sdk, cluster_id, tmp_path):
        (tmp_path / "neighbour.py").write_text("")
        operation, get = self.submit(sdk, cluster_id, tmp_path, "import neighbour")
        finished(sdk, operation)
        assert sdk.client(JobServiceStub).Get(get).status == Job.ERROR

    def test_archives_are_unpacked_into_the_jobs_folder_and_hold_its_python(self, sdk, cluster_id, tmp_path):
        (tmp_path / "environment" / "bin").mkdir(parents=True)
        python = tmp_path / "environment" / "bin" / "python"
        python.write_text(f'#!/bin/sh\nexport FROM_THE_ARCHIVE=yes\nexec {sys.executable} "$@"\n')
        python.chmod(0o755)
        archive = tmp_path / "environment.tar.gz"
        subprocess.run(["tar", "czf", archive, "-C", tmp_path / "environment", "."], check=True)
        code = "from os import environ as e\nprint(e['FROM_THE_ARCHIVE'], e['COLOUR'], 'AIRFLOW_CONN' in str(e))"
        properties = {
            "spark.yarn.dist.archives": f"{archive.as_uri()}#environment",
            "spark.yarn.appMasterEnv.PYSPARK_PYTHON": "./environment/bin/python",
            "spark.yarn.appMasterEnv.COLOUR": "green",
        }
        operation, get = self.submit(sdk, cluster_id, tmp_path, code, properties=properties)
        finished(sdk, operation)
        log = ListJobLogRequest(cluster_id=cluster_id, job_id=get.job_id)
        assert sdk.client(JobServiceStub).ListLog(log).content == "yes green False\n"

    def test_a_host_has_no_locale_but_the_jobs_own(self, sdk, cluster_id, tmp_path, monkeypatch):
        for name in ("LANG", "LC_ALL", "LC_CTYPE"):
            monkeypatch.setenv(name, "en_US.UTF-8")
        code = "import os\nprint({name for name in os.environ if name == 'LANG' or name == 'LC_ALL'})"
        operation, get = self.submit(sdk, cluster_id, tmp_path, code)
        finished(sdk, operation)
        log = ListJobLogRequest(cluster_id=cluster_id, job_id=get.job_id)
        assert sdk.client(JobServiceStub).ListLog(log).content == "set()\n"

    def test_a_job_reads_its_secret_with_the_hosts_own_token(self, sdk, cluster_id, tmp_path):
        code = """
import json, os, urllib.request
def get(url, **headers):
    return json.load(urllib.request.urlopen(urllib.request.Request(url, headers=headers)))
metadata = "/computeMetadata/v1/instance/service-accounts/default/token"
token = get(f"http://{os.environ['YC_METADATA_ADDR']}{metadata}", **{"Metadata-Flavor": "Google"})["access_token"]
url = os.environ["YC_LOCKBOX_PAYLOAD_ENDPOINT"] + "/lockbox/v1/secrets/e6q1/payload"
print([entry["key"] for entry in get(url, Authorization=f"Bearer {token}")["entries"]])
"""
        operation, get = self.submit(sdk, cluster_id, tmp_path, code)
        finished(sdk, operation)
        log = ListJobLogRequest(cluster_id=cluster_id, job_id=get.job_id)
        assert sdk.client(JobServiceStub).ListLog(log).content == "['AWS_ACCESS_KEY_ID', 'MLFLOW_TRACKING_PASSWORD']\n"


def alive(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


class TestAccess:
    def test_lockbox_gives_its_payload_to_a_token(self, sdk):
        payload = sdk.client(PayloadServiceStub).Get(GetPayloadRequest(secret_id="e6q1"))
        assert {entry.key: entry.text_value for entry in payload.entries}["MLFLOW_TRACKING_PASSWORD"] == "hunter2"

    def test_nobody_without_a_token(self, cloud):
        request = urllib.request.Request(f"{cloud.http_url}/lockbox/v1/secrets/e6q1/payload")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(request)

    def test_a_key_of_somebody_else_is_refused(self, cloud, tmp_path):
        from local.yandex.certificates import create_identity

        stranger = json.loads(create_identity(tmp_path).service_account_file.read_text())
        roots = Path(cloud.environment()["GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"]).read_bytes()
        sdk = yandexcloud.SDK(service_account_key=stranger, endpoint=cloud.endpoint, root_certificates=roots)
        refusal = refused(sdk.client(ClusterServiceStub).List, ListClustersRequest(folder_id="folder"))
        assert refusal.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE)


def test_the_command_serves_tells_and_takes_its_jobs_along(tmp_path):
    """`python -m local.yandex`: one line when ready, faults and history over HTTP, SIGTERM ends jobs too."""
    command = [sys.executable, "-m", "local.yandex", "--state", str(tmp_path), "--creation-seconds", "0.1"]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout.readline().startswith("ready yandex")
            environment = json.loads((tmp_path / "env.json").read_text())
            assert Path(environment["GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"]).exists()
            url = environment["YC_LOCKBOX_PAYLOAD_ENDPOINT"]
            post(f"{url}/faults", {"creation_seconds": 0.2})
            post(f"{url}/faults", {"method": "ClusterService.Create", "code": "RESOURCE_EXHAUSTED", "times": 2})
            with pytest.raises(urllib.error.HTTPError, match="400"):
                post(f"{url}/faults", {"method": "ClusterService.Create", "colour": "green"})
            assert json.load(urllib.request.urlopen(f"{url}/history")) == {"clusters": []}
        finally:
            server.send_signal(signal.SIGTERM)
            assert server.wait(timeout=20) == 0


def test_jobs_that_outlived_a_killed_stand_in_are_ended_by_the_next_one(tmp_path):
    state = tmp_path / "yandex"
    (state / "jobs" / "c9q1").mkdir(parents=True)
    left_behind, of_another = (
        subprocess.Popen(["sleep", "600"], env={**os.environ, "DATAPROC_JOB_ID": job}) for job in ("c9q1", "c9q2")
    )
    try:
        with served(tmp_path):
            assert left_behind.wait(timeout=10) == -signal.SIGKILL
            assert of_another.poll() is None
    finally:
        for process in (left_behind, of_another):
            process.kill()
            process.wait()


def post(url, document):
    request = urllib.request.Request(url, data=json.dumps(document).encode(), method="POST")
    return urllib.request.urlopen(request).read()
