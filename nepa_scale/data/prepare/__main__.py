"""Command: make, complete and check data sets of shards. ``python -m nepa_scale.data.prepare KIND key=value ...``."""

from __future__ import annotations

import signal
import sys
from dataclasses import asdict

from nepa_scale.data import info
from nepa_scale.data.prepare.settings import (
    KINDS,
    AdoptSettings,
    DigitSettings,
    IndexSettings,
    Settings,
    VerifySettings,
    WritingSettings,
)
from nepa_scale.utils.arguments import grammar_of_kinds
from nepa_scale.utils.cli import command, print_json, room_for_json
from nepa_scale.utils.progress import reporting

GRAMMAR = grammar_of_kinds(
    KINDS,
    "python -m nepa_scale.data.prepare KIND key=value ...    (installed: nepa-prepare)",
    "Makes, completes and checks data sets of shards. An interrupted command continues where it was.",
    "nepa-prepare imagenet source=downloads root=data name=imagenet",
    "nepa-prepare verify root=data name=imagenet",
)


@command(GRAMMAR)
def main(settings: Settings) -> int:
    """Do what was asked for; returns the exit code."""
    try:
        return run(settings)
    except KeyboardInterrupt:
        print("stopped: what is done is kept, and the same command continues", file=sys.stderr)
        return 130


def run(settings: Settings) -> int:
    """Do what was asked for and say what was done; return the exit code. Raises ``DataError``."""
    # imported here and below, because --help and complaints need no numpy
    if isinstance(settings, VerifySettings):
        return _verify(settings)
    if isinstance(settings, AdoptSettings):
        from nepa_scale.data.prepare.adopt import adopt

        with reporting() as report:
            print(adopt(settings.root, settings.name, settings.workers, report))
    elif isinstance(settings, IndexSettings):
        from nepa_scale.data.prepare.adopt import index_again

        with reporting() as report:
            print(
                index_again(settings.root, settings.name, report, measured=settings.measure, workers=settings.workers)
            )
    elif isinstance(settings, DigitSettings):
        from nepa_scale.data.prepare import digits

        with reporting() as report:
            written = digits.write_digits(**asdict(settings), report=report)
        print(_outcome(str(settings.root / info.EMBEDDED_NAME), written))
    elif isinstance(settings, WritingSettings):
        from nepa_scale.data.prepare.writing import list_source, write

        listing = list_source(settings)
        for line in (*listing.remarks, *listing.left_out.lines()):
            print(line)
        with reporting() as report:
            written = write(settings, listing, report)
        print(_outcome(str(settings.root / settings.name), written))
    return 0


def _outcome(folder: str, written: bool) -> str:
    return f"{folder}: written" if written else f"{folder}: already there, nothing to do"


def _verify(settings: VerifySettings) -> int:
    from nepa_scale.data.prepare.verify import verify

    with room_for_json(settings.json), reporting() as report:
        findings = verify(settings.root, settings.name, settings.workers, report)
    if settings.json:
        data_set = str(settings.root / settings.name)
        print_json({"data_set": data_set, "faults": findings.faults, "remarks": findings.remarks})
    else:
        print("\n".join([*findings.faults, *findings.remarks]))
    return 1 if findings.faults else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that clean-up happens
    sys.exit(main())
