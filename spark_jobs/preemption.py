"""Whether this process has been told to end: YARN and a cloud that takes a host back send SIGTERM first."""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import Any, Self

SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class Preemption:
    """Within this context the signals only set `told`, and the training ends where it can be continued."""

    def __init__(self) -> None:
        self._signalled = False
        self._parent = os.getppid()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def told(self) -> bool:
        """Also true where the launcher is gone: nobody would take the result."""
        return self._signalled or os.getppid() != self._parent

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self._signalled = True
