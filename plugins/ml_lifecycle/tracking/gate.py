"""The gate: may a candidate become champion? Pure: an evaluation in, a judgement with its evidence out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ml_lifecycle.tracking.evaluation import Evaluation
from ml_lifecycle.tracking.paired import wilson_interval

AGAINST_CHAMPION = "accuracy_against_champion"
CLASS_ACCURACY = "class_accuracy"


class Outcome(StrEnum):
    """How a check ended."""

    PASSED = "passed"
    REFUSED = "refused"


@dataclass(frozen=True)
class Limits:
    """What settings ask of a candidate; see `settings.Gate` for each. A limit that is None is not checked."""

    min_accuracy: float
    max_loss: float
    max_accuracy_drop: float
    confidence: float
    max_onnx_difference: float
    min_class_accuracy: float = 0.0
    class_floors: Mapping[str, float] = field(default_factory=dict)
    max_model_mb: float | None = None
    max_latency_ms: float | None = None


@dataclass(frozen=True)
class Check:
    """One comparison, of one `subject` where it concerns but a class.

    `value` is None where nothing was measured, NaN where it is broken: both are refused. With `by_interval` the lower
    end of the interval must hold the limit, else the value; an interval beside a value is evidence alone.
    """

    name: str
    value: float | None
    relation: str
    limit: float
    subject: str = ""
    interval: tuple[float, float] | None = None
    by_interval: bool = False
    note: str = ""

    @property
    def judged(self) -> float | None:
        """The number that is held against the limit."""
        return self.interval[0] if self.by_interval and self.interval else self.value

    @property
    def headroom(self) -> float:
        """How far the judged number is on the right side of the limit; -inf where there is no finite number."""
        if self.value is None or self.judged is None:
            return -math.inf
        if not all(map(math.isfinite, (self.value, self.judged, self.limit))):
            return -math.inf
        return self.judged - self.limit if self.relation == ">=" else self.limit - self.judged

    @property
    def outcome(self) -> Outcome:
        """Refused unless a finite number stands in the relation to the limit."""
        return Outcome.PASSED if self.headroom >= 0 else Outcome.REFUSED

    @property
    def sentence(self) -> str:
        """`accuracy 0.91 is not >= 0.95, by 0.04 (33 images)`."""
        name = f"{self.name} of {self.subject!r}" if self.subject else self.name
        if self.value is None:
            return f"{name} is unknown: {self.note or f'it must be {self.relation} {self.limit:.6g}'}"
        said = f"{name} {self.value:.6g}"
        if self.by_interval and self.interval:
            said += f", at least {self.interval[0]:.6g},"
        said += f" is {self.relation if self.headroom >= 0 else f'not {self.relation}'} {self.limit:.6g}"
        if -math.inf < self.headroom < 0:
            said += f", by {-self.headroom:.3g}"
        return f"{said} ({self.note})" if self.note else said


@dataclass(frozen=True)
class Judgement:
    """All checks of one candidate."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.outcome is Outcome.PASSED for check in self.checks)

    @property
    def outcome(self) -> Outcome:
        """The gate's outcome."""
        return Outcome.PASSED if self.passed else Outcome.REFUSED

    @property
    def refusals(self) -> list[str]:
        """What was refused, and by how much."""
        return [check.sentence for check in self.checks if check.outcome is Outcome.REFUSED]

    def tags(self) -> dict[str, str]:
        """The evidence as tags of the model version; of many classes the refused ones, else the closest one."""
        tags = {"gate": str(self.outcome)}
        for name, group in itertools.groupby(self.checks, key=lambda check: check.name):
            checks = sorted(group, key=lambda check: check.headroom)
            told = [check for check in checks if check.outcome is Outcome.REFUSED] or checks[:1]
            tags[f"gate.{name}"] = f"{told[0].outcome}: {'; '.join(check.sentence for check in told)}"
        return tags

    def rows(self) -> list[dict[str, Any]]:
        """The evidence as rows of a table; what is not finite is written as text, which JSON can hold."""
        return [
            {
                "check": check.name,
                "class": check.subject,
                "value": _plain(check.value),
                "lower": _plain(check.interval[0]) if check.interval else None,
                "upper": _plain(check.interval[1]) if check.interval else None,
                "relation": check.relation,
                "limit": _plain(check.limit),
                "outcome": str(check.outcome),
                "note": check.note,
            }
            for check in self.checks
        ]


def judge(evaluation: Evaluation, limits: Limits, *, champion: str | None = None) -> Judgement:
    """Judge a candidate by its evaluation.

    `champion` is the version that holds the alias now, None for the first model of a name: absolute limits decide
    then. Where the evaluate job measured another champion the comparison says nothing, and the candidate is refused.
    """
    return Judgement(tuple(_checks(evaluation, limits, champion)))


def _checks(evaluation: Evaluation, limits: Limits, champion: str | None) -> Iterator[Check]:
    challenger, images = evaluation.challenger, evaluation.holdout_images
    interval = _interval(challenger.accuracy, images, limits.confidence)
    yield Check("accuracy", challenger.accuracy, ">=", limits.min_accuracy, interval=interval, note=_images(images))
    yield Check("loss", challenger.loss, "<=", limits.max_loss)
    yield Check("onnx_difference", evaluation.onnx_difference, "<=", limits.max_onnx_difference)
    if limits.max_model_mb is not None:
        yield Check("model_mb", challenger.model_bytes / 1e6, "<=", limits.max_model_mb)
    if limits.max_latency_ms is not None:
        yield Check("latency_ms", challenger.latency_ms, "<=", limits.max_latency_ms, note="p95, one CPU thread")
    yield from _class_checks(evaluation, limits)
    if champion is not None:
        yield _against_champion(evaluation, limits, champion)


def _class_checks(evaluation: Evaluation, limits: Limits) -> Iterator[Check]:
    """One check for every class that has a floor.

    The observed accuracy decides, however few images a class has: a limit must not grow laxer as evidence grows
    thinner. How much the number is worth stands beside it, as the count and as an interval. A class without any
    held-out image is refused, because nothing speaks for it; so is a floor for a class that does not exist.
    """
    known = evaluation.class_images
    for name, floor in limits.class_floors.items():
        if name not in known:
            note = f"class_floors names a class that the data set has not got; it has {', '.join(sorted(known))}"
            yield Check(CLASS_ACCURACY, None, ">=", floor, subject=name, note=note)
    for name, images in known.items():
        floor = limits.class_floors.get(name, limits.min_class_accuracy)
        accuracy = evaluation.class_accuracy.get(name)
        if floor <= 0:
            continue
        if not images or accuracy is None:
            note = "no held-out image shows it; add images, or take the floor away"
            yield Check(CLASS_ACCURACY, None, ">=", floor, subject=name, note=note)
            continue
        interval = _interval(accuracy, images, limits.confidence)
        yield Check(CLASS_ACCURACY, accuracy, ">=", floor, subject=name, interval=interval, note=_images(images))


def _against_champion(evaluation: Evaluation, limits: Limits, champion: str) -> Check:
    measured, pairs, margin = evaluation.champion, evaluation.pairs, limits.max_accuracy_drop
    if measured is None or pairs is None or measured.version != champion:
        against = "none" if measured is None else f"version {measured.version}"
        note = f"version {champion} is champion, but the candidate was measured against {against}; train again"
        return Check(AGAINST_CHAMPION, None, ">=", -margin, note=note)
    interval = pairs.interval(limits.confidence)
    note = (
        f"version {champion}; of {pairs.images} images {pairs.only_challenger_right} gained and "
        f"{pairs.only_champion_right} lost; {limits.confidence:.4g} confident; McNemar's mid-p {pairs.p_value():.3g}"
    )
    if interval[0] < -margin < pairs.difference:
        needed = pairs.images_needed(margin, limits.confidence)
        note += "; the hold-out is too small to tell" + (f": about {needed} images would do" if needed else "")
    return Check(
        AGAINST_CHAMPION, pairs.difference, ">=", -margin, interval=interval, by_interval=bool(pairs.images), note=note
    )


def _interval(accuracy: float, images: int, confidence: float) -> tuple[float, float] | None:
    """Wilson's interval of an accuracy; None where it is none."""
    return wilson_interval(accuracy * images, images, confidence) if 0 <= accuracy <= 1 else None


def _images(count: int) -> str:
    return f"{count} image" if count == 1 else f"{count} images"


def _plain(value: float | None) -> float | str | None:
    return value if value is None or math.isfinite(value) else str(value)
