from __future__ import annotations

import json
from typing import Any

import pytest

from ml_lifecycle.settings import Settings, parse_settings
from ml_lifecycle.training_plan import (
    TrainingRun,
    candidate_tags,
    cost_tags,
    plan_digest,
    plan_training,
    slot_problems,
    specification,
)
from spark_jobs.specification import EvaluateSpecification, IngestSpecification, TrainSpecification, parse

RUN = TrainingRun(
    dag_id="train_model",
    dag_run_id="manual__2026-01-01T00:00:00+00:00",
    tracking_uri="http://mlflow:5000",
    run_id="r1",
    job_code="s3://bucket/prefix/jobs/abc",
    environment="s3://bucket/prefix/environments/abc.tar.gz",
    champion={"version": "3", "storage_uri": "s3://bucket/prefix/models/digits/3"},
)


def plan(run: TrainingRun = RUN, **sections: Any) -> dict[str, Any]:
    settings: Settings = parse_settings({"defaults": {"data_lake": "s3://bucket/prefix", **sections}}, "digits")
    return plan_training(settings, run)


def test_each_job_accepts_its_specification() -> None:
    found = plan(cluster={"secret_id": "secret"})
    result = found["results"] + "/cluster/job.json"
    prepared = {"prepared_uri": "s3a://bucket/prefix/prepared/digits/d"}

    ingest = parse(IngestSpecification, specification(found["ingest_specification"], result, {}))
    train = parse(TrainSpecification, specification(found["train_specification"], result, prepared))
    evaluate = parse(
        EvaluateSpecification,
        specification(found["evaluate_specification"], result, prepared | {"state_uri": "s3a://bucket/s"}),
    )

    assert ingest.dataset_uri == "s3a://bucket/prefix/datasets/digits"
    assert train.checkpoint_uri == "s3a://bucket/prefix/checkpoints/r1"
    assert evaluate.champion is not None
    assert evaluate.champion.storage_uri == "s3a://bucket/prefix/models/digits/3"
    assert {ingest.result_uri, train.result_uri, evaluate.result_uri} == {result.replace("s3:", "s3a:")}
    assert {ingest.secret_id, train.secret_id, evaluate.secret_id} == {"secret"}


def test_the_first_training_has_no_champion() -> None:
    first = TrainingRun(**{**vars(RUN), "champion": None})

    assert plan(first)["evaluate_specification"]["champion"] is None


def test_names_belong_to_the_run() -> None:
    other = TrainingRun(**{**vars(RUN), "dag_run_id": "manual__2026-01-02"})

    assert plan()["cluster_name"] == plan()["cluster_name"]
    for name in ("cluster_name", "ingest_name", "results"):
        assert plan()[name] != plan(other)[name]


@pytest.mark.parametrize(
    ("processes", "hosts", "executors", "cores"),
    [(1, 4, "1", "1"), (2, 1, "1", "2"), (5, 2, "2", "3"), (4, 4, "4", "1")],
)
def test_a_barrier_stage_finds_all_its_slots(processes: int, hosts: int, executors: str, cores: str) -> None:
    properties = plan(training={"processes": processes}, cluster={"compute_hosts": hosts})["train_properties"]

    assert properties["spark.dynamicAllocation.enabled"] == "false"
    assert (properties["spark.executor.instances"], properties["spark.executor.cores"]) == (executors, cores)


def test_gpus_are_found_by_a_script_that_travels_with_the_job() -> None:
    found = plan(training={"gpu": True, "processes": 4}, cluster={"compute_hosts": 2})
    properties = found["train_properties"]

    assert found["train_files"] == ["s3a://bucket/prefix/jobs/abc/find_gpus.sh"]
    assert properties["spark.executor.resource.gpu.discoveryScript"] == "./find_gpus.sh"
    assert properties["spark.executor.resource.gpu.amount"] == "2"
    assert properties["spark.task.resource.gpu.amount"] == "1"
    assert not [key for key in found["ingest_properties"] if "gpu" in key]
    assert plan()["train_files"] == []


@pytest.mark.parametrize(
    ("training", "cluster", "says"),
    [
        ({"processes": 9}, {"compute_hosts": 2}, "5 on each, but cluster.compute.preset = 's3-c4-m16' has 4 cores"),
        ({"gpu": True}, {}, "'s3-c4-m16' is a preset without GPU"),
    ],
)
def test_hosts_that_cannot_hold_the_training_are_refused(
    training: dict[str, Any], cluster: dict[str, Any], says: str
) -> None:
    defaults = {"data_lake": "s3://bucket", "training": training, "cluster": cluster}
    settings = parse_settings({"defaults": defaults}, "digits")

    (problem,) = slot_problems(settings, {"s3-c4-m16": 4})

    assert says in problem


@pytest.mark.parametrize("preset", ["g1.small", "gpu-standard-v3", "standard-v3-t4"])
def test_a_preset_that_may_have_gpus_is_not_refused(preset: str) -> None:
    defaults = {"data_lake": "s3://bucket", "training": {"gpu": True}, "cluster": {"compute": {"preset": preset}}}

    assert slot_problems(parse_settings({"defaults": defaults}, "digits"), {}) == []


def test_a_limit_ends_the_cluster_before_it_costs_more() -> None:
    prices = {"host_hour": {"s3-c4-m16": 10}, "limit": 45}
    found = plan(cost=prices, cluster={"compute_hosts": 2})

    assert found["cluster"]["time_to_live_hours"] == pytest.approx(1.25)
    assert found["hourly_price"] == {"currency": "RUB", "least": 30, "most": 30, "unknown": ""}


@pytest.mark.parametrize(
    ("prices", "estimate"),
    [({"s3-c4-m16": 10}, "20.00"), ({}, "unknown: cost.host_hour has no price for preset 's3-c4-m16'")],
)
def test_a_run_says_what_it_is_expected_to_cost(prices: dict[str, float], estimate: str) -> None:
    settings = parse_settings({"defaults": {"data_lake": "s3://bucket", "cost": {"host_hour": prices}}}, "digits")

    assert cost_tags(settings) == {"cost.estimate": estimate, "cost.currency": "RUB"}


def test_the_users_properties_have_the_last_word() -> None:
    found = plan(cluster={"spark_properties": {"spark.executor.cores": "9"}})

    assert {found[f"{job}_properties"]["spark.executor.cores"] for job in ("ingest", "train", "evaluate")} == {"9"}


def test_the_environment_is_shipped() -> None:
    properties = plan()["evaluate_properties"]

    assert properties["spark.yarn.dist.archives"] == "s3a://bucket/prefix/environments/abc.tar.gz#environment"
    assert properties["spark.executorEnv.PYSPARK_PYTHON"] == "./environment/bin/python"


def test_a_plan_is_json() -> None:
    assert json.loads(json.dumps(plan())) == plan()


@pytest.mark.parametrize(("champion", "tag"), [({"version": "3", "accuracy": 0.9}, "3"), (None, "none")])
def test_a_candidate_says_with_whom_it_was_compared(champion: dict[str, Any] | None, tag: str) -> None:
    ingested = {"images": 1797, "corrupt": 2, "duplicates": 3, "classes": ["0", "1"]}
    tags = candidate_tags(ingested, {"accuracy": 0.95, "loss": 0.2, "holdout_images": 360, "champion": champion})

    assert tags["compared_with"] == tag
    assert (tags["images"], tags["corrupt"], tags["duplicates"]) == ("1797", "2", "3")
    assert tags["holdout_accuracy"] == "0.95"


def test_the_plans_digest_changes_with_what_a_training_cannot_change_on_its_way() -> None:
    def of(**sections: Any) -> str:
        return plan_digest(parse_settings({"defaults": {"data_lake": "s3://bucket/prefix", **sections}}, "digits"))

    assert of() == of(dataset={"name": "digits"}) == of(training={"checkpoint_minutes": 1, "gpu": True})
    assert of() == of(cluster={"compute_hosts": 4}, dataset={"max_corrupt": 0.5})
    others = [{"training": {"batch_size": 10}}, {"training": {"seed": 7}}, {"dataset": {"image_size": 64}}]
    assert len({of(), of(dataset={"name": "other"}), *(of(**other) for other in others)}) == 5
