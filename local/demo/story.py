"""The story: two versions of a model through its whole life, then a rising load, or a bad version that is caught."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import httpx

from local.demo.airflow_api import AirflowApi
from local.demo.figures import Figures, LoadPoint, Scaling, Training
from local.demo.follow import Watcher, follow
from local.demo.narrator import Narrator
from local.stack.cluster import Cluster
from local.stack.dataset import Subject
from local.stack.environment import real
from local.stack.exceptions import StackError
from local.stack.stack import Stack, wait_for

DAGS = {
    "train_model",
    "promote_model",
    "roll_out_model",
    "roll_back_model",
    "steer_rollout",
    "scale_replicas",
    "clean_up",
}
FIRST_VERSION = {"epochs": 1, "fraction": 0.5}
CRASH = {"error_rate": 0.25, "delay_seconds": 0.4}
BASE_ERRORS, WORSE_ERRORS = 0.05, 0.10
"""Shares of failed requests: of the stable side, and of a canary that is twice as bad."""

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
        self.figures = Figures(model=subject.model, mlflow=real("MLFLOW_TRACKING_URI") or self._layout.url("mlflow"))

    def begin(self) -> None:
        """Wait until Airflow knows the DAGs; keep their schedules quiet so that each chapter has the machine."""
        wait_for("Airflow reading the DAGs", self._dags_read, timeout=90, check=self._stack.processes.check)
        for dag in ("scale_replicas", "clean_up"):
            self._api.pause(dag, paused=True)
        self._stack.start_load(self._subject.model, self._subject.folder, RATE)

    def train(self, params: dict[str, Any], *, watch: Watcher | None = None, may_fail: bool = False) -> None:
        """One training, its promotion and its rollout; each DAG starts the next by its asset."""
        asked = {"model": self._subject.model, "dataset": self._subject.dataset, **params}
        began = _now()
        run = self._api.trigger("train_model", asked)
        follow(self._api, self._narrator, "train_model", run, timeout=600, watch=self._stack.processes.check)
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
        tasks = follow(self._api, self._narrator, "promote_model", run, timeout=180, watch=self._stack.processes.check)
        if any(task.task.endswith("publish") and task.state == "skipped" for task in tasks):
            judged = next(task for task in tasks if task.task.endswith("judge"))
            reason = self._api.error("promote_model", run, judged) or "see the task judge"
            raise StackError(f"version {training.version} was refused: {reason}")
        training.gate = self._gate(training.version)
        self._narrator.say("promote_model updated champion_model, which starts roll_out_model")
        run = self._api.wait_for_run("roll_out_model", began, timeout=60)
        self._roll_out(run, watch=watch, may_fail=may_fail)

    def crash_canary(self) -> Watcher:
        """What breaks the canary as soon as it gets users' traffic, after its smoke test has passed."""
        return self._spoil_canary(CRASH)

    def roll_out_worse(self) -> None:
        """The last version once more, by hand: its users meet twice the errors that those of the stable one do."""
        self._stack.set_load(RISEN_RATE)
        live = self._cluster.replicas(self._subject.model)
        if live is None:
            raise StackError(f"no revision of {self._subject.model} serves: there is nothing to compare with")
        self._spoil(live.revision, {"error_rate": BASE_ERRORS})
        asked = {"model": self._subject.model, "version": self.figures.trainings[-1].version}
        run = self._api.trigger("roll_out_model", asked)
        self._roll_out(run, watch=self._spoil_canary({"error_rate": WORSE_ERRORS}), may_fail=True)

    def _roll_out(self, run: str, *, watch: Watcher | None, may_fail: bool) -> None:
        """Tell a rollout and keep its report."""
        looks = Looks(self._cluster, self._subject.model, f"roll_out_model/{run}", self._narrator)

        def seen() -> None:
            looks.tell()
            if watch is not None:
                watch()

        follow(self._api, self._narrator, "roll_out_model", run, timeout=600, may_fail=may_fail, watch=seen)
        report = self._api.result("roll_out_model", run, "roll_out.close", index=0)
        self.figures.rollouts.append(report)
        outcome = report["outcome"].replace("_", " ")
        self._narrator.say(f"[bold]version {report['version']} {outcome}[/bold]: {report['reason']}")

    def _spoil_canary(self, fault: dict[str, float]) -> Watcher:
        """Injects `fault` once the canary has users: what it is asked before that are the smoke test's questions."""
        spoilt: set[str] = set()

        def watch() -> None:
            state = self._cluster.rollout(self._subject.model)
            if state.get("phase") == "canary" and state["revision"] not in spoilt:
                self._spoil(state["revision"], fault)
                spoilt.add(state["revision"])

        return watch

    def _spoil(self, revision: str, fault: dict[str, float]) -> None:
        url = f"{self._layout.url('ingress-admin')}/faults/{quote(revision)}"
        httpx.put(url, json=fault, timeout=5).raise_for_status()
        delay = fault.get("delay_seconds", 0)
        slow = f" and delays all of them by {1000 * delay:.0f} ms" if delay else ""
        self._narrator.say(
            f"[yellow]the ingress now answers {fault['error_rate']:.0%} of {revision}'s requests with an error{slow}"
            "[/yellow]"
        )

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
        figures.picture = self._picture_page()
        figures.service_url = self._cluster.service(self._subject.model).get("status", {}).get("url", "")
        figures.load = self._stack.load_statistics()
        self._api.close()
        return figures

    def picture(self) -> str:
        """The picture of the last rollout, an SVG; StackError where MLflow has none."""
        report = self.figures.rollouts[-1]
        query = {"run_uuid": report["run_id"], "path": f"rollout/version-{report['version']}.svg"}
        answer = httpx.get(f"{self.figures.mlflow}/get-artifact", params=query, timeout=30)
        if answer.is_error:
            raise StackError(f"MLflow has no picture of the rollout of version {report['version']}: {answer.text}")
        return answer.text

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
        model = self._mlflow("registered-models/get", name=self._subject.model)["registered_model"]
        return {entry["alias"]: entry["version"] for entry in model.get("aliases", ())}

    def _picture_page(self) -> str:
        """Where MLflow shows the picture of the last canary; empty without one."""
        seen = [report for report in self.figures.rollouts if report.get("looks")]
        if not seen:
            return ""
        run = self._mlflow("runs/get", run_id=seen[-1]["run_id"])["run"]["info"]
        page = f"{self.figures.mlflow}/#/experiments/{run['experiment_id']}/runs/{run['run_id']}"
        return f"{page}/artifacts/rollout/version-{seen[-1]['version']}.svg"

    def _gate(self, version: str) -> dict[str, str]:
        """What each check of the gate said of a version."""
        found = self._mlflow("model-versions/get", name=self._subject.model, version=version)["model_version"]
        tags = {tag["key"]: tag["value"] for tag in found.get("tags", ())}
        return {key.removeprefix("gate."): value for key, value in tags.items() if key.startswith("gate.")}

    def _mlflow(self, path: str, **params: str) -> dict[str, Any]:
        answer = httpx.get(f"{self.figures.mlflow}/api/2.0/mlflow/{path}", params=params, timeout=10)
        return dict(answer.raise_for_status().json())

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
    """Tells each look of a rollout as its Lease shows it, as long as `holder` is whose state stands there."""

    def __init__(self, cluster: Cluster, service: str, holder: str, narrator: Narrator) -> None:
        self._cluster = cluster
        self._service = service
        self._holder = holder
        self._narrator = narrator
        self._told = (0, 0)

    def tell(self) -> None:
        """Tell the newest look, once."""
        state = self._cluster.rollout(self._service)
        steps = state.get("steps") or []
        if not steps or state["holder"] != self._holder:
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
