"""The report: answers, figures and tables on one page, in Markdown and in LaTeX. Imported by ``analysis.report``.

Here is what its command line asks for, which is checked before anything that takes time to import.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nepa_scale.utils.arguments import grammar, option

SIDE_BY_SIDE = "side_by_side.html"
_FILES = ("markdown", "latex", "page")


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    folders: tuple[Path, ...] = option("directories of studies", positional=True, form="STUDY_DIR ...")
    watch: bool = option(
        "write all anew whenever a file of the study changes, until every task has ended; Ctrl-C leaves", False
    )
    markdown: Path | None = option("answers and tables as Markdown", None, form="FILE")
    latex: Path | None = option("the tables as LaTeX (booktabs)", None, form="FILE")
    page: Path | None = option(
        f"the page that compares several studies (default: {SIDE_BY_SIDE} in the first STUDY_DIR); beside it one table "
        "of all runs, as .parquet and .csv",
        None,
        form="FILE",
    )

    def problems(self) -> list[str]:
        """What does not fit together, or does not lie where it must."""
        problems = []
        if len({folder.resolve() for folder in self.folders}) < len(self.folders):
            problems.append(f"a study directory is named twice: {', '.join(map(str, self.folders))}")
        if self.page is not None and len(self.folders) == 1:
            problems.append("page=FILE is the page that compares several studies; name two or more directories")
        files = {key: file for key in _FILES if (file := getattr(self, key)) is not None}
        return problems + [
            f"{key}={file}: it must be a file in a folder that exists"
            for key, file in files.items()
            if file.is_dir() or not file.absolute().parent.is_dir()
        ]


GRAMMAR = grammar(
    Request,
    "python analysis/report.py STUDY_DIR [STUDY_DIR ...] key=value ...    (installed: nepa-report)",
    "Reads the runs of a study, fits the scaling laws, and writes results.parquet, results.csv and report.html into "
    "STUDY_DIR. Unfinished, failed and unreadable runs are shown and left out of the fits. Of several studies each "
    "gets its report, and one page more compares them. The last line printed is the path of the page.",
    "nepa-report studies/demo-model_size watch=true",
    "nepa-report studies/one studies/other page=both.html",
)
