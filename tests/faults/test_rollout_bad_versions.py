"""New versions that crash, run out of memory, never get ready or answer wrongly: before users see them, and later."""

import psutil
import pytest

from ml_lifecycle.kserve.rollout import Phase
from ml_lifecycle.kserve.triggers import CanaryTrigger, CloseTrigger
from tests.faults.rollout_world import Behaviour, begin, event, go_live, open_and_wait, world

NEW = "digits-predictor-00002"


@pytest.fixture
async def cluster(tmp_path, monkeypatch):
    """With version 1 live."""
    with world(tmp_path, monkeypatch) as made:
        made.version("1"), made.version("2"), made.version("3")
        await go_live(made, "1", "first")
        yield made


def seen_by_users(cluster):
    """The largest share of the traffic that the new revision ever had."""
    return max(cluster.traffic.served[NEW], default=0)


async def next_run_is_clean(cluster):
    """Nothing of the bad version is left, and a good one goes live."""
    assert cluster.is_clean()
    assert NEW not in cluster.shares()
    assert (await go_live(cluster, "3", "next"))["outcome"] == "promoted"
    assert cluster.is_clean()


@pytest.mark.parametrize(
    ("answer", "words"),
    [("crash", "exit code 1"), ("memory", "exit code 137"), ("never", "after 0.05 minutes")],
)
async def test_one_that_never_serves_gets_no_traffic(cluster, answer, words):
    cluster.version("2", answer)
    patience = 0.05 if answer == "never" else 1
    report = await go_live(cluster, "2", "second", **{"rollout.ready_timeout_minutes": patience})
    assert (report["outcome"], seen_by_users(cluster)) == ("rolled_back", 0)
    assert NEW in report["reason"]
    assert words in report["reason"]
    await next_run_is_clean(cluster)


async def test_one_that_answers_wrongly_fails_its_smoke_test_and_gets_no_traffic(cluster):
    """The task smoke_test fails, so `canary` never runs; the teardown does."""
    assert (await open_and_wait(cluster, cluster.request("2"), "second"))["status"] == "ready"
    report = (await event(CloseTrigger, "second"))["report"]
    assert (report["outcome"], seen_by_users(cluster)) == ("rolled_back", 0)
    assert "smoke test" in report["reason"]
    await next_run_is_clean(cluster)


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [(Behaviour(errors=1.0), "within one look"), (Behaviour(errors=0.3), "failed"), (Behaviour(seconds="0.5"), "p95")],
)
async def test_one_that_fails_under_traffic_is_withdrawn_at_the_step_it_was_at(cluster, behaviour, words):
    cluster.traffic.behaviours[NEW] = behaviour
    report = await go_live(cluster, "2", "second")
    assert report["outcome"] == "rolled_back"
    assert words in report["reason"]
    assert seen_by_users(cluster) == report["steps"][-1]["percent"]
    await next_run_is_clean(cluster)


async def test_one_whose_pods_crash_under_traffic_is_withdrawn_though_nothing_is_counted(cluster):
    """A pod that is not there counts no errors: users meet them at the ingress, and the evidence stands still."""
    await open_and_wait(cluster, cluster.request("2"), "second")
    assert (await begin(cluster, "second")).phase is Phase.CANARY
    cluster.traffic.behaviours[NEW] = Behaviour(silent=True)
    crash(cluster)
    decided = await event(CanaryTrigger, "second")
    assert decided["decision"] == "rolled_back"
    assert f"revision {NEW}: pod" in decided["reason"]
    assert "restarted" in decided["reason"]
    assert (await event(CloseTrigger, "second"))["report"]["outcome"] == "rolled_back"
    assert seen_by_users(cluster) == 10
    await next_run_is_clean(cluster)


async def test_one_that_nobody_asks_holds(cluster):
    """No requests at its share are no crash."""
    await open_and_wait(cluster, cluster.request("2", **{"rollout.deadline_minutes": 0.05}), "second")
    await begin(cluster, "second")
    cluster.traffic.behaviours[NEW] = Behaviour(silent=True)
    decided = await event(CanaryTrigger, "second")
    assert decided["decision"] == "rolled_back"
    assert "undecided after 0.05 minutes" in decided["reason"]


def crash(cluster):
    """The new revision's server ends, and each that is started in its place."""
    (folder,) = (cluster.stand_in.state / "pods").glob(f"*{NEW}-*")
    (answer,) = folder.rglob("answer")
    answer.write_text("memory")
    for process in psutil.Process().children(recursive=True):
        if any(argument.startswith("--model_dir=") and NEW in argument for argument in process.cmdline()):
            process.kill()
