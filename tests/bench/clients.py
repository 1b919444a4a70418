"""Other servers' clients, unchanged, against the local API: KServe's SDK and `mlserver infer`.

    python -m tests.bench.clients [FOLDER]

FOLDER holds an environment for each, `kserve` and `mlserver` (build/bench/peers, as `make
bench-agent` fills it). Triton's own client is among the tests. Prints what was asked and how, and
fails where an answer is wrong.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from tests.agent.benches import ALIAS, Bench, a_bench
from tests.agent.bundles import Floats, a_bundle, images, logits_of

PEERS = Path("build/bench/peers")
PATIENCE_S = 120.0
ROWS = images(7)

# Runs in KServe's environment, which has nothing of ours.
KSERVE = """
import asyncio, json, sys
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput

async def main(url, alias, rows, wanted):
    client = InferenceRESTClient(RESTConfig(protocol="v2"))
    assert await client.is_server_live(url)
    assert await client.is_server_ready(url)
    assert await client.is_model_ready(url, alias)
    for sent_binary in (True, False):
        for wanted_binary in (None, True, False):
            image = InferInput("image", list(rows.shape), "FP32")
            image.set_data_from_numpy(rows, binary_data=sent_binary)
            outputs = []
            if wanted_binary is not None:
                outputs = [RequestedOutput("logits", {"binary_data": wanted_binary})]
            request = InferRequest(alias, [image], request_outputs=outputs)
            answer = await client.infer(url, request, model_name=alias)
            np.testing.assert_allclose(answer.outputs[0].as_numpy(), wanted, atol=1e-5)
            print(f"kserve sends binary {sent_binary}, wants binary {wanted_binary}: as it should")

url, alias, rows, wanted = sys.argv[1:]
arrays = (np.array(json.loads(text), np.float32) for text in (rows, wanted))
asyncio.run(main(url, alias, *arrays))
"""


def ask_as_kserve(python: Path, bench: Bench) -> None:
    """Ask with KServe's client in every mix of encodings."""
    rows, wanted = (json.dumps(values.tolist()) for values in (ROWS, logits_of(ROWS)))
    url = f"http://127.0.0.1:{bench.server.port}"
    command = [str(python), "-c", KSERVE, url, ALIAS, rows, wanted]
    subprocess.run(command, check=True, timeout=PATIENCE_S)


def ask_as_mlserver(mlserver: Path, bench: Bench, *options: str) -> None:
    """Have `mlserver infer` ask for each row of a file."""
    with TemporaryDirectory() as folder:
        asked, answered = Path(folder, "asked.jsonl"), Path(folder, "answered.jsonl")
        asked.write_text("".join(f"{json.dumps(_request(row))}\n" for row in ROWS))
        files = ("-i", str(asked), "-o", str(answered))
        server = ("-u", f"127.0.0.1:{bench.server.port}", "-m", ALIAS)
        command = [str(mlserver), "infer", *server, *files, *options]
        subprocess.run(command, check=True, timeout=PATIENCE_S, capture_output=True)
        told = [json.loads(line) for line in answered.read_text().splitlines()]
    assert len(told) == len(ROWS), told
    for answer in told:
        row = ROWS[answer["parameters"]["batch_index"]]
        got = np.array(answer["outputs"][0]["data"], np.float32)
        np.testing.assert_allclose(got, logits_of(row)[0], atol=1e-5)
    sys.stdout.write(f"mlserver infer {' '.join(options)}: {len(told)} rows as they should be\n")


def _request(row: Floats) -> dict[str, object]:
    image = {"name": "image", "datatype": "FP32", "shape": [1, *row.shape], "data": [row.tolist()]}
    return {"inputs": [image]}


def main(words: list[str]) -> None:
    peers = Path(words[0]) if words else PEERS
    with TemporaryDirectory() as folder, a_bench(Path(folder)) as bench:
        bench.serve(a_bundle())
        ask_as_kserve(peers / "kserve/bin/python", bench)
        for options in ((), ("--binary-data",), ("--batch-size", "3")):
            ask_as_mlserver(peers / "mlserver/bin/mlserver", bench, *options)


if __name__ == "__main__":
    main(sys.argv[1:])
