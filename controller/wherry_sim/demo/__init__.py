"""The demo: the main job end to end, on real input, with every claim checked."""

from wherry_sim.demo.command import app

__all__ = ["app"]
