"""What Schemathesis needs to reach a door of `doorward dev`: `*.localhost` is loopback (RFC 6761),
also where the system's resolver does not know that."""

import socket

_resolve = socket.getaddrinfo


def _loopback(host, *rest, **named):
    name = host.decode() if isinstance(host, bytes) else host
    local = isinstance(name, str) and (name == "localhost" or name.endswith(".localhost"))
    return _resolve("127.0.0.1" if local else host, *rest, **named)


socket.getaddrinfo = _loopback
