"""What each job is told: one JSON object, validated into a frozen dataclass.

Unknown and missing keys are refused, so that a job never runs on half of what its DAG meant.
"""

from __future__ import annotations

import dataclasses
import json
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from spark_jobs.exceptions import SpecificationError

Specification = TypeVar("Specification")
ENCODINGS = ("pixels", "files")
CLASS_WEIGHTS = ("none", "balanced")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")


def require(condition: bool, key: str, value: object, allowed: str) -> None:  # noqa: FBT001
    """Refuse `value` with a message that names the key, the value and what is allowed."""
    if not condition:
        raise SpecificationError(f"{key} = {value!r} is refused: it must be {allowed}")


@dataclass(frozen=True)
class Image:
    """The square that the model sees."""

    image_size: int
    channels: int

    def __post_init__(self) -> None:
        require(8 <= self.image_size <= 1024, "image_size", self.image_size, "8 to 1024 pixels")
        require(self.channels in (1, 3), "channels", self.channels, "1 (grey) or 3 (colour)")


@dataclass(frozen=True)
class IngestSpecification(Image):
    """`dataset_uri` holds `<class>/<file>`; the prepared data is written to `prepared_base_uri/<digest>/`."""

    dataset_uri: str
    prepared_base_uri: str
    holdout: float
    max_corrupt: float
    shard_rows: int
    encoding: str
    result_uri: str
    secret_id: str | None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.holdout < 1, "holdout", self.holdout, "between 0 and 1")
        require(0 <= self.max_corrupt <= 1, "max_corrupt", self.max_corrupt, "0 to 1")
        require(self.shard_rows >= 1, "shard_rows", self.shard_rows, "1 or more")
        require(self.encoding in ENCODINGS, "encoding", self.encoding, f"one of {', '.join(ENCODINGS)}")


@dataclass(frozen=True)
class TrainSpecification(Image):
    """One training run; what each field means stands in the settings of the same name."""

    prepared_uri: str
    checkpoint_uri: str
    tracking_uri: str
    run_id: str
    epochs: int
    fraction: float
    batch_size: int
    accumulation: int
    learning_rate: float
    weight_decay: float
    label_smoothing: float
    class_weights: str
    flip: bool
    shift: float
    validation: float
    patience: int | None
    processes: int
    loader_workers: int | None
    width: int
    depth: int
    initial_state: str | None
    precision: str
    checkpoint_minutes: float
    seed: int
    gpu: bool
    result_uri: str
    secret_id: str | None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.fraction <= 1, "fraction", self.fraction, "above 0 and at most 1")
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "above 0")
        require(self.seed >= 0, "seed", self.seed, "0 or more")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or more")
        require(0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "at least 0 and below 1")
        weights = ", ".join(CLASS_WEIGHTS)
        require(self.class_weights in CLASS_WEIGHTS, "class_weights", self.class_weights, f"one of {weights}")
        require(0 <= self.shift <= 0.5, "shift", self.shift, "0 to 0.5")
        require(0 <= self.validation <= 0.5, "validation", self.validation, "0 to 0.5")
        require(self.patience is None or self.validation > 0, "patience", self.patience, "null without a validation")
        require(self.precision in PRECISIONS, "precision", self.precision, f"one of {', '.join(PRECISIONS)}")
        require(self.checkpoint_minutes > 0, "checkpoint_minutes", self.checkpoint_minutes, "above 0")
        for key in ("epochs", "batch_size", "accumulation", "processes", "width", "depth"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "1 or more")


@dataclass(frozen=True)
class Champion:
    """The registered version to compare with, and the folder of its serving files."""

    version: str
    storage_uri: str


@dataclass(frozen=True)
class EvaluateSpecification(Image):
    """The evaluation of one trained state on the hold-out, beside the champion's if there is one."""

    model: str
    prepared_uri: str
    state_uri: str
    tracking_uri: str
    run_id: str
    champion: Champion | None
    batch_size: int
    result_uri: str
    secret_id: str | None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.batch_size >= 1, "batch_size", self.batch_size, "1 or more")


def parse(form: type[Specification], text: str) -> Specification:
    """The specification in the JSON `text`; raises SpecificationError."""
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise SpecificationError(f"the specification is not JSON: {error}") from error
    return _build(form, document, "specification")


def dump(specification: Any) -> str:
    """The JSON from which `parse` makes the same specification."""
    return json.dumps(dataclasses.asdict(specification))


def _build(form: type[Specification], document: object, where: str) -> Specification:
    if not isinstance(document, Mapping):
        raise SpecificationError(f"{where} must be a JSON object, not {type(document).__name__}")
    forms = get_type_hints(form)
    if unknown := sorted(set(document) - set(forms)):
        raise SpecificationError(f"{where}: unknown key {unknown[0]!r}; allowed are {', '.join(sorted(forms))}")
    if missing := sorted(set(forms) - set(document)):
        raise SpecificationError(f"{where}: {', '.join(missing)} missing")
    return form(**{key: _value(forms[key], document[key], key) for key in forms})


def _value(form: Any, value: Any, key: str) -> Any:
    if get_origin(form) is types.UnionType:
        if value is None:
            return None
        form = next(option for option in get_args(form) if option is not types.NoneType)
    if dataclasses.is_dataclass(form):
        return _build(form, value, key)  # type: ignore[arg-type]
    if form is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, form) or (isinstance(value, bool) and form is not bool):
        raise SpecificationError(f"{key} = {value!r} must be of type {form.__name__}")
    return value
