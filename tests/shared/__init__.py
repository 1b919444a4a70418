"""What the controller and its devices must agree on, module by module."""
