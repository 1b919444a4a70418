"""Benchmarks on real nets, run by `make bench-…`."""
