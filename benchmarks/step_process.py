"""One contestant of ``train_step.py`` in processes of its own, which take steps when told to.

Each lives as it would by itself: the engine's processes as a training sets them up (compiled blocks, freed memory
kept), a plain loop's with nothing but torch.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Self

import torch
from built_engine import built_engine
from reference_nepa import ReferenceNepa, reference_step
from torch import Tensor, nn

from nepa_scale.config.schema import RunConfig
from nepa_scale.distributed import process_group, processes
from nepa_scale.distributed.processes import free_port
from nepa_scale.distributed.world import World, read_environment
from nepa_scale.models.build import build_backbone
from nepa_scale.optim.optimizer import build_optimizer
from nepa_scale.placement.devices import DeviceMemory
from nepa_scale.placement.planner import place
from nepa_scale.tasks.next_embedding import NextEmbedding

Step = Callable[[Tensor], Any]
NOT_ASKED = DeviceMemory(None, "not asked", on_gpu=False)
WARM_UP_STEPS, STEPS_A_TURN = 4, 2


class Contestant:
    """The processes of one way to train, and how long their steps take."""

    def __init__(self, make_step: Callable[[RunConfig, World], Step], config: RunConfig, *, ranks: int, threads: int):
        """Start ``ranks`` processes of ``threads`` threads each and wait until they have compiled and warmed up."""
        spawn = multiprocessing.get_context("spawn")
        group = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        self._processes, self._pipes = [], []
        for rank in range(ranks):
            pipe, theirs = spawn.Pipe()
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": str(threads)}
            os.environ.update(group | own)  # threads are counted when a process starts
            process = spawn.Process(target=_take_steps, args=(theirs, make_step, config), daemon=True)
            process.start()
            theirs.close()
            self._processes.append(process)
            self._pipes.append(pipe)
        self.first_step_seconds = max(pipe.recv() for pipe in self._pipes)

    def seconds(self) -> float:
        """Seconds of a step now, on the slowest rank: the mean of a few, after one that is not counted."""
        for pipe in self._pipes:
            pipe.send("go")
        return max(pipe.recv() for pipe in self._pipes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join()


def _take_steps(pipe: Connection, make_step: Callable[[RunConfig, World], Step], config: RunConfig) -> None:
    """What one process does: a number of steps whenever it is told to, until nobody is left to tell it."""
    world = read_environment()
    torch.manual_seed(0)
    step = make_step(config, world)
    section, channels = config.pretrain, config.model.architecture().in_chans
    shape = (section.batch_size // world.size, channels, section.image_size, section.image_size)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(world.rank))
    warm_up = [_timed(step, images) for _ in range(WARM_UP_STEPS)]
    pipe.send(warm_up[0])
    while _is_told(pipe):
        step(images)  # the caches are full of another contestant's numbers
        pipe.send(statistics.mean(_timed(step, images) for _ in range(STEPS_A_TURN)))
    process_group.leave()


def _is_told(pipe: Connection) -> bool:
    try:
        return bool(pipe.recv())
    except EOFError:
        return False


def _timed(step: Step, images: Tensor) -> float:
    started = time.perf_counter()
    step(images)
    return time.perf_counter() - started


def our_module(config: RunConfig) -> NextEmbedding:
    """The module that the pre-training task trains."""
    return NextEmbedding(build_backbone(config.model.architecture(), config.pretrain.image_size), config.pretrain)


def engine_step(config: RunConfig, world: World) -> Step:
    """The engine's step at ZeRO stage 0, everything as in a long training but the data loader."""
    processes.keep_freed_memory()
    device = process_group.initialise(world)
    module = our_module(config)
    module.backbone.compile_blocks()
    module.compile_loss()
    engine = built_engine(module, config, place(config, "pretrain", world.size, NOT_ASKED), world, device)
    return lambda images: engine.step([(images,)], step=1, before_forward=lambda _index: None)


def bare_step(config: RunConfig, _world: World) -> Step:
    """A plain loop around the same module and optimiser, not compiled."""
    module = our_module(config)
    optimizer = build_optimizer(module, config.pretrain)

    def step(images: Tensor) -> float:
        loss = module(images)
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), config.pretrain.clip_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return step


def plain_step(config: RunConfig, _world: World) -> Step:
    """The step of ``reference_nepa.py``."""
    arch, section = config.model.architecture(), config.pretrain
    model = ReferenceNepa(arch.embed_dim, arch.depth, arch.num_heads, arch.patch_size, section.image_size)
    betas = (section.beta1, section.beta2)
    return reference_step(model, lr=section.peak_lr, weight_decay=section.weight_decay, betas=betas)
