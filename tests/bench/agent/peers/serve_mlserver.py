"""MLServer with an ONNX model: no parallel workers, since one process answers quicker there."""

from __future__ import annotations

import asyncio
import os
import sys

import onnxruntime
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.settings import ModelParameters
from mlserver.types import InferenceRequest, InferenceResponse


class OnnxModel(MLModel):  # type: ignore[misc]
    async def load(self) -> bool:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(self.settings.parameters.uri, options)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        rows = NumpyCodec.decode_input(payload.inputs[0])
        (scores,) = self._session.run(["y"], {"x": rows.astype("float32", copy=False)})
        outputs = [NumpyCodec.encode_output("y", scores)]
        return InferenceResponse(model_name=self.name, outputs=outputs)


async def main(model: str, port: int, grpc_port: int) -> None:
    settings = Settings(
        host="127.0.0.1",
        http_port=port,
        grpc_port=grpc_port,
        metrics_endpoint=None,
        parallel_workers=0,
        gzip_enabled=False,
        debug=False,
    )
    served = ModelSettings(
        name="default", implementation=OnnxModel, parameters=ModelParameters(uri=model)
    )
    await MLServer(settings).start([served])


if __name__ == "__main__":
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    asyncio.run(main(sys.argv[1], *map(int, sys.argv[2:4])))
