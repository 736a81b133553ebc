"""Options of sbatch and srun that a cluster file or a launch may give, and those that the launcher decides."""

from __future__ import annotations

import itertools
import re
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

from sweeps.settings.schema import SlurmSettings

_LETTERS = (
    "A=account a=array b=begin C=constraint c=cpus-per-task D=chdir d=dependency e=error F=nodefile G=gpus H=hold"
    " h=help i=input J=job-name k=no-kill L=licenses M=clusters N=nodes n=ntasks O=overcommit o=output p=partition"
    " q=qos Q=quiet S=core-spec s=oversubscribe t=time V=version v=verbose W=wait w=nodelist x=exclude"
)
SHORT: dict[str, str] = {pair[0]: pair[2:] for pair in _LETTERS.split()}
_CHAINS, _LOGS = "the launcher lets each task wait for its own", "the launcher keeps logs in the study"
_STARTS, _FINDS = "give cluster.max_requeues", "the launcher finds its jobs by it"
_ANSWER, _SHAPE = "the launcher waits for sbatch's answer", "give cluster.nodes and cluster.tasks_per_node"
_GPUS = "give cluster.gpus_per_node, and their kind by gres"
#: Options that a user may not give, each with what to give instead, or the reason.
DECIDED = {
    **dict.fromkeys(("dependency", "kill-on-invalid-dep"), _CHAINS),
    "array": "give cluster.array_parallelism",
    "signal": "give cluster.save_seconds",
    **dict.fromkeys(("requeue", "no-requeue"), _STARTS),
    **dict.fromkeys(("output", "error", "input", "open-mode"), _LOGS),
    **dict.fromkeys(("job-name", "comment"), _FINDS),
    **dict.fromkeys(("wait", "parsable", "quiet", "verbose", "test-only", "help", "usage", "version"), _ANSWER),
    **dict.fromkeys(("clusters", "cluster"), "the launcher asks the cluster that it submits to"),
    "wrap": "the launcher writes the script",
    "hold": "held jobs would wait unseen",
    **dict.fromkeys(("export", "export-file", "get-user-env"), "give cluster.env"),
    "chdir": "tasks start where the launch was",
    **dict.fromkeys(("nodes", "ntasks", "ntasks-per-node", "nodefile"), _SHAPE),
    **dict.fromkeys(("cpus-per-task", "cpus-per-gpu"), "give cluster.cpus_per_task"),
    **dict.fromkeys(("gpus", "gpus-per-node", "gpus-per-task", "gpus-per-socket", "ntasks-per-gpu"), _GPUS),
    "time": "give cluster.timeout_min",
    "partition": "give cluster.partition",
    "account": "give cluster.account",
}
SRUN_DECIDED = ("output", "error", "unbuffered", "kill-on-bad-exit", *(key for key in DECIDED if key != "hold"))
SRUN_SHORT = {**SHORT, "u": "unbuffered", "K": "kill-on-bad-exit"}
MEMORY = ("mem", "mem-per-cpu", "mem-per-gpu")
EXCLUDING = (("exclusive", "oversubscribe"), *itertools.combinations(MEMORY, 2))
WHOLE = (*MEMORY, "gres")  # options that are also the beginning of another option's name
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
OPTION = re.compile(r"[A-Za-z][A-Za-z0-9-]*")


def sbatch_options(settings: SlurmSettings) -> dict[str, str | bool]:
    """{long name: value} of ``cluster.sbatch``, true for a flag. False and null are left out."""
    given = {_long_name(key): value for key, value in settings.sbatch.items()}
    return {name: _text(value) for name, value in given.items() if value is not None and value is not False}


def gpus_in_gres(gres: str) -> int | None:
    """How many GPUs a node is asked for by ``gpu:h100:8``; None where it names none."""
    gpus = [item.split(":") for item in gres.split(",") if re.split("[:=]", item)[0].removeprefix("gres/") == "gpu"]
    return sum(int(fields[-1]) if fields[-1].isdigit() else 1 for fields in gpus) if gpus else None


def problems(settings: SlurmSettings) -> list[str]:
    """What is wrong with the options of Slurm that a user gives, a line each."""
    return [*_sbatch_problems(settings), *_srun_problems(settings), *_shell_problems(settings)]


def _sbatch_problems(settings: SlurmSettings) -> Iterator[str]:
    names: dict[str, str] = {}
    for key, value in settings.sbatch.items():
        name, where = _long_name(key), f"cluster.sbatch.{key}"
        decided = _decided(name, tuple(DECIDED))
        if not OPTION.fullmatch(name):
            yield f"{where}: not the name of an option, such as constraint or mail-user"
        elif decided is not None:
            yield f"{where}: the launcher decides --{decided}: {DECIDED[decided]}"
        elif name in names:
            yield f"{where}: it is --{name}, which {names[name]} says, too; leave out one of the two"
        elif isinstance(value, dict) or value == "" or any(character in str(value) for character in "\n\r\0"):
            yield f"{where}: expected one value, a list, or true for a flag"
        names.setdefault(name, where)
    options = {name: value for name, value in sbatch_options(settings).items() if OPTION.fullmatch(name)}
    for name, other in EXCLUDING:
        if name in options and other in options:
            yield f"{names[name]}: contradicts {names[other]}; leave out one of the two"
    for name in MEMORY:
        if name in options and settings.mem_gb is not None:
            yield f"{names[name]}: contradicts cluster.mem_gb={settings.mem_gb}; leave out one of the two"
    count = gpus_in_gres(str(options.get("gres", "")))
    if count is not None and count != settings.gpus_per_node:
        yield (
            f"{names['gres']}={options['gres']}: contradicts cluster.gpus_per_node={settings.gpus_per_node};"
            f" give cluster.gpus_per_node={count} with it"
        )


def _srun_problems(settings: SlurmSettings) -> Iterator[str]:
    for argument in settings.srun_args:
        if any(character in argument for character in "\n\r\0") or not argument:
            yield f"cluster.srun_args: {argument!r}: expected one word, such as --mpi=pmix"
        elif argument.startswith("-"):
            name = argument.lstrip("-").partition("=")[0] if argument.startswith("--") else argument[1:2]
            decided = _decided(SRUN_SHORT.get(name, name), SRUN_DECIDED)
            if decided is not None:
                yield f"cluster.srun_args: {argument}: the launcher decides --{decided}"


def _shell_problems(settings: SlurmSettings) -> Iterator[str]:
    for name, value in settings.env.items():
        if not VARIABLE.fullmatch(name):
            yield f"cluster.env.{name}: not the name of a variable"
        elif name == "PYTHONPATH":
            yield "cluster.env.PYTHONPATH: the launcher sets it; export it in the shell that launches"
        elif isinstance(value, dict | list) or "\0" in str(value):
            yield f"cluster.env.{name}: expected one value"
    lines = [("cluster.setup", line) for line in settings.setup]
    lines += [("cluster.python", settings.python)] if settings.python is not None else []
    for key, line in lines:
        reason = _syntax_error(line)
        if reason is not None:
            yield f"{key}: {line!r} is no whole shell command ({reason})"


def _syntax_error(line: str) -> str | None:
    """The syntax error of ``line`` by ``bash -n``, which does not run it; None without an error or without bash."""
    if "\0" in line:
        return "it has a zero byte"
    try:
        done = subprocess.run(["bash", "-n"], input=line, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    errors = done.stderr.strip().splitlines()
    return errors[0].removeprefix("bash: ") if done.returncode or errors else None


def _decided(name: str, decided: Sequence[str]) -> str | None:
    """Which of the ``decided`` options ``name`` is. Slurm's commands accept the beginning of a name for it."""
    if name in decided:
        return name
    return (
        None
        if name in WHOLE or len(name) < 2
        else next((option for option in decided if option.startswith(name)), None)
    )


def _long_name(key: str) -> str:
    name = str(key).lstrip("-").replace("_", "-")
    return SHORT.get(name, name)


def _text(value: Any) -> str | bool:
    if value is True:
        return True
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
