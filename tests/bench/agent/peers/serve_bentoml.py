"""BentoML with an ONNX model: one worker, and a coroutine, which answers quicker than a thread."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import bentoml
import numpy as np
import numpy.typing as npt
import onnxruntime
from bentoml.validators import DType

Rows = npt.NDArray[np.float32]


@bentoml.service(workers=1, metrics={"enabled": False}, logging={"access": {"enabled": False}})
class Onnx:
    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(os.environ["SERVED_MODEL"], options)

    @bentoml.api  # type: ignore[untyped-decorator]
    async def infer(self, x: Annotated[Rows, DType("float32")]) -> Rows:
        scores: Rows = self._session.run(["y"], {"x": x})[0]
        return scores


if __name__ == "__main__":
    os.environ.update(
        SERVED_MODEL=sys.argv[1], ORT_DISABLE_TELEMETRY="1", BENTOML_DO_NOT_TRACK="True"
    )
    words = ["serve", "serve_bentoml:Onnx", "--host", "127.0.0.1", "--port", sys.argv[2]]
    os.execv(sys.executable, [sys.executable, "-m", "bentoml", *words])
