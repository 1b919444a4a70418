"""Bytes from outside that nobody meant well with: taken, or refused by name."""
