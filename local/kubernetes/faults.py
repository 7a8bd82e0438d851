"""Failures on demand: what a test tells the server to do instead of answering."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from typing import Literal, Self

_REASONS = {
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    409: "Conflict",
    410: "Expired",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


@dataclass(frozen=True)
class Fault:
    """What happens to requests that match; `times` None means to every one, `spared` come through before.

    status: answer with this error. close: "before" cuts the connection before the server acts, "after" once it has
    acted, so that the answer is lost; "within" after half of the answer's body. text: answer with this text instead,
    with `status` or 200. delay_seconds: before anything else.
    """

    method: str = "*"
    path: str = ".*"
    status: int | None = None
    retry_after: int | None = None
    message: str = "injected fault"
    close: Literal["before", "after", "within"] | None = None
    text: str | None = None
    delay_seconds: float = 0
    times: int | None = 1
    spared: int = 0

    @property
    def reason(self) -> str:
        """The API's word for the status."""
        return _REASONS.get(self.status or 0, "")

    def matches(self, method: str, path: str) -> bool:
        """Whether it is about this request; `path` is a pattern that is searched for."""
        return self.method in ("*", method) and re.search(self.path, path) is not None


class Faults:
    """The faults in force, in the order in which they were added; the first that matches happens. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[tuple[Fault, int]] = []
        self.requests: list[tuple[str, str]] = []

    def add(self, fault: Fault) -> Self:
        """Puts a fault in force."""
        with self._lock:
            self._faults.append((fault, 0))
        return self

    def clear(self) -> None:
        """Ends all faults and forgets the requests seen."""
        with self._lock:
            self._faults.clear()
            self.requests.clear()

    def next(self, method: str, path: str) -> Fault | None:
        """Counts a request, and says what shall happen to it."""
        with self._lock:
            self.requests.append((method, path))
            for index, (fault, happened) in enumerate(self._faults):
                if fault.matches(method, path):
                    if fault.times is not None and happened + 1 >= fault.times + fault.spared:
                        del self._faults[index]
                    else:
                        self._faults[index] = (fault, happened + 1)
                    if happened >= fault.spared:
                        return fault
                    break
        return None

    def count(self, method: str, path: str = ".*") -> int:
        """How many requests with this method and path pattern were seen."""
        with self._lock:
            return sum(seen == method and re.search(path, where) is not None for seen, where in self.requests)
