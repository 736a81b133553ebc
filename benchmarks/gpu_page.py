"""The page of ``gpu.py``: what was measured, a table for each section."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

EMPTY = "not measured"
#: Of each section: its title and its columns, by the key in a cell's result and the heading.
SECTIONS: dict[str, tuple[str, dict[str, str]]] = {
    "speed": (
        "Speed and memory of a pre-training step",
        {
            "images_per_second": "images/s",
            "mfu": "MFU",
            "step_ms": "ms a step",
            "kernels_ms": "ms in kernels",
            "first_step_s": "first step, s",
            "peak_gib": "peak GiB",
            "predicted_gib": "predicted GiB",
            "syncs": "waits for the device a step",
            "attention": "attention kernel",
        },
    ),
    "losses": (
        "Losses of 20 steps, beside fp32 on the CPU",
        {"largest_difference": "largest difference", "eval_difference": "of the evaluation", "last_loss": "last loss"},
    ),
    "resume": (
        "Ten steps, stop, ten more, beside twenty at once",
        {"largest_difference": "largest difference", "bitwise": "bit for bit"},
    ),
    "non-finite": ("A step with a NaN image", {"taken": "step taken", "weights_changed": "weights changed"}),
    "decoding": (
        "Training from JPEGs",
        {"images_per_second": "images/s", "data_wait": "time waited for data", "mfu": "MFU"},
    ),
}


def page(content: Mapping[str, Any]) -> str:
    """Markdown of a ``results.json``."""
    machine = content["machine"]
    lines = ["# One device: correctness, speed, memory", ""]
    lines += [f"- {name}: {value}" for name, value in machine.items()] or ["Nothing has been measured yet."]
    for section, (title, columns) in SECTIONS.items():
        rows = [cell for cell in content["cells"] if cell["section"] == section]
        if rows:
            lines += ["", f"## {title}", "", *table(rows, columns)]
    return "\n".join(lines)


def table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> list[str]:
    """One line for each cell; a reason stands in place of values that are not there."""
    lines = [f"| | {' | '.join(columns.values())} |", "|---" * (len(columns) + 1) + "|"]
    for row in rows:
        result = row["result"]
        values = (
            [row["state"]] + [""] * (len(columns) - 1)
            if result is None
            else [shown(result.get(key)) for key in columns]
        )
        lines.append(f"| {row['name']} | {' | '.join(values)} |")
    return lines


def shown(value: Any) -> str:
    """A value as a cell of the table has it."""
    if value is None:
        return EMPTY
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
