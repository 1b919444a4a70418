"""ONNX files of a few tensors, made as a builder makes them, for tests of deltas."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Weights = Mapping[str, npt.NDArray[np.generic]]


def a_model(weights: Weights, *, note: str = "") -> bytes:
    """Return an ONNX file that holds these initializers and one node that uses none."""
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])
    answer = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])
    node = helper.make_node("Identity", ["x"], ["y"], doc_string=note)
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph([node], "net", [value], [answer], initializer=tensors)
    data: bytes = helper.make_model(graph).SerializeToString()
    return data


def some_weights(seed: int = 0, dtype: str = "float32") -> dict[str, npt.NDArray[np.generic]]:
    """Return a small net's weights: a convolution, a layer and a bias."""
    random = np.random.default_rng(seed)
    return {
        "conv": (random.standard_normal((32, 16, 3, 3)) * 0.05).astype(dtype),
        "dense": (random.standard_normal((300, 200)) * 0.05).astype(dtype),
        "bias": random.standard_normal(200).astype(dtype),
    }


def tuned(weights: Weights, *, share: float = 5e-4) -> dict[str, npt.NDArray[np.generic]]:
    """Return weights each of which has moved by about that share of their spread."""
    random = np.random.default_rng(9)
    return {
        name: (
            array + random.standard_normal(array.shape) * share * np.std(array.astype("f8"))
        ).astype(array.dtype)
        for name, array in weights.items()
    }


def onnx_places(data: bytes) -> dict[str, bytes]:
    """Return each initializer's bytes by name, as the onnx library reads them."""
    return {
        tensor.name: numpy_helper.to_array(tensor).tobytes()
        for tensor in onnx.load_from_string(data).graph.initializer
    }
