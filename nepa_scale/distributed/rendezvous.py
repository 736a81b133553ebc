"""Rendezvous: the processes of a job meet in a store at MASTER_ADDR:MASTER_PORT that all can read and write.

torch would wait half an hour for a process that never comes, and then not say which. Here all that can be wrong with
a launcher's variables ends within ``engine.rendezvous_seconds``, with the variable's name.
"""

from __future__ import annotations

import os
import socket
import time
from datetime import timedelta
from typing import TYPE_CHECKING

from nepa_scale.distributed.world import World
from nepa_scale.utils.errors import ConfigError, RankError, shortened

if TYPE_CHECKING:
    from torch.distributed import Store

POLL_SECONDS = 0.1
_REMEDY = "engine.rendezvous_seconds={:g} is how long is waited"


def meet(world: World, seconds: float) -> Store:
    """Join the store and wait until all ranks have.

    Raises:
        ConfigError: within about ``seconds``, naming the variable that keeps the processes apart.
    """
    from torch.distributed import DistNetworkError

    store = connect(world, seconds, serve=world.rank == 0 and not _launcher_serves())
    try:
        _wait_for_all(store, world, seconds)
    except DistNetworkError as error:
        raise ConfigError(
            [f"environment: rank 0 at MASTER_ADDR={os.environ['MASTER_ADDR']} has left again, see what it printed"]
        ) from error
    return store


def _wait_for_all(store: Store, world: World, seconds: float) -> None:
    if store.add(f"taken/{world.rank}", 1) > 1:
        raise RankError([f"environment: RANK={world.rank} was taken by another process before; start each rank once"])
    store.set(f"size/{world.rank}", str(world.size))
    arrived = f"arrived/{world.size}"  # ranks with another size do not count
    store.add(arrived, 1)
    deadline = time.monotonic() + seconds
    while store.add(arrived, 0) < world.size:
        if time.monotonic() > deadline:
            raise ConfigError([_why_not_all(store, world, seconds)])
        time.sleep(POLL_SECONDS)


def connect(world: World, seconds: float, *, serve: bool = False) -> Store:
    """A connection to the job's store, which rank 0 must ``serve`` unless its launcher does.

    Raises:
        ConfigError: when the address cannot be reached, or the port to serve at is taken.
    """
    from torch.distributed import DistNetworkError, PrefixStore, TCPStore

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    _check_address(address)
    if not serve:
        _wait_for_server(address, port, world, seconds)
    try:
        store = TCPStore(
            address, port, world.size, serve, timedelta(seconds=seconds), wait_for_workers=False, multi_tenant=True
        )
    except DistNetworkError as error:
        listens = f"rank {world.rank} on {socket.gethostname()} cannot {'listen' if serve else 'talk'}"
        raise ConfigError(
            [
                f"environment: {listens} at MASTER_ADDR={address}, MASTER_PORT={port}: another program uses that port,"
                " or the address is of another machine; choose another (--master_port of the launchers)"
            ]
        ) from error
    # torchrun starts failed ranks anew on the same store, where the traces of the attempt before must not count.
    return PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def _wait_for_server(address: str, port: int, world: World, seconds: float) -> None:
    """Return once somebody listens. torch would wait in C++, deaf to signals, and print its stack at every attempt."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((address, port), timeout=max(1.0, seconds / 4)).close()
            return
        except OSError as error:
            reason = error.strerror or str(error)
        if time.monotonic() > deadline:
            raise ConfigError(
                [
                    f"environment: after {seconds:g} s rank {world.rank} on {socket.gethostname()} does not reach rank"
                    f" 0 at MASTER_ADDR={address}, MASTER_PORT={port} ({reason}): wrong, behind a firewall, or rank"
                    f" 0 has not started, see what it printed; {_REMEDY.format(seconds)}"
                ]
            )
        time.sleep(POLL_SECONDS)


def _check_address(address: str) -> None:
    try:
        socket.getaddrinfo(address, None)
    except OSError as error:
        raise ConfigError(
            [f"environment: MASTER_ADDR={address} is not known to {socket.gethostname()} ({error.strerror or error})"]
        ) from error


def _launcher_serves() -> bool:
    """Whether torchrun's agent holds the store itself, so that it outlives a rank."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _why_not_all(store: Store, world: World, seconds: float) -> str:
    keys = {rank: f"size/{rank}" for rank in range(world.size)}
    there = {rank: store.get(key).decode() for rank, key in keys.items() if store.check([key])}
    other = next((rank for rank, size in there.items() if size != str(world.size)), None)
    if other is not None:
        sizes = f"{world.size} for rank {world.rank} and {there[other]} for rank {other}"
        return f"environment: {world.size_variable} is {sizes}"
    return (
        f"environment: {world.size_variable}={world.size}, but after {seconds:g} s rank"
        f" {shortened(str(rank) for rank in keys if rank not in there)} had not come to"
        f" MASTER_ADDR={os.environ['MASTER_ADDR']}: fewer processes were started, the variable is left from another"
        f" job, or they ended with an error of their own; {_REMEDY.format(seconds)}"
    )
