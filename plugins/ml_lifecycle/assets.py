"""The assets through which the DAGs start each other, and the small event that travels on them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from airflow.sdk import Asset
from pydantic import BaseModel, ConfigDict, Field

# Names alone: a URI with a scheme makes Airflow import every provider that knows schemes, in each DAG file.
RETRAIN_REQUEST = Asset("retrain_request")
CANDIDATE_MODEL = Asset("candidate_model")
CHAMPION_MODEL = Asset("champion_model")
LIVE_MODEL = Asset("live_model")


class ModelEvent(BaseModel):
    """What an asset event says of a model version; its JSON is the event's `extra`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    model: str
    version: str
    run_id: str = Field(default="", description="MLflow run")
    storage_uri: str = Field(default="", description="serving files; empty before promotion")
    metrics: dict[str, float] = Field(default_factory=dict)


def newest_per_model(extras: Iterable[Mapping[str, Any]]) -> list[ModelEvent]:
    """One event for each model: several events may reach one run, and only the newest version matters."""
    newest: dict[str, ModelEvent] = {}
    for extra in extras:
        event = ModelEvent.model_validate(extra)
        known = newest.get(event.model)
        if known is None or int(event.version) >= int(known.version):
            newest[event.model] = event
    return list(newest.values())


def incoming_models(asset: Asset, context: Mapping[str, Any]) -> list[ModelEvent]:
    """What reached this run through `asset`, newest version of each model; empty if nothing ever did.

    A run that the asset started sees its own events. A run by hand, and `airflow dags test`, sees none: there the
    asset's last event counts, which the task must have among its `inlets`.
    """
    events = list(context["triggering_asset_events"].get(asset, ()))
    if not events:
        events = list(context["inlet_events"][asset])[-1:]
    return newest_per_model(event.extra for event in events)


def requested_models(context: Mapping[str, Any]) -> list[str]:
    """The models that RETRAIN_REQUEST events asked for, each once; empty in a run that no request started."""
    events = context["triggering_asset_events"].get(RETRAIN_REQUEST, ())
    return list(dict.fromkeys(str(event.extra["model"]) for event in events if event.extra.get("model")))
