"""Checks on whole machines: slow, each run by a make target of its own, never by pytest."""
