"""What decides on a device: pure machines that read no clock, disk or socket."""
