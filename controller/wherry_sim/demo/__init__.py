"""The demo: the main job end to end, on real input, with every claim checked."""
