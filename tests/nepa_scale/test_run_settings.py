"""One folder for all tasks of a run: nothing is said twice, and what has begun keeps its settings."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from launching import rows, train
from processes import Run

from nepa_scale.config.overrides import load, parse, save
from nepa_scale.config.schema import RunConfig
from nepa_scale.data.prepare.digits import write_digits
from nepa_scale.run_dir import run_folder
from nepa_scale.run_dir.run_folder import check_directory, configure
from nepa_scale.utils.errors import ConfigError


def write_set(root: Path, name: str, *, masks: bool = False, labels: bool = True) -> None:
    """A data set of digits under another name, as a user's own would be."""
    write_digits(root, num_train=32, num_validation=16, image_size=32)
    (root / "digits").rename(root / name)
    path = root / name / "_info.json"
    info = json.loads(path.read_text())
    info |= {} if masks else {"mask_class_names": None}
    info |= {} if labels else {"num_classes": 0, "class_names": None}
    path.write_text(json.dumps({key: value for key, value in info.items() if value is not None}))


def recorded(run_dir: Path, *words: str, begun: tuple[str, ...] = ("pretrain",)) -> list[str]:
    """A run folder made with ``words`` in which these tasks have begun; returns the word that names it."""
    save(parse([*words, f"run_dir={run_dir}"]), run_dir / "config.yaml")
    for task in begun:
        (run_dir / task).mkdir(parents=True)
        (run_dir / task / run_folder.DATA_NAME).write_text("{}")
    return [f"run_dir={run_dir}"]


def datasets(config: RunConfig) -> dict[str, str]:
    """The data set of every task."""
    return {task: config.task_config(task).dataset for task in config.tasks}


@pytest.mark.slow
def test_whole_journey_says_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pre-training on a set of one's own; then probe and classification by the folder's name alone, on the same set."""
    monkeypatch.chdir(tmp_path)
    write_set(tmp_path / "sets", "flowers")
    lengths = [f"{task}.steps=2" for task in ("pretrain", "probe", "classify")]
    train(["data=flowers", "data.root=sets", "model=femto", "pretrain.batch_size=16", "run_dir=runs/mine", *lengths])
    for task in ("probe", "classify"):
        output = train([f"task={task}", "run_dir=runs/mine"])
        result = json.loads((tmp_path / "runs" / "mine" / task / "result.json").read_text())
        assert result["config"][f"{task}.dataset"] == "flowers"
        assert (result["config"]["model.size"], result["steps"]) == ("femto", 2)
        assert "flowers at 32 x 32" in output.splitlines()[0]
        assert "flowers at 32 x 32" in output.splitlines()[-1]
    assert "already finished" in train(["task=pretrain", "run_dir=runs/mine"])


@pytest.mark.slow
def test_task_continues_after_another_task_was_changed(tmp_path: Path) -> None:
    """An interrupted pre-training goes on although classification, not begun, was given other settings meanwhile."""
    write_set(tmp_path, "own")
    words = ["data=own", f"data.root={tmp_path}", "model=femto", "pretrain.batch_size=16", "log.every=1"]
    folder = tmp_path / "run"
    train([*words, f"run_dir={folder}", "pretrain.steps=2", "checkpoint.every=1", "init=pretrain"])
    (folder / "pretrain" / "result.json").unlink()
    save(configure([f"run_dir={folder}", "task=classify", "classify.mixup=0.5"]), folder / "config.yaml")
    assert "continuing from step 2" in train([f"run_dir={folder}"])
    assert len([row for row in rows(folder / "pretrain") if "loss" in row]) == 2


def test_folder_gives_what_the_command_leaves_open(tmp_path: Path) -> None:
    """A task needs its folder's name alone; what is typed wins, a recipe or another unit of length included."""
    run = recorded(
        tmp_path / "a", "model=pico", "pretrain.steps=7", "classify.fraction=0.5", "data.root=sets", "seed=3"
    )
    config = configure(["task=classify", *run])
    assert (config.task, config.model.size, config.pretrain.steps, config.seed) == ("classify", "pico", 7, 3)
    assert (config.data.root, config.classify.fraction) == ("sets", 0.5)
    assert configure(["task=classify", *run, "classify.num_images=9"]).classify.fraction is None
    assert configure(["task=classify", *run, "classify.labels_per_class=9"]).classify.fraction is None
    assert configure(["task=classify", *run, "classify.steps=9"]).classify.epochs is None
    assert configure(["pretrain.epochs=2", *run]).pretrain.steps is None
    assert configure(["task=classify", *run, "classify.recipe=paper", "classify.mixup=0.3"]).classify.cutmix == 1.0
    assert configure(["task=classify", *run, "classify.recipe=paper", "classify.mixup=0.3"]).classify.mixup == 0.3


def test_what_only_one_command_says_is_not_kept(tmp_path: Path) -> None:
    """The task to do, a dry run and ``force`` are no settings of the folder."""
    run = recorded(tmp_path / "a", "task=classify", "init=scratch", "dry_run=true", "force=true")
    config = configure(["task=segment", *run])
    assert (config.task, config.dry_run, config.force, config.init) == ("segment", False, False, "scratch")


def test_file_of_a_run_folder_names_the_folder(tmp_path: Path) -> None:
    """``config=RUN/config.yaml`` with a task is that run's task, whatever task the file was written for."""
    recorded(tmp_path / "a", "task=pretrain", "probe.dataset=flowers")
    config = configure(["task=probe", f"config={tmp_path / 'a' / 'config.yaml'}"])
    assert (config.task, config.probe.dataset, config.run_dir) == ("probe", "flowers", str(tmp_path / "a"))


@pytest.mark.parametrize(
    ("masks", "labels", "takers"),
    [
        (False, True, {"pretrain", "probe", "classify"}),
        (True, False, {"pretrain", "segment"}),
        (False, False, {"pretrain"}),
    ],
)
def test_data_is_for_every_task_that_can_read_it(tmp_path: Path, masks: bool, labels: bool, takers: set[str]) -> None:
    """Labels and masks decide; the task to do always takes it, to be told what is missing."""
    write_set(tmp_path, "own", masks=masks, labels=labels)
    words = ["data=own", f"data.root={tmp_path}"]
    assert {task for task, name in datasets(parse(words)).items() if name == "own"} == takers
    assert parse([*words, "task=segment"]).segment.dataset == "own"


@pytest.mark.parametrize("first", [True, False])
def test_data_set_of_one_task_wins(tmp_path: Path, first: bool) -> None:
    """A task's own ``dataset`` counts before or after ``data=``; of a file's it is the weaker one."""
    write_set(tmp_path, "own")
    words = ["data=own", "probe.dataset=digits", f"data.root={tmp_path}"]
    assert parse(words if first else words[::-1]).probe.dataset == "digits"
    (tmp_path / "a.yaml").write_text("probe: {dataset: digits}\n")
    assert parse([f"config={tmp_path / 'a.yaml'}", *words[::2]]).probe.dataset == "own"


def test_data_leaves_begun_tasks_alone(tmp_path: Path) -> None:
    """Another set for classification does not touch the pre-training that is done; asked for itself, it is refused."""
    for name in ("first", "second"):
        write_set(tmp_path, name)
    run = recorded(tmp_path / "a", "data=first", f"data.root={tmp_path}")
    config = configure(["task=classify", "data=second", *run])
    assert datasets(config) == {"pretrain": "first", "probe": "second", "classify": "second", "segment": "digits"}
    assert check_directory(tmp_path / "a", config) == []
    [problem] = check_directory(tmp_path / "a", configure(["data=second", *run]))
    assert "pretrain.dataset (first there, second now)" in problem


@pytest.mark.parametrize(
    ("begun", "word", "refused"),
    [
        (("pretrain",), "pretrain.base_lr=0.5", True),
        (("pretrain",), "seed=4", True),
        (("pretrain",), "model.size=pico", True),
        (("pretrain",), "engine.precision=bf16", True),
        (("pretrain",), "init=scratch", True),
        (("pretrain",), "classify.mixup=0.5", False),
        (("pretrain",), "probe.dataset=flowers", False),
        (("pretrain",), "log.every=3", False),
        (("pretrain", "classify"), "classify.mixup=0.5", True),
        (("pretrain", "classify"), "segment.channels=64", False),
        ((), "seed=4", False),
        ((), "pretrain.base_lr=0.5", False),
    ],
)
def test_what_has_begun_cannot_be_changed(tmp_path: Path, begun: tuple[str, ...], word: str, refused: bool) -> None:
    """Settings of tasks that have begun, and shared ones, are fixed; those of other tasks are free."""
    run = recorded(tmp_path / "a", begun=begun)
    task = "classify" if word.startswith(("init", "classify")) else "pretrain"
    problems = check_directory(tmp_path / "a", configure([f"task={task}", word, *run]))
    assert [problem.startswith(f"{run[0]}: ") and word.partition("=")[0] in problem for problem in problems] == (
        [True] * refused
    )


@pytest.mark.parametrize("mark", run_folder.MARKS)
def test_begun_is_what_the_folder_holds(tmp_path: Path, mark: str) -> None:
    """A record of the data, metrics or weights; a status alone, as a study writes for what waits, is no beginning."""
    (tmp_path / "classify").mkdir()
    (tmp_path / "classify" / "status.json").write_text('{"state": "submitted"}')
    assert run_folder.begun_tasks(tmp_path) == ()
    (tmp_path / "classify" / mark).touch()
    assert run_folder.begun_tasks(tmp_path) == ("classify",)


def test_folder_named_by_its_settings_keeps_them_all(tmp_path: Path) -> None:
    """A study's folder is named by the hash of all settings, so that none may change, begun or not."""
    config = parse(["seed=3"])
    recorded(tmp_path / config.run_id, "seed=3", begun=())
    [problem] = check_directory(tmp_path / config.run_id, parse(["seed=3", "classify.mixup=0.5", "probe.hflip=0.5"]))
    assert problem == (
        f"run_dir={tmp_path / config.run_id}: made by another configuration: probe.hflip (0.0 there, 0.5 now),"
        " classify.mixup (0.0 there, 0.5 now); name another folder"
    )


def test_other_settings_are_named(tmp_path: Path) -> None:
    """Every setting that differs is listed with both values, and which tasks have begun."""
    recorded(tmp_path, "seed=3", "model=pico", "classify.mixup=0.5", begun=("pretrain", "classify"))
    [problem] = check_directory(tmp_path, parse(["seed=4", "model=pico"]))
    assert problem == (
        f"run_dir={tmp_path}: pretrain and classify began with other settings: seed (3 there, 4 now),"
        " classify.mixup (0.5 there, 0.0 now); name another folder"
    )


def test_how_it_is_done_may_change(tmp_path: Path) -> None:
    """A folder made by the same run is fine, however often it is logged or wherever its data lies."""
    recorded(tmp_path, "seed=3")
    words = ["seed=3", "log.every=7", "data.root=elsewhere", "task=classify", "engine.ds_config=zero2"]
    assert check_directory(tmp_path, parse(words)) == []


def test_new_directory_is_fine(tmp_path: Path) -> None:
    """A folder that does not exist yet, or holds no configuration, belongs to nobody."""
    assert check_directory(tmp_path, parse([])) == []
    assert check_directory(tmp_path / "new" / "deep", parse([])) == []


def test_damaged_record_is_named(tmp_path: Path) -> None:
    """A configuration file that cannot be read is a user's problem with a name, not a traceback."""
    (tmp_path / "config.yaml").write_text("seed: [1\n")
    with pytest.raises(ConfigError, match=r"config\.yaml, line 2"):
        configure([f"run_dir={tmp_path}"])


@pytest.mark.parametrize("below", ["", "runs/a"])
def test_file_in_the_way_is_named(tmp_path: Path, below: str) -> None:
    """A file where a folder should be is refused, also when it is a parent."""
    blocking = tmp_path / "file"
    blocking.write_text("")
    run_dir = blocking / below
    assert check_directory(run_dir, parse([])) == [f"run_dir={run_dir}: {blocking} is a file; name a folder"]


def test_record_follows_what_begins(tmp_path: Path) -> None:
    """``config.yaml`` tells the settings of the last task that began; a command that changes nothing leaves it."""
    write_set(tmp_path / "sets", "own")
    word, path = f"run_dir={tmp_path / 'a'}", tmp_path / "a" / "config.yaml"
    run_folder.begin(["data=own", f"data.root={tmp_path / 'sets'}", "model=pico", word], path.parent)
    written = path.stat().st_mtime_ns
    run_folder.begin([word], path.parent)
    assert path.stat().st_mtime_ns == written
    run_folder.begin(["task=classify", "classify.mixup=0.5", "log.every=3", word], path.parent)
    config = load(path)
    assert (config.classify.mixup, config.log.every, config.model.size) == (0.5, 3, "pico")
    with pytest.raises(ConfigError, match=r"classify\.mixup \(0\.5 there, 0\.7 now\)"):
        run_folder.begin(["task=classify", "classify.mixup=0.7", word], path.parent)


def test_tasks_that_begin_together_keep_one_record(tmp_path: Path) -> None:
    """Tasks started at once, each with settings of its own, end in one whole file that has them all."""
    recorded(tmp_path / "a", begun=())
    words = {"probe": "probe.hflip=0.25", "classify": "classify.mixup=0.5", "segment": "segment.channels=64"}
    with ThreadPoolExecutor(3) as starters:
        list(
            starters.map(
                lambda task: run_folder.begin(
                    [f"task={task}", words[task], f"run_dir={tmp_path / 'a'}"], tmp_path / "a"
                ),
                words,
            )
        )
    config = load(tmp_path / "a" / "config.yaml")
    assert (config.probe.hflip, config.classify.mixup, config.segment.channels) == (0.25, 0.5, 64)
    assert run_folder.begun_tasks(tmp_path / "a") == ("probe", "classify", "segment")


def test_dry_run_tells_the_data(train: Run, tmp_path: Path) -> None:
    """A dry run of a task of a folder shows the data set and the size of its images, without torch."""
    write_set(tmp_path / "sets", "flowers")
    recorded(tmp_path / "mine", "data=flowers", f"data.root={tmp_path / 'sets'}", "probe.image_size=16")
    done = train("task=probe", "run_dir=mine", "dry_run=true")
    assert (done.returncode, done.stderr) == (0, "")
    assert "flowers at 16 x 16 pixels" in done.stdout


def test_plan_is_printed_once(train: Run) -> None:
    """Of several ranks the first prints the plan."""
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29999"}
    first, second = (train("dry_run=true", RANK=rank, LOCAL_RANK=rank, **place) for rank in "01")
    assert "devices      2" in first.stdout
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
