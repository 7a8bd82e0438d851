"""Lists in parts: `limit` and `continue`, as the API server has them."""

from __future__ import annotations

import base64
import json
import uuid
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ml_lifecycle.kubernetes.exceptions import ExpiredError, InvalidError

_TOO_OLD = (
    "The provided continue parameter is too old to display a consistent list result. You must start a new list without "
    "the continue parameter to get a fresh, consistent list."
)


@dataclass(frozen=True)
class Page:
    """Some objects of a list of one moment, `version`; `token` leads to the others, empty where there are none."""

    items: list[dict[str, Any]]
    version: str
    token: str = ""
    remaining: int = 0

    @property
    def metadata(self) -> dict[str, Any]:
        """The list's metadata."""
        found: dict[str, Any] = {"resourceVersion": self.version}
        return found | ({"continue": self.token, "remainingItemCount": self.remaining} if self.token else {})


class Pages:
    """The lists that were not read to their ends; older ones than the last `kept` are forgotten."""

    def __init__(self, kept: int = 100) -> None:
        self._kept = kept
        self._lists: OrderedDict[str, tuple[list[dict[str, Any]], str]] = OrderedDict()

    def first(self, items: list[dict[str, Any]], version: str, query: Mapping[str, str]) -> Page:
        """The beginning of a list."""
        limit = _limit(query)
        if not limit or len(items) <= limit:
            return Page(items, version)
        name = uuid.uuid4().hex
        self._lists[name] = (items, version)
        while len(self._lists) > self._kept:
            self._lists.popitem(last=False)
        return _page(name, items, version, 0, limit)

    def next(self, query: Mapping[str, str]) -> Page:
        """What the query's `continue` leads to; ExpiredError where that list is forgotten."""
        name, start = _read(query["continue"])
        if name not in self._lists:
            raise ExpiredError(_TOO_OLD)
        items, version = self._lists[name]
        return _page(name, items, version, start, _limit(query) or len(items))


def _page(name: str, items: list[dict[str, Any]], version: str, start: int, limit: int) -> Page:
    end = start + limit
    if end >= len(items):
        return Page(items[start:], version)
    token = base64.urlsafe_b64encode(json.dumps([name, end]).encode()).decode()
    return Page(items[start:end], version, token, len(items) - end)


def _limit(query: Mapping[str, str]) -> int:
    try:
        limit = int(query.get("limit") or 0)
    except ValueError:
        limit = -1
    if limit < 0:
        raise InvalidError(f"limit: {query['limit']!r} is no number", status=400, reason="BadRequest")
    return limit


def _read(token: str) -> tuple[str, int]:
    try:
        name, start = json.loads(base64.urlsafe_b64decode(token))
        return str(name), int(start)
    except (ValueError, TypeError) as error:
        raise InvalidError("continue key is not valid", status=400, reason="BadRequest") from error
