"""A study directory becomes one checked table; mistakes are named with their file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from law_studies import SIZES, StudySpec, write_study
from study_files import write_json

from analysis.findings.scaling import find
from analysis.findings.series import CLASSIFICATION, PARAMETERS, series
from analysis.fit import __main__ as fit
from analysis.study.records import read_study, write_table
from nepa_scale.utils.errors import UserError

MakeStudy = Callable[..., Path]
RUN = "micro-pretrain-s0"


def edit_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Apply ``change`` to the JSON object in ``path``."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_one_row_per_run_and_task_with_joined_pretraining_flops(make_study: MakeStudy) -> None:
    """Downstream rows carry the FLOPs of their own run's pretraining; from-scratch baselines carry none."""
    study = read_study(make_study())
    table = study.table
    assert len(table) == 5 * (3 + 2)
    assert not table.duplicated(["run_id", "task"]).any()
    pretrained = table[(table["run_id"] == RUN)].set_index("task")
    assert (pretrained["pretrain_flops"] == pretrained.loc["pretrain", "flops_train"]).all()
    assert table.loc[table["init"] == "scratch", "pretrain_flops"].isna().all()
    assert study.axes == ("model.size", "seed")


def test_table_files_hold_the_same_rows(make_study: MakeStudy) -> None:
    """results.parquet and results.csv agree with the table in values and missing values."""
    study = read_study(make_study())
    parquet, csv = write_table(study)
    pd.testing.assert_frame_equal(pd.read_parquet(parquet), study.table)
    from_csv = pd.read_csv(csv)
    assert list(from_csv.columns) == list(study.table.columns)
    assert from_csv["metrics.top1"].isna().equals(study.table["metrics.top1"].isna())


def test_laws_are_fitted_to_the_table_of_a_study(make_study: MakeStudy, capsys: pytest.CaptureFixture[str]) -> None:
    """Both files say the same to ``analysis.fit``: rows of one task and start, errors as they are, gaps left out."""
    path = make_study(seeds=(0, 1))
    edit_json(path / "runs" / RUN / "classify" / "result.json", lambda result: result["metrics"].update(top1=None))
    study = read_study(path)
    write_table(study)
    chosen = ["--where", "task=classify", "--where", "init=pretrain", "--where", "state=finished"]
    words = ["--law", "power", "--x", "params_backbone", "--y", "errors.top1", "--bootstrap", "0", "--json", *chosen]
    answers = []
    for name in ("results.parquet", "results.csv"):
        assert fit.main([str(path / name), *words]) == 0
        answers.append(json.loads(capsys.readouterr().out))
    assert answers[0] == answers[1]
    assert (answers[0]["certificate"]["n"], answers[0]["certificate"]["left_out"]) == (9, 1)
    table = study.table
    for task, metric in (("classify", "top1"), ("segment", "miou"), ("pretrain", "skill")):
        rows = table[table["task"] == task].dropna(subset=[f"metrics.{metric}"])
        assert (rows[f"errors.{metric}"] == 1 - rows[f"metrics.{metric}"]).all()


@pytest.mark.parametrize("value", [1e-308, 5e-324, 1e308, -1, float("inf")])
def test_an_amount_that_cannot_be_is_missing(make_study: MakeStudy, value: float) -> None:
    """No law or axis takes it, and the note names run, task and value."""
    path = make_study()
    edit_json(path / "runs" / RUN / "pretrain" / "result.json", lambda result: result.update(flops_train=value))
    study = read_study(path)
    assert study.table.query("run_id == @RUN")["pretrain_flops"].isna().all()
    assert any(f"{RUN}/pretrain: flops_train" in note for note in study.notes)


def test_runs_are_discovered_without_a_plan(make_study: MakeStudy) -> None:
    """A study without plan.json is read from runs/*/ alone, sizes named by the results' configuration."""
    study = read_study(make_study(plan=False))
    assert len(study.table) == 25
    assert set(study.table["label"]) == {"nano", "micro", "mini", "tiny", "small"}
    assert set(study.table["init"]) == {"pretrain", "scratch"}


def test_planned_failed_and_running_are_shown_as_such(make_study: MakeStudy) -> None:
    """R2: what has no result keeps its state and error; parameters come from the plan."""
    path = make_study()
    runs = path / "runs"
    (runs / RUN / "segment" / "result.json").unlink()
    edit_json(
        runs / RUN / "segment" / "status.json",
        lambda status: status.update(state="failed", error="out of memory"),
    )
    for name in ("status.json", "result.json", "metrics.jsonl"):
        (runs / RUN / "classify" / name).unlink()
    rows = read_study(path).table.query("run_id == @RUN").set_index("task")
    assert rows["state"].to_dict() == {"pretrain": "finished", "classify": "planned", "segment": "failed"}
    assert rows.loc["segment", "error"] == "out of memory"
    assert rows.loc["segment", "params_backbone"] == 98_304
    assert rows["metrics.miou"].isna().all()
    assert rows["error"].isna().to_dict() == {"pretrain": True, "classify": True, "segment": False}


def test_results_with_and_without_throughput_are_read(make_study: MakeStudy) -> None:
    """Older results have neither throughput nor placement, newer ones have both; the tables are the same."""
    path = make_study()
    before = read_study(path).table
    newer = {"throughput": {"mfu": 0.5, "peak_source": "measured"}, "placement": {"zero_stage": 1}}
    edit_json(path / "runs" / RUN / "pretrain" / "result.json", lambda result: result.update(newer))
    pd.testing.assert_frame_equal(read_study(path).table, before)


def test_finished_without_result_is_noted(make_study: MakeStudy) -> None:
    """A state that the files contradict is reported, not silently dropped."""
    path = make_study()
    (path / "runs" / RUN / "classify" / "result.json").unlink()
    (note,) = read_study(path).notes
    assert f"{RUN}/classify" in note and "no result.json" in note


BROKEN_RESULTS: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda result: result.pop("metrics"), "field 'metrics' is missing"),
    (lambda result: result.update(params_backbone="many"), "field 'params_backbone' must be int or float"),
    (lambda result: result.update(metrics=[1]), "field 'metrics' must be dict"),
    (lambda result: result.update(schema=2, metrics=None), "field 'metrics' must be dict"),
]


@pytest.mark.parametrize(("change", "expected"), BROKEN_RESULTS)
def test_broken_result_costs_its_task_alone(
    make_study: MakeStudy, change: Callable[[dict[str, Any]], object], expected: str
) -> None:
    """A result that breaks its schema is unreadable, its file and fault are named, and it is no data point."""
    path = make_study()
    edit_json(path / "runs" / RUN / "classify" / "result.json", change)
    study = read_study(path)
    row = study.table.query("run_id == @RUN and task == 'classify'").iloc[0]
    assert row["state"] == "unreadable" and pd.isna(row["metrics.top1"])
    (note,) = study.notes
    assert f"{RUN}/classify/result.json" in note and expected in note and expected in row["error"]
    assert (study.table["state"] == "finished").sum() == len(study.table) - 1
    assert RUN not in set(series(study, CLASSIFICATION, PARAMETERS).points["run_id"])


@pytest.mark.parametrize("schema", [0, 2, None])
def test_other_schemas_are_read_as_far_as_they_are_known(make_study: MakeStudy, schema: int | None) -> None:
    """Older and newer results keep what this version knows; what they lack is missing, and that is said once."""
    path = make_study()
    for file in path.glob("runs/*/classify/result.json"):
        edit_json(file, lambda result: (result.update(schema=schema, seed="first"), result.pop("wall_seconds")))
    study = read_study(path)
    rows = study.table[study.table["task"] == "classify"]
    assert (rows["state"] == "finished").all() and rows["metrics.top1"].notna().all()
    assert rows["seed"].isna().all() and rows["wall_seconds"].isna().all()
    (note,) = study.notes
    assert note.startswith("10 files: result.json has") and "others are missing" in note


def test_damaged_plan_leaves_the_folders(make_study: MakeStudy) -> None:
    """Without a readable plan the runs are those that have a folder; a damaged run of it is left out alone."""
    path = make_study()
    whole = (path / "plan.json").read_text()
    edit_json(path / "plan.json", lambda plan: plan["runs"][1].pop("label"))
    study = read_study(path)
    assert len(study.table) == 25 and "runs[1] is left out: field 'label' is missing" in study.notes[0]
    (path / "plan.json").write_text(whole[:-40])
    study = read_study(path)
    assert len(study.table) == 25 and "plan.json is left out: it cannot be read as JSON" in study.notes[0]


def test_run_id_cannot_leave_the_study(make_study: MakeStudy, tmp_path: Path) -> None:
    """A run_id that is a path is left out, and nothing is read from there."""
    path = make_study(scratch=False)
    outside = write_study(tmp_path / "elsewhere", StudySpec(scratch=False))
    edit_json(
        path / "plan.json", lambda plan: plan["runs"][0].update(run_id=f"../../{outside.name}/runs/nano-pretrain-s0")
    )
    study = read_study(path)
    assert "runs[0] is left out: field 'run_id' must be a plain folder name" in study.notes[0]
    assert set(study.table["run_id"]) == {f"{size}-pretrain-s0" for size in SIZES}


def test_half_written_status_costs_its_task(make_study: MakeStudy) -> None:
    """Whether a task ended cannot be told from half a status; the result beside it is not used."""
    path = make_study()
    (path / "runs" / RUN / "classify" / "status.json").write_text('{"state": "fin')
    study = read_study(path)
    assert study.table.query("run_id == @RUN")["state"].tolist() == ["finished", "unreadable", "finished"]
    assert f"{RUN}/classify/status.json is left out: it cannot be read as JSON" in study.notes[0]
    assert (RUN, "classify") not in study.results


DAMAGES: Mapping[str, bytes] = {
    "empty": b"",
    "cut": b'{"schema": 1, "run_id": "mic',
    "null": b"null",
    "list": b"[1, 2]",
    "binary": bytes(range(256)),
    "nested": b"[" * 100_000,
    "no fields": b"{}",
    "wrong types": b'{"schema": 1, "state": 3, "metrics": "good", "runs": {"a": 1}, "axes": 2, "study": []}',
    "numbers": b'{"schema": 9, "state": "failed", "step": 1e400, "flops_train": "1e9", "config": 3, "versions": [], '
    b'"metrics": {"top1": NaN, "miou": Infinity, "loss": true}, "runs": [3], '
    b'"params_backbone": 123456789012345678901234567890}',
    "surrogate": b'{"state": "failed", "error": "\\ud800", "metrics": {"\\udfff": 1}, "runs": [{"run_id": "\\ud800"}]}',
}


@pytest.mark.parametrize("name", ["plan.json", "status.json", "result.json"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_no_damage_ends_in_a_traceback_or_a_number(make_study: MakeStudy, name: str, damage: str) -> None:
    """R1 to R3: whatever a file holds, the study is read, written and answered from the other files alone."""
    path = make_study(scratch=False)
    before = series(read_study(path), CLASSIFICATION, PARAMETERS).points
    file = path / name if name == "plan.json" else path / "runs" / RUN / "classify" / name
    file.write_bytes(DAMAGES[damage])
    study = read_study(path)
    write_table(study)
    find(study)
    points = series(study, CLASSIFICATION, PARAMETERS).points
    expected = before if name == "plan.json" else before[before["run_id"] != RUN]
    assert points["error"].tolist() == expected["error"].tolist()
    assert study.notes


def test_wrong_study_directory(make_study: MakeStudy, tmp_path: Path) -> None:
    """A missing directory (with the nearest name), a file, and a directory without runs are told apart."""
    make_study()
    with pytest.raises(UserError, match="does not exist; did you mean 'model_size'"):
        read_study(tmp_path / "model_sise")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        read_study(tmp_path / "file")
    (tmp_path / "empty" / "runs").mkdir(parents=True)
    with pytest.raises(UserError, match="holds no runs"):
        read_study(tmp_path / "empty")


def test_lists_in_varied_settings_fit_a_table_column(make_study: MakeStudy) -> None:
    """A varied setting that is a list is spelt as JSON, so that parquet takes the column."""
    path = make_study()

    def vary(plan: dict[str, Any]) -> None:
        plan["axes"].append("optim.betas")
        for i, run in enumerate(plan["runs"]):
            run["values"]["optim.betas"] = [0.9, 0.95] if i % 2 else "default"

    edit_json(path / "plan.json", vary)
    parquet, _ = write_table(read_study(path))
    assert set(pd.read_parquet(parquet)["config.optim.betas"]) == {"[0.9, 0.95]", "default"}


@pytest.mark.parametrize("measured", [True, False])
def test_only_runs_of_another_shape_lose_the_name_of_their_size(make_study: MakeStudy, *, measured: bool) -> None:
    """A point between two sizes is called by its label, two of one shape by that; other points keep their size's name,
    with results and before there are any."""
    path = make_study()

    def vary(plan: dict[str, Any]) -> None:
        plan["axes"].append("model.depth")
        for run in plan["runs"]:
            if run["label"] in ("micro", "tiny", "small"):
                depth = 6 if run["label"] == "micro" else 8
                run["values"] |= {"model.size": "nano", "model.depth": depth}
                run["label"] = {"micro": "nano, 6 blocks", "tiny": "first", "small": "second"}[run["label"]]
            elif run["label"] == "mini":
                run["label"] = "mini, 5 labels a class"

    edit_json(path / "plan.json", vary)
    if not measured:
        shutil.rmtree(path / "runs")
    named = read_study(path).table.drop_duplicates("label").set_index("label")["size"].to_dict()
    assert named == {
        "nano": "nano",
        "nano, 6 blocks": "nano, 6 blocks",
        "first": "nano, depth=8",
        "second": "nano, depth=8",
        "mini, 5 labels a class": "mini",
    }


def test_what_cannot_be_is_missing_and_named(make_study: MakeStudy) -> None:
    """An accuracy of 3, a negative amount, no parameters and an infinite loss are no numbers; NaN needs no note."""
    path = make_study()
    result = path / "runs" / RUN / "classify" / "result.json"
    edit_json(result, lambda content: content["metrics"].update(top1=3.0, loss=float("inf"), top5=float("nan")))
    edit_json(result, lambda content: content.update(params_total=0, wall_seconds=-1, tokens_seen=10**30))
    study = read_study(path)
    row = study.table.query("run_id == @RUN and task == 'classify'").iloc[0]
    names = ("metrics.top1", "metrics.loss", "metrics.top5", "wall_seconds", "tokens_seen")
    assert row[list(names)].isna().all()
    assert row["params_total"] == 113_134  # exact in the plan
    assert sorted(note.partition(" cannot be ")[0] for note in study.notes) == [
        f"{RUN}/classify: {name}" for name in ("loss", "tokens_seen", "top1", "wall_seconds")
    ]
    assert len(series(study, CLASSIFICATION, PARAMETERS).points) == 4


def test_other_test_sets_are_columns(tmp_path: Path) -> None:
    """What ``nepa-weights evaluate`` kept beside a result has columns of metrics and of errors, for laws."""
    path = write_study(tmp_path / "study", StudySpec())
    scores = {"imagenet-r": {"images": 9, "top1": 0.25, "top5": 0.5}, "imagenet-c": {"top1": 0.1, "mce": 1.25}}
    folder = next((path / "runs").glob("nano-pretrain-*")) / "classify"
    write_json(folder / "benchmarks.json", scores)
    rows = read_study(path).of("classify").set_index("run_id")
    row = rows.loc[folder.parent.name]
    names = ["metrics.top1/imagenet-r", "errors.top1/imagenet-r", "metrics.mce/imagenet-c"]
    assert row[names].tolist() == [0.25, 0.75, 1.25]
    assert rows["metrics.top1/imagenet-r"].notna().sum() == 1
    (folder / "benchmarks.json").write_text("{")
    assert any("benchmarks.json is left out" in note for note in read_study(path).notes)
