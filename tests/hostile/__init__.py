"""Models that would harm a device, and how they are refused."""
