"""How property tests run everywhere: without a deadline, for test machines are shared and slow."""

import os

from hypothesis import settings

settings.register_profile("wherry", deadline=None)
settings.load_profile("wherry")

# Before anything imports onnxruntime, which would report to its maker.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
