"""Where people read: the terminal, or a file wide enough that tables stay whole."""

from __future__ import annotations

from rich.console import Console


def terminal() -> Console:
    """A console of the terminal's width; 120 columns where the output goes to a file."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=120)
