"""The HTTP API under /api/v1: what an operator or a script can ask of a controller."""
