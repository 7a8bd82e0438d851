from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ml_lifecycle.dataproc.cluster import Cluster, ClusterStatus, cluster_labels, cluster_name, same_run
from ml_lifecycle.dataproc.names import LABEL_KEY, LABEL_VALUE, RESOURCE_NAME, label_value
from ml_lifecycle.settings import MODEL_NAME

models = st.from_regex(MODEL_NAME, fullmatch=True).filter(lambda name: len(name) <= 40)


@given(models, st.text(max_size=300), st.text(max_size=300))
def test_every_run_of_every_model_has_a_name_that_yandex_takes(model, dag_id, run_id):
    assert RESOURCE_NAME.fullmatch(cluster_name(model, dag_id, run_id))


def test_a_name_is_the_same_for_each_try_and_unlike_for_each_run():
    assert cluster_name("digits", "train", "run 1") == cluster_name("digits", "train", "run 1")
    assert cluster_name("digits", "train", "run 1") != cluster_name("digits", "train", "run 2")
    assert cluster_name("digits", "a", "b") != cluster_name("digits", "b", "a")


@given(st.text(max_size=300))
def test_any_text_becomes_a_label_value(text):
    value = label_value(text)
    assert LABEL_VALUE.fullmatch(value)
    assert label_value(value) == value


def test_long_texts_that_begin_alike_stay_apart():
    assert label_value("x" * 100 + "a") != label_value("x" * 100 + "b")


@given(st.text(max_size=100), st.text(max_size=100), st.floats(0, 4e9), st.text(max_size=100))
def test_labels_fit_and_say_who_made_the_cluster(dag_id, run_id, expires_at, model):
    labels = cluster_labels(dag_id, run_id, expires_at, {"model": model, "managed-by": "me"})
    assert labels["managed-by"] == "ml-lifecycle"
    assert all(LABEL_KEY.fullmatch(key) and LABEL_VALUE.fullmatch(value) for key, value in labels.items())


def _cluster(labels, created_at=1000.0):
    return Cluster("id", "name", "folder", ClusterStatus.RUNNING, created_at, labels)


def test_a_cluster_belongs_to_the_run_that_made_it_and_to_no_other():
    mine, other = cluster_labels("dag", "one", 0, {}), cluster_labels("dag", "two", 0, {})
    assert same_run(_cluster(mine), mine)
    assert not same_run(_cluster(mine), other)
    assert not same_run(_cluster({**mine, "managed-by": "terraform"}), mine)


def test_a_cluster_expires_by_its_label_or_a_day_after_its_creation():
    labelled = _cluster({"managed-by": "ml-lifecycle", "expires-at": "2000"})
    assert labelled.expires_at == 2000
    unreadable = _cluster({"managed-by": "ml-lifecycle", "expires-at": "soon"})
    assert unreadable.expires_at == 1000 + 86_400
