"""The kernel that attention is said to take is the one that runs."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from nepa_scale.perf.throughput import attention_kernel

CPU = torch.device("cpu")


@pytest.mark.parametrize("width", [16, 64, 72])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("allowed", [[SDPBackend.FLASH_ATTENTION, SDPBackend.MATH], [SDPBackend.MATH]])
def test_the_kernel_is_the_one_that_runs(width: int, dtype: torch.dtype, allowed: list[SDPBackend]) -> None:
    """What torch's profiler sees of a causal pass with gradients has the name that is reported."""
    heads = torch.randn(2, 3, 50, width, dtype=dtype, requires_grad=True)
    with sdpa_kernel(allowed), torch.profiler.profile() as profile:
        kernel = attention_kernel(width, dtype, CPU)
        F.scaled_dot_product_attention(heads, heads, heads, is_causal=True)
    ran = {event.key for event in profile.key_averages()}
    names = {"flash_attention": "aten::_scaled_dot_product_flash_attention_for_cpu"}
    assert names.get(kernel, "aten::_scaled_dot_product_attention_math") in ran
    assert kernel == ("math" if len(allowed) == 1 else "flash_attention")
