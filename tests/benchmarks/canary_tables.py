"""The benchmark's tables: as text for a terminal and as Markdown. What misses its aim ends with an exclamation mark."""

import math
from dataclasses import dataclass

from rich import box
from rich.table import Table as RichTable

from tests.benchmarks.canary_cells import MARGIN, Measured
from tests.benchmarks.canary_streams import LOOKS, Setting

BEGIN, END = "<!-- bench-canary -->", "<!-- /bench-canary -->"


@dataclass(frozen=True)
class Table:
    """Plain text by row and column."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def to_rich(table: Table) -> RichTable:
    rich = RichTable(title=table.title, box=box.SIMPLE_HEAD, title_justify="left")
    for index, column in enumerate(table.columns):
        rich.add_column(column, justify="left" if index == 0 else "right")
    for row in table.rows:
        rich.add_row(*(f"[red]{text}[/red]" if text.endswith("!") else text for text in row))
    return rich


def to_markdown(table: Table) -> str:
    lines = [table.columns, tuple("---" if index == 0 else "--:" for index in range(len(table.columns))), *table.rows]
    body = "\n".join("| " + " | ".join(_bold(text) for text in line) + " |" for line in lines)
    return f"**{table.title}**\n\n{body}"


def between_markers(document: str, text: str) -> str:
    """The document with `text` in place of what stands between the two markers."""
    if document.count(BEGIN) != 1 or document.count(END) != 1:
        raise ValueError(f"the document needs {BEGIN} and {END} once each, to know where the tables go")
    before, rest = document.split(BEGIN)
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.split(END)[1]}"


def _bold(text: str) -> str:
    return f"**{text}**" if text.endswith("!") else text


def relative_table(worlds: list[list[Measured]]) -> Table:
    """One row a setting; its cells are the ratios 1, margin, 2, 3 and 5."""
    title = "Floor 0, margin 1.5×, α 1 %, β 5 %: share of rollouts, median looks and errors suffered, beside the oracle"
    columns = (
        "req/min, base, how it varies",
        "1× rolled back ≤1%",
        "1× promoted",
        "1.5× promoted ≤5%",
        "2×",
        "3× ≤0.1%",
        "5×",
        *(f"looks {ratio} (oracle)" for ratio in ("1×", "2×", "3×", "5×")),
        "errors 5× (oracle)",
        "false + missed, ours : best peer",
    )
    return Table(title, columns, tuple(_relative_row(world) for world in worlds))


def _relative_row(world: list[Measured]) -> tuple[str, ...]:
    same, margin, double, triple, five = world
    setting = same.cell.setting
    must_promote = setting.rate == 1200 and setting.base == 0.005 and not setting.spread and not setting.incident
    return (
        _setting(setting),
        _share(same.rolled_back, most=0.01),
        _share(same.promoted, least=0.95 if must_promote else 0.0),
        _share(margin.promoted, most=0.05),
        _share(double.promoted),
        _share(triple.promoted, most=0.001),
        _share(five.promoted),
        *(_against(each.looks, each.oracle_looks) for each in (same, double, triple, five)),
        _against(five.suffered, five.oracle_suffered),
        _against_peers(world),
    )


def burst_table(worlds: list[list[Measured]]) -> Table:
    """One row a setting; its cells are the ratios 1, margin and 3."""
    title = "Bursts of either side alone, of several looks: share of rollouts"
    columns = (
        "req/min, base, how it varies",
        "1× rolled back ≤1%",
        "1× promoted",
        "1.5× promoted ≤5%",
        "3× promoted ≤0.1%",
        "3× rolled back",
    )
    return Table(title, columns, tuple(_burst_row(*world) for world in worlds))


def _burst_row(same: Measured, margin: Measured, triple: Measured) -> tuple[str, ...]:
    return (
        _setting(same.cell.setting),
        _share(same.rolled_back, most=0.01),
        _share(same.promoted),
        _share(margin.promoted, most=0.05),
        _share(triple.promoted, most=0.001),
        _share(triple.rolled_back),
    )


def named_table(title: str, rows: list[tuple[str, Measured]]) -> Table:
    columns = ("", "rolled back", "promoted", "decided at look 1", "median looks", "median canary requests")
    body = [
        (
            text,
            _share(each.rolled_back),
            _share(each.promoted),
            _share(each.at_first_look),
            _number(each.looks),
            _number(each.canary_requests),
        )
        for text, each in rows
    ]
    return Table(title, columns, tuple(body))


def _setting(setting: Setting) -> str:
    text = f"{setting.rate:,} at {setting.base:.1%}"
    text += f", CV {setting.spread:g}" if setting.spread else ""
    text += f", bursts of {setting.burst} looks" if setting.burst > 1 else ""
    text += f" of {setting.look_seconds} s" if setting.look_seconds != 60 else ""
    text += ", incident" if setting.incident else ""
    return text + ("" if setting.history else ", no history")


def _share(share: float, *, most: float = 1.0, least: float = 0.0) -> str:
    text = f"{100 * share:.2f}" if 0 < share < 0.1 else f"{100 * share:.0f}"
    return text + ("" if least <= share <= most else " !")


def _number(value: float) -> str:
    return f">{LOOKS}" if math.isinf(value) else f"{value:,.0f}"


def _against(ours: float, oracle: float) -> str:
    """Ours and the oracle's; a miss if more than 1.5 times, and no miss where a hundred looks cannot tell."""
    missed = ours > 1.5 * oracle if math.isfinite(ours) else 1.5 * oracle < LOOKS
    digits = 1 if ours < 100 and oracle != int(oracle) else 0
    text = _number(ours) if math.isinf(ours) or not digits else f"{ours:.1f}"
    other = _number(oracle) if math.isinf(oracle) or not digits else f"{oracle:.1f}"
    return f"{text} ({other})" + (" !" if missed else "")


def _against_peers(world: list[Measured]) -> str:
    """The ratio at which we do worst beside the best peer: false roll-backs plus promotions of the regression."""
    same, *regressions = world
    worst = None
    for each in regressions:
        ours = same.rolled_back + each.promoted
        peers = {name: same.peers[name] + 1 - each.peers[name] for name in same.peers}
        best = min(peers, key=peers.__getitem__)
        if worst is None or ours - peers[best] > worst[0]:
            worst = (ours - peers[best], ours, peers[best], best, each.cell.ratio)
    difference, ours, theirs, name, ratio = worst
    ratio_text = f"{ratio:g}×" if ratio != MARGIN else "margin"
    return f"{100 * ours:.1f} : {100 * theirs:.1f} {name} at {ratio_text}" + (" !" if difference > 0 else "")
