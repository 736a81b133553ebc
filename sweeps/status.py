"""Show how far a study is: ``python sweeps/status.py STUDY_DIR [watch=true] [--json]``. Writes nothing."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    # Run as a script, Python imports from this file's folder; import from the checkout it belongs to instead.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from rich.console import Group, RenderableType
from rich.live import Live

from nepa_scale.utils.arguments import grammar, option
from nepa_scale.utils.cli import command, has_reader, print_json
from nepa_scale.utils.errors import UserError
from sweeps.follow import display
from sweeps.follow.display import accuracy_table, outcomes
from sweeps.follow.follower import executor
from sweeps.jobs.jobs import UNDER_WAY
from sweeps.jobs.task_status import LOST, TaskStatus, as_lost, task_statuses, with_expected
from sweeps.plan import plan
from sweeps.plan.plan import read_cluster

UNFINISHED = ("planned", *UNDER_WAY, "preempted")
REFRESH_SECONDS = 2.0


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    study_dir: Path = option("directory of the study", positional=True, form="STUDY_DIR")
    watch: bool = option(
        f"show it anew every {REFRESH_SECONDS:.0f} s until nothing is left to do; Ctrl-C leaves, the study goes on",
        False,
    )
    forecast: bool = option("show the loss and skill that running pre-trainings are expected to end with", True)
    estimates: bool = option("set the plan's times, FLOPs and memory beside those of the finished tasks, too", False)
    json: bool = option("print one JSON document, a list with an object for each task, and nothing else", False)

    def problems(self) -> list[str]:
        """What does not go together."""
        return (
            ["watch=true shows a table; leave out json, or call again for newer JSON"]
            if self.watch and self.json
            else []
        )


GRAMMAR = grammar(
    Request,
    "python sweeps/status.py STUDY_DIR [watch=true] [estimates=true] [--json]    (installed: nepa-status)",
    "Prints the state of every task of the study, how fast the running ones are, and what failed ones said. Writes "
    "nothing.",
    "nepa-status studies/demo-model_size watch=true",
)


@command(GRAMMAR)
def main(request: Request) -> int:
    """Print how the study stands; returns the exit code."""
    planned = plan.load_study(request.study_dir)
    if request.json:
        print_json([dataclasses.asdict(task) for task in look(planned, request.study_dir, forecast=request.forecast)])
    elif request.watch:
        _watch(request, planned)
    else:
        console = display.make_console()
        console.print(view(planned, request.study_dir, forecast=request.forecast)[0])
        if request.estimates:
            console.print("", accuracy_table(outcomes(planned, request.study_dir)), sep="\n")
    return 0


def view(planned: plan.Plan, study_dir: Path, *, forecast: bool) -> tuple[RenderableType, bool]:
    """The table of states, what is under way, counts and errors; and whether anything is left to do."""
    tasks = look(planned, study_dir, forecast=forecast)
    parts: list[RenderableType] = [display.status_table(planned, tasks)]
    running = [task for task in tasks if task.state == "running"]
    if running:
        parts += ["", display.running_table(planned, running)]
    counts = Counter(display.named_state(task) for task in tasks)
    parts += ["", ", ".join(f"{number} {state}" for state, number in counts.most_common())]
    reason = None if running else _held_up(study_dir)
    parts += [reason] if reason else []
    titles = planned.titles
    parts += [_complaint(titles[task.key], task) for task in tasks if task.reason]
    return Group(*parts), any(task.state in UNFINISHED for task in tasks)


def look(planned: plan.Plan, study_dir: Path, *, forecast: bool = False) -> list[TaskStatus]:
    """How every task stands, by its own word and by that of the queue or Slurm; with ``forecast``, how it may end."""
    tasks = task_statuses(planned, study_dir)
    try:
        place = executor(read_cluster(study_dir), study_dir)
        gone = place.gone([task.key for task in tasks if task.state in UNDER_WAY])
    except UserError:  # a study that was planned only, or one of a cluster that is not at hand: its files tell
        gone = {}
    if gone:  # or just ended: what they say now counts
        tasks = task_statuses(planned, study_dir)
    tasks = [as_lost(task, gone[task.key]) if task.key in gone and task.state in UNDER_WAY else task for task in tasks]
    return [with_expected(task, study_dir) for task in tasks] if forecast else tasks


def _held_up(study_dir: Path) -> str | None:
    """Why nothing of the study can begin, where tasks of other studies hold this machine."""
    try:
        return executor(read_cluster(study_dir), study_dir).held_up()
    except UserError:
        return None


def _watch(request: Request, planned: plan.Plan) -> None:
    try:
        with Live(console=display.make_console(), auto_refresh=False) as live:
            going_on = True
            while going_on and has_reader():
                shown, going_on = view(planned, request.study_dir, forecast=request.forecast)
                live.update(shown, refresh=True)
                if going_on:
                    time.sleep(REFRESH_SECONDS)
                    planned = plan.load_study(request.study_dir)  # which launches add to
    except KeyboardInterrupt:
        return


def _complaint(title: str, task: TaskStatus) -> str:
    state = f"{task.state}: " if task.state == LOST else ""
    return f"{title} ({task.run_id}): {state}{task.reason}"


if __name__ == "__main__":
    sys.exit(main())
