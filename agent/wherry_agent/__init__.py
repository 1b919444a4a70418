"""The agent: fetches, verifies, serves and watches models on one device."""
