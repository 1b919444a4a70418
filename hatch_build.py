"""Pins wherry to the version of the distribution being built, for the agent and the controller.

Both read their version from shared/wherry/__init__.py, so one line of the repository moves all
three.
"""

from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class PinWherry(MetadataHookInterface):
    def update(self, metadata: dict[str, Any]) -> None:
        """Set the dependencies: those of the hook's table, and `wherry` at exactly this version."""
        metadata["dependencies"] = [
            f"wherry[{','.join(self.config['extras'])}]=={metadata['version']}",
            *self.config["dependencies"],
        ]
