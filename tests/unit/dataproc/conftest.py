from __future__ import annotations

import pytest

from tests.unit.dataproc.simulated_run import SimulatedRun, assert_clean, served


@pytest.fixture(scope="module")
def cloud(tmp_path_factory):
    with served(tmp_path_factory.mktemp("cloud")) as stand_in:
        yield stand_in


@pytest.fixture
def run(cloud, tmp_path, request):
    yield SimulatedRun(cloud, tmp_path, f"manual__{request.node.name}")
    cloud.faults.clear()
    assert_clean(cloud)
