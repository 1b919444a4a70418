"""Tests of what decides on a device: no clock, disk, socket or sleep."""
