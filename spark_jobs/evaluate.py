"""Evaluate: the model on the hold-out, beside the champion, and its exports for lineage (pt2) and serving (ONNX).

`spark-submit evaluate.py --specification '<JSON>'`. What is scored is the ONNX model, because that is what serves. The
hold-out streams past once, shard by shard, and both models answer to the same batches.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from spark_jobs.exceptions import DatasetError
from spark_jobs.job import run_job, satisfy_yarn, say
from spark_jobs.prepared import PreparedDataset, read_dataset
from spark_jobs.scores import class_images, pairs
from spark_jobs.specification import EvaluateSpecification


def evaluate(specification: EvaluateSpecification) -> dict[str, Any]:
    """Score, export and log the model."""
    satisfy_yarn("evaluate")
    from spark_jobs.comparison import compare
    from spark_jobs.contestant import Contestant
    from spark_jobs.evaluation_files import SERVING_ARTIFACT, evaluation_files
    from spark_jobs.evaluation_log import EvaluationLog, evaluation_metrics
    from spark_jobs.onnx_model import export_onnx
    from spark_jobs.serving_files import digests, serving_files

    dataset = read_dataset(
        specification.prepared_uri, image_size=specification.image_size, channels=specification.channels
    )
    classifier = _classifier(specification.state_uri, dataset)
    onnx_model = export_onnx(classifier, specification.channels, specification.image_size)
    say("exported to ONNX")
    challenger = Contestant(onnx_model.SerializeToString(), dataset.preprocessing, dataset.classes)
    champion = Contestant.published(specification.champion.storage_uri) if specification.champion else None
    run = compare(dataset, specification.batch_size, classifier, challenger, champion)
    result = {
        "model": specification.model,
        **challenger.report(run.challenger, dataset.classes),
        "per_class_images": class_images(run.challenger, dataset.classes),
        "holdout_images": len(run.challenger.labels),
        "champion": None,
        "onnx_difference": run.onnx_difference,
    }
    _say(f"{specification.model}, torch and ONNX differ by {run.onnx_difference:.1e}", result)
    if specification.champion and champion and run.champion:
        beside = champion.report(run.champion, dataset.classes)
        paired = pairs(run.challenger, run.champion)
        result["champion"] = {"version": specification.champion.version, **beside, "paired": paired}
        _say(f"champion, version {specification.champion.version}, {paired}", beside)
    images = [pixels for pixels, _ in run.samples.varied]
    serving = serving_files(specification.model, specification.run_id, challenger, dataset.classes, images)
    result["serving_files"] = digests(serving)
    files = evaluation_files(specification.model, dataset, result, run, serving)
    log = EvaluationLog(specification.tracking_uri, specification.run_id)
    log.metrics(evaluation_metrics(result))
    log.files(files)
    example = challenger.see(np.stack([pixels for pixels, _ in run.samples.varied[:2]]))
    model_uri, onnx_model_uri = log.models(classifier, onnx_model, example, len(dataset.classes))
    say("logged to MLflow")
    return {
        **result,
        "model_uri": model_uri,
        "onnx_model_uri": onnx_model_uri,
        "serving_artifact": SERVING_ARTIFACT,
    }


def _classifier(state_uri: str, dataset: PreparedDataset) -> Any:
    from spark_jobs.checkpoints import read_state
    from spark_jobs.network import Classifier, network_from

    saved = read_state(state_uri)
    if saved["configuration"]["classes"] != len(dataset.classes):
        raise DatasetError(
            f"{state_uri} tells {saved['configuration']['classes']} classes apart, "
            f"{dataset.uri} has {len(dataset.classes)}: train on this dataset first"
        )
    return Classifier(network_from(saved)).eval()


def _say(who: str, report: dict[str, Any]) -> None:
    say(
        f"{who}: accuracy {report['accuracy']:.4f}, loss {report['loss']:.4f}, calibration error "
        f"{report['calibration_error']:.4f}, p95 {report['latency_ms']['p95']:.2f} ms"
    )


if __name__ == "__main__":
    run_job(EvaluateSpecification, evaluate)
