"""What may go wrong with clusters and jobs, and what is left of it: no cluster, no job submitted twice, a reason.

Each case runs the tasks as a DAG does, with the teardown after whatever happened, then one sweep.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from ml_lifecycle.dataproc import client as dataproc_client
from ml_lifecycle.dataproc.client import BackOff
from ml_lifecycle.dataproc.exceptions import ClusterFailedError, ClusterNotDeletedError, SweepError
from ml_lifecycle.dataproc.operators import base
from tests.unit.dataproc.simulated_run import (
    ENDLESS_JOB,
    GOOD_JOB,
    Killed,
    SimulatedRun,
    TaskInstance,
    assert_clean,
    served,
    sweep,
)

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def cloud(tmp_path_factory):
    with served(tmp_path_factory.mktemp("cloud")) as stand_in:
        yield stand_in


@pytest.fixture(scope="module")
def table(request):
    rows: list[tuple[str, str, str]] = []
    yield rows
    reporter = request.config.pluginmanager.get_plugin("terminalreporter")
    capture = request.config.pluginmanager.get_plugin("capturemanager")
    with capture.global_and_fixture_disabled():
        reporter.ensure_newline()
        reporter.write_line(f"{'fault':<58} {'clusters':<9} {'jobs':<12} outcome")
        for fault, made, outcome in rows:
            reporter.write_line(f"{fault:<58} {made:<22} {outcome}")


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
    Case("creation takes too long", (), "create_timeout_minutes", 1, 0, creation_seconds=30.0, wait_minutes=0.005),
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
def test_a_fault_leaves_no_cluster_and_no_second_job(case, cloud, run, table):
    for fault in case.faults:
        cloud.faults.add(fault)
    cloud.timing.creation_seconds = case.creation_seconds

    def steps():
        tried(run.submit, case.tries)
        # A cluster that failed to start is made anew only by clearing from submit on, as an operator of Airflow does.
        with contextlib.suppress(ClusterFailedError) if case.tries > 1 else contextlib.nullcontext():
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
    statuses = ",".join(job["status"] for job in run.jobs())
    outcome = "succeeded" if error is None else " ".join(str(error).split())[:100]
    table.append((case.name, f"{len(run.clusters()):<9} {statuses}", outcome))


def tried(step: Callable[[], object], tries: int) -> object:
    for _ in range(tries - 1):
        try:
            return step()
        except Exception:
            continue
    return step()


def failure_of(step: Callable[[], object]) -> BaseException | None:
    try:
        step()
    except (Exception, Killed) as error:
        return error
    return None


def test_a_deletion_that_never_succeeds_fails_the_run_and_the_sweep_finishes_it(cloud, run, table):
    run.submit(time_to_live_hours=1e-6)
    run.wait()
    cloud.faults.add(method="ClusterService.Delete", code="FAILED_PRECONDITION", times=10_000)
    with pytest.raises(ClusterNotDeletedError, match="costs money"):
        run.teardown(timeout_minutes=0.01)
    cloud.faults.clear()
    assert run.name in sweep()["deleted"]
    assert_clean(cloud)
    table.append(("deletion never accepted", "1", "the run fails; the sweep deletes the cluster"))


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


def test_a_permission_lost_before_the_deletion_is_said_at_once(cloud, run):
    run.submit()
    cloud.faults.add(method="ClusterService.Delete", code="PERMISSION_DENIED")
    began = time.monotonic()
    with pytest.raises(ClusterNotDeletedError, match=r"dataproc\.editor"):
        run.teardown()
    assert time.monotonic() - began < 5
    run.teardown()
    assert_clean(cloud)


class TestTheWorkerDies:
    """Nothing of the task runs after its process is gone; Airflow tries it again, or goes to the teardown."""

    def die_at(self, key):
        def on_push(pushed):
            if pushed == key:
                raise Killed

        return on_push

    def finish(self, cloud, run, table, name):
        run.teardown()
        sweep()
        assert_clean(cloud)
        statuses = ",".join(job["status"] for job in run.jobs())
        table.append((name, f"{len(run.clusters()):<9} {statuses}", "nothing is left"))

    def test_before_the_xcom_and_the_run_is_given_up(self, cloud, run, table):
        run.ti = TaskInstance(self.die_at("operation_id"))
        with pytest.raises(Killed):
            run.submit()
        assert run.cluster_id is None
        assert len(run.clusters()) == 1
        self.finish(cloud, run, table, "worker dies before the XCom")

    def test_before_the_xcom_and_the_task_is_tried_again(self, cloud, run, table):
        run.ti = TaskInstance(self.die_at("operation_id"))
        with pytest.raises(Killed):
            run.submit()
        run.ti = TaskInstance()
        run.submit()
        run.wait()
        assert run.job() == {"images": 7}
        assert len(run.clusters()) == 1
        self.finish(cloud, run, table, "worker dies before the XCom, the task tries again")

    def test_while_it_waits_for_the_cluster(self, cloud, run, table, monkeypatch):
        run.submit()
        with dying_wait(monkeypatch), pytest.raises(Killed):
            run.wait()
        run.wait()
        assert run.job() == {"images": 7}
        self.finish(cloud, run, table, "worker dies while waiting for the cluster")

    def test_during_the_job_and_the_task_is_tried_again(self, cloud, run, table, monkeypatch):
        run.submit()
        run.wait()
        slow = "import time\ntime.sleep(0.5)\n" + GOOD_JOB
        with dying_wait(monkeypatch), pytest.raises(Killed):
            run.job(slow)
        assert run.job(slow) == {"images": 7}
        assert len(run.jobs()) == 1
        self.finish(cloud, run, table, "worker dies during the job, the task tries again")

    def test_during_the_job_and_the_run_is_given_up(self, cloud, run, table, monkeypatch):
        run.submit()
        run.wait()
        with dying_wait(monkeypatch), pytest.raises(Killed):
            run.job(ENDLESS_JOB)
        self.finish(cloud, run, table, "worker dies during the job")
        assert [job["status"] for job in run.jobs()] == ["CANCELLED"]

    def test_during_the_deletion(self, cloud, run, table, monkeypatch):
        run.submit()
        run.wait()
        with dying_wait(monkeypatch), pytest.raises(Killed):
            run.teardown()
        self.finish(cloud, run, table, "worker dies during the deletion")


@contextlib.contextmanager
def dying_wait(monkeypatch):
    async def killed(trigger):
        await asyncio.sleep(0.1)
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(base, "first_event", killed)
        yield


IN_ANOTHER_PROCESS = """
import signal, sys
from pathlib import Path
sys.path[:0] = [{repository!r}, {plugins!r}]
from types import SimpleNamespace
from tests.unit.dataproc.simulated_run import ENDLESS_JOB, SimulatedRun

run = SimulatedRun(SimpleNamespace(), Path({folder!r}), {run_id!r})
run.submit()
run.wait()
run.job_file.write_text(ENDLESS_JOB)
operator = run.job_operator()
def end(number, frame):
    operator.on_kill()
    sys.exit(143)
signal.signal(signal.SIGTERM, end)
print("running", flush=True)
operator.execute(run.context)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_worker_process_ended_by_a_signal_during_its_job(number, cloud, run, table, tmp_path):
    code = IN_ANOTHER_PROCESS.format(
        repository=str(REPOSITORY), plugins=str(REPOSITORY / "plugins"), folder=str(tmp_path), run_id=run.run_id
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=dict(os.environ)) as worker:
        deadline = time.monotonic() + 60
        while not any(job["status"] == "RUNNING" for job in run.jobs()):
            assert time.monotonic() < deadline
            assert worker.poll() is None
            time.sleep(0.1)
        worker.send_signal(number)
        worker.wait(timeout=30)
    if number == signal.SIGTERM:
        assert [job["status"] for job in run.jobs()] == ["CANCELLED"]
    run.teardown()
    sweep()
    assert_clean(cloud)
    assert [job["status"] for job in run.jobs()] == ["CANCELLED"]
    table.append((f"worker gets {number.name} during the job", "1         CANCELLED", "nothing is left"))
