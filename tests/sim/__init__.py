"""Tests of the simulator: whole fleets in no time."""
