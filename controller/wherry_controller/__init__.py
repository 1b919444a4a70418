"""The controller: builds, signs and rolls out models to a fleet of devices."""
