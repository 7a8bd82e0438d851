"""Names that do not fit are refused before anything is made, by what they would be."""

import pytest

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
