"""Makes forgotten initialisation visible."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_EMPTY = {torch.ops.aten.empty, torch.ops.aten.empty_like, torch.ops.aten.empty_strided, torch.ops.aten.new_empty}


class NanFilled(TorchDispatchMode):
    """While active, new floating-point tensors without values hold NaN instead of whatever lay in memory."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, and fill what it has left empty."""
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in _EMPTY and result.is_floating_point():
            result.fill_(torch.nan)
        return result
