"""KServe's traffic rules in Knative mode, its traps included (the numbers are kserve issues)."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.kubernetes.controllers.traffic import Rollout, TrafficTarget, latest_ready, roll_out, split


class Cluster:
    """An InferenceService, its patches and what follows from them, without any I/O."""

    def __init__(self, *, tag_routing=False):
        self.rollout, self.percent, self.tag_routing = Rollout(), None, tag_routing
        self.revisions, self.uri, self.traffic = [], None, ()

    def patch(self, uri=None, percent="keep", *, ready=True):
        if percent != "keep":
            self.percent = percent
        if uri and uri != self.uri:
            self.uri = uri
            self.revisions.append([f"r{len(self.revisions) + 1}", False])
        self.settle()
        if ready:
            self.ready()
        return self

    def ready(self):
        self.revisions[-1][1] = True
        self.settle()
        return self

    def settle(self):
        while True:
            before = self.rollout
            created = self.revisions[-1][0]
            ready = latest_ready([tuple(item) for item in self.revisions], before.latest_ready)
            rollout = Rollout(created, ready, before.latest_rolledout, before.previous_rolledout)
            self.traffic = split(self.percent, rollout, tag_routing=self.tag_routing)
            self.rollout = roll_out(rollout, self.traffic)
            if self.rollout == before:
                return

    @property
    def shares(self):
        return {target.revision: target.percent for target in self.traffic}


def test_the_first_revision_receives_everything_whatever_the_percent():
    for percent in (None, 0, 20, 100):
        cluster = Cluster().patch("v1", percent, ready=False)
        assert cluster.rollout == Rollout("r1")
        assert cluster.shares == {"": 100}
        cluster.ready()
        assert sum(target.percent for target in cluster.traffic if target.revision == "r1") == 100
        assert cluster.rollout == Rollout("r1", "r1", "r1")


def test_a_canary_opens_at_zero_rises_and_is_promoted():
    cluster = Cluster().patch("v1")
    cluster.patch("v2", 0, ready=False)
    assert cluster.rollout == Rollout("r2", "r1", "r1")
    cluster.ready()
    assert cluster.shares == {"r2": 0, "r1": 100}
    assert cluster.rollout == Rollout("r2", "r2", "r1")
    for percent in (10, 25, 50):
        assert cluster.patch(percent=percent).shares == {"r2": percent, "r1": 100 - percent}
        assert cluster.rollout == Rollout("r2", "r2", "r1")
    assert cluster.patch(percent=100).shares == {"r2": 100}
    assert cluster.rollout == Rollout("r2", "r2", "r2", "r1")


def test_without_a_percent_a_new_revision_takes_over_once_it_is_ready():
    cluster = Cluster().patch("v1").patch("v2", ready=False)
    assert cluster.shares == {"r1": 100}
    assert cluster.ready().shares == {"r2": 100}
    assert cluster.rollout == Rollout("r2", "r2", "r2", "r1")


def test_a_rollback_pins_the_stable_revision():
    cluster = Cluster().patch("v1").patch("v2", 20)
    assert cluster.patch(percent=0).shares == {"r2": 0, "r1": 100}
    assert cluster.rollout == Rollout("r2", "r2", "r1")


def test_trap_1_leakage_after_a_rollback_the_percent_reaches_the_rejected_revision_2130():
    cluster = Cluster().patch("v1").patch("v2", 20).patch(percent=0)
    cluster.patch("v3", 20, ready=False)
    assert cluster.shares == {"r2": 20, "r1": 80}  # r2 was rejected
    assert cluster.ready().shares == {"r3": 20, "r1": 80}


def test_trap_1_is_avoided_by_opening_at_zero_2130():
    cluster = Cluster().patch("v1").patch("v2", 20).patch(percent=0)
    cluster.patch("v3", 0, ready=False)
    assert cluster.shares == {"r2": 0, "r1": 100}
    assert cluster.ready().patch(percent=20).shares == {"r3": 20, "r1": 80}


def test_trap_2_flip_a_percent_without_a_canary_brings_the_previous_revision_back_1968():
    cluster = Cluster().patch("v1").patch("v2")
    assert cluster.rollout == Rollout("r2", "r2", "r2", "r1")
    cluster.patch(percent=20)
    assert cluster.rollout == Rollout("r2", "r2", "r1", "r1")
    assert cluster.shares == {"r2": 20, "r1": 80}
    # So it serves as a deliberate rollback, and 100 % returns.
    assert cluster.patch(percent=0).shares == {"r2": 0, "r1": 100}
    cluster.patch(percent=None)
    assert cluster.shares == {"r2": 100}
    assert cluster.rollout == Rollout("r2", "r2", "r2", "r1")


def test_trap_2_does_not_flip_while_the_new_revision_is_not_ready_1968():
    cluster = Cluster().patch("v1").patch("v2").patch("v3", 0, ready=False)
    assert cluster.rollout == Rollout("r3", "r2", "r2", "r1")
    # Both targets are one revision until r3 is ready.
    assert [(target.revision, target.percent) for target in cluster.traffic] == [("r2", 0), ("r2", 100)]
    assert cluster.ready().shares == {"r3": 0, "r2": 100}


def test_trap_2_needs_a_previous_revision_1968():
    cluster = Cluster().patch("v1").patch(percent=30)
    assert cluster.rollout == Rollout("r1", "r1", "r1")
    assert {target.revision for target in cluster.traffic} == {"r1"}


def test_trap_3_the_good_uri_makes_a_third_revision_after_a_rollback():
    cluster = Cluster().patch("v1").patch("v2", 20).patch(percent=0)
    cluster.patch("v1", 0)
    assert cluster.rollout.latest_created == "r3"
    assert cluster.patch(percent=None).shares == {"r3": 100}


def test_trap_10_the_same_uri_makes_no_revision_772():
    cluster = Cluster().patch("v1").patch("v1", 20)
    assert cluster.rollout.latest_created == "r1"


def test_tags():
    cluster = Cluster(tag_routing=True).patch("v1")
    assert [target.tag for target in cluster.traffic] == ["latest"]
    assert [target.tag for target in cluster.patch("v2", 0).traffic] == ["latest", "prev"]
    assert [target.tag for target in Cluster().patch("v1").patch("v2", 0).traffic] == ["", "prev"]


STATES = [
    Rollout(*names) for names in itertools.product(("r2", "r3"), ("", "r1", "r2", "r3"), ("", "r1", "r2"), ("", "r1"))
]


@pytest.mark.parametrize("percent", [None, 0, 1, 50, 99, 100])
@pytest.mark.parametrize("tag_routing", [False, True])
def test_every_split_adds_up_and_pins_the_rolled_out_revision(percent, tag_routing):
    for rollout in STATES:
        targets = split(percent, rollout, tag_routing=tag_routing)
        assert sum(target.percent for target in targets) == 100
        assert targets[0].latest
        assert targets[0].revision == rollout.latest_ready
        open_canary = percent is not None and percent < 100 and rollout.latest_rolledout != ""
        assert len(targets) == (2 if open_canary else 1)
        if open_canary:
            assert targets[1] == TrafficTarget(100 - percent, rollout.latest_rolledout, latest=False, tag="prev")


@pytest.mark.parametrize("percent", [None, 0, 1, 50, 99, 100])
def test_the_rolled_out_pair_moves_at_full_traffic_or_flips_and_never_else(percent):
    for rollout in STATES:
        targets = split(percent, rollout, tag_routing=False)
        after = roll_out(rollout, targets)
        assert (after.latest_created, after.latest_ready) == (rollout.latest_created, rollout.latest_ready)
        if after == rollout:
            continue
        moved = after.latest_rolledout == rollout.latest_ready and targets[0].percent == 100
        flipped = (
            after.latest_rolledout == rollout.previous_rolledout
            and rollout.latest_ready == rollout.latest_created == rollout.latest_rolledout
            and percent is not None
            and percent < 100
        )
        assert moved or flipped


@given(st.lists(st.tuples(st.sampled_from(["v1", "v2", "v3"]), st.sampled_from([None, 0, 10, 100]), st.booleans())))
def test_no_history_of_patches_leaves_a_served_model_without_traffic(patches):
    cluster = Cluster().patch("v0")
    for uri, percent, ready in patches:
        cluster.patch(uri, percent, ready=ready)
        readiness = dict(cluster.revisions)
        assert sum(target.percent for target in cluster.traffic if readiness.get(target.revision)) == 100


@pytest.mark.parametrize(
    ("revisions", "current", "latest"),
    [
        ([], "", ""),
        ([("r1", False)], "", ""),
        ([("r1", True), ("r2", False)], "", "r1"),
        ([("r1", True), ("r2", True)], "r1", "r2"),
        ([("r1", True), ("r2", False), ("r3", True)], "r1", "r3"),
        ([("r1", True), ("r2", False)], "r2", "r2"),
        ([("r1", False), ("r2", False)], "r1", "r1"),
        ([("r2", True)], "r1", "r2"),
    ],
)
def test_the_latest_ready_revision_never_moves_back(revisions, current, latest):
    assert latest_ready(revisions, current) == latest
