"""Judges variants: what they are worth, and what proves that a device runs them faithfully."""
