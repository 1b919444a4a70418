"""Checks of Wherry on real machines: each a target of the Makefile, none collected by pytest."""
