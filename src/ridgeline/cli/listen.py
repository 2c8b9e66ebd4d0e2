"""Take the port before anything slow begins, and say who has it if it is taken."""

import contextlib
import errno
import socket

import psutil

from ridgeline.cli.errors import CommandFailed


def port_owner(port: int) -> str:
    """The program that listens on a port, as far as this user may know."""
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                return f"{psutil.Process(connection.pid).name()} (process {connection.pid})"
    return "another program"


def port_taken(host: str, port: int) -> CommandFailed:
    """What to say of a port that somebody else listens on."""
    return CommandFailed(
        f"port {port} on {host} is taken by {port_owner(port)}: end it, or choose another with"
        f" --port {port + 1 if port < 65535 else port - 1} (--port 0 takes any that is free)"
    )


def bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet; `port` 0 takes a free one. Raises `CommandFailed`."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise CommandFailed(
            f"host '{host}' is not known ({error.strerror}): choose another with --host"
        ) from error
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    # Without it a restart would have to wait for the last connections' TIME_WAIT to pass.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "::"))
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise listen_failure(error, host, port) from error
    listener.setblocking(False)
    listener.set_inheritable(False)
    return listener


def listen_failure(error: OSError, host: str, port: int) -> CommandFailed:
    """What to say when the address cannot be had."""
    if error.errno == errno.EADDRINUSE:
        return port_taken(host, port)
    if error.errno == errno.EACCES:
        return CommandFailed(
            f"port {port} needs rights that this user lacks: choose one above 1023 with --port"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return CommandFailed(f"this machine has no address {host}: choose another with --host")
    return CommandFailed(f"cannot listen on {host} port {port}: {error.strerror}")


def address_of(listener: socket.socket) -> str:
    """The URL a person would type to reach the socket from this machine."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
