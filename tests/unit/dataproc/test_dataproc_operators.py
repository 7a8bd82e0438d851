from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, TaskDeferred

from ml_lifecycle.dataproc.exceptions import (
    ClusterNameTakenError,
    ClusterRefusedError,
    JobFailedError,
    JobTimeoutError,
    PreconditionError,
    ResultMissingError,
)
from ml_lifecycle.dataproc.operators import (
    CancelJobsOperator,
    DeleteClusterOperator,
    PysparkJobOperator,
    WaitForClusterOperator,
    pyspark_job,
)
from tests.unit.dataproc.simulated_run import BAD_JOB, ENDLESS_JOB, FAST, GOOD_JOB, SimulatedRun, sweep


@pytest.fixture
def running(run):
    run.submit()
    run.wait()
    yield run
    run.teardown()


def test_a_run_makes_one_cluster_runs_its_job_and_deletes_the_cluster(run):
    cluster_id = run.submit()
    assert run.ti.xcoms["cluster_id"] == cluster_id
    assert run.ti.xcoms["operation_id"]
    assert run.ti.xcoms["dataproc_cluster_link"].endswith(cluster_id)
    assert run.wait() == cluster_id
    assert run.job() == {"images": 7}
    report = run.teardown()
    assert report["cluster_id"] == cluster_id
    assert report["existed"]
    assert 0 < report["lived_seconds"] < 60
    (cluster,) = run.clusters()
    assert cluster["labels"]["model"] == "digits"
    assert cluster["labels"]["dag"] == "train_model"
    assert [job["status"] for job in cluster["jobs"]] == ["DONE"]


def test_no_secret_appears_in_the_log_the_xcoms_or_the_job(run, cloud, capfd):
    run.submit()
    run.wait()
    run.job()
    run.teardown()
    key_file = json.loads(cloud.connection())["extra"]["service_account_json_path"]
    key = json.loads(Path(key_file).read_text())["private_key"].splitlines()[1]
    seen = "".join(capfd.readouterr()) + json.dumps(run.ti.xcoms) + json.dumps(run.clusters())
    assert "ingest | reading" in seen
    assert key not in seen
    assert "Bearer" not in seen
    assert "t1." not in seen


def test_a_second_try_goes_on_with_the_first_ones_cluster_and_job(run):
    first = run.submit()
    assert run.submit() == first
    run.wait()
    run.job()
    run.job()
    run.teardown()
    assert len(run.clusters()) == 1
    assert len(run.jobs()) == 1


def test_deleting_twice_is_success(run):
    run.submit()
    assert run.teardown()["existed"]
    assert not run.teardown()["existed"]


def test_a_cluster_of_another_run_is_neither_used_nor_deleted(run, cloud, tmp_path):
    run.submit()
    other = SimulatedRun(cloud, tmp_path, "another run")
    other.name = run.name
    with pytest.raises(ClusterNameTakenError, match="train_model"):
        other.submit()
    assert not other.teardown()["existed"]
    assert run.teardown()["existed"]


def test_deletion_protection_keeps_strangers_out_but_not_our_teardown(run):
    run.submit(deletion_protection=True)
    run.wait()
    assert run.teardown()["existed"]


def test_impossible_settings_create_nothing(run):
    with pytest.raises(ClusterRefusedError, match=r"cluster.compute.preset = 'h100'"):
        run.submit(compute={"preset": "h100"})
    assert run.clusters() == []


def test_a_failed_job_says_what_the_driver_said_and_is_submitted_again_under_a_new_name(running):
    with pytest.raises(JobFailedError, match="no space left on device"):
        running.job("print('reading')\nraise SystemExit('no space left on device')\n")
    assert running.job() == {"images": 7}
    assert [(job["name"], job["status"]) for job in running.jobs()] == [("ingest", "ERROR"), ("ingest-2", "DONE")]


def test_a_job_that_wrote_its_result_but_does_not_end_is_cancelled_and_has_succeeded(running):
    lingering = "import pathlib, sys, time\npathlib.Path(sys.argv[1]).write_text('{\"images\": 9}')\ntime.sleep(600)\n"
    assert running.job(lingering) == {"images": 9}
    assert [job["status"] for job in running.jobs()] == ["CANCELLED"]


def test_the_result_of_an_earlier_run_is_not_taken_for_this_ones(running):
    running.result.write_text('{"images": -1}')
    slow = "import pathlib, sys, time\ntime.sleep(1)\npathlib.Path(sys.argv[1]).write_text('{\"images\": 5}')\n"
    assert running.job(slow) == {"images": 5}


def test_tries_that_airflow_loses_do_not_use_up_the_jobs_submissions(running):
    running.job_file.write_text("import time\ntime.sleep(1)\n" + GOOD_JOB)
    with pytest.raises(TaskDeferred):
        running.job_operator(deferrable=True).execute(running.context)
    for running.ti.try_number in (2, 3, 4):
        assert running.job_operator(deferrable=True).execute(running.context) == {"images": 7}
    assert len(running.jobs()) == 1


def test_the_last_submissions_failure_is_for_good(running):
    with pytest.raises(JobFailedError):
        running.job(BAD_JOB)
    running.ti.try_number = 2
    with pytest.raises(AirflowFailException, match="no space left on device"):
        running.job(BAD_JOB)
    assert [job["name"] for job in running.jobs()] == ["ingest", "ingest-2"]


def test_a_job_that_takes_too_long_is_cancelled(running):
    with pytest.raises(JobTimeoutError, match="job_timeout_minutes"):
        running.job("import time\ntime.sleep(600)\n", timeout_minutes=0.01)
    assert [job["status"] for job in running.jobs()] == ["CANCELLED"]


def test_a_job_without_the_result_it_promised_fails(running):
    with pytest.raises(ResultMissingError, match="result-"):
        running.job("print('done')\n")


def test_a_secret_never_reaches_the_api(running):
    with pytest.raises(AirflowFailException) as refused:
        running.job(properties={"spark.hadoop.fs.s3a.secret.key": "hunter2"})
    assert "hunter2" not in str(refused.value)
    assert running.jobs() == []


def test_the_teardown_cancels_the_job_of_a_deferred_task(running):
    operator = running.job_operator(deferrable=True)
    running.job_file.write_text("import time\ntime.sleep(600)\n")
    with pytest.raises(TaskDeferred):
        operator.execute(running.context)
    running.teardown()
    assert [job["status"] for job in running.jobs()] == ["CANCELLED"]


def test_a_kill_does_not_wait_for_a_lock_of_what_it_interrupted(running, monkeypatch):
    operator, lock, cancelled = running.job_operator(), threading.Lock(), threading.Event()

    def cancel():
        with lock:
            cancelled.set()

    monkeypatch.setattr(pyspark_job, "KILL_PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr(operator, "_cancel_own", cancel)
    operator._in_charge = True
    with lock:
        operator.on_kill()
        assert not cancelled.is_set()
    assert cancelled.wait(5)


def test_other_work_of_the_same_task_ends_before_ours_is_submitted(running, tmp_path):
    """As when prepare was cleared and plans anew while the old plan's job runs, its task deferred."""
    ours = tmp_path / "ours.py"  # its own file: the first job may not have read its own yet
    ours.write_text(GOOD_JOB)
    running.job_file.write_text(ENDLESS_JOB)
    with pytest.raises(TaskDeferred):
        running.job_operator(deferrable=True).execute(running.context)
    changed = {"main_python_file_uri": f"file://{ours}", "args": [str(running.result), "changed"]}
    assert running.job(ENDLESS_JOB, **changed) == {"images": 7}
    first, second = running.jobs()
    assert (first["name"], first["status"]) == ("ingest", "CANCELLED")
    assert (second["name"], second["status"]) == ("ingest-2", "DONE")
    assert first["finished"] <= second["created"]


def test_a_job_does_not_outlive_its_cluster(run):
    run.submit(time_to_live_hours=3 / 3600)
    run.wait()
    with pytest.raises(AirflowFailException, match=r"(?s)cluster.time_to_live_hours, or cost.limit.*started"):
        run.job(ENDLESS_JOB)
    assert [job["status"] for job in run.jobs()] == ["CANCELLED"]
    with pytest.raises(AirflowFailException):
        run.job()
    assert len(run.jobs()) == 1
    run.teardown()


def test_a_job_whose_cluster_was_deleted_says_what_to_clear(run):
    run.submit()
    run.wait()
    run.teardown()
    with pytest.raises(AirflowFailException, match="clear this task: prepare, submit_cluster and wait_for_cluster"):
        run.job()


def test_a_cluster_swept_away_under_its_job_is_named(run):
    run.submit()
    run.wait()
    run.job_file.write_text(ENDLESS_JOB)
    operator = run.job_operator(deferrable=True)
    with pytest.raises(TaskDeferred) as suspended:
        operator.execute(run.context)
    run.teardown()
    event = asyncio.run(_first(suspended.value.trigger))
    with pytest.raises(AirflowFailException, match="time to live"):
        operator.resume(run.context, event)


PRICE = {"currency": "RUB", "least": 3600.0, "most": 7200.0, "unknown": ""}


def test_the_deletion_says_what_the_cluster_cost(run):
    run.submit()
    report = run.teardown(hourly_price=PRICE)
    assert report["cost_least"] == pytest.approx(report["lived_seconds"], abs=0.1)
    assert report["cost"] == pytest.approx(2 * report["lived_seconds"], abs=0.2)
    assert report["currency"] == "RUB"


def test_a_cluster_that_an_earlier_try_deleted_still_cost_something(run):
    run.submit()
    first = run.teardown(hourly_price=PRICE)
    second = run.teardown(hourly_price=PRICE, created_at=run.ti.xcoms["created_at"])
    assert not second["existed"]
    assert second["cost"] >= first["cost"] > 0
    assert run.teardown(hourly_price=PRICE)["cost_unknown"].endswith("was created is not known")


def test_no_cluster_costs_nothing_and_no_price_is_unknown(run):
    assert run.teardown(hourly_price=PRICE)["cost"] == 0
    run.submit()
    report = run.teardown()
    assert report["cost"] is None
    assert report["cost_unknown"]


def test_deferred_operators_resume_from_the_event_alone(run):
    """As Airflow does: a new operator object, no memory but the trigger's event."""

    def deferred(operator):
        with pytest.raises(TaskDeferred) as suspended:
            operator.execute(run.context)
        assert suspended.value.kwargs in (None, {})
        path, state = suspended.value.trigger.serialize()
        trigger = type(suspended.value.trigger)(**state)
        assert path.endswith(type(trigger).__name__)
        event = asyncio.run(_first(trigger))
        return getattr(make(type(operator)), suspended.value.method_name)(run.context, event)

    def make(kind):
        later = {**FAST, "deferrable": True}
        if kind is WaitForClusterOperator:
            return kind(task_id="t", cluster_id=run.cluster_id, operation_id=run.ti.xcoms["operation_id"], **later)
        if kind is DeleteClusterOperator:
            return kind(task_id="t", cluster_id=run.cluster_id, cluster_name=run.name, **later)
        return run.job_operator(**later)

    run.submit()
    assert deferred(make(WaitForClusterOperator)) == run.cluster_id
    assert deferred(make(PysparkJobOperator)) == {"images": 7}
    assert deferred(make(DeleteClusterOperator))["existed"]


async def _first(trigger):
    async for event in trigger.run():
        return event.payload
    return None


def test_the_sweep_takes_what_has_expired_and_nothing_else(run, cloud, tmp_path):
    run.submit(time_to_live_hours=1e-6)
    young = SimulatedRun(cloud, tmp_path, "young")
    young.submit()
    rehearsal = sweep(dry_run=True)
    assert rehearsal == {"deleted": [], "expired": [run.name], "kept": [young.name], "dry_run": True}
    assert sweep()["deleted"] == [run.name]
    assert [cluster["status"] for cluster in young.clusters()] != ["DELETED"]
    young.teardown()


@pytest.mark.parametrize("field", ["args", "properties", "main_python_file_uri", "job_name", "result_uri"])
def test_what_a_user_would_template_is_templated(field):
    assert field in PysparkJobOperator.template_fields


def test_two_tries_that_list_nothing_submit_one_job(running):
    from ml_lifecycle.dataproc.client import connect
    from ml_lifecycle.dataproc.job import PysparkSpecification, create_request

    work = PysparkSpecification(running.job_file.as_uri(), args=(str(running.result),))

    async def submit():
        async with connect("yandexcloud_default") as one, connect("yandexcloud_default") as other:
            request = create_request(running.cluster_id, "ingest", work)
            return [await one.create_job(request), await other.create_job(request)]

    first, second = asyncio.run(submit())
    assert first == second
    assert [job["name"] for job in running.jobs()] == ["ingest"]


def test_a_job_that_a_living_cluster_does_not_know_is_not_gone(running, cloud):
    cloud.faults.add(method="JobService.Get", code="OK", times=1)
    cloud.faults.add(method="JobService.Get", code="NOT_FOUND", times=2)
    assert running.job() == {"images": 7}


def test_a_storage_that_does_not_answer_says_nothing_about_the_job(running, monkeypatch):
    from ml_lifecycle.data_lake.client import DataLake
    from ml_lifecycle.data_lake.exceptions import DataLakeUnreachableError

    exists, away = DataLake.exists, [None]

    def throttled(self, uri):
        if away:
            away.pop()
            raise DataLakeUnreachableError(uri, None, OSError("SlowDown"))
        return exists(self, uri)

    monkeypatch.setattr(DataLake, "exists", throttled)
    assert running.job("import time\ntime.sleep(3)\n" + GOOD_JOB) == {"images": 7}
    assert not away


def test_jobs_that_cannot_be_listed_are_not_none(running, cloud):
    cloud.faults.add(method="JobService.List", code="FAILED_PRECONDITION", times=1)
    with pytest.raises(PreconditionError):
        CancelJobsOperator(task_id="cancel", cluster_id=running.cluster_id, **FAST).execute({})
