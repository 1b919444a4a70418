"""What a device believes, and why: TUF metadata, the director's orders, the time."""
