"""MLflow's runs and registry: few typed calls, each safe to repeat."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ml_lifecycle.address import without_credentials
from ml_lifecycle.tracking.exceptions import (
    EvaluationUnreadableError,
    ServingArtifactMissingError,
    TrackingConnectionError,
    TrackingRequestError,
    TrackingUnreachableError,
    VersionMissingError,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHALLENGER = "challenger"
CHAMPION = "champion"
LIVE = "live"

# MLflow's own defaults retry an unreachable server for minutes.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "4", "MLFLOW_HTTP_REQUEST_TIMEOUT": "60"}
_SILENCE = {"MLFLOW_DISABLE_TELEMETRY": "true"}
_CREDENTIALS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
_TAG_LIMIT = 5000
_PLAN = "training.plan"


@dataclass(frozen=True)
class Run:
    """An MLflow run."""

    run_id: str
    url: str


@dataclass(frozen=True)
class ModelVersion:
    """A registered version of a model."""

    model: str
    version: str
    run_id: str
    tags: Mapping[str, str] = field(default_factory=dict)


class TrackingClient:
    """One MLflow server. `uri` holds no credentials; `connect` keeps those in the environment meanwhile."""

    def __init__(self, uri: str) -> None:
        from mlflow import MlflowClient

        self.uri = uri
        self._client: MlflowClient = MlflowClient(tracking_uri=uri, registry_uri=uri)

    # Runs

    def start_run(
        self,
        experiment: str,
        *,
        dag_id: str,
        dag_run_id: str,
        name: str,
        tags: Mapping[str, str | None],
        plan: str = "",
    ) -> Run:
        """The MLflow run of one Airflow run and plan: started, or found by its tags and set to running again.

        plan: a digest of what a training cannot change on its way, as params of a run cannot be changed. An Airflow
        run that was cleared with another plan gets another MLflow run; the earlier one is marked as failed unless it
        had finished.
        """
        own = {"airflow.dag": dag_id, "airflow.run": dag_run_id}
        with _asking("start a run"):
            experiment_id = self._experiment(experiment)
            clauses = [f"tags.`{key}` = {_quoted(value)}" for key, value in own.items()]
            found = self._client.search_runs([experiment_id], " and ".join(clauses))
            # A run without the tag began before there was one.
            same = [run for run in found if plan in ("", run.data.tags.get(_PLAN, plan))]
            if same:
                run_id = same[0].info.run_id
                self._client.update_run(run_id, status="RUNNING")
            else:
                known = {key: value for key, value in tags.items() if value is not None}
                run_id = self._client.create_run(experiment_id, tags={**known, **own}, run_name=name).info.run_id
            if plan:
                self._client.set_tag(run_id, _PLAN, plan)
        for run in found:
            if run not in same and run.info.status != "FINISHED":
                self.fail_run(run.info.run_id, f"its settings were changed; run {run_id} goes on in its place")
        return Run(run_id, self._run_url(experiment_id, run_id))

    def end_run(self, run_id: str) -> None:
        """Mark the run finished."""
        with _asking(f"finish run {run_id}"):
            self._client.set_terminated(run_id, "FINISHED")

    def fail_run(self, run_id: str, reason: str) -> None:
        """Mark the run failed, with the reason as tag `failure`."""
        with _asking(f"fail run {run_id}"):
            self._client.set_tag(run_id, "failure", reason[:_TAG_LIMIT])
            self._client.set_terminated(run_id, "FAILED")

    def tag_run(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run; others stay."""
        with _asking(f"tag run {run_id}"):
            for key, value in tags.items():
                self._client.set_tag(run_id, key, value[:_TAG_LIMIT])

    def run_tags(self, run_id: str) -> dict[str, str]:
        """All tags of a run."""
        with _asking(f"read run {run_id}"):
            return dict(self._client.get_run(run_id).data.tags)

    def log_metric(self, run_id: str, name: str, value: float) -> None:
        """The newest value of a metric."""
        with _asking(f"log metric {name!r} of run {run_id}"):
            self._client.log_metric(run_id, name, value)

    def run_metrics(self, run_id: str) -> dict[str, float]:
        """The last value of every metric of a run."""
        with _asking(f"read run {run_id}"):
            return dict(self._client.get_run(run_id).data.metrics)

    def run_url(self, run_id: str) -> str:
        """The run's page."""
        with _asking(f"read run {run_id}"):
            return self._run_url(self._client.get_run(run_id).info.experiment_id, run_id)

    def log_table(self, run_id: str, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows of equal keys as the table artifact `<name>.json`, which MLflow shows as such."""
        columns = list(rows[0]) if rows else []
        file = f"{name}.json"
        with _asking(f"write {file} to run {run_id}"):
            self._client.log_dict(run_id, {"columns": columns, "data": [list(row.values()) for row in rows]}, file)
            tagged = json.loads(self._client.get_run(run_id).data.tags.get("mlflow.loggedArtifacts", "[]"))
            entry = {"path": file, "type": "table"}
            if entry not in tagged:
                self._client.set_tag(run_id, "mlflow.loggedArtifacts", json.dumps([*tagged, entry]))

    def log_text(self, run_id: str, path: str, text: str) -> None:
        """Write the artifact `path`, in place of one that is there."""
        with _asking(f"write {path} to run {run_id}"):
            self._client.log_text(run_id, text, path)

    def read_artifacts(self, run_id: str, folder: str) -> dict[str, bytes]:
        """The files of an artifact folder by name; ServingArtifactMissingError if there are none."""
        with tempfile.TemporaryDirectory() as scratch, _asking(f"read artifacts {folder!r} of run {run_id}"):
            if not self._client.list_artifacts(run_id, folder):
                raise ServingArtifactMissingError(run_id, folder)
            root = Path(self._client.download_artifacts(run_id, folder, scratch))
            return {
                file.relative_to(root).as_posix(): file.read_bytes()
                for file in sorted(root.rglob("*"))
                if file.is_file()
            }

    def read_json(self, run_id: str, path: str) -> Any:
        """The JSON in an artifact; EvaluationUnreadableError where there is none."""
        folder, _, _ = path.rpartition("/")
        with tempfile.TemporaryDirectory() as scratch, _asking(f"read artifact {path!r} of run {run_id}"):
            if path not in [file.path for file in self._client.list_artifacts(run_id, folder or None)]:
                raise EvaluationUnreadableError(run_id, path, "there is none")
            try:
                return json.loads(Path(self._client.download_artifacts(run_id, path, scratch)).read_bytes())
            except ValueError as error:
                raise EvaluationUnreadableError(run_id, path, str(error)) from error

    # Registry

    def register_version(self, model: str, *, run_id: str, source: str, tags: Mapping[str, str]) -> ModelVersion:
        """The version of `model` that came from this run: registered, or found; its tags are set in both cases."""
        from mlflow.exceptions import MlflowException

        with _asking(f"register model {model!r}"):
            try:
                self._client.create_registered_model(model)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            if not self._versions_of(model, run_id):
                # The server takes a logged model as a source only when its id is named beside it.
                model_id = source.removeprefix("models:/") if source.startswith("models:/m-") else None
                self._client.create_model_version(model, source, run_id, model_id=model_id)
            # Looked for again: a call that a gateway gave up on is sent a second time, and both may have made one.
            version, *again = self._versions_of(model, run_id)
        for other in again:
            self.tag_version(model, other, {"duplicate_of": version})
        self.tag_version(model, version, tags)
        return self.version(model, version)

    def _versions_of(self, model: str, run_id: str) -> list[str]:
        """The versions that came from a run, the oldest first."""
        found = self._client.search_model_versions(f"name = {_quoted(model)} and run_id = {_quoted(run_id)}")
        return sorted((str(version.version) for version in found), key=int)

    def version(self, model: str, version: str) -> ModelVersion:
        """A registered version; VersionMissingError."""
        from mlflow.exceptions import MlflowException

        with _asking(f"read version {version} of {model!r}"):
            try:
                return _version(self._client.get_model_version(model, version))
            except MlflowException as error:
                if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    raise VersionMissingError(model, version) from error
                raise

    def find_alias(self, model: str, alias: str) -> ModelVersion | None:
        """The version under an alias, None where the model or the alias does not exist."""
        from mlflow.exceptions import MlflowException

        with _asking(f"read alias {alias!r} of {model!r}"):
            try:
                return _version(self._client.get_model_version_by_alias(model, alias))
            except MlflowException as error:
                if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    return None
                raise

    def set_alias(self, model: str, alias: str, version: str) -> None:
        """Move the alias to the version."""
        with _asking(f"set alias {alias!r} of {model!r} to version {version}"):
            self._client.set_registered_model_alias(model, alias, version)

    def delete_alias(self, model: str, alias: str) -> None:
        """Take the alias off whatever bears it."""
        with _asking(f"delete alias {alias!r} of {model!r}"):
            self._client.delete_registered_model_alias(model, alias)

    def tag_version(self, model: str, version: str, tags: Mapping[str, str]) -> None:
        """Set tags of a version; others stay."""
        with _asking(f"tag version {version} of {model!r}"):
            for key, value in tags.items():
                self._client.set_model_version_tag(model, version, key, value[:_TAG_LIMIT])

    def versions_tagged(self, model: str, key: str, value: str) -> set[str]:
        """The versions of a model that bear a tag of this value."""
        with _asking(f"search versions of {model!r}"):
            found = self._client.search_model_versions(f"name = {_quoted(model)} and tags.`{key}` = {_quoted(value)}")
        return {str(version.version) for version in found}

    def version_url(self, model: str, version: str) -> str:
        """The version's page."""
        return f"{self.uri}/#/models/{quote(model)}/versions/{version}"

    def _run_url(self, experiment_id: str, run_id: str) -> str:
        return f"{self.uri}/#/experiments/{experiment_id}/runs/{run_id}"

    def _experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self._client.create_experiment(name))
            except MlflowException as error:  # another run was faster
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = self._client.get_experiment_by_name(name)
        if found is None or found.lifecycle_stage == "deleted":
            raise TrackingRequestError(
                f"use experiment {name!r}", ValueError("it was deleted; restore it or set `experiment` to another name")
            )
        return str(found.experiment_id)


@contextmanager
def connect(connection_id: str) -> Iterator[TrackingClient]:
    """A client for an Airflow connection of type http; TrackingUnreachableError within seconds if nothing answers.

    MLflow takes credentials from the environment alone: they stand there while the context is open.
    """
    uri, credentials = _read_connection(connection_id)
    _check_reachable(connection_id, uri)
    changed = {**dict.fromkeys(_CREDENTIALS), **credentials, **_PATIENCE, **_SILENCE}
    before = {name: os.environ.get(name) for name in changed}
    _set_environment(changed)
    try:
        yield TrackingClient(uri)
    finally:
        _set_environment(before)


def _read_connection(connection_id: str) -> tuple[str, dict[str, str]]:
    from airflow.providers.common.compat.sdk import AirflowNotFoundException
    from airflow.sdk import BaseHook
    from airflow.sdk.exceptions import AirflowRuntimeError

    try:
        connection = BaseHook.get_connection(connection_id)
    except (AirflowNotFoundException, AirflowRuntimeError) as error:
        raise TrackingConnectionError(connection_id, "there is no such connection") from error
    if not connection.host:
        raise TrackingConnectionError(connection_id, "it has no host")
    # The address stands in messages, links, XComs and job arguments.
    host, within = without_credentials(connection.host.strip().rstrip("/"))
    if set("?#@") & set(host):
        raise TrackingConnectionError(connection_id, "its host is no address; login and password have their own fields")
    scheme, _, rest = host.rpartition("://")
    name, slash, path = rest.partition("/")
    port = f":{connection.port}" if connection.port and not re.search(r":\d+$", name) else ""
    uri = f"{scheme or connection.schema or 'http'}://{name}{port}{slash}{path}"
    login = connection.login or (within.login if within else "")
    if login:
        password = connection.password if connection.login or within is None else within.password
        return uri, {"MLFLOW_TRACKING_USERNAME": login, "MLFLOW_TRACKING_PASSWORD": password or ""}
    return uri, {"MLFLOW_TRACKING_TOKEN": connection.password} if connection.password else {}


def _check_reachable(connection_id: str, uri: str) -> None:
    import httpx

    try:
        answer = httpx.get(f"{uri}/health", timeout=10, follow_redirects=True)
    except httpx.HTTPError as error:
        raise TrackingUnreachableError(connection_id, uri, f"{type(error).__name__}: {error}") from error
    if answer.is_server_error:
        raise TrackingUnreachableError(connection_id, uri, f"HTTP {answer.status_code}")


def _set_environment(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextmanager
def _asking(what: str) -> Iterator[None]:
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        raise TrackingRequestError(what, error) from error


def _version(found: Any) -> ModelVersion:
    return ModelVersion(found.name, str(found.version), found.run_id or "", dict(found.tags))


def _quoted(value: str) -> str:
    return f'"{value}"' if "'" in value else f"'{value}'"
