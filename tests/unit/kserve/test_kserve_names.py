"""Names that do not fit are refused before anything is made, by what they would be."""

import re

import pytest

from local.kubernetes.controllers.addresses import Addresses
from local.kubernetes.controllers.standard_objects import component_name
from ml_lifecycle.kserve.exceptions import RolloutRefusedError
from ml_lifecycle.kserve.names import check_names
from ml_lifecycle.kserve.request import RolloutRequest
from ml_lifecycle.settings import parse_settings

LONG = "a" * 40


@pytest.mark.parametrize("standard", [True, False])
def test_the_longest_name_fits_in_the_usual_namespace(standard):
    check_names(LONG, "models", "999", standard=standard)


@pytest.mark.parametrize(
    ("namespace", "version", "standard", "words"),
    [
        ("n" * 23, "1", False, "the first part of its host"),
        ("ml-production", "1", True, "the first part of its host"),
        ("models", "12345", True, "of 64 characters"),
        ("n", "1234567890", True, "its pods' label"),
    ],
)
def test_what_kserve_could_not_name_is_refused(namespace, version, standard, words):
    with pytest.raises(RolloutRefusedError, match=words):
        check_names(LONG, namespace, version, standard=standard)


def too_long(length, namespace, version):
    """What KServe makes of a name of so many characters in Standard mode, by the stand-in's rules, and cannot."""
    model = "a" * length
    addresses = Addresses(model, namespace, 80)
    predictors = [component_name(model, name) for name in ("", f"v{version}")]
    labels = [f"isvc.{name}" for name in predictors]
    return any(addresses.problem(name) for name in (model, *predictors)) or any(len(label) > 63 for label in labels)


def allows(length, namespace, version, *, standard):
    try:
        check_names("a" * length, namespace, version, standard=standard)
    except RolloutRefusedError as refused:
        limit = int(re.search(r"the name may have (\d+)", str(refused))[1])
        if limit:
            check_names("a" * limit, namespace, version, standard=standard)
            with pytest.raises(RolloutRefusedError):
                check_names("a" * (limit + 1), namespace, version, standard=standard)
        return False
    return True


@pytest.mark.parametrize("namespace", ["m", "models", "machine-learning", "n" * 63])
@pytest.mark.parametrize("version", ["1", "12345"])
@pytest.mark.parametrize("length", range(1, 64))
def test_a_name_of_any_length_is_refused_where_kserve_cannot_serve_it_and_only_there(length, version, namespace):
    assert allows(length, namespace, version, standard=True) is not too_long(length, namespace, version)
    host, tag = length + 1 + len(namespace), len("latest-") + length + len("-predictor")
    assert allows(length, namespace, version, standard=False) is (max(host, tag) <= 63)


def test_the_first_task_refuses_it():
    settings = parse_settings(
        {
            "defaults": {
                "data_lake": "file:///lake",
                "serving": {"namespace": "ml-production", "deployment_mode": "Standard"},
            }
        },
        LONG,
    )
    with pytest.raises(RolloutRefusedError, match="take 5 off the model's name"):
        RolloutRequest.of(settings, version="12")
