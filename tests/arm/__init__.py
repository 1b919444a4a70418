"""Tests on emulated ARM processors: `make test-arm` runs them, since their roots take minutes."""
