"""Standard mode: who serves by the HTTPRoute, what is ready, and how a rollout opens, ends and is undone there."""

import pytest

from ml_lifecycle.kserve.closing import Act, next_closing
from ml_lifecycle.kserve.found import Serving
from ml_lifecycle.kserve.look import trouble
from ml_lifecycle.kserve.predictor import Predictor
from ml_lifecycle.kserve.request import RolloutRequest
from ml_lifecycle.kserve.revisions import read, readiness
from ml_lifecycle.kserve.rollout import Decision, Kind, begin_canary, begin_testing, opened, returning
from ml_lifecycle.kserve.standard import followed, gateway_address, orphaned_autoscalers, revision_name
from ml_lifecycle.settings import parse_settings
from tests.unit.kserve.kserve_status import pod
from tests.unit.kserve.standard_status import CANARY, STABLE, URI, deployment, route, seen, service

CANDIDATE = Predictor(storage_uri=URI + "2", runtime="r", cpu="1", memory="1Gi", min_replicas=2, max_replicas=6)
SPLIT = {"digits_predictor": 90, "digits_v2_predictor": 10}
DARK = {"digits_predictor": 100, "digits_v2_predictor": 0}


def request(**overrides):
    settings = parse_settings({"defaults": {"data_lake": "file:///lake"}}, "digits", overrides)
    return RolloutRequest.of(settings, version="2")


def begun(**overrides):
    state = opened(request(**overrides), "dag/run", CANDIDATE, Serving(seen()), 0.0)
    return begin_canary(begin_testing(state, seen(DARK, canary="2")))


def test_names_are_kserves():
    assert (revision_name("digits", ""), revision_name("digits", "v2")) == (STABLE, CANARY)


def test_the_route_says_who_serves():
    found = seen(SPLIT, canary="2", percent=10)
    assert (found.percent(STABLE), found.percent(CANARY)) == (90, 10)
    assert (found.rolled_out, found.latest_created, found.latest_ready) == (STABLE, CANARY, CANARY)
    assert found.newest.storage_uri == URI + "2"
    alone = seen()
    assert (alone.rolled_out, alone.latest_created, alone.percent(STABLE)) == (STABLE, STABLE, 100)


def test_a_rule_of_the_explainer_is_not_the_predictors():
    document = route(**SPLIT)
    document["spec"]["rules"].insert(0, {"backendRefs": [{"name": "digits-explainer"}]})
    assert read(service(canary="2", percent=10), document).percent(CANARY) == 10


@pytest.mark.parametrize("status", [{}, None])
def test_trap_6_no_status_in_standard_mode_is_tolerated_4454(status):
    document = service()
    document["status"] = status
    document["metadata"]["annotations"] = {"serving.kserve.io/deploymentMode": "Standard"}
    found = read(document)
    assert (found.standard, found.latest_ready, found.rolled_out, found.traffic) == (True, "", "", ())


def test_trap_8_a_cluster_that_does_not_split_leaves_the_canary_out_of_its_route_4074():
    found = readiness(seen(canary="2"), [pod()], before=STABLE)
    assert (found.ready, found.unrouted) == (False, True)
    assert readiness(seen(DARK, canary="2"), [pod()], before=STABLE).ready


def test_a_canary_is_ready_by_its_own_status_and_pods():
    assert "is not ready yet" in readiness(seen(DARK, canary="2", canary_ready=False), [pod()], before=STABLE).reason
    assert "no pod is ready" in readiness(seen(DARK, canary="2"), [], before=STABLE).reason
    failed = {
        "modelStatus": {"transitionStatus": "BlockedByFailedLoad", "states": {"targetModelState": "FailedToLoad"}}
    }
    assert readiness(seen(DARK, canary="2", **failed), [pod()], before=STABLE).ready, "modelStatus is the stable side's"


def test_a_canary_stands_beside_the_stable_side_with_the_pods_of_its_share():
    wanted = begun(**{"rollout.steps": [10, 50, 100]}).wanted(10)
    assert (wanted.predictor.storage_uri, wanted.canary.storage_uri, wanted.percent) == (URI + "1", URI + "2", 10)
    assert (wanted.canary.name, wanted.canary.min_replicas) == ("v2", 1)
    assert [begun().wanted(percent).canary.min_replicas for percent in (0, 50, 51, 100)] == [1, 1, 2, 2]


def test_nobodys_hand_and_somebodys():
    state = begun()
    assert not trouble(state, seen(SPLIT, canary="2", percent=10))
    assert "was edited" in trouble(state, seen())
    assert "was edited" in trouble(state, seen(SPLIT, canary="3", percent=10))


def closing(state, *arguments, **fields):
    act = next_closing(state, seen(*arguments, **fields))
    wanted = act.wanted
    canary = wanted.canary.version if wanted and wanted.canary else None
    return act.act, wanted and wanted.predictor.version, canary, wanted and wanted.percent


def test_promotion_moves_the_traffic_before_the_stable_pods_go():
    good = begun().decide(Decision.PROMOTED, "good")
    assert closing(good, SPLIT, canary="2", percent=50) == (Act.APPLY, "1", "2", 100)
    assert closing(good, SPLIT, canary="2", percent=100)[0] is Act.WAIT
    moved = {"digits_predictor": 0, "digits_v2_predictor": 100}
    assert closing(good, moved, canary="2", percent=100) == (Act.APPLY, "2", None, None)
    promoted = {"uri": URI + "2", "name": "v2"}
    assert closing(good, moved, **promoted)[0] is Act.DONE
    assert closing(good, {"digits_predictor": 100}, **promoted)[0] is Act.WAIT
    assert next_closing(good, seen(moved, canary="2", percent=100)).wanted.predictor == begun().candidate


def test_a_roll_back_takes_the_traffic_then_drops_the_canary():
    bad = begun().decide(Decision.ROLLED_BACK, "bad")
    assert closing(bad, SPLIT, canary="2", percent=10) == (Act.APPLY, "1", "2", 0)
    assert closing(bad, SPLIT, canary="2", percent=0)[0] is Act.WAIT
    assert closing(bad, DARK, canary="2", percent=0) == (Act.APPLY, "1", None, None)
    assert closing(bad, DARK)[0] is Act.WAIT
    assert closing(bad)[0] is Act.DONE
    assert closing(bad, uri=URI + "9")[0] is Act.DONE


def test_a_rolling_update_is_over_when_the_deployment_has_followed():
    rolling = opened(request(**{"rollout.strategy": "rolling"}), "h", CANDIDATE, Serving(seen()), 0.0)
    assert (rolling.kind, rolling.candidate.name, rolling.before) == (Kind.ROLLING, "", "")
    new = {"uri": URI + "2"}
    half = seen(own=deployment(URI + "2", updated=1), **new)
    assert not readiness(half, [pod()], before=rolling.before).ready
    done = seen(own=deployment(URI + "2"), **new)
    assert readiness(done, [pod()], before=rolling.before).ready
    failed = begin_testing(rolling, done).decide(Decision.ROLLED_BACK, "the smoke test failed")
    assert next_closing(failed, done).wanted.predictor.version == "1"
    assert next_closing(failed, seen(own=deployment(URI + "2"))).act is Act.WAIT
    assert next_closing(failed, seen(own=deployment(URI + "1"))).act is Act.DONE


@pytest.mark.parametrize("late", [{"observed": 2}, {"updated": 1}, {"total": 3}, {"uri": URI + "12"}])
def test_a_deployment_has_followed_when_nothing_old_is_left(late):
    wanted = Predictor(URI + "1", "r", "1", "1Gi")
    assert followed(deployment(URI + "1"), wanted)
    assert not followed(deployment(**{"uri": URI + "1", **late}), wanted)


def test_a_return_replaces_what_serves():
    live = seen({"digits_v2_predictor": 100}, uri=URI + "2", name="v2", own=deployment(URI + "2"))
    target = Predictor(URI + "1", "r", "1", "1Gi", name="v2")
    state = returning(request(), "h", target, live, "", "by hand", 0.0)
    assert next_closing(state, live).wanted.predictor == target
    back = {"uri": URI + "1", "name": "v2"}
    assert next_closing(state, seen({"digits_v2_predictor": 100}, deployment(URI + "2"), **back)).act is Act.WAIT
    assert next_closing(state, seen({"digits_v2_predictor": 100}, deployment(URI + "1"), **back)).act is Act.DONE


GATEWAY = {"kind": "Gateway", "namespace": "kserve", "name": "gateway"}


@pytest.mark.parametrize(
    ("hosts", "url", "address"),
    [
        (["a.example.com", "b.example.com"], "http://b.example.com:80", "b.example.com"),
        (["a.example.com"], "http://elsewhere.example.com", "a.example.com"),
        ([], "http://a.example.com", "a.example.com"),
        (["a.example.com"], "", "a.example.com"),
    ],
)
def test_callers_within_the_cluster_ask_the_gateway_for_a_host_that_the_route_has(hosts, url, address):
    found = {"spec": {"hostnames": hosts, "parentRefs": [GATEWAY]}}
    assert gateway_address(found, url) == f"the Service of Gateway kserve/gateway, with Host: {address}"


def test_without_a_gateway_or_a_host_there_is_no_such_address():
    assert gateway_address({"spec": {"hostnames": ["a"], "parentRefs": [{"kind": "Service", "name": "s"}]}}, "") == ""
    assert gateway_address({"spec": {"parentRefs": [GATEWAY]}}, "") == ""


def test_only_what_kserve_made_for_another_predictor_of_the_service_is_left_behind():
    def autoscaler(name, owner="digits", kind="InferenceService"):
        metadata = {"name": name, "ownerReferences": [{"kind": kind, "name": owner}]}
        return {"metadata": metadata, "spec": {"scaleTargetRef": {"kind": "Deployment", "name": name}}}

    own = {"metadata": {"name": "hand-made"}, "spec": {"scaleTargetRef": {"name": STABLE}}}
    found = [autoscaler(STABLE), autoscaler(CANARY), autoscaler("x", "letters"), autoscaler("y", kind="Other"), own]
    assert orphaned_autoscalers(found, "digits", CANARY) == (STABLE,)
