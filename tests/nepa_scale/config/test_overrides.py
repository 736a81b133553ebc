"""Settings that say one thing in several ways: the stronger source takes the place of what the weaker one says."""

from __future__ import annotations

from pathlib import Path

import pytest

from nepa_scale.config import overrides
from nepa_scale.utils.errors import ConfigError


@pytest.mark.parametrize("task", ["classify", "segment"])
@pytest.mark.parametrize(
    ("weak", "strong", "value"), [("init_fraction", "init_blocks", 1), ("init_blocks", "init_fraction", 0.5)]
)
def test_blocks_and_their_fraction_replace_each_other(
    tmp_path: Path, task: str, weak: str, strong: str, value: float
) -> None:
    """What is typed is the only one of the two that counts beside a file; both typed contradict."""
    (tmp_path / "own.yaml").write_text(f"{task}: {{{weak}: 1}}\n")
    words = [f"config={tmp_path / 'own.yaml'}", f"task={task}"]
    section = overrides.parse([*words, f"{task}.{strong}={value}"]).finetuning[task]
    assert getattr(section, strong) == value and getattr(section, weak) is None
    kept = overrides.parse([*words, f"{task}.{strong}=null"]).finetuning[task]
    assert getattr(kept, weak) == 1
    with pytest.raises(ConfigError) as caught:
        overrides.parse([f"task={task}", f"{task}.init_blocks=1", f"{task}.init_fraction=0.5"])
    (line,) = caught.value.problems
    assert f"{task}.init_blocks=1" in line and f"{task}.init_fraction=0.5" in line
