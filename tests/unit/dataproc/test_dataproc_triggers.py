from __future__ import annotations

import time

import pytest
from airflow._shared.module_loading import import_string
from airflow.serialization.serialized_objects import BaseSerialization

from ml_lifecycle.dataproc.triggers import ClusterGoneTrigger, ClusterRunningTrigger, JobEndedTrigger

COMMON = {"yandex_conn_id": "c", "cluster_id": "id", "operation_id": "op", "deadline": 1.5, "poll_seconds": 0.05}
JOB = {
    "job_id": "j",
    "job_name": "n",
    "result_uri": "",
    "data_lake_conn_id": None,
    "grace_seconds": 1.0,
    "expires_at": 2.5,
}


@pytest.mark.parametrize(
    "trigger",
    [
        ClusterRunningTrigger(**COMMON),
        ClusterGoneTrigger(**COMMON, created_at=2.0),
        JobEndedTrigger(**COMMON, **JOB),
    ],
    ids=lambda trigger: type(trigger).__name__,
)
def test_a_trigger_survives_the_triggerers_database(trigger):
    path, state = trigger.serialize()
    stored = BaseSerialization.deserialize(BaseSerialization.serialize(state))
    again = import_string(path)(**stored)
    assert type(again) is type(trigger)
    assert again.serialize() == (path, state)


async def _event(trigger):
    async for event in trigger.run():
        return event.payload
    return None


async def test_a_cluster_that_does_not_exist_has_failed(cloud):
    trigger = ClusterRunningTrigger(**{**COMMON, "yandex_conn_id": "yandexcloud_default", "operation_id": ""})
    assert (await _event(trigger))["status"] == "failed"


async def test_a_job_whose_cluster_is_gone_says_so(cloud):
    state = {**COMMON, "yandex_conn_id": "yandexcloud_default", "deadline": time.time() + 60}
    assert (await _event(JobEndedTrigger(**state, **JOB)))["status"] == "gone"
