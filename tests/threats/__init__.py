"""The threat table, one named test a row: each refused by its own reason, nothing changed."""
