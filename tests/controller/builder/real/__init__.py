"""Builds of models that people use, and of what nobody should send."""
