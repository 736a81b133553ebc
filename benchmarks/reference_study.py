"""What docs/reference-study keeps of its study, and the tables of its page.

python benchmarks/reference_study.py [study=STUDY_DIR] [rates=STUDY_DIR,...] [folder=docs/reference-study]

With ``study`` the folder takes over what the launcher and ``nepa-report`` wrote there: results.parquet, report.html,
headline.png, predictions.json, and records.tar.xz with the plan, every state and result, and the logs of pre-training
that are at hand, from which the report can be made again. ``rates`` are studies of ``grid=lr``; what each of their runs
reached goes into learning_rates.csv. Then each table is written into the page, between its lines ``<!-- NAME -->`` and
``<!-- end -->``.
"""

from __future__ import annotations

import io
import re
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[0:0] = [str(REPOSITORY), str(REPOSITORY / "benchmarks")]

from command import read_settings  # noqa: E402  (after the path)

from analysis.findings import text  # noqa: E402
from analysis.reporting.build import answer  # noqa: E402
from analysis.study.records import Study, read_study  # noqa: E402
from nepa_scale.utils.files import write_atomically  # noqa: E402

PAGE, RECORDS = "index.md", "records.tar.xz"
KEPT = ("results.parquet", "report.html", "headline.png", "predictions.json")
RECORDED = (
    *("plan.json", "predictions.json", "runs/*/*/status.json", "runs/*/*/result.json"),
    "runs/*/pretrain/metrics.jsonl",
)
RATES = "learning_rates.csv"
RATE_KEYS = ["rule", "steps", "size", "base_lr"]
SIZES = ("femto", "pico", "nano", "micro", "mini")
STEPS, BATCH = "config.pretrain.steps", 32
LABELLED = 500  # images, 50 of each of ten classes


def keep(study: Path, folder: Path) -> None:
    """Take over the files of a finished and reported study; the archive's bytes depend on their content alone.

    Where the study lay on the machine that ran it is nobody's business: paths begin at ``STUDY_DIR``.
    """

    def content(path: Path) -> bytes:
        return path.read_bytes().replace(bytes(study.resolve()), b"STUDY_DIR")

    for name in KEPT:
        write_atomically(folder / name, content(study / name))
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz") as archive:
        for path in sorted(path for pattern in RECORDED for path in study.glob(pattern)):
            entry, data = tarfile.TarInfo(str(path.relative_to(study))), content(path)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    write_atomically(folder / RECORDS, packed.getvalue())


def keep_rates(studies: Iterable[Path], folder: Path) -> None:
    """Take over what each run of studies of ``grid=lr`` reached, by rule, length, size and rate.

    Rows of other rules and lengths, and of other rates, stay as they are in the file.
    """
    reached = pd.concat([_reached(read_study(path)) for path in studies]).set_index(RATE_KEYS)
    kept = pd.read_csv(folder / RATES).set_index(RATE_KEYS)
    rows = pd.concat([kept[~kept.index.isin(reached.index)], reached]).reset_index()
    rows = rows.sort_values(["rule", "steps", "base_lr"], kind="stable")
    write_atomically(folder / RATES, rows.to_csv(index=False, float_format="%.4g"))


def _reached(study: Study) -> pd.DataFrame:
    """A row for each finished pre-training: what it is, what it measured, and top-1 at the best rate of fine-tuning."""
    runs = study.finished("pretrain").set_index("run_id")
    configs = [study.results[str(run_id), "pretrain"]["config"] for run_id in runs.index]
    columns = {
        "rule": [config["pretrain.lr_rule"] for config in configs],
        "steps": [config["pretrain.steps"] for config in configs],
        "size": runs["size"],
        "base_lr": [config["pretrain.base_lr"] for config in configs],
        "skill": runs["metrics.skill"],
        "effective_rank": runs["metrics.effective_rank_outputs"],
        "top1": study.finished("classify").set_index("pretrained_by").get("metrics.top1"),
    }
    return pd.DataFrame(columns, index=runs.index)


def rates(folder: Path, steps: int, metric: str, factor: float) -> str:
    """A row for each rule and size: the ``metric`` times ``factor`` at each learning rate, after ``steps``."""
    table = pd.read_csv(folder / RATES)
    table = table[table["steps"] == steps]
    learning_rates = sorted(table["base_lr"].unique())
    body = []
    for rule in ("fixed", "mup"):
        for size in SIZES:
            rows = table[(table["rule"] == rule) & (table["size"] == size)].set_index("base_lr")[metric].dropna()
            cells = (f"{factor * rows[rate]:.1f}" if rate in rows else text.MISSING for rate in learning_rates)
            body += [[f"`{rule}`", size, *cells]] if len(rows) else []
    return _markdown(["rule", "size", *(f"{rate:g}" for rate in learning_rates)], body)


@contextmanager
def records(folder: Path) -> Iterator[Path]:
    """The study directory that the archive holds, unpacked for as long as it takes."""
    with tempfile.TemporaryDirectory() as unpacked, tarfile.open(folder / RECORDS) as archive:
        archive.extractall(unpacked, filter="data")
        yield Path(unpacked)


def top1_by_length(study: Study) -> str:
    """Top-1 with 50 labels of each class."""
    rows = _scored(study, "classify", "top1")
    return _against_scratch(rows[rows["unique_images"] == LABELLED])


def miou_by_length(study: Study) -> str:
    """mIoU of segmentation."""
    return _against_scratch(_scored(study, "segment", "miou"))


def _against_scratch(rows: pd.DataFrame) -> str:
    """A row for each size: from scratch, after each length of pre-training, and the gain of the longest."""
    scratch = rows[rows["init"] == "scratch"].groupby("size")["score"].mean()
    pretrained = rows[rows["init"] == "pretrain"]
    longest = pretrained[pretrained[STEPS] == pretrained[STEPS].max()].groupby("size")["score"].mean()
    head, body = _by_length(pretrained)
    for row in body:
        size = row[0]
        row.insert(3, f"{100 * scratch[size]:.1f}")
        row.append(text.points(float(longest[size] - scratch[size])))
    return _markdown([*head[:3], "from scratch", *head[3:], "gain of the longest"], body)


def skill_by_length(study: Study) -> str:
    """A row for each size: skill after each length of pre-training."""
    return _markdown(*_by_length(_scored(study, "pretrain", "skill")))


def _by_length(rows: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Head and body of the mean scores of each size and length."""
    lengths = sorted(rows[STEPS].dropna().unique())
    body = []
    for size in SIZES:
        of_size = rows[rows["size"] == size]
        scores = (_mean(of_size[of_size[STEPS] == steps]["score"]) for steps in lengths)
        (params,) = of_size["params_backbone"].unique()
        body.append([size, f"{params:,.0f}", str(of_size["seed"].nunique()), *scores])
    return ["size", "parameters", "seeds", *(f"{int(steps) * BATCH:,} images" for steps in lengths)], body


def by_labels(study: Study) -> str:
    """A row for each number of labels at nano after the longest pre-training: both starts and the gain; seed 0."""
    rows = _scored(study, "classify", "top1")
    rows = rows[(rows["size"] == "nano") & (rows["seed"] == 0)]
    longest = rows[(rows["init"] == "pretrain") & (rows[STEPS] == rows[STEPS].max())].groupby("unique_images")["score"]
    scratch = rows[rows["init"] == "scratch"].groupby("unique_images")["score"].mean()
    body = [
        [
            f"{int(str(images)) // 10}",
            f"{100 * scratch[images]:.1f}",
            f"{100 * score:.1f}",
            text.points(score - scratch[images]),
        ]
        for images, score in longest.mean().items()
    ]
    return _markdown(["labels a class", "from scratch", "pretrained", "gain"], body)


def answers(study: Study) -> str:
    """The report's questions with verdict and answer, but for those that it cannot answer."""
    found = [finding for finding in answer(study.path).findings if finding.verdict != "Cannot say"]
    return _markdown(["question", "verdict", "answer"], [[each.question, each.verdict, each.answer] for each in found])


TABLES: dict[str, Callable[[Study], str]] = {
    "top-1": top1_by_length,
    "miou": miou_by_length,
    "labels": by_labels,
    "skill": skill_by_length,
    "answers": answers,
}
#: The length of pre-training, the column of the learning rates' table, and its factor.
RATE_TABLES = {
    "skill-by-rate": (1000, "skill", 100),
    "rank-by-rate": (1000, "effective_rank", 1),
    "top-1-by-rate": (1000, "top1", 100),
    "skill-by-rate-long": (8000, "skill", 100),
    "rank-by-rate-long": (8000, "effective_rank", 1),
    "top-1-by-rate-long": (8000, "top1", 100),
}


def _scored(study: Study, task: str, metric: str) -> pd.DataFrame:
    rows = study.finished(task)
    return rows.assign(score=rows[f"metrics.{metric}"].astype("float64"))


def _mean(scores: pd.Series[float]) -> str:
    return f"{100 * scores.mean():.1f}" if len(scores) else text.MISSING


def _markdown(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def filled(page: str, study: Study, folder: Path) -> str:
    """``page`` with each table as its study, or the learning rates in ``folder``, have it."""

    def table(found: re.Match[str]) -> str:
        name = found["name"]
        content = rates(folder, *RATE_TABLES[name]) if name in RATE_TABLES else TABLES[name](study)
        return f"<!-- {name} -->\n\n{content}\n\n<!-- end -->"

    return re.sub(r"<!-- (?P<name>[\w-]+) -->\n.*?<!-- end -->", table, page, flags=re.DOTALL)


def main() -> None:
    """Take over the study's files, if asked to, and fill the page."""
    defaults = {"study": "", "rates": "", "folder": str(REPOSITORY / "docs" / "reference-study")}
    settings, _ = read_settings(__doc__ or "", defaults)
    folder = Path(settings["folder"])
    if settings["study"]:
        keep(Path(settings["study"]), folder)
    if settings["rates"]:
        keep_rates(map(Path, settings["rates"].split(",")), folder)
    with records(folder) as study_dir:
        page = filled((folder / PAGE).read_text(encoding="utf-8"), read_study(study_dir), folder)
    write_atomically(folder / PAGE, page)


if __name__ == "__main__":
    main()
