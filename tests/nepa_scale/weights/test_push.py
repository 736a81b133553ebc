"""Publishing a run: its folder and card, and the way to a hub of our own on this machine and back."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from finished_runs import finished_run, timm_model
from launching import REPOSITORY, clean_environment
from scipy import stats
from small_tasks import config_of

from nepa_scale.tasks.pretrain import Pretrain
from nepa_scale.weights.__main__ import main
from nepa_scale.weights.push import card

REPO, COMMIT = "somebody/nepa-mine", "0123456789abcdef0123456789abcdef01234567"
SKILLS = [0.41, 0.43, 0.48]
Command = Callable[..., subprocess.CompletedProcess[str]]


def write_result(run: Path, config: dict[str, Any], seed: int, skill: float) -> None:
    """A result as a finished pre-training leaves it, of the numbers that a card shows."""
    content = {
        "schema": 1, "run_id": run.name, "task": "pretrain", "init": "pretrain", "config": config | {"seed": seed},
        "params_total": 45_678, "params_backbone": 38_368, "steps": 128, "images_seen": 4096, "unique_images": 2048,
        "flops_train": 17_553_162_240, "metrics": {"skill": skill, "loss": -0.5}, "validation_images": 1024,
        "seed": seed, "device_kind": "cpu", "device_count": 1, "commit": "abc",
    }  # fmt: skip
    (run / "pretrain").mkdir(parents=True, exist_ok=True)
    (run / "pretrain" / "result.json").write_text(json.dumps(content))


@pytest.fixture
def run(digits_root: Path, tmp_path: Path) -> Path:
    """A finished pre-training of a study, beside those of two other seeds, one of another size, a damaged one and one
    of something else."""
    task = Pretrain(config_of(digits_root, "pretrain"))
    runs = tmp_path / "study" / "runs"
    folder = finished_run(task, runs / "femto-p8-0")
    config = task.config.flat()
    for seed, skill in enumerate(SKILLS):
        write_result(runs / f"femto-p8-{seed}", config | {"log.every": 5 + seed}, seed, skill)
    write_result(runs / "pico-p8-0", config | {"model.size": "pico"}, 3, 0.9)
    for name, text in (("broken", "{"), ("other", "{}"), ("list", "[]")):
        (runs / name / "pretrain").mkdir(parents=True)
        (runs / name / "pretrain" / "result.json").write_text(text)
    (folder / "pretrain" / "pictures.png").write_bytes(b"picture")
    (tmp_path / "study" / "headline.png").write_bytes(b"headline")
    return folder


def test_the_folder_holds_weights_and_a_card(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What timm loads, the pictures, and a card whose numbers are those of result.json; nothing is uploaded."""
    out = tmp_path / "card"
    assert main(["push", str(run), REPO, f"dry_run={out}", "licence=cc-by-4.0"]) == 0
    assert capsys.readouterr().out == f"{out}: what would be uploaded to {REPO}\n"
    names = {path.name for path in out.iterdir()}
    assert names == {"README.md", "config.json", "model.safetensors", "pictures.png", "headline.png"}
    assert timm_model(out)(torch.zeros(1, 3, 48, 48)).isfinite().all()
    _, head, text = (out / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    assert yaml.safe_load(head)["license"] == "cc-by-4.0" and yaml.safe_load(head)["library_name"] == "timm"
    for shown in ("# nepa-mine", "size `femto`", "on `digits`", "Backbone, width 32", "| 128 |", "4,096 (2,048)",
                  "1.76e+10", "45,678 (38,368)", "femto-p8-0", "](pictures.png)", "](headline.png)", "2512.16922}",
                  f'timm.create_model("hf-hub:{REPO}", pretrained=True)', "1,024 validation images"):  # fmt: skip
        assert shown in text, shown


def test_seeds_give_an_interval(run: Path, tmp_path: Path) -> None:
    """Student's, of the runs that differ in their seed and in nothing that changes a result; alone there is none."""
    assert main(["push", str(run), REPO, f"dry_run={tmp_path / 'card'}"]) == 0
    text = (tmp_path / "card" / "README.md").read_text(encoding="utf-8")
    low, high = stats.t.interval(0.95, 2, np.mean(SKILLS), stats.sem(SKILLS))
    assert "mean of 3 seeds (95% interval)" in text
    assert f"| skill | 0.41 | 0.44 ({low:.4g} to {high:.4g}) |" in text
    alone = shutil.copytree(run, tmp_path / "alone" / "run")
    assert main(["push", str(alone), REPO, f"dry_run={tmp_path / 'other'}"]) == 0
    text = (tmp_path / "other" / "README.md").read_text(encoding="utf-8")
    assert "seeds" not in text and "| skill | 0.41 |\n" in text and "headline" not in text


SCRATCH = "A vision transformer of size `femto` for classification, trained from scratch on labels, without pre-"
CONTINUED = "pre-trained on `digits` with nepa_scale, from the weights of `weights/base`."


@pytest.mark.parametrize(
    ("task", "start", "shown", "hidden"),
    [
        ("classify", {"init": "scratch"}, [SCRATCH, "| started from | `scratch` |"], ["NEPA, next", "A NEPA"]),
        (
            "classify",
            {"init": "weights/base", "source_run": "weights/base", "init_finetuned": True},
            ["from the weights of `weights/base`, which had seen labels. NEPA, next"],
            ["masked pixels"],
        ),
        (
            "classify",
            {"init": "pretrain"},
            ["fine-tuned for", "masked pixels", "this run's own pre-training |"],
            ["the weights of"],
        ),
        ("pretrain", {"init": "pretrain", "source_run": "weights/base"}, [CONTINUED, "masked pixels"], ["scratch"]),
        ("pretrain", {"init": "pretrain"}, ["| started from | `scratch` |"], ["the weights of"]),
    ],
)
def test_the_card_says_where_the_weights_come_from(
    task: str, start: dict[str, Any], shown: list[str], hidden: list[str], tmp_path: Path
) -> None:
    """NEPA is claimed of no model that was trained on labels alone, and weights from elsewhere are named."""
    config = {"model.size": "femto", "pretrain.objective": "masked_pixels"}
    config |= {f"{task}.dataset": "digits", f"{task}.image_size": 48}
    write_result(tmp_path, config, 0, 0.4)
    result = json.loads((tmp_path / "pretrain" / "result.json").read_text()) | {"task": task} | start
    text = card(REPO, [result], model="backbone", licence="other")
    assert all(part in text for part in shown), text
    assert not any(part in text for part in hidden), text
    assert "`pip install .`" in text and "install nepa-scale" not in text


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["RUN", "no name", "dry_run=OUT"], "no name: no name of a repository"),
        (["RUN", REPO, "dry_run=OUT", "task=classify"], "classify/result.json: does not exist"),
        (["RUN", REPO, "dry_run=OUT", "ema=true"], "pretrain.ema_decay=0 keeps no moving average"),
        (["RUN", REPO, "dry_run=RUN"], "holds other files; name a new folder"),
        (["OUT", REPO, "dry_run=OUT"], "config.yaml: No such file"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str], line: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They name what is wrong, and nothing is written."""
    out = tmp_path / "out"
    words = [word.replace("RUN", str(run)).replace("OUT", str(out)) for word in words]
    assert main(["push", *words]) == 2
    [told] = capsys.readouterr().err.splitlines()
    assert line in told and not out.exists()


class Hub(BaseHTTPRequestHandler):
    """The answers of the hub that an upload and a download of one repository need."""

    def __init__(self, files: dict[str, bytes], *args: object) -> None:
        self.files = files
        super().__init__(*args)  # type: ignore[arg-type]

    def do_POST(self) -> None:
        """Make the repository, say that files travel within the commit, and take the commit."""
        length = self.headers.get("Content-Length")
        body = self.rfile.read(int(length)) if length else self._chunks()
        if self.headers.get("Authorization") != "Bearer hf_right":
            self.send({"error": "Invalid user token"}, code=401)
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            assert asked["name"] == "nepa-mine" and asked["organization"] == "somebody"
            self.send({"url": f"http://{self.headers['Host']}/{REPO}"})
        elif self.path == f"/api/models/{REPO}/preupload/main":
            modes = {"uploadMode": "regular", "shouldIgnore": False}
            self.send({"files": [{"path": file["path"]} | modes for file in json.loads(body)["files"]]})
        elif self.path == f"/api/models/{REPO}/commit/main":
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.send({"commitUrl": f"http://{self.headers['Host']}/{REPO}/commit/{COMMIT}", "commitOid": COMMIT})
        else:
            self.send({}, code=200 if self.path == "/api/validate-yaml" else 404)

    def _chunks(self) -> bytes:
        """A body that is sent in pieces, each after its length."""
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        return body

    def do_HEAD(self) -> None:
        """The head of a file."""
        self.do_GET(body=False)

    def do_GET(self, *, body: bool = True) -> None:
        """What the repository holds, or a file of it."""
        path = self.path.split("?")[0]
        name = path.rsplit("/", 1)[-1]
        if path.startswith(f"/api/models/{REPO}"):
            self.send({"id": REPO, "sha": COMMIT, "siblings": [{"rfilename": each} for each in self.files]}, body=body)
        elif path.startswith(f"/{REPO}/resolve/") and name in self.files:
            self.send(self.files[name], body=body, name=name)
        else:
            self.send({}, code=404, body=body)

    def send(self, content: Any, *, code: int = 200, body: bool = True, name: str = "") -> None:
        """Answer with bytes or JSON."""
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{name or COMMIT}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub() -> dict[str, bytes]:
    """The files that the hub holds."""
    return {}


@pytest.fixture
def python(hub: dict[str, bytes], tmp_path: Path) -> Iterator[Command]:
    """Run Python with these words, in a process that takes the test's hub for the world's."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, hub))
    thread = Thread(target=server.serve_forever)
    thread.start()

    def call(*words: str, token: str = "hf_right") -> subprocess.CompletedProcess[str]:
        environment = clean_environment(
            HF_ENDPOINT=f"http://127.0.0.1:{server.server_port}", HF_HOME=str(tmp_path / "cache"), HF_TOKEN=token,
            HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_TELEMETRY="1",
        )  # fmt: skip
        return subprocess.run(
            [sys.executable, *words], cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300,
            check=False,
        )  # fmt: skip

    yield call
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.slow(seconds=10)
def test_it_goes_to_the_hub_and_comes_back(run: Path, hub: dict[str, bytes], python: Command, tmp_path: Path) -> None:
    """The hub has what a dry run writes, and the three lines of the card load the same model from it."""
    done = python("-m", "nepa_scale.weights", "push", str(run), REPO)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith(f"/{REPO}")
    assert main(["push", str(run), REPO, f"dry_run={tmp_path / 'card'}"]) == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "card").iterdir()} == hub
    [three_lines] = [part for part in hub["README.md"].decode().split("```") if part.startswith("python\n")]
    saved = tmp_path / "model.pt"
    loaded = python(
        "-c", f"{three_lines.removeprefix('python')}\nimport torch\ntorch.save(model.state_dict(), '{saved}')"
    )
    assert loaded.returncode == 0, loaded.stderr
    ours = timm_model(tmp_path / "card").state_dict()
    theirs = torch.load(saved)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.slow(seconds=5)
def test_a_hub_that_refuses_is_one_line(run: Path, hub: dict[str, bytes], python: Command) -> None:
    """The reason is the hub's, such as a wrong token."""
    done = python("-m", "nepa_scale.weights", "push", str(run), REPO, token="hf_wrong")
    assert done.returncode == 2 and hub == {}
    [line] = done.stderr.splitlines()
    assert line.startswith(f"error: {REPO}: the hub does not take it (") and "401" in line
