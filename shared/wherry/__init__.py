"""What a controller and its devices must agree on: names, wire formats, bundles and signatures."""

__version__ = "0.6.0"
