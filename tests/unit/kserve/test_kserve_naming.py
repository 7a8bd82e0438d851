"""By which labels Prometheus names a revision: what is asked, and what is made of the answer."""

import pytest
from pydantic import TypeAdapter, ValidationError

from ml_lifecycle.kserve.data_planes import PRESETS, queries, source
from ml_lifecycle.kserve.naming import Naming, answered, is_open, question
from ml_lifecycle.prometheus.answer import Sample
from ml_lifecycle.settings import Rollout

OTEL = "kn_serving_invocation_duration_seconds_count"
OLD = "revision_app_request_count"


def found(series, **namespaces):
    return Sample({"naming": series, **namespaces}, 1.0, 0.0)


@pytest.mark.parametrize(
    ("samples", "naming"),
    [
        ([], None),
        ([found(f"{OTEL}/pod")], None),
        ([found(f"{OTEL}/pod", namespace="others")], None),
        ([found(f"{OTEL}/pod", namespace="models")], Naming("knative_otel", "pod", "namespace")),
        (
            [
                found(f"{OTEL}/pod", namespace="models"),
                found(f"{OTEL}/serving_knative_dev_revision", namespace="models"),
            ],
            Naming("knative_otel", "serving_knative_dev_revision", "namespace"),
        ),
        (
            [
                found(f"{OTEL}/kn_revision_name", k8s_namespace_name="models", namespace="monitoring"),
                found(f"{OTEL}/serving_knative_dev_revision", namespace="models"),
            ],
            Naming("knative_otel", "kn_revision_name", "k8s_namespace_name"),
        ),
        (
            [found(f"{OTEL}/pod", namespace="others"), found(f"{OLD}/revision_name", namespace_name="models")],
            Naming("knative_queue_proxy", "revision_name", "namespace_name"),
        ),
    ],
)
def test_what_names_the_revision_goes_before_what_names_its_pods(samples, naming):
    assert answered(samples, "models", None) == naming


def test_a_source_that_settings_name_is_the_only_one():
    old = [found(f"{OLD}/revision_name", namespace_name="models")]
    assert answered(old, "models", "knative_otel") is None
    assert is_open("knative_otel", standard=False)
    assert is_open(None, standard=False)
    assert not is_open(None, standard=True)
    assert not is_open("knative_queue_proxy", standard=False)
    assert not is_open("istio", standard=False)


def test_the_question_asks_for_both_sides_by_every_label():
    asked = question(("digits-predictor-00002", "digits-predictor-00001"))
    for label in ("kn_revision_name", "serving_knative_dev_revision"):
        assert f'{OTEL}{{{label}=~"digits-predictor-00002|digits-predictor-00001"}}' in asked
    assert f'{OTEL}{{pod=~"' in asked
    assert f'{OLD}{{revision_name=~"' in asked


def test_the_labels_stand_in_the_queries_of_a_look():
    preset = Naming("knative_otel", "pod", "namespace").applied(source(Rollout(lag_seconds=7)))
    asked = queries(preset, namespace="models", sides=("digits-predictor-00002",), window_seconds=30)
    assert asked.chosen.startswith(f'{OTEL}{{namespace="models",pod=~"(?:digits-predictor-00002-deployment-')
    assert preset.lag_seconds == 7
    old = Naming("knative_queue_proxy", "revision_name", "namespace_name").applied(source(Rollout()))
    assert (old.count, old.unit, old.code) == (OLD, 1000, PRESETS["knative_queue_proxy"].code)


@pytest.mark.parametrize("field", ["source", "side", "namespace"])
def test_a_lease_can_name_only_labels_that_are_known(field):
    document = {"source": "knative_otel", "side": "pod", "namespace": "namespace", field: 'x="1"} or vector(1'}
    with pytest.raises(ValidationError):
        TypeAdapter(Naming).validate_python(document)
