"""What is printed is text, whatever a user's names hold."""

from __future__ import annotations

import pytest
from rich.progress import Progress
from rich.table import Table

from nepa_scale.utils.progress import make_console, text_column

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
