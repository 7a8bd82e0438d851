"""roll_back_model by `dag.test()`: the version before serves again, and the aliases say so."""

import json

import pytest

from tests.dags.test_roll_out_model import cluster, registry  # noqa: F401 - fixtures
from tests.faults.rollout_world import MODEL

pytestmark = pytest.mark.slow


@pytest.fixture
def two_versions(cluster, registry, run_dag):  # noqa: F811
    """Version 1 was live, version 2 is."""
    run_dag("roll_out_model.py", "roll_out_model", {"model": MODEL})
    run_dag("roll_out_model.py", "roll_out_model", {"model": MODEL, "version": "2"})
    assert registry.find_alias(MODEL, "live").version == "2"
    return cluster


def test_the_version_that_was_live_before_comes_back(two_versions, registry, run_dag, states, xcom):  # noqa: F811
    run = run_dag("roll_back_model.py", "roll_back_model", {"model": MODEL, "reason": "the labels are wrong"})
    assert set(states(run).values()) == {"success"}, states(run)
    assert two_versions.service["spec"]["predictor"]["model"]["storageUri"].endswith("/1")
    assert [registry.find_alias(MODEL, alias).version for alias in ("live", "champion")] == ["1", "1"]
    tags = registry.version(MODEL, "2").tags
    assert (tags["rollout"], tags["rollout.reason"]) == ("rolled_back", "the labels are wrong")
    assert xcom(run, "publish")["version"] == "1"
    assert two_versions.is_clean()

    # Nothing was live before version 1; and a version without its files is refused before anything is changed.
    again = run_dag("roll_back_model.py", "roll_back_model", {"model": MODEL})
    assert states(again)["earlier"] == "failed"
    before = json.dumps(two_versions.service["spec"])
    (two_versions.lake / "models" / MODEL / "3" / "model.onnx").unlink()
    gone = run_dag("roll_back_model.py", "roll_back_model", {"model": MODEL, "version": "3"})
    assert (gone.state, states(gone)["roll_back"]) == ("failed", "failed")
    assert json.dumps(two_versions.service["spec"]) == before
