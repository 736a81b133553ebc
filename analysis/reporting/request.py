"""What the report's command line asks for, checked before anything that takes time to import."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nepa_scale.utils.errors import UserError, nearest
from nepa_scale.utils.files import typed_path

USAGE = "python analysis/report.py STUDY_DIR [STUDY_DIR ...] [watch=true] [markdown=FILE] [latex=FILE] [page=FILE]"
SIDE_BY_SIDE = "side_by_side.html"
HELP = f"""usage: {USAGE}

Reads the runs of a study, fits the scaling laws, and writes results.parquet, results.csv and report.html into
STUDY_DIR. Unfinished, failed and unreadable runs are shown and left out of the fits. Of several studies each gets its
report, and one page more compares them. The last line printed is the path of the page.

watch=true     writes all anew whenever a file of the study changes, until every task has ended; Ctrl-C leaves
markdown=FILE  answers and tables as Markdown
latex=FILE     the tables as LaTeX (booktabs)
page=FILE      where the page that compares several studies goes; default: {SIDE_BY_SIDE} in the first STUDY_DIR;
               beside it one table of all runs, as .parquet and .csv"""
_FILES = ("markdown", "latex", "page")


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    folders: tuple[Path, ...]
    watch: bool = False
    markdown: Path | None = None
    latex: Path | None = None
    page: Path | None = None


def read_words(words: Sequence[str]) -> Request:
    """Raises ``UserError`` for a word that is neither a folder nor a setting, and for settings that do not fit."""
    folders: list[Path] = []
    files: dict[str, Path] = {}
    watch = False
    for word in words:
        key, assigned, value = word.partition("=")
        if key == "watch" and value in ("true", "false"):
            watch = value == "true"
        elif key in _FILES and value:
            files[key] = typed_path(value)
        elif word.startswith("-") or ((assigned or key in _FILES) and not typed_path(word).is_dir()):
            raise UserError(f"'{word}': not understood{nearest(key.lstrip('-'), ('watch', *_FILES))}; usage: {USAGE}")
        else:
            folders.append(typed_path(word))
    if not folders:
        raise UserError(f"name the study directory; usage: {USAGE}")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UserError(f"a study directory is named twice: {', '.join(map(str, folders))}")
    if "page" in files and len(folders) == 1:
        raise UserError("page=FILE is the page that compares several studies; name two or more directories")
    for key, file in files.items():
        if file.is_dir() or not file.absolute().parent.is_dir():
            raise UserError(f"{key}={file}: it must be a file in a folder that exists")
    return Request(tuple(folders), watch, **files)
