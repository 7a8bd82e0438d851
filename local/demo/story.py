"""The story: two versions of a model through its whole life, then a rising load."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import httpx

from local.demo.airflow_api import AirflowApi
from local.demo.figures import Figures, LoadPoint, Scaling, Training
from local.demo.follow import follow
from local.demo.narrator import Narrator
from local.stack.cluster import Cluster
from local.stack.dataset import Subject
from local.stack.environment import real
from local.stack.exceptions import StackError
from local.stack.stack import Stack, wait_for

DAGS = {"train_model", "promote_model", "roll_out_model", "scale_replicas", "clean_up"}
FIRST_VERSION = {"epochs": 1, "fraction": 0.5}
BAD_SHARE = 0.25
BAD_DELAY_SECONDS = 0.4

RATE = 50.0
RISEN_RATE = 100.0
CAPACITY = 40.0
UTILIZATION = 0.8
LEAD_SECONDS = 15
STEP_SECONDS = 5
FLAT_SECONDS = 12.0
RAMP_SECONDS = 45.0
PASSES = 14


class Story:
    """Drives Airflow as a person would, and tells what happens."""

    def __init__(self, stack: Stack, narrator: Narrator, subject: Subject) -> None:
        self._stack = stack
        self._layout = stack.layout
        self._narrator = narrator
        self._subject = subject
        self._api = AirflowApi(self._layout.url("airflow"))
        self._cluster = Cluster(stack.kubeconfig)
        self.figures = Figures(model=subject.model)

    def begin(self) -> None:
        """Wait until Airflow knows the DAGs; keep their schedules quiet so that each chapter has the machine."""
        wait_for("Airflow reading the five DAGs", self._dags_read, timeout=90)
        for dag in ("scale_replicas", "clean_up"):
            self._api.pause(dag, paused=True)
        self._stack.start_load(self._subject.model, self._subject.folder, RATE)

    def train(self, params: dict[str, Any], *, watch: Callable[[], None] | None = None, may_fail: bool = False) -> None:
        """One training, its promotion and its rollout; each DAG starts the next by its asset."""
        asked = {"model": self._subject.model, "dataset": self._subject.dataset, **params}
        began = _now()
        run = self._api.trigger("train_model", asked)
        follow(self._api, self._narrator, "train_model", run, timeout=600)
        self._narrator.say("train_model updated the asset candidate_model, which starts promote_model")
        training = Training(
            version=str(self._api.result("train_model", run, "register")["version"]),
            ingest=self._api.result("train_model", run, "ingest"),
            training=self._api.result("train_model", run, "train"),
            evaluation=self._api.result("train_model", run, "evaluate"),
            cluster=self._api.result("train_model", run, "delete_cluster"),
        )
        self.figures.trainings.append(training)
        self._tell_training(training)
        run = self._api.wait_for_run("promote_model", began, timeout=60)
        tasks = follow(self._api, self._narrator, "promote_model", run, timeout=180)
        if any(task.task.endswith("publish") and task.state == "skipped" for task in tasks):
            judged = next(task for task in tasks if task.task.endswith("judge"))
            reason = self._api.error("promote_model", run, judged) or "see the task judge"
            raise StackError(f"version {training.version} was refused: {reason}")
        training.gate = self._gate(training.version)
        self._narrator.say("promote_model updated champion_model, which starts roll_out_model")
        run = self._api.wait_for_run("roll_out_model", began, timeout=60)
        looks = Looks(self._cluster, self._subject.model, self._narrator)

        def seen() -> None:
            looks.tell()
            if watch is not None:
                watch()

        follow(self._api, self._narrator, "roll_out_model", run, timeout=600, may_fail=may_fail, watch=seen)
        training.rollout = self._api.result("roll_out_model", run, "roll_out.close", index=0)
        outcome = training.rollout["outcome"].replace("_", " ")
        self._narrator.say(f"[bold]version {training.version} {outcome}[/bold]: {training.rollout['reason']}")

    def break_canary(self) -> Callable[[], None]:
        """What spoils the canary as soon as it gets users' traffic, after its smoke test has passed."""
        admin = self._layout.url("ingress-admin")
        done = threading.Event()

        def spoil() -> None:
            state = self._cluster.rollout(self._subject.model)
            if done.is_set() or state.get("phase") != "canary":
                return
            fault = {"error_rate": BAD_SHARE, "delay_seconds": BAD_DELAY_SECONDS}
            httpx.put(f"{admin}/faults/{quote(state['revision'])}", json=fault, timeout=5).raise_for_status()
            done.set()
            self._narrator.say(
                f"[yellow]the ingress now answers {BAD_SHARE:.0%} of {state['revision']}'s requests with an error and "
                f"delays all of them by {1000 * BAD_DELAY_SECONDS:.0f} ms[/yellow]"
            )

        return spoil

    def scale(self) -> None:
        """Raise the load and let the scaler see it coming."""
        scaling = Scaling(capacity=CAPACITY)
        self._cluster.scale_by_forecast(
            self._subject.model,
            min_replicas=1,
            max_replicas=4,
            history_size=40,
            step_seconds=STEP_SECONDS,
            capacity_per_replica=CAPACITY,
            target_utilization=UTILIZATION,
            lead_time_seconds=LEAD_SECONDS,
            stabilization_seconds=60,
            mode="auto",
        )
        began = time.monotonic()
        began_at = datetime.now(UTC)
        # The run by hand is queued before the schedule resumes: one run at a time, and this is the one.
        run = self._api.trigger("scale_replicas", {"passes": PASSES, "interval_seconds": STEP_SECONDS})
        self._api.pause("scale_replicas", paused=False)
        told: list[int] = []

        def watch() -> None:
            at = time.monotonic() - began
            rate = _ramp(at)
            self._stack.set_load(rate)
            replicas = self._cluster.replicas(self._subject.model)
            running = replicas.actual if replicas else 0
            scaling.points.append(LoadPoint(at, rate, running))
            if told[-1:] != [running]:
                told.append(running)
                self._narrator.say(f"load {rate:.0f}/s, {running} replica{'s' if running != 1 else ''} running")

        follow(self._api, self._narrator, "scale_replicas", run, timeout=300, watch=watch)
        self._api.pause("scale_replicas", paused=True)
        for decision in self._decisions(since=began_at):
            if decision["written"] and decision["desired"] != decision["replicas"]:
                seconds = (datetime.fromisoformat(decision["at"]) - began_at).total_seconds()
                scaling.changes.append({**decision, "seconds": seconds})
        self.figures.scaling = scaling
        if not scaling.changes:
            raise StackError(f"the scaler changed no replicas while the load rose to {RISEN_RATE:.0f}/s: see its runs")

    def _decisions(self, since: datetime) -> list[dict[str, Any]]:
        """What every run of scale_replicas decided, the scheduled ones included, oldest first."""
        found: dict[str, dict[str, Any]] = {}
        for run in self._api.runs("scale_replicas"):
            if run["state"] == "success" and datetime.fromisoformat(run["end_date"]) >= since:
                for decision in self._api.result("scale_replicas", run["dag_run_id"], "scale_replicas"):
                    found[decision["at"]] = decision
        return [found[at] for at in sorted(found)]

    def collect(self) -> Figures:
        """What the summary needs from the stand-ins; to be called while they run."""
        figures = self.figures
        if not real("YC_SERVICE_ACCOUNT_KEY"):
            history = httpx.get(f"{self._layout.url('yandex-http')}/history", timeout=10)
            figures.clusters = history.raise_for_status().json()["clusters"]
        figures.aliases = self._aliases()
        figures.mlflow = real("MLFLOW_TRACKING_URI") or self._layout.url("mlflow")
        figures.service_url = self._cluster.service(self._subject.model).get("status", {}).get("url", "")
        figures.load = self._stack.load_statistics()
        self._api.close()
        return figures

    def check_nothing_left(self) -> None:
        """StackError if a cluster lives or a Lease is held."""
        alive = [cluster["name"] for cluster in self.figures.clusters if not cluster.get("deleted")]
        if alive:
            raise StackError(f"clusters were left behind: {', '.join(alive)}")
        if held := self._cluster.held_leases():
            raise StackError(f"Leases are still held: {', '.join(held)}")

    def _dags_read(self) -> bool:
        if errors := self._api.import_errors():
            raise StackError(f"a DAG file cannot be imported: {errors[0]}")
        return self._api.dags() >= DAGS

    def _aliases(self) -> dict[str, str]:
        url = f"{real('MLFLOW_TRACKING_URI') or self._layout.url('mlflow')}/api/2.0/mlflow/registered-models/get"
        answer = httpx.get(url, params={"name": self._subject.model}, timeout=10).raise_for_status().json()
        return {entry["alias"]: entry["version"] for entry in answer["registered_model"].get("aliases", ())}

    def _gate(self, version: str) -> dict[str, str]:
        """What each check of the gate said of a version."""
        url = f"{real('MLFLOW_TRACKING_URI') or self._layout.url('mlflow')}/api/2.0/mlflow/model-versions/get"
        params = {"name": self._subject.model, "version": version}
        answer = httpx.get(url, params=params, timeout=10).raise_for_status().json()
        tags = {tag["key"]: tag["value"] for tag in answer["model_version"].get("tags", ())}
        return {key.removeprefix("gate."): value for key, value in tags.items() if key.startswith("gate.")}

    def _tell_training(self, training: Training) -> None:
        ingest, evaluation = training.ingest, training.evaluation
        reused = " (prepared before)" if ingest["reused"] else ""
        for warning in ingest["warnings"]:
            self._narrator.say(f"[yellow]{warning}[/yellow]")
        self._narrator.say(
            f"[bold]version {training.version}[/bold]: {ingest['images']} images read{reused}, trained on "
            f"{training.training['train_images']}, hold-out accuracy {evaluation['accuracy']:.1%}, "
            f"loss {evaluation['loss']:.3f}"
        )


class Looks:
    """Tells each look of a rollout as its Lease shows it."""

    def __init__(self, cluster: Cluster, service: str, narrator: Narrator) -> None:
        self._cluster = cluster
        self._service = service
        self._narrator = narrator
        self._told = (0, 0)

    def tell(self) -> None:
        """Tell the newest look, once."""
        steps = self._cluster.rollout(self._service).get("steps") or []
        if not steps:
            return
        step = steps[-1]
        if (len(steps), step["looks"]) == self._told or not step["looks"]:
            return
        self._told = (len(steps), step["looks"])
        verdict = step["verdict"].replace("_", " ")
        self._narrator.say(f"  canary at {step['percent']:>3} %, look {step['looks']}: {verdict}, {step['reason']}")


def _ramp(at: float) -> float:
    """Requests a second, `at` seconds into the chapter: flat, then rising, then flat."""
    share = min(max((at - FLAT_SECONDS) / RAMP_SECONDS, 0.0), 1.0)
    return RATE + share * (RISEN_RATE - RATE)


def _now() -> str:
    return datetime.now(UTC).isoformat()
