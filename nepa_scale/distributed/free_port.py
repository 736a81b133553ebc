"""A port where the ranks of a job on this machine can meet."""

from __future__ import annotations

import socket


def free_port() -> int:
    """A port at which nobody listens just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
