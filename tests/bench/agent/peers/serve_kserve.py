"""KServe's SDK server with an ONNX model, answers as their client asked for them."""

from __future__ import annotations

import logging
import os
import sys

import onnxruntime
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer


class OnnxModel(Model):  # type: ignore[misc]
    def __init__(self, path: str) -> None:
        super().__init__("default")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(path, options)
        self.ready = True

    async def predict(
        self, payload: InferRequest, headers: object = None, response_headers: object = None
    ) -> InferResponse:
        rows = payload.inputs[0].as_numpy()
        (scores,) = self._session.run(["y"], {"x": rows})
        output = InferOutput(name="y", shape=list(scores.shape), datatype="FP32")
        asked = payload.request_outputs or []
        binary = bool(payload.use_binary_outputs) or any(one.binary_data for one in asked)
        output.set_data_from_numpy(scores, binary_data=binary)
        return InferResponse(
            response_id=payload.id,
            model_name="default",
            infer_outputs=[output],
            use_binary_outputs=binary,
            requested_outputs=payload.request_outputs,
        )


if __name__ == "__main__":
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    logging.disable(logging.INFO)  # It says four lines a request.
    ModelServer(
        http_port=int(sys.argv[2]), workers=1, enable_grpc=False, enable_latency_logging=False
    ).start([OnnxModel(sys.argv[1])])
