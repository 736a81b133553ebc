"""Where the host looks at a number while it takes a step: on a GPU it waits there until the device is done."""

from __future__ import annotations

import json

import torch
from ranks import run_on_ranks

from nepa_scale.data.preprocessing import Standardisation
from nepa_scale.data.transforms import _by_channel, normalise
from nepa_scale.models.layers import SeededRope


def test_a_step_waits_for_the_norm_and_for_nothing_else() -> None:
    """Stage 0 reads one number of the device, the norm of the gradient; at the others the norm, of stage 3 that of each
    group, is moved to the CPU, where DeepSpeed looks at it several times. RoPE's scale is drawn there, too."""
    (output,) = run_on_ranks("host_reads.py", [], world_size=1)
    for case, reads in json.loads(output.strip().splitlines()[-1]).items():
        on_cpu = {"_drawn_scale": 2, "_take_step": 1}
        if case.startswith("0"):
            assert reads == on_cpu
            continue
        looks = {name: count for name, count in reads.items() if name not in on_cpu}
        assert set(looks) == {"cpu", "is_invalid_grad_norm"}, (case, looks)
        assert looks["cpu"] == 1 or case.startswith("3"), (case, looks)


def test_positions_are_copied_to_a_device_once() -> None:
    """Coordinates are made once for each grid; the tables of training passes are those of timm, draw by draw."""
    rope = SeededRope(dim=16, temperature=100.0, feat_shape=[4, 6], rescale_coords=2.0).train()
    for grid in ([4, 6], [5, 5], [4, 6]):
        torch.manual_seed(5)
        expected = rope._create_embed(grid)
        torch.manual_seed(5)
        assert torch.equal(rope.get_embed(grid), expected)
    assert len(rope._placed) == 2
    state = torch.get_rng_state()
    rope.next_seed = 9
    seeded = rope.get_embed()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(9)
    assert torch.equal(seeded, rope._create_embed([4, 6]))


def test_the_constants_of_channels_are_copied_to_a_device_once() -> None:
    """Images of several batches are normalised with the same tensors, to what the formula says."""
    standard = Standardisation((0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
    images = torch.arange(24, dtype=torch.uint8).reshape(2, 3, 2, 2)
    before = _by_channel.cache_info().misses
    for _ in range(3):
        found = normalise(images, standard)
    assert _by_channel.cache_info().misses - before == 2
    mean, std = (torch.tensor(values)[:, None, None] for values in (standard.mean, standard.std))
    torch.testing.assert_close(found, (images / 255 - mean) / std)
