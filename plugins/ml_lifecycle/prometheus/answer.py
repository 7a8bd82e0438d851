"""What an answer of Prometheus gives: samples, series, or an error of ours. Pure.

Nothing else leaves this module: an answer in part is no answer, and one that is not as the API is documented neither.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ml_lifecycle.prometheus.exceptions import (
    PrometheusError,
    PrometheusQueryError,
    PrometheusTooHeavyError,
    PrometheusUnavailableError,
)
from ml_lifecycle.prometheus.matrix import Floats

_OK = 200
# 413: the answer is too large for a gateway; 504: a gateway has waited long enough. 429 asks for fewer questions, and
# smaller parts are more of them.
_HEAVY_STATUS = frozenset({408, 413, 504})
_BUSY_STATUS = 429
_REFUSING_STATUS = frozenset({400, 422})
# How Prometheus, Thanos, Mimir, Cortex and VictoriaMetrics say that a query asks for more than they give.
_HEAVY = re.compile(
    r"too many (samples|series|points|chunks)|exceed|timed out|time-?out|\blimit\b|resource ?exhausted"
    r"|more than -search\.|not enough memory",
    re.IGNORECASE,
)
# What is wrong as it is written may quote such words.
_WRONG = ("parse error", "invalid parameter")
# What the engine says of the query itself. Whatever else stands in warnings is of stores that did not answer.
_REMARKS = ("PromQL info:", "PromQL warning:")
_EXCERPT = 300


def quoted(query: str) -> str:
    """A query as messages show it; one for many services has tens of thousands of characters."""
    return repr(query if len(query) <= _EXCERPT else f"{query[:_EXCERPT]}…")


@dataclass(frozen=True)
class Sample:
    """One series at one time; `at` in Unix seconds. NaN stays NaN."""

    labels: Mapping[str, str]
    value: float
    at: float


@dataclass(frozen=True)
class Series:
    """One series over a range; `times` (Unix seconds) and `values` have the same length. NaN stays NaN."""

    labels: Mapping[str, str]
    times: Floats
    values: Floats


@dataclass(frozen=True)
class Answer:
    """What the server at `address` answered to `query`; `document` is None where `text`, its beginning, is no JSON."""

    address: str
    query: str
    status: int
    document: Any
    text: str = ""

    def samples(self) -> list[Sample]:
        """Of an instant query; a scalar is one sample without labels. PrometheusError for whatever else."""
        with self._as_documented():
            data = self._data("vector", "scalar")
            if data["resultType"] == "scalar":
                return [_sample({}, data["result"])]
            return [_sample(row["metric"], row["value"]) for row in data["result"]]

    def series(self) -> list[Series]:
        """Of a range query that `read_matrix` has read. PrometheusError for whatever else."""
        with self._as_documented():
            data = self._data("matrix")
            return [Series(_labels(row["metric"]), *row["values"]) for row in data["result"]]

    @property
    def remarks(self) -> list[str]:
        """What the engine says of the query, and what stands in for data that are missing."""
        if not isinstance(self.document, dict):
            return []
        said = [self.document.get(key) or [] for key in ("warnings", "infos")]
        return [str(text) for texts in said for text in (texts if isinstance(texts, list) else [texts])]

    def _data(self, *kinds: str) -> Mapping[str, Any]:
        if (error := self._error()) is not None:
            raise error
        if missing := self._missing():
            raise PrometheusUnavailableError(
                f"Prometheus at {self.address} answers {quoted(self.query)} in part: {missing}"
            )
        data: Mapping[str, Any] = self.document["data"]
        if not isinstance(data["result"], list) or not isinstance(data["resultType"], str):
            raise TypeError("the result is no list")
        if data["resultType"] not in kinds:
            raise PrometheusQueryError(f"{quoted(self.query)} yields a {data['resultType']}, not a {kinds[0]}")
        if any("histogram" in row or "histograms" in row for row in data["result"] if isinstance(row, dict)):
            raise PrometheusQueryError(
                f"{quoted(self.query)} gives histograms, not numbers: wrap it in histogram_count() or "
                "histogram_quantile()"
            )
        return data

    def _error(self) -> PrometheusError | None:
        """The error that the answer is; None where it says that it succeeded."""
        document = self.document if isinstance(self.document, dict) else {}
        said = str(document.get("error") or self.text)[:_EXCERPT]
        if self.status == _OK and document.get("status") == "success":
            return None
        message = f"Prometheus at {self.address} answered {self.status}: {said}"
        if self._heavy(said if document else ""):
            return PrometheusTooHeavyError(f"{message}; asked was {quoted(self.query)}")
        if self.status in _REFUSING_STATUS and document:
            return PrometheusQueryError(f"Prometheus refuses {quoted(self.query)}: {said}")
        if not document:
            return PrometheusUnavailableError(f"{message}; that is no JSON object: is it a Prometheus?")
        return PrometheusUnavailableError(message)

    def _heavy(self, said: str) -> bool:
        """Whether a smaller question might be answered; `said` is the error that the API gives."""
        if self.status in _HEAVY_STATUS:
            return True
        if self.status == _BUSY_STATUS or any(text in said for text in _WRONG):
            return False
        return _HEAVY.search(said) is not None

    def _missing(self) -> str:
        """Why there are less data than there should be; empty where all are there."""
        if self.document.get("isPartial"):  # VictoriaMetrics' cluster
            return "isPartial"
        return "; ".join(text for text in self.remarks if not text.startswith(_REMARKS))[:_EXCERPT]

    @contextmanager
    def _as_documented(self) -> Iterator[None]:
        try:
            yield
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise PrometheusUnavailableError(
                f"Prometheus at {self.address} answers {quoted(self.query)} not as its API is documented ({error!r}): "
                f"{self.text[:_EXCERPT]}"
            ) from error


def _sample(labels: Any, pair: Any) -> Sample:
    at, value = pair
    return Sample(_labels(labels), float(value), float(at))


def _labels(labels: Any) -> Mapping[str, str]:
    if not isinstance(labels, dict):
        raise TypeError(f"labels are {labels!r}")
    return labels
