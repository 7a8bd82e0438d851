"""What the demo says while it works: one line an event, each with the clock."""

from __future__ import annotations

import time

from rich.console import Console
from rich.rule import Rule

from local.stack.terminal import terminal

SIGNS = {
    "success": "[green]done[/green]",
    "failed": "[red]failed[/red]",
    "upstream_failed": "[red]not run[/red]",
    "skipped": "[dim]skipped[/dim]",
    "up_for_retry": "[yellow]will retry[/yellow]",
}


class Narrator:
    """Speaks on the console; knows how long the demo has run."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or terminal()
        self._started = time.monotonic()

    @property
    def elapsed(self) -> str:
        """Minutes and seconds since the start."""
        minutes, seconds = divmod(int(time.monotonic() - self._started), 60)
        return f"{minutes}:{seconds:02d}"

    def chapter(self, title: str, explanation: str) -> None:
        """A new part of the story."""
        self.console.print()
        self.console.print(Rule(f"[bold]{title}[/bold]", align="left", style="dim"))
        self.console.print(f"[dim]{explanation}[/dim]")

    def say(self, text: str) -> None:
        """One event."""
        self.console.print(f"[dim]{self.elapsed:>5}[/dim]  {text}", soft_wrap=True)

    def task(self, dag: str, task: str, state: str, seconds: float, following: str = "") -> None:
        """A task reached a state; `following` is what comes next."""
        took = f"{seconds:5.1f} s" if seconds else "       "
        hint = f"  [dim]next: {following}[/dim]" if following else ""
        self.say(f"{dag:<16} {task:<24} {SIGNS.get(state, state):<10} {took}{hint}")
