"""Candidates made from float exports, each pass checked for having changed something."""
