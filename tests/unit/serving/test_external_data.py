"""A graph may name files for its weights: none but those of its own folder are read."""

import shutil

import numpy as np
import onnx
import pytest

from serving.exceptions import ModelFilesError
from serving.model import Model


def serving_files(model_folder, graph, folder, location):
    """The serving files, the graph's weights being those of the file `location`."""
    shutil.copytree(model_folder, folder)
    (weights,) = graph.graph.initializer
    del weights.float_data[:]
    weights.ClearField("raw_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "8")):
        weights.external_data.add(key=key, value=value)
    (folder / "model.onnx").write_bytes(graph.SerializeToString())
    return folder


def test_weights_beside_the_graph_are_read(model_folder, graph, tmp_path):
    folder = serving_files(model_folder, graph, tmp_path / "model", "weights.bin")
    (folder / "weights.bin").write_bytes(np.array([-1.0, 1.0], np.float32).tobytes())
    Model.load(folder)


@pytest.mark.parametrize("way", ["above", "absolute", "link"])
def test_weights_elsewhere_are_refused(model_folder, graph, tmp_path, way):
    elsewhere = tmp_path / "elsewhere.bin"
    elsewhere.write_bytes(np.array([-1.0, 1.0], np.float32).tobytes())
    location = {"above": "../elsewhere.bin", "absolute": str(elsewhere), "link": "weights.bin"}[way]
    folder = serving_files(model_folder, graph, tmp_path / "model", location)
    if way == "link":
        (folder / "weights.bin").symlink_to(elsewhere)
    with pytest.raises(ModelFilesError):
        Model.load(folder)
