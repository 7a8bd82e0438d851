"""Aliases and tags after each end of a rollout, in a real MLflow store on SQLite."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlflow
import pytest

from ml_lifecycle.tracking import rollout_aliases
from ml_lifecycle.tracking.client import TrackingClient
from ml_lifecycle.tracking.exceptions import AliasesStaleError
from ml_lifecycle.tracking.rollout_aliases import follow_rollout, follow_rollouts

pytestmark = pytest.mark.slow  # starts programs or a database

numbers = itertools.count()


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> TrackingClient:
    return TrackingClient(f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db")


@pytest.fixture
def model(tracking: TrackingClient) -> str:
    """With versions 1 to 3."""
    name = f"rolled-out-{next(numbers)}"
    store = mlflow.MlflowClient(tracking.uri)
    store.create_registered_model(name)
    for _ in range(3):
        store.create_model_version(name, source="file:///nowhere", run_id=None)
    return name


def report(model: str, version: str, outcome: str, stable: str | None) -> dict[str, Any]:
    return {
        "model": model,
        "version": version,
        "outcome": outcome,
        "reason": "so it went",
        "stable_version": stable,
        "tracking_conn_id": "mlflow_default",
    }


def aliased(tracking: TrackingClient, model: str) -> dict[str, str | None]:
    found = {alias: tracking.find_alias(model, alias) for alias in ("champion", "live")}
    return {alias: version and version.version for alias, version in found.items()}


@pytest.mark.parametrize(
    ("champion", "live", "ended", "expected"),
    [
        ("1", None, ("1", "promoted", None), {"champion": "1", "live": "1"}),
        ("2", "1", ("2", "rolled_back", "1"), {"champion": "1", "live": "1"}),
        ("3", "1", ("2", "rolled_back", "1"), {"champion": "3", "live": "1"}),
        ("2", "1", ("2", "frozen", "1"), {"champion": "2", "live": "1"}),
        # A first version that failed has nothing to go back to.
        ("1", None, ("1", "rolled_back", None), {"champion": None, "live": None}),
        # `live` was not moved when version 2 went live: what served when version 3 was opened counts.
        ("3", "1", ("3", "rolled_back", "2"), {"champion": "2", "live": "2"}),
        # Somebody serves a model of their own.
        ("2", "1", ("2", "rolled_back", "by-hand"), {"champion": "1", "live": "1"}),
        # The version that serves already fails its smoke test: it goes on serving.
        ("1", "1", ("1", "rolled_back", "1"), {"champion": "1", "live": "1"}),
        # A champion is lost and found.
        (None, None, ("1", "promoted", None), {"champion": "1", "live": "1"}),
        ("1", "1", ("2", "promoted", "1"), {"champion": "2", "live": "2"}),
    ],
)
def test_aliases_agree_with_what_serves(
    tracking: TrackingClient,
    model: str,
    champion: str | None,
    live: str | None,
    ended: tuple[str, str, str | None],
    expected: dict[str, str | None],
) -> None:
    for alias, version in {"champion": champion, "live": live}.items():
        if version:
            tracking.set_alias(model, alias, version)

    for _ in range(2):  # a task that is tried again
        follow_rollout(tracking, report(model, *ended))

    assert aliased(tracking, model) == expected
    tags = tracking.version(model, ended[0]).tags
    assert (tags["rollout"], tags["rollout.reason"]) == (ended[1], "so it went")


@pytest.mark.parametrize(("rolled_out", "expected"), [(True, "1"), (False, "3")])
def test_an_older_version_by_hand_is_champion_unless_a_newer_one_awaits_its_rollout(
    tracking: TrackingClient, model: str, rolled_out: bool, expected: str
) -> None:
    tracking.set_alias(model, "champion", "3")
    tracking.set_alias(model, "live", "2")
    if rolled_out:
        tracking.tag_version(model, "3", {"rollout": "promoted"})

    follow_rollout(tracking, report(model, "1", "promoted", "2"))

    assert aliased(tracking, model) == {"champion": expected, "live": "1"}


def test_a_version_says_why_it_is_no_longer_champion(tracking: TrackingClient, model: str) -> None:
    tracking.set_alias(model, "champion", "1")
    follow_rollout(tracking, report(model, "1", "rolled_back", None))
    assert "absolute thresholds alone judge the next candidate" in tracking.version(model, "1").tags["rollout.aliases"]


def test_one_that_fails_does_not_keep_the_others_from_following(
    tracking: TrackingClient, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def connect(_: str) -> Iterator[TrackingClient]:
        yield tracking

    monkeypatch.setattr(rollout_aliases, "connect", connect)

    with pytest.raises(AliasesStaleError, match="gone version 1: MLflow refuses"):
        follow_rollouts([report("gone", "1", "promoted", None), report(model, "2", "promoted", "1")])

    assert aliased(tracking, model) == {"champion": "2", "live": "2"}
