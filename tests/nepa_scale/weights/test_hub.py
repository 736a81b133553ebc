"""Importing by a hub name, from a hub of our own on this machine."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import safetensors.torch
import torch
from authors_nepa import AuthorsNepa, config_of
from launching import REPOSITORY, clean_environment

REPO = "SixAILab/nepa-tiny"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
Command = Callable[..., subprocess.CompletedProcess[str]]


class Hub(BaseHTTPRequestHandler):
    """The three answers of the hub that a download needs: what a revision holds, and each file's head and body."""

    def __init__(self, folder: Path, asked: list[str], *args: object) -> None:
        self.folder, self.asked = folder, asked
        super().__init__(*args)  # type: ignore[arg-type]

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        path = self.path.split("?")[0]
        self.asked.append(path)
        for revision in ("main", "init", COMMIT):
            if path.startswith(f"/api/models/{REPO}/revision/{revision}"):
                files = [{"rfilename": file.name} for file in self.folder.iterdir()]
                return self.send(json.dumps({"id": REPO, "sha": COMMIT, "siblings": files}).encode(), body=body)
            if path.startswith(f"/api/models/{REPO}/tree/{revision}"):
                files = [
                    {"type": "file", "path": file.name, "oid": file.name, "size": file.stat().st_size}
                    for file in self.folder.iterdir()
                ]
                return self.send(json.dumps(files).encode(), body=body)
        prefix, name = f"/{REPO}/resolve/{COMMIT}/", path.rsplit("/", 1)[-1]
        if path.startswith(prefix) and (self.folder / name).is_file():
            return self.send((self.folder / name).read_bytes(), body=body, name=name)
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        return self.end_headers()

    def send(self, content: bytes, *, body: bool, name: str = "") -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{name}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def asked() -> list[str]:
    """The paths that the hub was asked for."""
    return []


@pytest.fixture
def command(tmp_path: Path, asked: list[str]) -> Iterator[Command]:
    """Run the command in a process that takes the test's hub for the world's."""
    theirs = AuthorsNepa(config_of()).save(tmp_path / "hub")
    torch.save(AuthorsNepa(config_of(), seed=1).state_dict(), theirs / "pytorch_model_ema.bin")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, theirs, asked))
    thread = Thread(target=server.serve_forever)
    thread.start()

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        address = f"http://127.0.0.1:{server.server_port}"
        environment = clean_environment(HF_ENDPOINT=address, HF_HOME=str(tmp_path / "cache"), HF_HUB_DISABLE_XET="1")
        return subprocess.run(
            [sys.executable, "-m", "nepa_scale.weights", *words],
            cwd=REPOSITORY,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    yield call
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.slow(seconds=4)
def test_hub_name_with_revision(tmp_path: Path, command: Command, asked: list[str]) -> None:
    """``owner/name@revision`` downloads what is needed of that revision, and not the moving average beside it."""
    done = command("import", f"{REPO}@init", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    written = safetensors.torch.load_file(tmp_path / "out" / "model.safetensors")
    own = AuthorsNepa(config_of()).state_dict()
    assert torch.equal(written["norm.weight"], own["vit_nepa.layernorm.weight"])
    assert any("/init" in path for path in asked)
    assert not any(path.endswith("pytorch_model_ema.bin") for path in asked)


@pytest.mark.slow(seconds=4)
def test_hub_name_that_is_not_there(tmp_path: Path, command: Command) -> None:
    """A misspelt name is one line that says both what was looked for and where."""
    done = command("import", "SixAILab/nepa-bass", str(tmp_path / "out"))
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("error: SixAILab/nepa-bass: no such folder, and the hub does not give it (")
    assert not (tmp_path / "out").exists()
