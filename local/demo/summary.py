"""The closing summary: from figures to what a person reads. No I/O but the console."""

from __future__ import annotations

from typing import Any

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from local.demo.figures import Catch, Figures, Scaling


def show(console: Console, figures: Figures, seconds: float) -> None:
    """Print the summary."""
    parts: list[RenderableType] = [_clusters(figures), Text(), _versions(figures), Text()]
    for report in figures.rollouts:
        parts += [_rollout(report), Text()]
    if figures.scaling is not None:
        parts += [_scaling(figures.scaling), Text()]
    if figures.load:
        parts += [_users(figures.load), Text()]
    parts.append(_addresses(figures))
    console.print()
    console.print(Panel(Group(*parts), title=f"The life of {figures.model!r} in {_clock(seconds)}", expand=False))


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        right = column in {
            "lived",
            "cost",
            "images",
            "left out",
            "accuracy",
            "loss",
            "traffic",
            "requests",
            "errors",
            "p95",
            "load",
            "forecast",
        }
        table.add_column(column, justify="right" if right else "left", header_style="dim")
    return table


def _clusters(figures: Figures) -> RenderableType:
    table = _table("Clusters", "name", "created", "deleted", "lived", "cost", "jobs")
    costs = {training.cluster.get("cluster_name"): training.cluster for training in figures.trainings}
    for cluster in figures.clusters:
        deleted = cluster.get("deleted")
        lived = f"{deleted - cluster['created']:.0f} s" if deleted else "-"
        jobs = ", ".join(f"{job['name'].rpartition('-')[0]} {job['status'].lower()}" for job in cluster["jobs"])
        cost = _cost(costs.get(cluster["name"], {}))
        table.add_row(cluster["name"], "yes", "yes" if deleted else "[red]NO[/red]", lived, cost, jobs)
    return table


def _cost(deleted: dict[str, Any]) -> str:
    """What a cluster cost, as its deletion says."""
    cost = deleted.get("cost")
    return "-" if cost is None else f"{cost:.2f} {deleted['currency']}"


def _versions(figures: Figures) -> RenderableType:
    table = _table(
        "Model versions",
        "version",
        "images",
        "train",
        "hold-out",
        "left out",
        "accuracy",
        "loss",
        "aliases",
        "how it ended",
    )
    for training in figures.trainings:
        ingest, evaluation = training.ingest, training.evaluation
        aliases = ", ".join(sorted(name for name, version in figures.aliases.items() if version == training.version))
        table.add_row(
            training.version,
            str(ingest.get("images", "-")),
            str(training.training.get("train_images", "-")),
            str(evaluation.get("holdout_images", "-")),
            str(ingest.get("corrupt", 0) + ingest.get("duplicates", 0)),
            f"{evaluation['accuracy']:.1%}",
            f"{evaluation['loss']:.3f}",
            aliases or "-",
            _ending(figures.rollout(training.version)),
        )
    compared = [
        f"version {training.version} against the champion: {words}"
        for training in figures.trainings
        if (words := training.gate.get("accuracy_against_champion"))
    ]
    return Group(table, *(Text(line, style="dim") for line in compared))


def _ending(rollout: dict[str, Any]) -> str:
    outcome = rollout.get("outcome", "not rolled out")
    colour = "green" if outcome == "promoted" else "red"
    return f"[{colour}]{outcome.replace('_', ' ')}[/{colour}]"


def _rollout(rollout: dict[str, Any]) -> RenderableType:
    title = f"Rollout of version {rollout['version']} ({rollout['seconds']:.0f} s)"
    if not rollout["steps"]:
        return Group(Text(title, style="bold"), Text(f"no canary: {rollout['reason']}", style="dim"))
    before = Text(f"expected before: {rollout.get('outlook') or 'nothing'}", style="dim")
    ending = Text(f"{rollout['outcome'].replace('_', ' ')}: {rollout['reason']}")
    table = _table(title, "traffic", "side", "requests", "errors", "p95", "verdict")
    for step in rollout["steps"]:
        looks = "1 look" if step["looks"] == 1 else f"{step['looks']} looks"
        verdict = f"{step['verdict'].replace('_', ' ')} after {looks}"
        table.add_row(f"{step['percent']} %", "canary", *_side(step["canary"]), verdict)
        table.add_row("", "stable", *_side(step["stable"]), "")
    return Group(table, before, ending, *([_catch(rollout)] if rollout["outcome"] == "rolled_back" else ()))


def _catch(rollout: dict[str, Any]) -> RenderableType:
    catch = Catch.of(rollout)
    return Text(
        f"caught {catch.seconds:.0f} s after the first look, by {catch.requests} canary requests, of which "
        f"{catch.failed} failed",
        style="bold",
    )


def _side(side: dict[str, Any]) -> tuple[str, str, str]:
    latency = "-" if side["p95_ms"] is None else f"{side['p95_ms']:.0f} ms"
    return str(side["requests"]), str(side["errors"]), latency


def _scaling(scaling: Scaling) -> RenderableType:
    table = _table("Scaling", "at", "load", "forecast", "replicas", "why")
    start = scaling.points[0].at if scaling.points else 0.0
    for change in scaling.changes:
        forecast = change["forecast"]
        table.add_row(
            f"+{change['seconds'] - start:.0f} s",
            f"{change['load'] or 0:.0f}/s",
            f"{forecast:.0f}/s" if forecast is not None else "-",
            f"{change['replicas']} → {change['desired']}",
            change["why"],
        )
    lines = [_crossing(scaling, *crossing) for crossing in crossings(scaling)]
    return Group(table, *(Text(line, style="dim") for line in lines))


def _crossing(scaling: Scaling, before: int, crossed: float, lead: float) -> str:
    old = f"{before} replicas" if before > 1 else "1 replica"
    ran = f"{lead:.0f} s before" if lead >= 0 else f"only {-lead:.0f} s after"
    return (
        f"at +{crossed:.0f} s the load passed {scaling.full(before):.0f}/s, all that {old} can take: "
        f"{before + 1} were running {ran}"
    )


def crossings(scaling: Scaling) -> list[tuple[int, float, float]]:
    """For each limit that the rising load crossed: replicas that carry it, when, and how much earlier one more ran."""
    found = []
    points = scaling.points
    for before in range(1, 1 + max((point.replicas for point in points), default=0)):
        limit = scaling.full(before)
        crossed = next((point.at for point in points if point.rate > limit), None)
        ready = next((point.at for point in points if point.replicas > before), None)
        if crossed is not None and ready is not None and points[0].rate <= limit:
            found.append((before, crossed, crossed - ready))
    return found


def _users(load: dict[str, Any]) -> RenderableType:
    latency = load["latency_seconds"]["p95"]
    line = Text("Users", style="bold")
    share = load["failed"] / max(load["requests"], 1)
    seen = f"\n{load['requests']} requests, {load['failed']} failed ({share:.2%})"
    return line.append(seen + (f", p95 {1000 * latency:.0f} ms" if latency is not None else ""), style="not bold")


def _addresses(figures: Figures) -> RenderableType:
    lines = Text()
    lines.append("Addresses", style="bold")
    lines.append(f"\nMLflow   {figures.mlflow}\nmodel    {figures.service_url}")
    if figures.picture:
        lines.append(f"\npicture  {figures.picture}")
    lines.append("\nunder `make up`, ask it for a prediction:\n", style="dim")
    lines.append(
        f"  curl {figures.service_url}/v1/models/{figures.model}:predict -d "
        '"{\\"instances\\": [{\\"image\\": {\\"b64\\": \\"$(base64 -w0 IMAGE.png)\\"}}]}"'
    )
    return lines


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"
