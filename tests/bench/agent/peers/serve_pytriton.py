"""PyTriton, which is Triton with a Python model: requests go to it one by one, unbatched."""

from __future__ import annotations

import os
import sys

import numpy as np
import numpy.typing as npt
import onnxruntime
from pytriton.model_config import ModelConfig, Tensor
from pytriton.proxy.types import Request
from pytriton.triton import Triton, TritonConfig

Rows = npt.NDArray[np.float32]


def main(model: str, port: int, grpc_port: int, metrics_port: int) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options)
    (given,), (asked,) = session.get_inputs(), session.get_outputs()

    def infer(requests: list[Request]) -> list[dict[str, Rows]]:
        return [{"y": session.run(["y"], {"x": one["x"]})[0]} for one in requests]

    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=port,
        allow_grpc=False,
        allow_metrics=False,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        log_verbose=0,
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name="default",
            infer_func=infer,
            inputs=[Tensor(name="x", dtype=np.float32, shape=(-1, *given.shape[1:]))],
            outputs=[Tensor(name="y", dtype=np.float32, shape=(-1, *asked.shape[1:]))],
            config=ModelConfig(batching=False),
        )
        triton.serve()


if __name__ == "__main__":
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    main(sys.argv[1], *map(int, sys.argv[2:5]))
