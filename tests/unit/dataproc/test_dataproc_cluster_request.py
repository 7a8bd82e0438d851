from __future__ import annotations

import pytest
from google.protobuf.json_format import ParseDict
from hypothesis import given
from hypothesis import strategies as st
from yandex.cloud.dataproc.v1.cluster_service_pb2 import CreateClusterRequest

from local.yandex.validation import violations
from ml_lifecycle.dataproc.cluster import ResourcePreset, create_request, problems
from ml_lifecycle.settings import Cluster

PRESETS = [
    ResourcePreset("s3-c4-m16", ("ru-central1-a", "ru-central1-b"), 4, 16 << 30),
    ResourcePreset("g1.small", ("ru-central1-b",), 8, 96 << 30),
]
GIVEN = {"subnet_id": "subnet", "service_account_id": "account"}


def _proto(**settings):
    request = create_request(Cluster(**{**GIVEN, **settings}), "ml-digits-0123456789", {"model": "digits"}, "folder")
    return ParseDict(request, CreateClusterRequest())


def _refused(settings, name="ml-digits-0123456789", labels=None, folder="folder"):
    return problems(Cluster(**settings), name, labels or {}, folder, PRESETS)


@given(
    hosts=st.integers(1, 32),
    more=st.none() | st.integers(0, 32),
    preemptible=st.booleans(),
    keys=st.lists(st.text(min_size=1, max_size=20), max_size=2),
)
def test_whatever_the_settings_allow_satisfies_the_protos_own_annotations(hosts, more, preemptible, keys):
    most = None if more is None else min(32, hosts + more)
    request = _proto(compute_hosts=hosts, compute_max_hosts=most, preemptible=preemptible, ssh_public_keys=tuple(keys))
    assert list(violations(request)) == []
    assert request.config_spec.hadoop.oslogin_enabled is (not keys)


def test_preemptible_hosts_of_a_fixed_number_are_really_preemptible():
    compute = _proto(compute_hosts=3, preemptible=True).config_spec.subclusters_spec[1]
    assert compute.autoscaling_config.preemptible
    assert compute.autoscaling_config.max_hosts_count == compute.hosts_count == 3


def test_hosts_of_a_fixed_number_that_are_not_preemptible_are_not_autoscaled():
    assert not _proto().config_spec.subclusters_spec[1].HasField("autoscaling_config")


def test_everything_the_api_knows_can_be_asked_for():
    request = _proto(
        extra_compute=[{"name": "gpu", "hosts": {"preset": "g1.small", "disk_gib": 100}, "count": 2, "max_count": 4}],
        compute_max_hosts=5,
        autoscaling={"warmup_seconds": 90, "decommission_seconds": 600},
        autoscaling_service_account_id="scaler",
        deletion_protection=True,
        security_group_ids=["group"],
        log_group_id="logs",
        bucket="bucket",
        properties={"yarn:yarn.nodemanager.resource.memory-mb": "1000"},
        initialization_actions=[{"uri": "s3a://bucket/drivers.sh", "args": ["a"]}],
    )
    assert list(violations(request)) == []
    master, compute, gpu = request.config_spec.subclusters_spec
    assert (master.name, compute.name, gpu.name) == ("master", "compute", "gpu")
    assert gpu.resources.resource_preset_id == "g1.small"
    assert gpu.resources.disk_size == 100 << 30
    assert compute.autoscaling_config.warmup_duration.seconds == 90
    assert compute.autoscaling_config.decommission_timeout == 600
    assert request.autoscaling_service_account_id == "scaler"
    assert request.deletion_protection
    assert request.config_spec.hadoop.initialization_actions[0].timeout == 600


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({**GIVEN, "master": {"preset": "s3-c4-m61"}}, ["cluster.master.preset = 's3-c4-m61'", "s3-c4-m16"]),
        ({**GIVEN, "compute": {"preset": "g1.small"}}, ["not offered in zone ru-central1-a", "s3-c4-m16"]),
        ({**GIVEN, "extra_compute": [{"hosts": {"preset": "h100"}}]}, ["extra_compute[0]", "'h100'"]),
        ({"service_account_id": "account"}, ["cluster.subnet_id", "NAT"]),
        ({"subnet_id": "subnet"}, ["cluster.service_account_id", "dataproc.agent"]),
    ],
)
def test_what_cannot_work_is_refused_before_creation(settings, says):
    (problem,) = _refused(settings)
    for words in says:
        assert words in problem


def test_names_labels_and_a_missing_folder_are_refused_together():
    found = _refused(GIVEN, name="Ml_digits", labels={"Model": "Digits"}, folder=None)
    assert len(found) == 3
    assert _refused(GIVEN) == []


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        ({"properties": {"core:fs.s3a.secret.key": "hunter2"}}, "cluster.properties.core:fs.s3a.secret.key"),
        ({"properties": {"spark:spark.x": "postgresql://u:hunter2@h"}}, "cluster.properties.spark:spark.x"),
        (
            {"initialization_actions": [{"uri": "https://u:hunter2@files.example.net/drivers.sh"}]},
            "cluster.initialization_actions[0].uri",
        ),
        (
            {"initialization_actions": [{"uri": "s3a://b/drivers.sh", "args": ["--token", "hunter2"]}]},
            "cluster.initialization_actions[0].args[1]",
        ),
    ],
)
def test_a_secret_in_a_clusters_properties_or_scripts_is_refused_without_being_repeated(settings, where):
    (problem,) = _refused({**GIVEN, **settings})
    assert problem.startswith(f"{where} carries")
    assert "hunter2" not in problem
