"""The assets through which the DAGs start each other, and the small event that travels on them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, NamedTuple

from airflow.sdk import Asset
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ml_lifecycle.settings import ModelName

# Names alone: a URI with a scheme makes Airflow import every provider that knows schemes, in each DAG file.
RETRAIN_REQUEST = Asset("retrain_request")
CANDIDATE_MODEL = Asset("candidate_model")
CHAMPION_MODEL = Asset("champion_model")
LIVE_MODEL = Asset("live_model")


class ModelEvent(BaseModel):
    """What an asset event says of a model version; its JSON is the event's `extra`."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    model: ModelName
    version: Annotated[str, Field(pattern="^[0-9]{0,10}$")]
    run_id: str = Field(default="", description="MLflow run")
    storage_uri: str = Field(default="", description="serving files; empty before promotion")
    metrics: dict[str, float] = Field(default_factory=dict)


class Incoming(NamedTuple):
    """What reached a run: the newest version of each model, and why other events name none. They end on themselves."""

    models: list[ModelEvent]
    odd: list[str]


def newest_per_model(extras: Iterable[Any]) -> Incoming:
    """One event for each model: several events may reach one run, and only the newest version matters."""
    newest: dict[str, ModelEvent] = {}
    odd = []
    for extra in extras:
        try:
            event = ModelEvent.model_validate(extra)
        except ValidationError as error:
            fields = ", ".join(sorted({str(item["loc"][0]) if item["loc"] else "extra" for item in error.errors()}))
            odd.append(f"an event names no model version: {fields} missing or odd; emit it again, or give params")
            continue
        known = newest.get(event.model)
        if known is None or int(event.version or 0) >= int(known.version or 0):
            newest[event.model] = event
    return Incoming(list(newest.values()), odd)


def incoming_models(asset: Asset, context: Mapping[str, Any]) -> Incoming:
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
    extras = [event.extra if isinstance(event.extra, Mapping) else {} for event in events]
    return list(dict.fromkeys(str(extra["model"]) for extra in extras if extra.get("model")))
