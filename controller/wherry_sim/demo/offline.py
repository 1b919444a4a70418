"""What each bundle answers offline: the yardstick for every answer that an agent gives.

    python -m wherry_sim.demo.offline LIVE.npz BLOBS_FOLDER ANSWERS_FOLDER ENVELOPE...

A child process loads the model file of each bundle on its runtime, with nothing of the agent's
engine, swap or API around it, and writes `ANSWERS/<digest>.npz` with `scores` and `tolerance`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import numpy as np

from wherry import codec
from wherry.blobs import digest_of
from wherry.manifest import MODEL_FILE, Manifest
from wherry.signing import Envelope
from wherry_agent import runtimes
from wherry_agent.runtimes.variant import Variant
from wherry_controller.store.blobs import BlobFolder
from wherry_sim.demo.digits import read_set


def main(arguments: list[str]) -> int:
    live, blobs, answers, *envelopes = arguments
    images = read_set(Path(live)).images
    folder = BlobFolder(Path(blobs))
    for path in envelopes:
        signed = bytes(msgspec.json.decode(Path(path).read_bytes(), type=Envelope).signed)
        manifest = codec.decode(Manifest, signed)
        model = folder.path(manifest.files[MODEL_FILE].digest)
        variant = Variant(runtimes.find(manifest.profile).load(model, manifest), manifest)
        scores = np.concatenate(
            [variant.run([images[i : i + 1]]).outputs[0] for i in range(len(images))]
        )
        tolerance = manifest.golden.tolerance
        np.savez(Path(answers) / f"{digest_of(signed)}.npz", scores=scores, tolerance=tolerance)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
