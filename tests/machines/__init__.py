"""Checks on real machines: packages, roots, virtual machines; each is run by a make target."""
