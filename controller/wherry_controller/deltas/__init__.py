"""Deltas made: where a model file's tensors stand, and the smallest way from one to another.

It runs in a child process (`python -m wherry_controller.deltas`), for it takes memory and time;
nothing here knows torch or a runtime, and files are read as bytes.
"""
