"""Slow checks on machines, networks and power as they are; each is a make target of its own."""
