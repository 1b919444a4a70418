"""The simulator: a controller and a fleet on one machine, the only package that sees both sides."""
