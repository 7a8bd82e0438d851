from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_lifecycle.assets import CANDIDATE_MODEL, RETRAIN_REQUEST, incoming_models, newest_per_model, requested_models
from ml_lifecycle.tracking.promotion import candidates


def context(asset: object, triggering: list[dict[str, Any]], before: list[dict[str, Any]]) -> dict[str, Any]:
    def events(extras: list[dict[str, Any]]) -> list[SimpleNamespace]:
        return [SimpleNamespace(extra=extra) for extra in extras]

    return {
        "triggering_asset_events": {asset: events(triggering)} if triggering else {},
        "inlet_events": {asset: events(before)},
    }


def event(model: str, version: str) -> dict[str, Any]:
    return {"model": model, "version": version}


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 20))))
def test_the_newest_version_of_each_model_counts(pairs: list[tuple[str, int]]) -> None:
    found = {item.model: int(item.version) for item in newest_per_model(event(m, str(v)) for m, v in pairs).models}

    assert found == {model: max(v for m, v in pairs if m == model) for model in {m for m, _ in pairs}}


def test_version_10_is_newer_than_9() -> None:
    assert newest_per_model([event("m", "10"), event("m", "9")]).models[0].version == "10"


def test_a_run_maps_over_all_its_own_events() -> None:
    mine = [event("a", "1"), event("b", "4"), event("a", "2")]

    found = incoming_models(CANDIDATE_MODEL, context(CANDIDATE_MODEL, mine, [event("c", "9")]))

    assert [(item.model, item.version) for item in found.models] == [("a", "2"), ("b", "4")]


def test_a_run_by_hand_takes_the_last_event() -> None:
    before = [event("a", "1"), event("b", "2")]

    found = incoming_models(CANDIDATE_MODEL, context(CANDIDATE_MODEL, [], before))

    assert [(item.model, item.version) for item in found.models] == [("b", "2")]
    assert incoming_models(CANDIDATE_MODEL, context(CANDIDATE_MODEL, [], [])) == ([], [])


def test_only_requests_that_started_the_run_are_served() -> None:
    requests = [{"model": "b"}, {"model": "a"}, {"model": "b"}, {}, None, ["c"], "d"]

    assert requested_models(context(RETRAIN_REQUEST, requests, [])) == ["b", "a"]
    assert requested_models(context(RETRAIN_REQUEST, [], [{"model": "old"}])) == []


@pytest.mark.parametrize(
    "odd",
    [
        {},
        None,
        [],
        "text",
        {"model": "a"},
        event("a", "7\n"),
        event("a", "v7"),
        event("../b", "7"),
        {"model": "a", "version": 7},
        {"model": ["a"], "version": "7"},
        {**event("a", "7"), "metrics": {"accuracy": "much"}},
        {**event("a", "7"), "storage_uri": {"to": "s3://attacker"}},
    ],
)
def test_an_odd_event_ends_on_itself(odd: Any) -> None:
    found = newest_per_model([event("good", "1"), odd, event("good", "2")])
    assert [(item.model, item.version) for item in found.models] == [("good", "2")]
    assert len(found.odd) == 1


def test_an_odd_candidate_is_one_item_of_its_own_and_the_others_are_judged() -> None:
    given = context(CANDIDATE_MODEL, [{"model": "a"}, event("good", "2")], [])
    good, odd = candidates({"model": None, "version": None, "reason": None}, given)
    assert good == {"model": "good", "version": "2"}
    assert "version missing or odd" in odd["odd"]
