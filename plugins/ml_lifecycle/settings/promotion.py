"""What a candidate must reach to become champion."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from ml_lifecycle.settings.section import Fraction, Section


class Approval(Section):
    """A person's word between the gate and the alias."""

    required: bool = Field(default=False, description="ask a person in Airflow before a candidate becomes champion")
    timeout_hours: float = Field(default=24, gt=0, description="the default answer is taken after this")
    default: Literal["approve", "reject"] = Field(default="reject", description="the answer where nobody gives one")
    by_another: bool = Field(
        default=False,
        description="who asked for the training or for its promotion may not approve it; runs that events or schedules "
        "started were asked for by nobody",
    )

    @model_validator(mode="after")
    def _somebody(self) -> Self:
        if self.by_another and self.default == "approve":
            raise ValueError(
                "default 'approve' with by_another would let a candidate pass without another person's word"
            )
        return self


class Gate(Section):
    """What a candidate must reach to become champion; a limit that is not given is not checked."""

    min_accuracy: Fraction = Field(default=0.5, description="absolute floor on the hold-out")
    max_loss: float = Field(default=10.0, gt=0, description="absolute limit of the hold-out loss")
    max_accuracy_drop: Fraction = Field(
        default=0.02, description="accuracy it may lose against the champion; the interval's lower end decides"
    )
    confidence: float = Field(
        default=0.95, gt=0.5, lt=1, description="one-sided confidence of the paired comparison with the champion"
    )
    min_class_accuracy: Fraction = Field(default=0.0, description="floor of the accuracy within every class")
    class_floors: dict[str, Fraction] = Field(default_factory=dict, description="floors of single classes, by name")
    max_model_mb: float | None = Field(default=None, gt=0, description="size of the ONNX file, millions of bytes")
    max_latency_ms: float | None = Field(
        default=None, gt=0, description="p95 of one image on one CPU thread of the cluster, milliseconds"
    )
    max_onnx_difference: float = Field(default=1e-3, gt=0, description="largest difference of torch and ONNX outputs")
    evaluations: Literal["data_lake", "mlflow"] = Field(
        default="data_lake",
        description="whose word counts: data_lake, where train_model keeps what its job found. mlflow: what stands on "
        "MLflow alone too, for versions that others bring; then whoever may write to MLflow decides what is served",
    )
    approval: Approval = Approval()
