"""The roof: command line, one-machine supervisor, and the public face for Python programs."""
