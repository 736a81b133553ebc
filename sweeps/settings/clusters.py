"""What a study runs on, kept beside its plan: later commands and the queue go by it without the launch's words."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from nepa_scale.utils.errors import UserError
from nepa_scale.utils.files import read_json, write_json
from sweeps.settings.schema import KINDS, Cluster

CLUSTER_NAME = "cluster.json"


def save_cluster(cluster: Cluster, study_dir: Path) -> None:
    """Record ``cluster`` as that of the study."""
    write_json(study_dir / CLUSTER_NAME, dataclasses.asdict(cluster))


def read_cluster(study_dir: Path) -> Cluster:
    """The study's cluster. Raises ``UserError`` where none is recorded, or what is cannot be read."""
    path = study_dir / CLUSTER_NAME
    try:
        content = read_json(path)
        kind = KINDS[content["kind"]]
        known = {item.name for item in dataclasses.fields(kind)}
        return kind(**{key: value for key, value in content.items() if key in known})
    except FileNotFoundError as error:
        raise UserError(f"{path}: not there; launch the study once more with `nepa-launch`") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a cluster file ({error}); the next launch writes it anew") from error
