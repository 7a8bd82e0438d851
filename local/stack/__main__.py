"""`python -m local.stack up|down|status|guard`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from local.stack.exceptions import StackError
from local.stack.stack import Stack
from local.stack.terminal import terminal

RATE = 50.0
"""Requests a second: what a canary of some minutes needs."""


def main() -> int:
    """Parse, act, and say any failure in one sentence."""
    parser = argparse.ArgumentParser(prog="python -m local.stack")
    parser.add_argument("action", choices=["up", "down", "status", "guard"])
    parser.add_argument("--dataset", type=Path, help="image folder of your own, <class>/<file>.png or .jpg")
    arguments = parser.parse_args()
    stack, console = Stack(), terminal()
    try:
        if arguments.action == "up":
            up(stack, console, arguments.dataset)
        elif arguments.action == "down":
            down(stack, console)
        elif arguments.action == "guard":
            guard(stack)
        else:
            status(stack, console)
    except StackError as error:
        console.print(f"[red]{error}[/red]")
        return 1
    except KeyboardInterrupt:
        stack.down()
        return 130
    return 0


def up(stack: Stack, console: Console, dataset: Path | None) -> None:
    """Start everything afresh, with requests to the model as soon as it is served, and say where it is."""
    stack.wipe()
    subject = stack.provide(dataset)
    stack.up(console.print)
    stack.start_load(subject.model, subject.folder, RATE)
    status(stack, console)
    console.print(f"\nOpen {stack.layout.url('airflow')}, trigger [bold]train_model[/bold]", end=" ")
    console.print(f"(model {subject.model}, dataset {subject.dataset}) and watch.")
    console.print(f"For airflow commands: source {stack.layout.environment}", soft_wrap=True)


def down(stack: Stack, console: Console) -> None:
    """Stop everything."""
    alive = stack.alive()
    killed = stack.down()
    console.print(f"stopped {len(alive)} processes" + (f", killed {', '.join(killed)}" if killed else ""))


def status(stack: Stack, console: Console) -> None:
    """What runs where."""
    processes = stack.processes.all()
    if not processes:
        console.print("nothing runs; `make up` starts it")
        return
    table = Table(box=None, pad_edge=False)
    for column in ("process", "pid", "state", "address", "log"):
        table.add_column(column, no_wrap=True)
    for process in processes:
        state = "running" if process.alive() else "[red]ended[/red]"
        table.add_row(process.name, str(process.pid), state, process.url, _shown(process.log))
    console.print(table)


def _shown(path: str) -> str:
    """As one would type it here."""
    return os.path.relpath(path)


def guard(stack: Stack) -> None:
    """Stop the stack when whoever holds the other end of standard input is gone, however it went."""
    sys.stdin.read()
    stack.down()


if __name__ == "__main__":
    sys.exit(main())
