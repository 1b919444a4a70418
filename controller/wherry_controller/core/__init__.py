"""What the controller decides: pure functions and values that do no I/O."""
