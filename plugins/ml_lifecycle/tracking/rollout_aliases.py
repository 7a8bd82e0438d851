"""Aliases and tags follow a rollout that is over, whoever closed it; every step may be repeated."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from ml_lifecycle.exceptions import LifecycleError
from ml_lifecycle.tracking.client import CHAMPION, LIVE, ModelVersion, TrackingClient, connect
from ml_lifecycle.tracking.exceptions import AliasesStaleError, NoEarlierVersionError, VersionMissingError

log = logging.getLogger(__name__)

REPLACED = "rollout.replaced"

Report = Mapping[str, Any]


def follow_rollouts(reports: Iterable[Report]) -> None:
    """`follow_rollout` for each, at the MLflow that it names; AliasesStaleError after the last, if any failed."""
    failures = []
    for report in reports:
        try:
            with connect(report["tracking_conn_id"]) as tracking:
                follow_rollout(tracking, report)
        except LifecycleError as error:
            failures.append(f"{report['model']} version {report['version']}: {error}")
    if failures:
        raise AliasesStaleError(failures)


def follow_rollout(tracking: TrackingClient, report: Report) -> None:
    """`live` comes to name what serves, `champion` never what was rolled back; tags keep how it ended.

    `report` is a closed rollout's: `model`, `version`, `outcome` ("promoted", "rolled_back", "frozen"), `reason`, and
    `stable_version`, what served when it opened (None: nothing did).
    """
    model, version = report["model"], report["version"]
    changes = []
    if report["outcome"] == "promoted":
        changes = _promoted(tracking, model, version)
    if report["outcome"] == "rolled_back":
        changes = _rolled_back(tracking, model, version, report["stable_version"])
    tags = {"rollout": report["outcome"], "rollout.reason": report["reason"]}
    if report["outcome"] == "promoted" and report["stable_version"] not in (None, version):
        tags[REPLACED] = report["stable_version"]
    if changes:
        tags["rollout.aliases"] = "; ".join(changes)
        log.info("%s: %s", model, tags["rollout.aliases"])
    tracking.tag_version(model, version, tags)


def earlier_version(tracking_conn_id: str, model: str, version: str | None) -> ModelVersion:
    """The version to return to: the one given, else what the live one replaced; NoEarlierVersionError."""
    with connect(tracking_conn_id) as tracking:
        live = tracking.find_alias(model, LIVE)
        wanted = version or (live.tags.get(REPLACED, "") if live else "")
        if not wanted:
            raise NoEarlierVersionError(model, "nothing was live before" if live else "nothing is live")
        return tracking.version(model, wanted)


def _promoted(tracking: TrackingClient, model: str, version: str) -> list[str]:
    changes = _move(tracking, model, LIVE, version)
    champion = tracking.find_alias(model, CHAMPION)
    if champion is not None and _awaits_rollout(champion, version):
        return changes
    return changes + _move(tracking, model, CHAMPION, version)


def _awaits_rollout(champion: ModelVersion, version: str) -> bool:
    """Whether the champion is newer and its own rollout is still to come: it was promoted meanwhile."""
    return int(champion.version) > int(version) and "rollout" not in champion.tags


def _rolled_back(tracking: TrackingClient, model: str, version: str, stable: str | None) -> list[str]:
    registered = stable is not None and _is_registered(tracking, model, stable)
    changes = _move(tracking, model, LIVE, stable) if stable is not None and registered else []
    champion = tracking.find_alias(model, CHAMPION)
    if champion is None or champion.version != version:  # a newer champion, promoted meanwhile, keeps its name
        return changes
    live = tracking.find_alias(model, LIVE)
    # A version that was alone and failed has nothing to go back to, even if it had been live before.
    if live is not None and (live.version != version or registered):
        return changes + _move(tracking, model, CHAMPION, live.version)
    tracking.delete_alias(model, CHAMPION)
    return [*changes, "no longer champion: absolute thresholds alone judge the next candidate"]


def _is_registered(tracking: TrackingClient, model: str, version: str) -> bool:
    """Not so for what somebody serves under a storageUri of their own."""
    try:
        tracking.version(model, version)
    except VersionMissingError:
        return False
    return True


def _move(tracking: TrackingClient, model: str, alias: str, version: str) -> list[str]:
    """What was changed, in words; empty where the alias is there already."""
    found = tracking.find_alias(model, alias)
    if found is not None and found.version == version:
        return []
    tracking.set_alias(model, alias, version)
    return [f"{alias} moved from {'nothing' if found is None else f'version {found.version}'} to version {version}"]
