"""The doors for devices: HTTPS by the controller's own CA, apart from the operators' API."""
