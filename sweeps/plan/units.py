"""Numbers and names as the plan's tables show them."""

from __future__ import annotations

from sweeps.plan.plan import Dropped, PlannedRun


def run_name(run: PlannedRun | Dropped) -> str:
    """The label, and where fine-tuning starts if not from the run's own pre-training."""
    return run.label + start_text(run)


def start_text(run: PlannedRun | Dropped) -> str:
    """What follows a label: nothing where fine-tuning starts from the run's own pre-training."""
    return {"pretrain": "", "scratch": " scratch"}.get(run.init, f" from {run.init}")


def count_text(number: float) -> str:
    """A count with three digits: 950, 81.3k, 1.12M."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.3g}{unit}"
    return f"{number:g}"


def memory_text(size: float) -> str:
    """Bytes in MiB or GiB."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def duration_text(seconds: float | None) -> str:
    """A time for people: 42 s, 3.5 min, 12 min, 1.2 h, 3.1 d; ? where it is not known."""
    if seconds is None:
        return "?"
    for limit, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= limit:
            return f"{seconds / limit:{'.1f' if seconds < 10 * limit else '.0f'}} {unit}"
    return f"{seconds:.0f} s"
