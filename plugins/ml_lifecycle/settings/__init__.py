"""All settings of a model, as one frozen and validated object.

They stand in the Airflow Variable `ml_lifecycle`: `{"defaults": {...}, "models": {"<name>": {...}}}`. A model's
settings are the defaults, overlaid by its own, overlaid by the params of one run. Pure: reading the Variable
is `settings_variable.py`'s.
"""

from ml_lifecycle.settings.model import Connections, Settings
from ml_lifecycle.settings.promotion import Approval, Gate
from ml_lifecycle.settings.rollout import (
    BUILT_IN_METRICS,
    PLACEHOLDERS,
    ErrorQueries,
    Notifier,
    OwnCounts,
    OwnGauge,
    Rollout,
    Step,
)
from ml_lifecycle.settings.scaling import Scaling
from ml_lifecycle.settings.section import MODEL_NAME, ModelName, Section
from ml_lifecycle.settings.serving import Serving, Toleration
from ml_lifecycle.settings.training import Cluster, Cost, Dataset, Hosts, Training
from ml_lifecycle.settings.variable import overlay, parse_settings, places, sections_of

__all__ = [
    "BUILT_IN_METRICS",
    "MODEL_NAME",
    "PLACEHOLDERS",
    "Approval",
    "Cluster",
    "Connections",
    "Cost",
    "Dataset",
    "ErrorQueries",
    "Gate",
    "Hosts",
    "ModelName",
    "Notifier",
    "OwnCounts",
    "OwnGauge",
    "Rollout",
    "Scaling",
    "Section",
    "Serving",
    "Settings",
    "Step",
    "Toleration",
    "Training",
    "overlay",
    "parse_settings",
    "places",
    "sections_of",
]
