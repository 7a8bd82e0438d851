"""How good the canary's verdict is: simulated rollouts beside the peers' rules and an oracle.

    python -m tests.benchmarks.canary [--rollouts N] [--full] [--cells relative,…,latency,sources]
                                      [--json FILE] [--markdown FILE] [--readme FILE]

Every number is a share of simulated rollouts or a median over them; a cell's streams depend on the seed and on the
cell alone. What misses its aim is marked with an exclamation mark.
"""

import argparse
import json
import time
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console

import local  # noqa: F401  puts plugins/ on the path
from tests.benchmarks.canary_cells import (
    BURST_RATIOS,
    RATIOS,
    Measured,
    bursts,
    catastrophe_cells,
    floor_cells,
    latency_cells,
    measure,
    relative_limits,
    settings,
    source_cells,
)
from tests.benchmarks.canary_streams import Cell
from tests.benchmarks.canary_tables import (
    BEGIN,
    END,
    Table,
    between_markers,
    burst_table,
    named_table,
    relative_table,
    to_markdown,
    to_rich,
)

KINDS = ("relative", "bursts", "floor", "catastrophe", "latency", "sources")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rollouts", type=int, default=10_000, help="simulated rollouts a cell")
    parser.add_argument("--full", action="store_true", help="every combination of rate, base error, CV and incident")
    parser.add_argument("--cells", default=",".join(KINDS), help="which tables, with commas between")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write every number to this file")
    parser.add_argument("--markdown", type=Path, help="write the tables as Markdown to this file")
    parser.add_argument("--readme", type=Path, help=f"put the tables between {BEGIN} and {END} of this file")
    options = parser.parse_args()
    console, started = Console(width=200), time.monotonic()
    tables, numbers = [], []
    for kind in options.cells.split(","):
        table, measured = _run(kind, options, console)
        tables.append(table)
        numbers.extend(each.to_json() for each in measured)
        console.print(to_rich(table))
    minutes = (time.monotonic() - started) / 60
    note = f"{options.rollouts:,} rollouts a cell, seed {options.seed}, {minutes:.0f} minutes"
    console.print(note)
    if options.json:
        options.json.write_text(json.dumps(numbers))
    text = "\n\n".join([*map(to_markdown, tables), note])
    if options.markdown:
        options.markdown.write_text(f"{text}\n")
    if options.readme:
        options.readme.write_text(between_markers(options.readme.read_text(), text))


def _run(kind: str, options: argparse.Namespace, console: Console) -> tuple[Table, list[Measured]]:
    def one(cell: Cell, limits: object, *, peers: bool) -> Measured:
        with console.status(f"{kind}: {cell}"):
            return measure(cell, options.rollouts, options.seed, limits, peers=peers)

    if kind == "relative":
        limits = relative_limits()
        worlds = [
            [one(Cell(setting, ratio), limits, peers=True) for ratio in RATIOS]
            for setting in settings(full=options.full)
        ]
        return relative_table(worlds), [each for world in worlds for each in world]
    if kind == "bursts":
        worlds = [
            [one(Cell(setting, ratio), relative_limits(), peers=False) for ratio in BURST_RATIOS]
            for setting in bursts()
        ]
        return burst_table(worlds), [each for world in worlds for each in world]
    named: Iterable = {
        "floor": floor_cells,
        "catastrophe": catastrophe_cells,
        "latency": latency_cells,
        "sources": source_cells,
    }[kind]()
    rows = [(text, one(cell, limits, peers=False)) for text, cell, limits in named]
    return named_table(kind, rows), [each for _, each in rows]


if __name__ == "__main__":
    main()
