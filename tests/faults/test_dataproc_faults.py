"""What may go wrong with clusters and jobs, and what is left of it: no cluster, no job submitted twice, a reason.

Each case runs the tasks as a DAG does, with the teardown after whatever happened, then one sweep.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import rich.box
from airflow.providers.common.compat.sdk import AirflowFailException, TaskDeferred
from rich.console import Console
from rich.table import Table

from ml_lifecycle.dataproc import client as dataproc_client
from ml_lifecycle.dataproc.client import BackOff
from ml_lifecycle.dataproc.exceptions import ClusterNotDeletedError, SweepError
from ml_lifecycle.deferral import first_event
from tests.faults.dying_worker import Worker
from tests.unit.dataproc.simulated_run import (
    ENDLESS_JOB,
    GOOD_JOB,
    SimulatedRun,
    alive,
    assert_clean,
    served,
    submitted_twice,
    sweep,
)

SLOW_JOB = "import time\ntime.sleep(1)\n" + GOOD_JOB


@pytest.fixture(scope="module")
def cloud(tmp_path_factory):
    with served(tmp_path_factory.mktemp("cloud")) as stand_in:
        yield stand_in


@pytest.fixture(scope="module")
def outcomes(request):
    """Printed at the end: every fault, what is left of it after the run and one sweep, and what the user is told."""
    table = Table("fault", "clusters made", "alive", "jobs", "twice", "what the user is told", box=rich.box.SIMPLE_HEAD)
    yield table
    text = io.StringIO()
    Console(file=text, width=170).print(table)
    capture = request.config.pluginmanager.get_plugin("capturemanager")
    with capture.global_and_fixture_disabled():
        request.config.pluginmanager.get_plugin("terminalreporter").write_line(f"\n{text.getvalue()}")


@pytest.fixture
def note(outcomes, run):
    """`note(fault, told)` writes a line of the table."""

    def write(fault: str, told: str) -> None:
        made = run.clusters()
        statuses = ", ".join(job["status"] for job in run.jobs())
        counts = (str(len(made)), str(len(alive(made))), statuses, str(len(submitted_twice(made))))
        outcomes.add_row(fault, *counts, " ".join(told.split()))

    return write


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(dataproc_client, "BACK_OFF", BackOff(first=0.02, longest=0.2, patience=2.0))


@pytest.fixture
def run(cloud, tmp_path, request):
    yield SimulatedRun(cloud, tmp_path, f"scheduled__{request.node.name}")
    cloud.faults.clear()
    cloud.timing.creation_seconds = 0.2


@dataclass(frozen=True)
class Case:
    """`faults` are injected; `steps` run until one fails; `expect` is in the error, or None where the run succeeds."""

    name: str
    faults: tuple[dict, ...]
    expect: str | None
    clusters: int
    jobs: int
    tries: int = 1
    creation_seconds: float = 0.2
    wait_minutes: float = 1.0
    over_by_teardown: bool = False


def refusal(method, code, **more):
    return {"method": method, "code": code, **more}


def after_id(method, **more):
    return {"method": method, "after_id": True, **more}


CASES = [
    Case("no fault", (), None, 1, 1),
    Case(
        "creation refused: quota", ({"method": "ClusterService.Create", "code": "RESOURCE_EXHAUSTED"},), "quota", 0, 0
    ),
    Case("creation refused: role", ({"method": "ClusterService.Create", "code": "PERMISSION_DENIED"},), "editor", 0, 0),
    Case("creation fails before an id", ({"method": "ClusterService.Create", "code": "INTERNAL"},), "INTERNAL", 0, 0),
    Case(
        "creation fails after an id",
        (after_id("ClusterService.Create", code="FAILED_PRECONDITION", message="no NAT in the subnet"),),
        "no NAT in the subnet",
        1,
        0,
    ),
    Case(
        "creation fails after an id, the task tries again",
        (after_id("ClusterService.Create", code="INTERNAL"),),
        None,
        2,
        1,
        tries=2,
    ),
    Case("creation times out", (), "create_timeout_minutes", 1, 0, creation_seconds=30.0, wait_minutes=0.005),
    Case(
        "creation's answer is lost",
        ({"method": "ClusterService.Create", "lost_response": True},),
        None,
        1,
        1,
    ),
    Case(
        "creation's answer is lost for good, the task tries again",
        ({"method": "ClusterService.Create", "lost_response": True, "times": 1000},),
        None,
        1,
        1,
        tries=2,
    ),
    Case("UNAVAILABLE storm from the start", ({"method": "*", "times": 6},), None, 1, 1),
    Case("the token is revoked while the job runs", (refusal("JobService.Get", "UNAUTHENTICATED"),), None, 1, 1),
    Case("the key is refused", (refusal("ClusterService.List", "UNAUTHENTICATED", times=2),), "check its key", 0, 0),
    Case(
        "the API stays away",
        ({"method": "ClusterService.List", "times": 10_000},),
        "endpoint",
        0,
        0,
        over_by_teardown=True,
    ),
    Case(
        "creation's answer is lost for good, no other try",
        ({"method": "ClusterService.Create", "lost_response": True, "times": 1000},),
        "endpoint",
        1,
        0,
    ),
    Case("job refused: quota", ({"method": "JobService.Create", "code": "RESOURCE_EXHAUSTED"},), "quota", 1, 0),
    Case("job's answer is lost", ({"method": "JobService.Create", "lost_response": True},), None, 1, 1),
    Case("UNAVAILABLE storm while the job runs", (refusal("JobService.Get", "UNAVAILABLE", times=6),), None, 1, 1),
    Case("the job's log cannot be read", (refusal("JobService.ListLog", "NOT_FOUND", times=99),), None, 1, 1),
    Case(
        "job ends in ERROR, its operation is clean",
        ({"method": "JobService.Create", "clean_operation": True},),
        "ended ERROR",
        1,
        1,
    ),
    Case("job fails", (after_id("JobService.Create", code="INTERNAL", message="lost a host"),), "lost a host", 1, 1),
    Case(
        "job fails, the task tries again",
        (after_id("JobService.Create", code="INTERNAL"),),
        None,
        1,
        2,
        tries=2,
    ),
    Case(
        "deletion refused twice",
        ({"method": "ClusterService.Delete", "code": "FAILED_PRECONDITION", "times": 2},),
        None,
        1,
        1,
    ),
    Case(
        "deletion's operation fails twice",
        (after_id("ClusterService.Delete", code="INTERNAL", times=2),),
        None,
        1,
        1,
    ),
    Case(
        "everything is slow",
        ({"method": "*", "code": "OK", "delay_seconds": 0.05, "times": 20},),
        None,
        1,
        1,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_fault_leaves_no_cluster_and_no_second_job(case, cloud, run, note):
    for fault in case.faults:
        cloud.faults.add(fault)
    cloud.timing.creation_seconds = case.creation_seconds

    def steps():
        tried(run.submit, case.tries)
        # A cluster that failed to start is made anew only by clearing from submit on, as an operator of Airflow does.
        with contextlib.suppress(AirflowFailException) if case.tries > 1 else contextlib.nullcontext():
            run.wait(case.wait_minutes)
            return tried(run.job, case.tries)
        run.submit()
        run.wait()
        return run.job()

    error = failure_of(steps)
    if case.over_by_teardown:
        cloud.faults.clear()
    run.teardown()
    sweep()
    assert_clean(cloud)
    assert (len(run.clusters()), len(run.jobs())) == (case.clusters, case.jobs)
    if case.expect is None:
        assert error is None
    else:
        assert case.expect in str(error)
    note(case.name, "the run succeeds" if error is None else str(error))


def tried(step: Callable[[], object], tries: int) -> object:
    for _ in range(tries - 1):
        try:
            return step()
        except Exception:
            continue
    return step()


def failure_of(step: Callable[[], object]) -> Exception | None:
    try:
        step()
    except Exception as error:
        return error
    return None


def test_a_deletion_that_never_succeeds_fails_the_run_and_the_sweep_finishes_it(cloud, run, note):
    run.submit(time_to_live_hours=1e-6)
    run.wait()
    cloud.faults.add(method="ClusterService.Delete", code="FAILED_PRECONDITION", times=10_000)
    with pytest.raises(ClusterNotDeletedError, match="costs money") as told:
        run.teardown(timeout_minutes=0.01)
    cloud.faults.clear()
    assert run.name in sweep()["deleted"]
    assert_clean(cloud)
    note("deletion never accepted", str(told.value))


def test_a_sweep_whose_deletions_operation_fails_asks_again(cloud, run):
    run.submit(time_to_live_hours=1e-6)
    cloud.faults.add(method="ClusterService.Delete", after_id=True, code="INTERNAL")
    assert sweep()["deleted"] == [run.name]
    assert_clean(cloud)


def test_one_cluster_that_cannot_be_deleted_does_not_keep_the_others(cloud, run, tmp_path):
    other = SimulatedRun(cloud, tmp_path, "another run")
    run.submit(time_to_live_hours=1e-6)
    other.submit(time_to_live_hours=1e-6)
    cloud.faults.add(method="ClusterService.Delete", code="PERMISSION_DENIED")
    with pytest.raises(SweepError, match="costs money"):
        sweep()
    assert len([found for found in cloud.history() if found["status"] != "DELETED"]) == 1
    assert len(sweep()["deleted"]) == 1
    assert_clean(cloud)


def test_a_permission_lost_before_the_deletion_is_said_at_once(cloud, run, note):
    run.submit()
    cloud.faults.add(method="ClusterService.Delete", code="PERMISSION_DENIED")
    began = time.monotonic()
    with pytest.raises(ClusterNotDeletedError, match=r"dataproc\.editor") as told:
        run.teardown()
    assert time.monotonic() - began < 5
    run.teardown()
    assert_clean(cloud)
    note("deletion refused: role, the task tries again", str(told.value))


def state_of(run):
    return [cluster["status"] for cluster in run.clusters()]


class TestTheWorkerIsKilled:
    """SIGKILL: nothing of the task runs after it. Airflow tries the task again, or goes on to the teardown."""

    @pytest.fixture
    def finish(self, cloud, run, note):
        def end(fault):
            run.teardown()
            sweep()
            assert_clean(cloud)
            note(f"SIGKILL {fault}", "nothing is left: the teardown deletes the cluster")

        return end

    @pytest.fixture
    def running(self, run):
        run.submit()
        run.wait()
        return run

    def test_before_the_xcom_and_the_run_is_given_up(self, run, finish):
        with Worker(run, "submit", hangs_at="operation_id") as worker:
            worker.kill_when_it_hangs()
        assert run.cluster_id is None
        assert len(run.clusters()) == 1
        finish("before the XCom, no other try")

    def test_before_the_xcom_and_the_task_is_tried_again(self, run, finish):
        with Worker(run, "submit", hangs_at="operation_id") as worker:
            worker.kill_when_it_hangs()
        run.submit()
        run.wait()
        assert run.job() == {"images": 7}
        assert len(run.clusters()) == 1
        finish("before the XCom, the task tries again")

    def test_between_two_xcoms_and_the_run_is_given_up(self, run, finish):
        with Worker(run, "submit", hangs_at="cluster_id") as worker:
            worker.kill_when_it_hangs()
        assert run.ti.xcoms["operation_id"]
        finish("between two XComs, no other try")

    def test_while_it_waits_for_the_cluster_and_the_task_is_tried_again(self, cloud, run, finish):
        cloud.timing.creation_seconds = 1.5
        run.submit()
        with Worker(run, "wait") as worker:
            calls = cloud.calls.count("OperationService.Get")
            worker.kill_when(lambda: cloud.calls.count("OperationService.Get") > calls)
        assert state_of(run) == ["CREATING"]
        run.wait()
        assert run.job() == {"images": 7}
        finish("while waiting for the cluster, the task tries again")

    def test_while_it_waits_for_the_cluster_and_the_run_is_given_up(self, cloud, run, finish):
        cloud.timing.creation_seconds = 1.5
        run.submit()
        with Worker(run, "wait") as worker:
            calls = cloud.calls.count("OperationService.Get")
            worker.kill_when(lambda: cloud.calls.count("OperationService.Get") > calls)
        finish("while waiting for the cluster, no other try")

    def test_during_the_job_and_the_task_is_tried_again(self, running, finish):
        with Worker(running, "job", code=SLOW_JOB) as worker:
            worker.kill_when(lambda: [job["status"] for job in running.jobs()] == ["RUNNING"])
        assert running.job(SLOW_JOB) == {"images": 7}
        assert [job["status"] for job in running.jobs()] == ["DONE"]
        finish("during the job, the task tries again")

    def test_during_the_job_and_the_run_is_given_up(self, running, finish):
        with Worker(running, "job", code=ENDLESS_JOB) as worker:
            worker.kill_when(lambda: [job["status"] for job in running.jobs()] == ["RUNNING"])
        finish("during the job, no other try")
        assert [job["status"] for job in running.jobs()] == ["CANCELLED"]

    def test_during_the_deletion_and_the_task_is_tried_again(self, running, finish):
        with Worker(running, "teardown") as worker:
            worker.kill_when(lambda: state_of(running) == ["STOPPING"])
        finish("during the deletion, the task tries again")

    def test_during_the_deletion_and_the_run_is_given_up(self, cloud, run, note):
        """The deletion that was asked for goes on without us."""
        run.submit(time_to_live_hours=1e-6)
        with Worker(run, "teardown") as worker:
            worker.kill_when(lambda: state_of(run) == ["STOPPING"])
        sweep()
        assert_clean(cloud)
        note("SIGKILL during the deletion, no other try", "Airflow says that the task was killed; the cluster goes")

    def test_before_the_deletion_and_the_run_is_given_up(self, cloud, run, note):
        run.submit(time_to_live_hours=1e-6)
        cloud.faults.add(method="ClusterService.Delete", code="FAILED_PRECONDITION", times=10_000)
        with Worker(run, "teardown") as worker:
            worker.kill_when(lambda: "ClusterService.Delete" in cloud.calls[-3:])
        cloud.faults.clear()
        assert sweep()["deleted"] == [run.name]
        assert_clean(cloud)
        note("SIGKILL before the deletion, no other try", "Airflow says that the task was killed; clean_up deletes")

    def test_the_triggerers_process_while_it_watches_the_job(self, running, finish):
        running.job_file.write_text(SLOW_JOB)
        operator = running.job_operator(deferrable=True)
        with pytest.raises(TaskDeferred) as deferred:
            operator.execute(running.context)
        path, state = deferred.value.trigger.serialize()
        with Worker(running, "watch", path=path, state=state) as triggerer:
            triggerer.kill_when(lambda: [job["status"] for job in running.jobs()] == ["RUNNING"])
        event = asyncio.run(first_event(type(deferred.value.trigger)(**state)))
        assert operator.resume(running.context, event) == {"images": 7}
        finish("of the triggerer during the job")


def test_sigterm_during_the_job_cancels_it(cloud, run, note):
    """As when the task is cleared or marked failed while it waits in the worker."""
    run.submit()
    run.wait()
    with Worker(run, "job", code=ENDLESS_JOB) as worker:
        worker.kill_when(lambda: [job["status"] for job in run.jobs()] == ["RUNNING"], signal.SIGTERM)
    assert run.jobs()[0]["status"] in ("CANCELLING", "CANCELLED")
    run.teardown()
    sweep()
    assert_clean(cloud)
    assert [job["status"] for job in run.jobs()] == ["CANCELLED"]
    note("SIGTERM during the job (cleared, marked failed)", "the job is cancelled at once")


def test_a_deferred_task_cleared_during_its_job_finds_it_again(cloud, run, note):
    """on_kill does not run for a deferred task on Airflow 3.1."""
    run.submit()
    run.wait()
    run.job_file.write_text(SLOW_JOB)
    with pytest.raises(TaskDeferred):
        run.job_operator(deferrable=True).execute(run.context)
    assert run.job(SLOW_JOB) == {"images": 7}
    run.teardown()
    sweep()
    assert_clean(cloud)
    assert len(run.jobs()) == 1
    note("a deferred task is cleared during its job", "the task goes on with the job that runs")


def test_a_deferred_task_given_up_during_its_job_leaves_none(cloud, run, note):
    run.submit()
    run.wait()
    run.job_file.write_text(ENDLESS_JOB)
    with pytest.raises(TaskDeferred):
        run.job_operator(deferrable=True).execute(run.context)
    run.teardown()
    sweep()
    assert_clean(cloud)
    assert [job["status"] for job in run.jobs()] == ["CANCELLED"]
    note("a deferred task is marked failed during its job", "the teardown cancels the job before it deletes")


def test_a_cluster_swept_away_under_its_run_says_what_to_clear(cloud, run, note):
    run.submit(time_to_live_hours=2 / 3600)
    run.wait()
    told = failure_of(lambda: run.job(ENDLESS_JOB))
    assert "time to live" in str(told)
    sweep()
    again = failure_of(run.job)
    assert "clear this task" in str(again)
    run.teardown()
    assert_clean(cloud)
    note("time to live over during the job, the task tries again", str(again))
