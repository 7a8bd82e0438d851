from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ml_lifecycle.assets import CANDIDATE_MODEL, RETRAIN_REQUEST, incoming_models, newest_per_model, requested_models


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
    found = {item.model: int(item.version) for item in newest_per_model(event(m, str(v)) for m, v in pairs)}

    assert found == {model: max(v for m, v in pairs if m == model) for model in {m for m, _ in pairs}}


def test_version_10_is_newer_than_9() -> None:
    assert newest_per_model([event("m", "10"), event("m", "9")])[0].version == "10"


def test_a_run_maps_over_all_its_own_events() -> None:
    mine = [event("a", "1"), event("b", "4"), event("a", "2")]

    found = incoming_models(CANDIDATE_MODEL, context(CANDIDATE_MODEL, mine, [event("c", "9")]))

    assert [(item.model, item.version) for item in found] == [("a", "2"), ("b", "4")]


def test_a_run_by_hand_takes_the_last_event() -> None:
    before = [event("a", "1"), event("b", "2")]

    found = incoming_models(CANDIDATE_MODEL, context(CANDIDATE_MODEL, [], before))

    assert [(item.model, item.version) for item in found] == [("b", "2")]
    assert incoming_models(CANDIDATE_MODEL, context(CANDIDATE_MODEL, [], [])) == []


def test_only_requests_that_started_the_run_are_served() -> None:
    requests = [{"model": "b"}, {"model": "a"}, {"model": "b"}, {}]

    assert requested_models(context(RETRAIN_REQUEST, requests, [])) == ["b", "a"]
    assert requested_models(context(RETRAIN_REQUEST, [], [{"model": "old"}])) == []
