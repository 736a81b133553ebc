"""Build a task whose weights no rank could hold: under ZeRO-3 each rank keeps its shard of them from the start.

``deepspeed.zero.Init`` partitions parameters as they are made. What initialises them afterwards, as timm and we do,
then writes to empty tensors and is silently lost. Here construction is left as it is: every rank runs it with the same
random numbers, loading of weights included, and only memory is lent. A tensor that no operation has used for a while
gives up all but this rank's shard of its bytes, and is gathered again when one does. The weights are those of an
ordinary build, bit by bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nepa_scale.distributed.processes import give_back_freed_memory
from nepa_scale.distributed.world import World

SMALLEST_BYTES = 2**16  # smaller tensors are never given up
WHOLE_BYTES = 2**26  # the others may take so much at a time while gathered

#: Operations after which nothing is left of what the tensor held, if it is all of its memory.
_OVERWRITING = frozenset(
    {torch.ops.aten.uniform_, torch.ops.aten.normal_, torch.ops.aten.zero_, torch.ops.aten.fill_, torch.ops.aten.copy_}
)

#: Operations that need no values: another handle on the same memory. Other views check how much of it there is.
_WITHOUT_VALUES = frozenset({torch.ops.aten.detach, torch.ops.aten.alias})


class HasModule(Protocol):
    """An object around a module, which is built."""

    module: nn.Module


Built = TypeVar("Built", bound=HasModule)


def build(make: Callable[[], Built], settings: dict[str, Any], *, world: World, device: torch.device) -> Built:
    """Build what ``make`` builds, with the parameters of its module partitioned by DeepSpeed; every rank calls this.

    Args:
        settings: the run's DeepSpeed configuration, of stage 3.
    """
    if device.type == "cpu":
        give_back_freed_memory()
    lender = MemoryLender(world, device)
    with lender:
        built = make()
    low_precision = {"bf16": torch.bfloat16, "fp16": torch.float16}
    dtype = next((dtype for key, dtype in low_precision.items() if settings.get(key, {}).get("enabled")), None)
    deepspeed.zero.Init(module=_OneByOne(built.module, lender, dtype), config_dict_or_path=settings)
    lender.return_all()
    return built


class MemoryLender(TorchDispatchMode):
    """While active, large floating-point tensors made on the CPU are whole on every rank only when they are used.

    All ranks must do the same operations on them in the same order: gathering is a collective. Which tensors stay
    whole depends on that order alone, never on when Python frees a dead one.
    """

    def __init__(self, world: World, device: torch.device) -> None:
        super().__init__()
        self._world, self._device = world, device
        self._whole: dict[StorageWeakRef, int] = {}  # bytes, the least recently used first
        self._shards: dict[
            StorageWeakRef, tuple[Tensor, int]
        ] = {}  # this rank's part, and the bytes of the whole tensor

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation with its tensors whole, then take memory back where too much is lent."""
        kwargs = kwargs or {}
        if func.overloadpacket not in _WITHOUT_VALUES:
            for index, tensor in enumerate(_tensors((args, kwargs))):
                self._lend(tensor, overwritten=index == 0 and func.overloadpacket in _OVERWRITING)
        result = func(*args, **kwargs)
        for tensor in _tensors(result):
            self._note(tensor)
        while len(self._whole) > 1 and sum(self._whole.values()) > WHOLE_BYTES:  # the last one is used again soon
            self._take_back(next(iter(self._whole)))
        return result

    def return_for_good(self, tensor: Tensor) -> None:
        """Gather a tensor and watch it no longer."""
        self._lend(tensor, overwritten=False)
        self._whole.pop(StorageWeakRef(tensor.untyped_storage()), None)

    def return_all(self) -> None:
        """Gather every tensor that is still in use: those that DeepSpeed does not partition."""
        for reference in [reference for reference in self._shards if not reference.expired()]:
            self._restore(reference, overwritten=False)
        self._whole.clear()

    def _note(self, tensor: Tensor) -> None:
        """Watch the memory of a new tensor if it is large, holds weights, and is torch's own."""
        storage = tensor.untyped_storage()
        reference = StorageWeakRef(storage)
        new = reference not in self._whole and reference not in self._shards
        on_cpu = storage.device.type == "cpu" and storage.resizable()
        if new and on_cpu and tensor.is_floating_point() and storage.nbytes() >= SMALLEST_BYTES:
            self._whole[reference] = storage.nbytes()

    def _lend(self, tensor: Tensor, *, overwritten: bool) -> None:
        reference = StorageWeakRef(tensor.untyped_storage())
        if reference in self._shards:
            self._restore(reference, overwritten=overwritten and tensor.nbytes == self._shards[reference][1])
        elif reference in self._whole:
            self._whole[reference] = self._whole.pop(reference)  # now the most recently used

    def _restore(self, reference: StorageWeakRef, *, overwritten: bool) -> None:
        shard, nbytes = self._shards.pop(reference)
        storage = _storage(reference)
        if storage is None:
            return
        storage.resize_(nbytes)
        self._whole[reference] = nbytes
        if not overwritten:
            own_shard = shard.to(self._device)
            parts = [torch.empty_like(own_shard) for _ in range(self._world.size)]
            dist.all_gather(parts, own_shard)
            _bytes(storage).copy_(torch.cat(parts)[:nbytes])

    def _take_back(self, reference: StorageWeakRef) -> None:
        nbytes = self._whole.pop(reference)
        storage = _storage(reference)
        if storage is None:
            return
        per_rank = -(-nbytes // self._world.size)
        shard = torch.zeros(per_rank, dtype=torch.uint8)
        own_bytes = _bytes(storage)[per_rank * self._world.rank :][:per_rank]
        shard[: len(own_bytes)] = own_bytes
        storage.resize_(0)
        self._shards[reference] = shard, nbytes


class _OneByOne(nn.Module):
    """Stands in for a module whose parameters ``zero.Init`` partitions: each becomes whole when its turn comes."""

    def __init__(self, module: nn.Module, lender: MemoryLender, dtype: torch.dtype | None) -> None:
        super().__init__()
        self._parts, self._lender, self._dtype = [module], lender, dtype

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Every parameter once, whole and in the number format to train in."""
        for parameter in self._parts[0].parameters(recurse):
            self._lender.return_for_good(parameter)
            if self._dtype is not None:
                parameter.data = parameter.data.to(self._dtype)
            yield parameter


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


def _storage(reference: StorageWeakRef) -> torch.UntypedStorage | None:
    """The memory behind a weak reference; None when it has been freed."""
    if reference.expired():
        return None
    storage: torch.UntypedStorage = torch.UntypedStorage._new_with_weak_ptr(reference.cdata)
    return storage


def _bytes(storage: torch.UntypedStorage) -> Tensor:
    return torch.empty(0, dtype=torch.uint8).set_(storage)
