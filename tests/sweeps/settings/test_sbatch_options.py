"""What a user says to sbatch and srun: how it is read, and what of it is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from plain_study import read_launch

from nepa_scale.utils.errors import ConfigError
from sweeps.settings import sbatch_options
from sweeps.settings.schema import SlurmSettings

GPUS = {"gpus_per_node": 8}


def test_options_of_words(tmp_path: Path) -> None:
    """Options are given together or one by one; texts of the shell keep their dollar signs and are not references."""
    launch = read_launch(
        [
            "cluster=slurm",
            "cluster.sbatch={qos: high, mail_user: me@example.org}",
            "cluster.sbatch.constraint=a100|h100",
            "cluster.sbatch.exclusive=true",
            "cluster.sbatch.gres=gpu:h100:8",
            "cluster.setup=['module load cuda', 'export A=${HOME:-/}/b']",
            "cluster.srun_args=[--mpi=pmix]",
            "cluster.env={NCCL_DEBUG: INFO, PLACE: '${SCRATCH}'}",
            "cluster.env.LEVEL=3",
            "cluster.python=apptainer exec image.sif python",
            f"study_dir={tmp_path}",
        ]
    )
    cluster = launch.cluster
    assert isinstance(cluster, SlurmSettings)
    assert sbatch_options.sbatch_options(cluster) == {
        "qos": "high",
        "mail-user": "me@example.org",
        "constraint": "a100|h100",
        "exclusive": True,
        "gres": "gpu:h100:8",
    }
    assert cluster.setup == ["module load cuda", "export A=${HOME:-/}/b"]
    assert cluster.srun_args == ["--mpi=pmix"]
    assert cluster.env == {"NCCL_DEBUG": "INFO", "PLACE": "${SCRATCH}", "LEVEL": 3}
    assert cluster.python == "apptainer exec image.sif python"


@pytest.mark.parametrize("name", sorted(sbatch_options.DECIDED))
def test_what_the_launcher_decides_is_refused_by_name(name: str) -> None:
    """Every such option is refused, also with dashes or underscores, by its letter and by the beginning of its name."""
    spellings = {
        name,
        name.replace("-", "_"),
        f"--{name}",
        *(key for key, long in sbatch_options.SHORT.items() if long == name),
    }
    for spelling in spellings:
        (line,) = sbatch_options.problems(SlurmSettings(sbatch={spelling: "x"}))
        assert line.startswith(f"cluster.sbatch.{spelling}: the launcher decides --{name}: ")
    (line,) = sbatch_options.problems(SlurmSettings(sbatch={"depend": "afterok:1"}))
    assert "the launcher decides --dependency" in line


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (
            {"sbatch": {"mail_user": "a", "mail-user": "b"}},
            "it is --mail-user, which cluster.sbatch.mail_user says, too",
        ),
        ({"sbatch": {"C": "a", "constraint": "b"}}, "it is --constraint"),
        ({"sbatch": {"exclusive": True, "oversubscribe": True}}, "contradicts cluster.sbatch.oversubscribe"),
        ({"sbatch": {"mem": 0}, "mem_gb": 64}, "contradicts cluster.mem_gb=64"),
        ({"sbatch": {"mem-per-cpu": "2G", "mem": 0}}, "contradicts"),
        ({"sbatch": {"gres": "gpu:h100:4"}, **GPUS}, "give cluster.gpus_per_node=4"),
        ({"sbatch": {"gres": "gpu:h100:8"}}, "contradicts cluster.gpus_per_node=0"),
        ({"sbatch": {"qos": {"a": 1}}}, "expected one value"),
        ({"sbatch": {"qos": ""}}, "expected one value"),
        ({"sbatch": {"qos": "a\n#SBATCH --array=1"}}, "expected one value"),
        ({"sbatch": {"qos high": 1}}, "not the name of an option"),
        ({"srun_args": ["--output=x"]}, "the launcher decides --output"),
        ({"srun_args": ["-c4"]}, "the launcher decides --cpus-per-task"),
        ({"srun_args": ["--kill-on"]}, "the launcher decides --kill-on-bad-exit"),
        ({"srun_args": [""]}, "expected one word"),
        ({"env": {"A B": 1}}, "not the name of a variable"),
        ({"env": {"A": [1]}}, "expected one value"),
        ({"env": {"PYTHONPATH": "x"}}, "the launcher sets it"),
        ({"setup": ["if true; then"]}, "no whole shell command"),
        ({"setup": ["echo 'a"]}, "no whole shell command"),
        ({"python": "apptainer exec 'image"}, "cluster.python"),
    ],
)
def test_contradictions_are_one_line(settings: dict[str, Any], complaint: str) -> None:
    """What cannot be is told before anything is submitted, one line each."""
    (line,) = sbatch_options.problems(SlurmSettings(**settings))
    assert complaint in line


def test_what_is_allowed() -> None:
    """Options of every kind of cluster pass; false and null take one of a cluster file away."""
    settings = SlurmSettings(
        sbatch={
            "qos": "a",
            "gres": "gpu:h100:8,nvme:1",
            "exclusive": "user",
            "mem": 0,
            "switches": 1,
            "hint": "nomultithread",
        }
        | {
            "reservation": False,
            "exclude": ["a", "b"],
            "nodelist": None,
            "wckey": "w",
            "wait-all-nodes": 1,
            "signing": "x",
        },
        setup=["module load cuda", "# a comment", "if true; then\n  echo yes\nfi"],
        srun_args=["--mpi", "pmix", "--container-image=x"],
        env={"A": 1},
        **GPUS,
    )
    assert sbatch_options.problems(settings) == []
    assert "reservation" not in sbatch_options.sbatch_options(settings)
    assert sbatch_options.sbatch_options(settings)["exclude"] == "a,b"


def test_problems_come_with_the_launch() -> None:
    """A launch tells them together with its other mistakes, and no other cluster has the keys."""
    with pytest.raises(ConfigError, match="the launcher decides --array"):
        read_launch(["cluster=slurm", "cluster.sbatch.array=0-3"])
    with pytest.raises(ConfigError, match="expected names with their values"):
        read_launch(["cluster=slurm", "cluster.sbatch=high"])
    with pytest.raises(ConfigError, match=r"unknown key 'cluster\.sbatch"):
        read_launch(["cluster.sbatch={qos: high}"])
    with pytest.raises(ConfigError, match="give cluster=slurm, too"):
        read_launch(["print_script=true"])
