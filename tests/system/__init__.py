"""The whole through real processes and a real mosquitto."""
