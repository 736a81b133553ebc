"""The process group: how the ranks of a run join and leave it, and agree on numbers and texts."""

from __future__ import annotations

import atexit
import functools
import gc
import os
import socket
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn, cast

from nepa_scale.distributed.rendezvous import meet
from nepa_scale.distributed.world import World
from nepa_scale.utils.errors import RankError

if TYPE_CHECKING:
    import torch
    from torch.distributed import ProcessGroup, Store

OUTSIDE = "192.0.2.1"  # an address of documentation (RFC 5737), behind every machine's default route
_timeout = timedelta(minutes=30)


def import_libraries() -> bool:
    """Import torch and DeepSpeed with the variables they read on import set; returns whether this process has a GPU."""
    if "deepspeed" in sys.modules:
        return _import_libraries()
    gc.disable()  # what is imported stays: looking for garbage in it would take half a second here, and more later
    try:
        return _import_libraries()
    finally:
        gc.freeze()
        gc.enable()


def _import_libraries() -> bool:
    # Of what goes wrong, our own messages tell; torch would print its C++ stack at every lost connection.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    import torch

    cuda = torch.cuda.is_available()
    if not cuda:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed  # noqa: F401  for all that follows

    _import_muon_uncompiled()
    return cuda


def _import_muon_uncompiled() -> None:
    """Import DeepSpeed's Muon, as its ZeRO stages do, without what its decorator would load: torch's compiler, which
    takes each process over a second. This project has a Muon of its own."""
    from deepspeed.runtime import compiler

    compile_function = compiler.compile
    compiler.compile = lambda *_arguments, **_keywords: lambda function: function
    try:
        import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: F401
    finally:
        compiler.compile = compile_function


def initialise(world: World, *, rendezvous_seconds: float = 60.0, timeout_minutes: float = 30.0) -> torch.device:
    """Join the process group and return this process's device: ``find_ranks``, then ``join``."""
    return join(world, find_ranks(world, rendezvous_seconds), timeout_minutes)


def find_ranks(world: World, seconds: float) -> Store:
    """Wait until all ranks are there, ``seconds`` at most; returns the store through which they find one another.

    Raises:
        ConfigError: when the ranks do not find one another, naming the variable that is wrong.
    """
    import_libraries()
    import torch.distributed as dist

    return dist.HashStore() if world.size == 1 else dist.PrefixStore("group", meet(world, seconds))


def join(world: World, store: Store, timeout_minutes: float) -> torch.device:
    """Join the process group (NCCL on GPUs, gloo on CPUs) and return this process's device.

    Args:
        timeout_minutes: when a collective gives up, should the watchdog not have ended the job before.

    Raises:
        RankError: when this machine lacks a GPU, or the network interface that is named, for this rank, or when two
            ranks have the same GPU.
    """
    global _timeout  # noqa: PLW0603  (of every group of this process)
    _timeout = timedelta(minutes=timeout_minutes)
    import deepspeed
    import torch
    import torch.distributed as dist

    cuda = torch.cuda.is_available()
    if cuda:
        device = torch.device("cuda", _choose_gpu(world.local_rank))
        _measure_memory_through_torch()
    else:
        _skip_shared_memory_kernel()
        device = torch.device("cpu")
    backend = "nccl" if cuda else "gloo"
    if world.size > 1:
        if cuda:
            check_gpus(store, world, _identity(torch.cuda.get_device_properties(device)))
        _choose_interface()  # on GPUs, too: hosts agree among themselves over gloo
    dist.init_process_group(
        backend,
        store=store,
        rank=world.rank,
        world_size=world.size,
        timeout=_timeout,
        device_id=device if cuda and world.size > 1 else None,
    )
    deepspeed.init_distributed(dist_backend=backend, verbose=False)
    # ZeRO communicates in a clone of the group of all ranks, which DeepSpeed would make with torch's own timeout.
    deepspeed.utils.groups._WORLD_GROUP = dist.new_group(range(world.size), timeout=_timeout)
    return device


def _identity(gpu: Any) -> str:
    """What tells a GPU from others of its machine; some drivers give all of them one UUID."""
    return f"{gpu.uuid} {getattr(gpu, 'pci_bus_id', '')}:{getattr(gpu, 'pci_device_id', '')}"


def check_gpus(store: Store, world: World, gpu: str) -> None:
    """Compare the GPUs of all ranks, of which this one has ``gpu``: NCCL would name neither ranks nor remedy.

    Raises ``RankError``, on every rank, where two have the same.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    part = visible if visible.startswith("MIG-") else ""  # parts of one GPU may share its UUID
    store.set(f"gpu/{world.rank}", f"{gpu} {part} on {socket.gethostname()}")
    ranks: dict[bytes, int] = {}
    for rank, theirs in enumerate(store.multi_get([f"gpu/{rank}" for rank in range(world.size)])):
        if (first := ranks.setdefault(theirs, rank)) != rank:
            host = theirs.decode().rpartition(" ")[2]
            raise RankError(
                [f"environment: ranks {first} and {rank} have the same GPU of {host}; start fewer ranks there"]
            )


def shut_down() -> None:
    """Leave the process group together: without the barrier a rank may abort while another still talks to it."""
    import torch.distributed as dist

    if dist.is_initialized():
        barrier()
        dist.destroy_process_group()


def leave(code: int = 0) -> NoReturn:
    """Leave the process group together and end this process, without taking the interpreter down.

    DeepSpeed keeps groups alive, and so gloo's threads. One that frees a tensor while Python ends would abort the
    process after all of its work is done.
    """
    shut_down()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def sum_votes(votes: Sequence[float]) -> list[int]:
    """The sums of small integers over all ranks, over the hosts' network: nobody waits for the GPUs."""
    import torch
    import torch.distributed as dist

    sums = torch.tensor(votes, dtype=torch.float64)
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(sums, group=_hosts())
    return [int(value) for value in sums.tolist()]


@functools.cache
def _hosts() -> ProcessGroup | None:
    """The ranks without their GPUs; None is the group that there is anyway."""
    import torch.distributed as dist

    if dist.get_backend() != "nccl":
        return None
    return cast("ProcessGroup", dist.new_group(backend="gloo", timeout=_timeout))


def sum_over_ranks(tensors: Iterable[torch.Tensor]) -> None:
    """Replace each tensor by its sum over all ranks, in place."""
    import torch.distributed as dist

    if dist.is_initialized() and dist.get_world_size() > 1:
        for tensor in tensors:
            dist.all_reduce(tensor)


def max_over_ranks(value: int, device: torch.device) -> int:
    """The largest of all ranks' values; every rank must call this at the same point."""
    import torch
    import torch.distributed as dist

    if not (dist.is_initialized() and dist.get_world_size() > 1):
        return value
    largest = torch.tensor(value, device=device)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest.item())


def first_text(text: str | None) -> str:
    """The text of the first rank that has one; every rank must call this at the same point."""
    return next(filter(None, gather_objects(text)), "")


def gather_objects(value: Any) -> list[Any]:
    """The value of each rank, in the order of ranks; every rank must call this at the same point."""
    import torch.distributed as dist

    if not (dist.is_initialized() and dist.get_world_size() > 1):
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def barrier() -> None:
    """Wait until every rank arrives."""
    import torch.distributed as dist

    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.barrier()


def _skip_shared_memory_kernel() -> None:
    """Keep DeepSpeed from compiling its CPU collectives: over a minute of C++ that training never uses.

    What it would do first, running a compiler to see which of its operators this machine can have, is left out too.
    """
    import deepspeed.ops

    vars(deepspeed.ops).setdefault("__compatible_ops__", {})["deepspeed_shm_comm"] = False


def _choose_gpu(local_rank: int) -> int:
    """The number of this rank's GPU, also for DeepSpeed. Slurm may show each task only its own."""
    import torch

    count = torch.cuda.device_count()
    index = 0 if count == 1 else local_rank
    if index >= count:
        raise RankError(
            [f"environment: LOCAL_RANK={local_rank}, but this machine shows {count} GPUs; start fewer ranks"]
        )
    os.environ["LOCAL_RANK"] = str(index)
    torch.cuda.set_device(index)
    return index


def _measure_memory_through_torch() -> None:
    """Keep DeepSpeed from asking NVML for free memory: it takes GPUs by number, also where UUIDs name them."""
    import torch
    from deepspeed.accelerator import get_accelerator

    accelerator: Any = get_accelerator()
    accelerator.available_memory = lambda device_index=None: torch.cuda.mem_get_info(device_index)[0]


def _choose_interface() -> None:
    """Have gloo talk over the network interface that leads to rank 0, unless the user has named one.

    gloo would take the address that this machine's host name has, which is often one that only itself can reach.
    Raises ``RankError`` where this machine has no interface of the user's name.
    """
    import psutil

    interfaces, named = psutil.net_if_addrs(), os.environ.get("GLOO_SOCKET_IFNAME")
    if named and (unknown := set(named.split(",")) - interfaces.keys()):
        what = f"{socket.gethostname()} has no network interface '{min(unknown)}'; it has {', '.join(interfaces)}"
        raise RankError([f"environment: GLOO_SOCKET_IFNAME={named}: {what}"])
    own_address = _address_towards(os.environ["MASTER_ADDR"])
    if _is_loopback(own_address) and not _is_loopback(os.environ["MASTER_ADDR"]):
        # /etc/hosts of Debian gives a machine's own name an address that no other machine reaches.
        with suppress(OSError):  # where there is no other network
            own_address = _address_towards(OUTSIDE)
    names = [
        name
        for name, addresses in interfaces.items()
        if own_address in (item.address.split("%")[0] for item in addresses)
    ]
    if names:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", names[0])


def _address_towards(host: str) -> str:
    """This machine's address on the network that leads to ``host``."""
    [(family, kind, _, _, address), *_] = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)
    with socket.socket(family, kind) as probe:
        probe.connect(address)  # sends nothing
        return str(probe.getsockname()[0])


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")
