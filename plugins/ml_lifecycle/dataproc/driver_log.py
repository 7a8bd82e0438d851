"""Follows a driver's output page by page, as it grows."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

LAST_LINES = 40


@dataclass
class DriverLog:
    """What has been read of one driver's output.

    A page is asked for again until the API names the next one: the last page grows while the driver writes. `feed`
    takes what was read under `page_token` and returns the complete lines that are new.
    """

    page_token: str = ""
    last_lines: deque[str] = field(default_factory=lambda: deque(maxlen=LAST_LINES))
    _taken: int = 0
    _partial: str = ""

    def feed(self, content: str, next_token: str) -> list[str]:
        """New complete lines of the page at `page_token`; moves on to `next_token` where there is one."""
        fresh = content[self._taken :]
        self._taken = len(content)
        if next_token:
            self.page_token, self._taken = next_token, 0
        *lines, self._partial = (self._partial + fresh).split("\n")
        self.last_lines.extend(lines)
        return lines

    def close(self) -> list[str]:
        """The line that never got its end, once the driver has."""
        lines = [self._partial] if self._partial else []
        self.last_lines.extend(lines)
        self._partial = ""
        return lines
