"""The report's command: what it writes, prints and refuses; and watching, which rebuilds after each change."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from children import Child
from pages import Page
from study_files import STEPS, write_lines, write_status

from analysis.report import main
from analysis.reporting.build import fingerprint, watch

MakeStudy = Callable[..., Path]
THREE = {"micro": 98_304, "mini": 393_216, "tiny": 1_572_864}
ROOT = Path(__file__).resolve().parents[3]


def run(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run python with ``arguments``, without a display."""
    hidden = ("DISPLAY", "PYTHONPATH", "MPLBACKEND")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_command_by_path_and_by_module_write_the_same(make_study: MakeStudy, tmp_path: Path) -> None:
    """Both ways of starting work, by path from any folder; the last lines are the paths written."""
    path = make_study()
    by_path = run(str(ROOT / "analysis" / "report.py"), str(path), cwd=tmp_path)
    assert (by_path.returncode, by_path.stderr) == (0, "")
    expected = [str(path / name) for name in ("results.parquet", "results.csv", "report.html")]
    assert by_path.stdout.splitlines()[-3:] == expected
    first = (path / "report.html").read_bytes()
    by_module = run("-m", "analysis.report", str(path))
    assert by_module.stdout.splitlines()[-1] == expected[-1]
    assert (path / "report.html").read_bytes() == first


@pytest.mark.slow(seconds=9)
def test_report_is_byte_identical(make_study: MakeStudy) -> None:
    """R7: page and tables do not change when nothing else did."""
    path = make_study(sizes=THREE)
    outputs = []
    for _ in range(2):
        assert main([str(path)]) == 0
        outputs.append([(path / name).read_bytes() for name in ("report.html", "results.csv", "results.parquet")])
    assert outputs[0] == outputs[1]


@pytest.mark.slow(seconds=5)
def test_page_needs_nothing_else(make_study: MakeStudy) -> None:
    """One script, carried in the page as all it refers to; every figure has a text alternative."""
    path = make_study()
    main([str(path)])
    html = (path / "report.html").read_text()
    page = Page(html)
    assert page.tags.count("script") == len(page.scripts) == 1 and "link" not in page.tags
    assert not re.search(r"fetch|import|XMLHttp|http|eval|Function|innerHTML|storage", page.scripts[0])
    assert all(reference.startswith(("#", "data:image/svg+xml;base64,")) for reference in page.references)
    assert "url(" not in html and "@import" not in html
    assert page.tags.count("img") == 15 == len([alt for alt in page.alternatives if len(alt) > 40])


@pytest.mark.slow(seconds=5)
def test_page_states_runs_answers_and_conventions(make_study: MakeStudy) -> None:
    """R2: the failed run stands there with state and error, beside laws, majority baselines and convention."""
    path = make_study()
    directory = path / "runs" / "tiny-pretrain-s0" / "segment"
    (directory / "result.json").unlink()
    status = json.loads((directory / "status.json").read_text()) | {
        "state": "failed",
        "error": "shard 3 ends early",
    }
    (directory / "status.json").write_text(json.dumps(status))
    main([str(path)])
    text = " ".join(" ".join(Page((path / "report.html").read_text()).text).split())
    for expected in (
        "failed",
        "shard 3 ends early",
        "exponent b = ",
        "the background alone, a mask without any object",
        "multiply-add = 2; training = 3 x forward",
        "deepspeed 0.18.2",
        "model.size nano, micro, mini, tiny, small",
        "1 unfinished, failed or unreadable run left out",
    ):
        assert expected in text


@pytest.mark.slow(seconds=5)
def test_hostile_names_are_escaped(make_study: MakeStudy) -> None:
    """R6: markup in labels, run names, errors and the study's name stays text."""
    path = make_study(sizes=THREE)
    evil = "<script>alert(1)</script><img src=x onerror=alert(1)> $\\frac{ \"'"
    plan = (path / "plan.json").read_text()
    plan = plan.replace('"micro"', json.dumps(evil)).replace('"model_size"', json.dumps(evil))
    (path / "plan.json").write_text(plan)
    status = path / "runs" / "micro-pretrain-s0" / "segment" / "status.json"
    status.write_text(json.dumps(json.loads(status.read_text()) | {"state": "failed", "error": evil}))
    assert main([str(path)]) == 0
    page = Page((path / "report.html").read_text())
    assert page.tags.count("script") == 1 and "alert" not in page.scripts[0]
    assert all(reference != "x" for reference in page.references)
    assert evil in "".join(page.text)


@pytest.mark.parametrize(
    "arguments",
    [
        *(["no_such_study"], [], ["--format", "pdf"], ["watch=yes", "."], ["markdwon=a.md", "."]),
        *(["markdown=", "."], ["latex=no/such/folder/a.tex", "."], [".", "page=a.html"], [".", "./"]),
    ],
)
def test_mistakes_are_one_line_and_exit_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong directory or command line ends with 2 and one line on stderr, without a traceback."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1


@pytest.mark.slow(seconds=3)
def test_unwritable_study_is_a_user_error(make_study: MakeStudy, capsys: pytest.CaptureFixture[str]) -> None:
    """A report.html that cannot be replaced is named instead of ending in a traceback."""
    path = make_study(sizes={"micro": 98_304}, scratch=False)
    (path / "report.html" / "inside").mkdir(parents=True)
    assert main([str(path)]) == 2
    assert "cannot write the report into" in capsys.readouterr().err


def test_help_names_the_argument() -> None:
    """--help exits 0 and shows the grammar."""
    shown = run(str(ROOT / "analysis" / "report.py"), "--help")
    assert shown.returncode == 0
    assert "STUDY_DIR" in shown.stdout


@pytest.mark.slow(seconds=3)
def test_analysis_never_imports_torch() -> None:
    """Reading results works where no torch is installed, only figures load matplotlib, and --help loads neither."""
    files = [path.relative_to(ROOT) for path in (ROOT / "analysis").rglob("*.py") if not path.stem.startswith("__")]
    modules = sorted(".".join(file.with_suffix("").parts) for file in files)
    code = (
        "import importlib, sys\n"
        "import analysis.report\n"
        "assert 'pandas' not in sys.modules\n"
        "import analysis.reporting.build\n"
        "assert 'matplotlib' not in sys.modules\n"
        f"for name in {modules}: importlib.import_module(name)\n"
        "assert 'torch' not in sys.modules and 'deepspeed' not in sys.modules\n"
    )
    finished = run("-c", code)
    assert finished.returncode == 0, finished.stderr


@pytest.mark.slow(seconds=6)
def test_long_tables_and_many_notes_are_folded(make_study: MakeStudy) -> None:
    """Of fifty runs what is not finished stands in the open; full tables and notes wait to be opened."""
    path = make_study(sizes={f"s{i:02}": 1000 * (i + 1) for i in range(50)}, scratch=False)
    for i in range(25):
        (path / "runs" / f"s{i:02}-pretrain-s0" / "segment" / "result.json").write_text("{")
    assert main([str(path)]) == 0
    words = " ".join(" ".join(Page((path / "report.html").read_text()).text).split())
    for expected in (
        "State of every run (50 rows)",
        "Tasks that are not finished",
        "Pretraining (50 rows)",
        "25 notes",
    ):
        assert expected in words


@pytest.mark.slow(seconds=5)
def test_labels_of_two_axes_are_settings(make_study: MakeStudy) -> None:
    """Where each size stands at several rates, a label is a setting, and the sizes are counted apart."""
    path = make_study(sizes={"nano": 25_000, "micro": 98_304}, seeds=(0, 1, 2), scratch=False)
    plan = json.loads((path / "plan.json").read_text())
    plan["axes"] = ["model.size", "pretrain.base_lr"]
    for run in plan["runs"]:
        rate = 10.0 ** -run["values"].pop("seed")
        run["values"]["pretrain.base_lr"] = rate
        run["label"] += f" base_lr={rate:g}"
    (path / "plan.json").write_text(json.dumps(plan))
    assert main([str(path)]) == 0
    words = " ".join(" ".join(Page((path / "report.html").read_text()).text).split())
    assert "settings 6 sizes 2" in words
    assert "one line per run, colour by size, line style by setting" in words
    assert "Pretrained settings above it: " in words


@pytest.mark.slow(seconds=11)
def test_sections_without_a_finding_are_folded(make_study: MakeStudy) -> None:
    """Answers, what the study is, comparability and their figures are open; the state of runs is while one is to do."""
    path = make_study(sizes=THREE)
    main([str(path)])
    folded = ("Beside the paper", "Results", "Runs", "Configuration", "Environment")
    assert folds(path) == dict.fromkeys(folded, False)
    write_status(path / "runs" / "mini-pretrain-s0" / "segment", "running", 40)
    main([str(path)])
    assert {title for title, is_open in folds(path).items() if is_open} == {"Runs"}


def folds(path: Path) -> dict[str, bool]:
    """Whether each section of the page that can be folded is open."""
    html = (path / "report.html").read_text()
    found = re.findall(r'<details class="section"( open)?><summary><h2>([^<]+)</h2>', html)
    return {title: bool(is_open) for is_open, title in found}


def test_it_rebuilds_after_changes_only(make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two looks without a change nothing is built; what the report itself writes is no change."""
    path = make_study(sizes={"micro": 98_304}, scratch=False)
    log = path / "runs" / "micro-pretrain-s0" / "pretrain" / "metrics.jsonl"
    built: list[int] = []
    slept: list[float] = []

    def rebuild() -> bool:
        built.append(len(slept))
        (path / "report.html").write_text(str(built))
        return len(built) < 3

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) in (4, 8):
            log.write_text(log.read_text() + "\n")

    monkeypatch.setattr(time, "sleep", sleep)
    watch([path], rebuild)
    assert built == [0, 4, 8]


def test_every_file_that_a_report_reads_is_seen(make_study: MakeStudy) -> None:
    """A new status, a new log line and a new run each change the fingerprint."""
    path = make_study(sizes={"micro": 98_304}, scratch=False)
    seen = [fingerprint([path])]
    write_status(path / "runs" / "micro-pretrain-s0" / "classify", "running", 7)
    seen.append(fingerprint([path]))
    write_status(path / "runs" / "new" / "pretrain", "running", 1)
    seen.append(fingerprint([path]))
    assert seen[0] != seen[1] != seen[2]
    assert seen[2] == fingerprint([path])


@pytest.mark.slow(seconds=4)
def test_a_pre_training_that_runs_is_told_how_it_may_end(make_study: MakeStudy) -> None:
    """Beside its state, in the page and in Markdown; a run that has only begun is told nothing."""
    path = make_study(sizes={"micro": 98_304, "mini": 393_216}, scratch=False)
    for size, step in (("micro", 400), ("mini", 20)):
        folder = path / "runs" / f"{size}-pretrain-s0"
        (folder / "pretrain" / "result.json").unlink()
        write_status(folder / "pretrain", "running", step)
        (folder / "config.yaml").write_text("pretrain: {schedule: cosine}\n")
        rows = [
            {"step": at, "images_seen": 320 * at, "loss": 2 * at**-0.5 - 1, "lr": 1 + math.cos(math.pi * at / STEPS)}
            for at in range(10, step + 1, 10)
        ]
        write_lines(folder / "pretrain" / "metrics.jsonl", rows)
    assert main([str(path), f"markdown={path / 'a.md'}"]) == 0
    page, markdown = (path / "report.html").read_text(), (path / "a.md").read_text()
    assert page.count("expected to end with loss") == 1
    assert markdown.count("expected to end with loss") == 1


@pytest.mark.slow(seconds=5)
def test_ctrl_c_leaves_quietly(make_study: MakeStudy) -> None:
    """P12: a study that goes on is watched until Ctrl-C, which ends with 0, a whole page and no traceback."""
    path = make_study(sizes={"micro": 98_304}, scratch=False)
    write_status(path / "runs" / "micro-pretrain-s0" / "segment", "running", 7)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "analysis.report", str(path), "watch=true"]
    watching = Child(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert watching.stdout is not None
    line = watching.stdout.readline()
    watching.send_signal(signal.SIGINT)
    _, errors = watching.communicate(timeout=60)
    assert (watching.returncode, errors) == (0, "")
    assert "2 of 3 tasks finished" in line
    assert (path / "report.html").read_text().rstrip().endswith("</html>")
    assert not list(path.glob("*.tmp*"))


@pytest.mark.slow(seconds=3)
def test_a_finished_study_needs_no_watching(make_study: MakeStudy, capsys: pytest.CaptureFixture[str]) -> None:
    """watch=true on a study whose tasks have all ended writes one report and ends."""
    from analysis.report import main

    path = make_study(sizes={"micro": 98_304}, scratch=False)
    assert main([str(path), "watch=true"]) == 0
    assert capsys.readouterr().out.count("3 of 3 tasks finished") == 1
