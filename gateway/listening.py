"""The socket that gateways serve on: made by whoever starts them, who need not know anything else of a gateway."""

import socket

BACKLOG = 2048


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; OSError if the address is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen(BACKLOG)
    listener.set_inheritable(True)
    return listener
