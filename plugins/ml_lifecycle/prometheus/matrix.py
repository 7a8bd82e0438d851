"""The answer of a range query, read without keeping a Python object for each sample. Pure.

A week of one-minute samples of 10,000 series is 100 million.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BEGIN, _END = b'"values":[[', b"]]"

Floats = NDArray[np.float64]


def read_matrix(body: bytes, step: float) -> Any:
    """The document, in which the values of each series are a pair of arrays: times (Unix seconds) and values.

    ValueError where it is no JSON. Whatever is not a matrix, and a series without values, is as json reads it.
    """
    # A quote within a label is escaped, so that the text of a label can never be taken for the beginning of values.
    first, *rest = body.split(_BEGIN)
    read: list[tuple[Floats, Floats]] = []
    skeleton = [first]
    for text in rest:
        samples, end, after = text.partition(_END)
        if not end:
            raise ValueError("the answer breaks off within a series")
        skeleton += [b'"values":%d' % len(read), after]
        read.append(_samples(samples, step))
    document = json.loads(b"".join(skeleton))
    for row in _rows(document):
        if (values := row.get("values")) is None:
            continue
        row["values"] = read[values] if isinstance(values, int) else _pairs(values)
    return document


def _rows(document: Any) -> list[dict[str, Any]]:
    data = document.get("data") if isinstance(document, dict) else None
    rows = data.get("result") if isinstance(data, dict) and data.get("resultType") == "matrix" else None
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _samples(text: bytes, step: float) -> tuple[Floats, Floats]:
    """`1,"2"],[3,"4"` as ([1, 3], [2, 4])."""
    pieces = text.split(b'"')
    values = np.array(list(map(float, pieces[1::2])))
    count, begin, end = len(values), _time(pieces[0]), _time(pieces[-3])
    if round((end - begin) / step) == count - 1:  # none is missing, so that the times are known
        return begin + step * np.arange(count), values
    return np.array([_time(piece) for piece in pieces[:-1:2]]), values


def _time(piece: bytes) -> float:
    return float(piece.strip(b"],["))


def _pairs(values: list[tuple[float, str]]) -> tuple[Floats, Floats]:
    return np.array([float(at) for at, _ in values]), np.array([float(value) for _, value in values])
