"""Which jobs share an array: element i of a child must be the child of element i of its parent."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeps.jobs.jobs import Job
from sweeps.plan.machine import Resources
from sweeps.slurm.sbatch import Array, arranged

BIG = Resources(nodes=2)


def job(key: str, *after: str, resources: Resources = Resources()) -> Job:  # noqa: B008  frozen
    """A job that is only looked at."""
    return Job(key=key, function=print, folder=Path(key), after=after, resources=resources)


def chain(run: str, *tasks: str, resources: Resources = Resources()) -> list[Job]:  # noqa: B008  frozen
    """A pre-training and tasks after it."""
    first = job(f"{run}/pretrain", resources=resources)
    return [first, *(job(f"{run}/{task}", first.key, resources=resources) for task in tasks)]


def keys(arrays: list[Array]) -> list[list[str]]:
    """The keys of each array."""
    return [[item.key for item in array.jobs] for array in arrays]


def test_one_array_for_each_task_of_equal_runs() -> None:
    """Three runs of three tasks, told run by run, are three arrays in the same order of runs."""
    jobs = [item for run in "abc" for item in chain(run, "classify", "segment")]
    arrays = arranged(jobs, {}, 1001)
    assert keys(arrays) == [[f"{run}/{task}" for run in "abc"] for task in ("pretrain", "classify", "segment")]
    assert arrays[0].parent is None and arrays[1].parent is arrays[0] and arrays[2].parent is arrays[0]


def test_other_shapes_are_other_arrays() -> None:
    """A run that asks for more, or on which less hangs, does not join the others: indices would no longer match."""
    jobs = [*chain("a", "classify"), *chain("b", "classify", resources=BIG), *chain("c"), *chain("d", "classify")]
    arrays = keys(arranged(jobs, {}, 1001))
    assert ["a/pretrain", "d/pretrain"] in arrays and ["a/classify", "d/classify"] in arrays
    assert ["b/pretrain"] in arrays and ["c/pretrain"] in arrays


def test_branches_and_shared_pretraining() -> None:
    """Children of one parent are arrays of their own, and grandchildren follow them."""
    jobs = [*chain("t"), job("b/pretrain", "t/pretrain"), job("c/pretrain", "t/pretrain"), job("b/probe", "b/pretrain")]
    arrays = arranged(jobs, {}, 1001)
    parents = {array.jobs[0].key: array.parent and array.parent.jobs[0].key for array in arrays}
    trunk = "t/pretrain"
    assert parents == {trunk: None, "b/pretrain": trunk, "c/pretrain": trunk, "b/probe": "b/pretrain"}


def test_a_parent_that_is_in_slurm_already() -> None:
    """What waits for a job of an earlier launch hangs on that job; nothing else shares its array."""
    jobs = [job("a/classify", "a/pretrain"), job("b/classify", "b/pretrain"), job("c/classify")]
    arrays = arranged(jobs, {"a/pretrain": "7_0", "b/pretrain": "7_1"}, 1001)
    assert {array.jobs[0].key: array.live_parent for array in arrays} == {
        "a/classify": "7_0",
        "b/classify": "7_1",
        "c/classify": None,
    }


@pytest.mark.parametrize(("count", "limit"), [(7, 3), (6, 3), (2000, 1001)])
def test_split_at_the_clusters_limit(count: int, limit: int) -> None:
    """No array is longer than Slurm allows, each child is as long as its parent, and no job is lost or doubled."""
    jobs = [item for number in range(count) for item in chain(str(number), "classify")]
    arrays = arranged(jobs, {}, limit)
    assert max(len(array.jobs) for array in arrays) <= limit
    for array in arrays:
        if array.parent is not None:
            assert [item.after[0] for item in array.jobs] == [item.key for item in array.parent.jobs]
    assert sorted(key for group in keys(arrays) for key in group) == sorted(item.key for item in jobs)
