"""Replays load traces: `python -m tests.benchmarks.scaling [--traces FOLDER] [--json] [--plots FOLDER] [--faults]`.

Every CSV of the folder, or traces made here where none is given, at start-up times of 1, 3 and 10 minutes, by our
policy and by those that it is compared with. One setting of ours for all traces; each policy's headroom is swept, so
that policies are compared at equal cost and at equal violation time.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "plugins"))

from tests.benchmarks import scaling_rivals as rivals
from tests.benchmarks.scaling_ours import QUANTILES, SLO, SLO_LANE, Run, coverage, ours
from tests.benchmarks.scaling_plots import plot
from tests.benchmarks.scaling_replay import LEAD_MINUTES, Counts, Course, Score, course, score
from tests.benchmarks.scaling_table import Duel, Sweep, cost_ratio, duel, geometric_mean, layout, percent, ratio, rows
from tests.benchmarks.scaling_traces import Trace, read_folder, synthetic_traces

HPA, OURS, ORACLE = "HPA", "ours", "oracle"
HOLT_WINTERS = "predictive HPA, Holt-Winters"
LEARNT_MINUTES = 4 * 1440  # scored, of a course of which so much can be asked
TARGETS = tuple(f"{target:.0%}" for target in rivals.HPA_TARGETS)


@dataclasses.dataclass(frozen=True)
class Replayed:
    """Everything about one trace at one start-up time."""

    trace: str
    lead_minutes: int
    minutes: int  # scored
    sweeps: tuple[Sweep, ...]

    def of(self, policy: str) -> Sweep:
        """The sweep of one policy."""
        return next(sweep for sweep in self.sweeps if sweep.policy == policy)

    def duel(self, policy: str) -> Duel:
        """It beside the HPA at its usual target."""
        against = self.of(HPA)
        return duel(self.of(policy), against.scores[against.usual], self.minutes)


def main() -> None:
    """Reads, replays, prints."""
    options = _options()
    chosen = {name for name in options.only.split(",") if name}
    traces = read_folder(options.traces) if options.traces else iter(synthetic_traces())
    replayed: list[Replayed] = []
    for trace in traces:
        if chosen and trace.name not in chosen:
            continue
        if not options.json:
            print(f"\n{trace.name}: {trace.read}", flush=True)
        replayed += _replay(_cut(trace, options.days), options)
    if options.json:
        print(json.dumps([_plain(item) for item in replayed], indent=1))
    elif replayed:
        print(f"\n{_summary(replayed)}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.scaling", description=__doc__)
    parser.add_argument("--traces", type=Path, help="folder of CSV files; without it traces are made")
    parser.add_argument("--only", default="", help="names of traces, with commas between them")
    parser.add_argument("--days", type=float, default=0, help="only the first days of each trace")
    parser.add_argument("--leads", type=int, nargs="+", default=list(LEAD_MINUTES), help="start-up times in minutes")
    parser.add_argument("--faults", action="store_true", help="lost samples, NaN, outages, resets, failed starts")
    parser.add_argument("--ours-only", action="store_true", help="only ours and the HPA")
    parser.add_argument("--json", action="store_true", help="everything as JSON")
    parser.add_argument("--plots", type=Path, help="folder for one picture of each trace")
    return parser.parse_args()


def _cut(trace: Trace, days: float) -> Trace:
    return dataclasses.replace(trace, load=trace.load[: round(days * 1440)]) if days else trace


def _replay(trace: Trace, options: argparse.Namespace) -> Iterable[Replayed]:
    on = course(trace, faults=options.faults)
    common = {HPA: rivals.hpa(on)}
    sweeps: dict[int, tuple[Sweep, ...]] = {}
    asked: dict[int, dict[str, Counts]] = {}
    for lead in options.leads:
        begin = time.perf_counter()
        run = ours(on, lead)
        seconds = time.perf_counter() - begin
        lanes = {**common, **({} if options.ours_only else _others(on, lead))}
        sweeps[lead] = (*(_rival(on, lead, name, lane) for name, lane in lanes.items()), _ours(on, lead, run))
        asked[lead] = {HPA: common[HPA][:, rivals.usual_lane()], OURS: run.asked[:, SLO_LANE]}
        replayed = Replayed(trace.name, lead, int(on.scored.sum()), sweeps[lead])
        if not options.json:
            _say(replayed, seconds, run)
        yield replayed
    if options.plots:
        path = plot(on, sweeps, asked, options.plots)
        print(path, file=sys.stderr)


def _others(on: Course, lead: int) -> dict[str, Counts]:
    return {
        "predictive HPA, linear": rivals.predictive_linear(on, lead),
        HOLT_WINTERS: rivals.predictive_holt_winters(on, lead),
        "straight line": rivals.straight_line(on, lead),
        ORACLE: rivals.oracle(on),
    }


def _rival(on: Course, lead: int, name: str, asked: Counts) -> Sweep:
    settings: tuple[str, ...] = TARGETS
    usual = rivals.usual_lane()
    if name == "straight line":
        settings, usual = tuple(f"× {factor:g}" for factor in rivals.FACTORS), rivals.FACTORS.index(1.2)
    elif name == ORACLE:
        settings, usual = ("",), 0
    # The oracle asks in time for what is needed at each minute, so that its replicas are never late.
    return Sweep(name, settings, tuple(score(on, asked, 0 if name == ORACLE else lead)), usual)


def _ours(on: Course, lead: int, run: Run) -> Sweep:
    settings = (*(f"{quantile:g}" for quantile in QUANTILES), f"SLO {SLO:.1%}")
    return Sweep(OURS, settings, tuple(score(on, run.asked, lead)), SLO_LANE, tuple(coverage(on, run, lead)))


def _say(item: Replayed, seconds: float, run: Run) -> None:
    against = item.of(HPA)
    print(f"\n{item.trace}, {item.lead_minutes} min to start, {item.minutes:,} minutes scored")
    print(layout(rows(item.sweeps, against.scores[against.usual], item.minutes)))
    mine = item.of(OURS)
    swept = "  ".join(
        f"{setting}: {percent(one.violation)}/{one.cost:.2f} (covered {percent(covered)})"
        for setting, one, covered in zip(mine.settings, mine.scores, mine.coverage, strict=True)
    )
    costs = (cost_ratio(mine, scores, SLO) for scores in (mine.scores[:SLO_LANE], *_holt_winters(item)))
    print(
        "cost of ours at the SLO, × the cheapest own quantile, × Holt-Winters by hindsight: "
        + ", ".join(map(ratio, costs))
    )
    print(f"ours by quantile, violation/cost: {swept}")
    print(f"forecast trusted at {run.trusted:.0%} of the ticks; replayed in {seconds:.1f} s", flush=True)


def _holt_winters(item: Replayed) -> list[tuple[Score, ...]]:
    """Its scores at all headrooms, where it was replayed."""
    return [sweep.scores for sweep in item.sweeps if sweep.policy == HOLT_WINTERS]


def _summary(items: list[Replayed]) -> str:
    """The aims, and how far they are met."""
    policies = [sweep.policy for sweep in items[0].sweeps if sweep.policy not in {HPA, ORACLE}]
    lines = [("policy", "", "violation at HPA's cost", "worst", "over-cost at HPA's violation", "worst", "courses")]
    for policy in policies:
        duels = [item.duel(policy) for item in items]
        violations = [one.violation_ratio for one in duels]
        costs = [one.over_cost_ratio for one in duels]
        known = [value for value in violations if value is not None]
        lines.append(
            (
                policy,
                "× HPA",
                ratio(geometric_mean(violations)),
                ratio(max(known, default=None)),
                ratio(geometric_mean(costs)),
                ratio(max((value for value in costs if value is not None), default=None)),
                f"{len(known)}/{len(items)}",
            )
        )
    slo = [item.of(OURS).scores[SLO_LANE] for item in items]
    hpa = [item.of(HPA).scores[item.of(HPA).usual] for item in items]
    own = [cost_ratio(item.of(OURS), item.of(OURS).scores[:SLO_LANE], SLO) for item in items]
    rival = [cost_ratio(item.of(OURS), scores, SLO) for item in items for scores in _holt_winters(item)]
    known = [value for value in rival if value is not None]
    cheaper = sum(value <= 1 for value in known)
    gaps = [
        abs(covered - quantile)
        for item in items
        for quantile, covered in zip(QUANTILES, item.of(OURS).coverage, strict=False)
        if covered == covered
    ]
    aims = [
        ("aim", "", "measured", "aim"),
        ("highest violation time at the SLO of 0.5 %", "", percent(max(one.violation for one in slo)), "0.50 %"),
        ("lowest, of courses with days to learn from", "", percent(_lowest(items)), "0.20 %"),
        ("cost at that SLO, × the cheapest own quantile that keeps it", "", ratio(geometric_mean(own)), "1.05"),
        ("its highest", "", ratio(max((value for value in own if value is not None), default=None)), ""),
        (
            f"courses at most as dear as Holt-Winters by hindsight, of {len(known)}",
            "",
            str(cheaper),
            f"{0.8 * len(known):.0f}",
        ),
        (
            "actions an hour, × the HPA's (geometric mean)",
            "",
            ratio(geometric_mean([mine.actions / max(its.actions, 0.1) for mine, its in zip(slo, hpa, strict=True)])),
            "1.50",
        ),
        ("highest reversals an hour", "", f"{max(one.reversals for one in slo):.2f}", "1.00"),
        ("coverage's mean distance from the stated quantile", "", percent(sum(gaps) / len(gaps)), "1.00 %"),
        ("coverage's greatest distance", "", percent(max(gaps)), "1.00 %"),
    ]
    return layout(lines) + "\n\n" + layout(aims)


def _lowest(items: list[Replayed]) -> float:
    long = [item.of(OURS).scores[SLO_LANE].violation for item in items if item.minutes >= LEARNT_MINUTES]
    return min(long, default=math.nan)


def _plain(item: Replayed) -> dict[str, Any]:
    duels = {sweep.policy: dataclasses.asdict(item.duel(sweep.policy)) for sweep in item.sweeps}
    return {**dataclasses.asdict(item), "against_hpa": duels}


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    main()
