"""What a person sees while a task runs, on terminals of any width."""

from __future__ import annotations

import io
import logging
import re
from pathlib import Path

import pytest
from full_disk import largest_file
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from nepa_scale.utils import progress
from nepa_scale.utils.progress import LogFile, StepDisplay, make_console, text_column

FIGURES = {"loss": -0.12345, "lr": 0.0012, "grad_norm": 1.2345, "images_per_second": 1234.0, "mfu": 0.3456}
TEXTS = ["loss -0.1235", "lr 0.0012", "grad_norm 1.234", "images_per_second 1234", "mfu 0.3456"]
MOVES = re.compile(r"\x1b\[(\d*)([A-Za-z])|\x1b\[\?\d+[hl]")


def terminal(width: int) -> Console:
    """A console that takes its file for a terminal."""
    return Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None, legacy_windows=False)


def screen(console: Console) -> list[str]:
    """The lines that a terminal shows after what was written to it."""
    lines, row = [""], 0
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    while text:
        move = MOVES.match(text)
        if move is not None:
            count = int(move[1] or 1) if move[2] else 0
            row -= count if move[2] == "A" else 0
            lines[row] = "" if move[2] == "K" else lines[row]
            text = text[move.end() :]
            continue
        letter, text = text[0], text[1:]
        if letter == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif letter == "\r":
            pass  # what follows erases the line or ends it
        else:
            lines[row] += letter
    return [line.rstrip() for line in lines if line.strip()]


@pytest.mark.parametrize(
    ("width", "bar", "least"), [(200, True, 5), (120, True, 3), (80, True, 1), (60, True, 0), (40, False, 0)]
)
@pytest.mark.parametrize("total", [12_800, 1_600_000])
def test_bar_gives_way_to_what_matters(width: int, bar: bool, least: int, total: int) -> None:
    """Step and time left are always there, the bar from 60 columns on; of the figures as many as fit, none in part."""
    console = terminal(width)
    display = StepDisplay("pretrain nano", 0, total, shown=True, on=console)
    display.update(total // 2, FIGURES)
    display.close()
    [line] = screen(console)
    assert len(line) <= width
    assert f"{total // 2}/{total}" in line
    assert re.search(r"[-\d]+:[-\d]{2}", line)
    assert ("━" in line) == bar
    rest = re.split(r":[-\d]{2}(?= |$)", line, maxsplit=1)[-1] if least else ""
    shown = [text for text in TEXTS if text in line]
    assert shown == TEXTS[: len(shown)]
    assert len(shown) >= least
    assert least == 0 or rest.split("  ")[-1].strip().endswith(shown[-1])


def test_messages_stand_above_the_bar(tmp_path: Path) -> None:
    """A message while the bar is live leaves one bar on the screen, below it; the file has the message alone."""
    console = terminal(80)
    progress.start_logging(tmp_path, console)
    display = StepDisplay("pretrain nano", 0, 10, shown=True, on=console)
    display.update(5, FIGURES)
    progress.logger.info("a [b] message: %s", "x" * 100)
    display.update(10, FIGURES)
    display.close()
    progress.logger.info("the end")
    shown = screen(console)
    assert [("10/10" in line, "message" in line, "the end" in line) for line in shown] == [
        (False, True, False),
        (True, False, False),
        (False, False, True),
    ]
    assert "a [b] message: " + "x" * 100 in shown[0]
    assert [line[9:] for line in (tmp_path / "log.txt").read_text().splitlines()] == [
        "a [b] message: " + "x" * 100,
        "the end",
    ]


def test_plain_lines_without_a_terminal(tmp_path: Path) -> None:
    """In a file every logged step is one line with all figures, however long."""
    console = Console(file=io.StringIO(), width=40)
    progress.start_logging(tmp_path, console)
    display = StepDisplay("pretrain nano", 0, 10, shown=True, on=console)
    display.update(1, None)
    display.update(2, FIGURES)
    display.close()
    assert isinstance(console.file, io.StringIO)
    [line] = console.file.getvalue().splitlines()
    assert line[9:] == "pretrain nano step 2/10  " + "  ".join(TEXTS)


def test_other_ranks_show_nothing() -> None:
    """One rank shows how far all are."""
    console = terminal(80)
    display = StepDisplay("pretrain nano", 0, 10, shown=False, on=console)
    display.update(5, FIGURES)
    display.close()
    assert screen(console) == []


NAMES = ["ViT-B [v1]", "[/v2]", "[red]x[/red]", "[link=http://x]y", ":smile:", "a\\[b", "[", "$x_1$"]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_printed_letter_by_letter(capsys: pytest.CaptureFixture[str], name: str) -> None:
    """Brackets are no markup and colons no emoji: in lines, tables, their titles and heads, and progress displays."""
    console = make_console(120)
    table = Table(f"head {name}", title=f"title {name}")
    table.add_row(f"cell {name}")
    console.print(f"line {name}", table)
    progress = Progress(text_column(), console=console)
    progress.add_task(f"task {name}")
    console.print(progress.get_renderable())
    shown = capsys.readouterr().out
    for place in ("line", "head", "title", "cell", "task"):
        assert f"{place} {name}" in shown


def test_no_name_speaks_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Escape sequences, bells and carriage returns are shown as dots."""
    make_console(120).print("a\x1b[31mb\x07c\rd\x9be")
    assert capsys.readouterr().out == "a·[31mb·c·d·e\n"


def test_full_disk_is_no_stack_for_each_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """K2: messages for which ``log.txt`` has no room are on the terminal; nothing comes in between, but for mistakes of
    our own."""
    handler = LogFile(tmp_path / "log.txt")
    with largest_file(0):
        handler.handle(logging.makeLogRecord({"msg": "step 1"}))
    assert not capsys.readouterr().err
    handler.handle(logging.makeLogRecord({"msg": "%d", "args": ("one",)}))
    assert "TypeError" in capsys.readouterr().err
    handler.close()
