"""The trust core, module by module: what it accepts, refuses and keeps."""
