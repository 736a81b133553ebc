"""Streaming: every sample once, the same again after a resume, and nothing of a shard or its URL executed."""

from __future__ import annotations

import functools
import http.server
import importlib
import io
import json
import pickle
import shutil
import socket
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image
from shard_files import encode, sample_files, write_tar

from nepa_scale.config.overrides import parse
from nepa_scale.data import layout, shard_stream
from nepa_scale.data import transforms as T
from nepa_scale.data.datasets import LabelledImages, MaskedImages, PretrainImages, Samples
from nepa_scale.data.sampler import StreamOrder, buffered
from nepa_scale.data.shard_stream import StreamSource, open_stream
from nepa_scale.data.sources import Sample, open_source
from nepa_scale.data.streaming import Loaded, eval_passes, eval_stream, train_stream
from nepa_scale.utils.errors import DataError
from nepa_scale.utils.progress import logger

CROP = T.PretrainCrop(16, crop_scale_min=0.3, hflip=0.5)
WHOLE = T.pretrain_eval(24)
LENGTHS = (7, 5, 6, 8, 6, 7, 5, 4)
TOTAL = sum(LENGTHS)


class Numbers(Samples[torch.Tensor]):
    """Items are the numbers in the samples' names, and a draw that stands for their augmentation."""

    def _item(self, sample: Sample) -> torch.Tensor:
        return torch.tensor([int(sample.key.rpartition("_")[2]), int(torch.randint(2**31, ()))])


@pytest.fixture
def root(write_shards) -> Path:
    """48 training images in 8 shards, 11 for validation in 4."""
    return write_shards(train=LENGTHS, validation=(3, 4, 1, 3))


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try unreadable shards again at once."""
    monkeypatch.setattr(shard_stream, "RETRY_SECONDS", (0.0,))


def stream_of(root: Path, split: str = "train") -> StreamSource:
    return open_stream(root, "toy", split, allow_remote=False)


def read(root: Path, **changes: Any) -> list[list[list[int]]]:
    """What a rank reads: [micro-batches][images][number and draw]."""
    settings = {
        "batch_size": 4,
        "micro_batch_size": 2,
        "seed": 7,
        "start_step": 0,
        "total_steps": 24,
        "rank": 0,
        "world_size": 1,
        "num_workers": 0,
        **changes,
    }
    dataset = Numbers(stream_of(root), None, WHOLE, settings["seed"])
    return [loaded.batch.tolist() for loaded in train_stream(dataset, **settings)]


def numbers(batches: list[list[list[int]]]) -> list[int]:
    return [number for batch in batches for number, _ in batch]


@pytest.mark.parametrize(("world_size", "num_workers"), [(1, 0), (2, 0), (4, 0), (1, 2), (2, 2)])
def test_every_sample_comes_once_per_epoch(root: Path, world_size: int, num_workers: int) -> None:
    """Readers share each epoch without overlap or gap, and each gives an epoch of its own before the next."""
    readers = world_size * max(1, num_workers)
    starts = np.cumsum(LENGTHS) - LENGTHS
    for epoch in range(3):
        orders = [StreamOrder(LENGTHS, 7, reader=reader, readers=readers) for reader in range(readers)]
        assert sorted(shard for order in orders for shard in order.shards(epoch)) == list(range(8))
    for rank in range(world_size):
        batches = read(root, rank=rank, world_size=world_size, num_workers=num_workers, micro_batch_size=1)
        for worker in range(max(1, num_workers)):
            given = numbers(batches[worker :: max(1, num_workers)])
            order = StreamOrder(LENGTHS, 7, reader=rank + world_size * worker, readers=readers)
            for epoch in range(2):
                first = [starts[shard] + place for shard in order.shards(epoch) for place in range(LENGTHS[shard])]
                assert len(given) < len(first) or sorted(given[: len(first)]) == sorted(first)
                given = given[len(first) :]


def test_one_reader_gives_every_sample_once(root: Path) -> None:
    """Alone, an epoch is the first 48 images and the next is the following 48: no plan of ours is asked."""
    given = numbers(read(root))
    assert sorted(given[:TOTAL]) == sorted(given[TOTAL : 2 * TOTAL]) == list(range(TOTAL))
    assert given[:TOTAL] != given[TOTAL : 2 * TOTAL]
    assert given[:TOTAL] != list(range(TOTAL))


def test_order_follows_the_seed(root: Path) -> None:
    """The same seed gives the same images and augmentations, another one another order."""
    assert read(root) == read(root)
    assert numbers(read(root)) != numbers(read(root, seed=8))


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("world_size", [1, 2])
def test_all_ranks_get_equally_many_batches(root: Path, world_size: int, num_workers: int) -> None:
    """A rank with fewer images must not leave the others waiting in a collective."""
    counts = {len(read(root, rank=rank, world_size=world_size, num_workers=num_workers)) for rank in range(world_size)}
    assert counts == {24 * 2 // world_size}


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores
@pytest.mark.parametrize("num_workers", [0, 2, 3])
@pytest.mark.parametrize("start_step", [1, 5, 13, 24])
def test_resume_continues_images_and_augmentations(root: Path, start_step: int, num_workers: int) -> None:
    """A stream that starts at a step gives what an undisturbed one gives from there, inside an epoch or after some."""
    whole = read(root, num_workers=num_workers)
    assert read(root, start_step=start_step, num_workers=num_workers) == whole[2 * start_step :]


def test_resume_leaves_out_what_has_been_given(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Past epochs are not read, nor shards of which every image has been given."""
    monkeypatch.setattr("nepa_scale.data.sampler.BUFFER_SAMPLES", 4)
    opened: list[int] = []
    plain = StreamSource.read
    monkeypatch.setattr(StreamSource, "read", lambda self, shard: opened.append(shard) or plain(self, shard))
    read(root, start_step=22, total_steps=23)
    assert 1 <= len(opened) <= 3
    opened.clear()
    read(root, start_step=24, total_steps=24)
    assert opened == []


def test_augmentation_is_that_of_reading_by_index(root: Path) -> None:
    """An image in an epoch is augmented alike in both ways of reading."""
    streamed = PretrainImages(stream_of(root), None, CROP, seed=3)
    indexed = PretrainImages(open_source(root, "toy", "train"), None, CROP, seed=3)
    loader = train_stream(
        streamed,
        batch_size=TOTAL,
        micro_batch_size=TOTAL,
        seed=3,
        start_step=1,
        total_steps=2,
        rank=0,
        world_size=1,
        num_workers=0,
    )
    ((batch, faults),) = loader
    expected = Counter(indexed[1, index].numpy().tobytes() for index in range(TOTAL))
    assert Counter(image.numpy().tobytes() for image in batch) == expected
    assert faults == []


def test_shuffle_buffer_mixes_within_its_size() -> None:
    """Everything comes out once, never more than the buffer's size early, and far from where it was."""
    given = buffered(5000, 1000, np.random.default_rng(0))
    assert sorted(given) == list(range(5000))
    assert max(number - place for place, number in enumerate(given)) <= 1000
    assert np.mean(np.abs(np.diff(given))) > 300
    assert sorted(buffered(3, 1000, np.random.default_rng(0))) == [0, 1, 2]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves files open
def test_members_are_those_webdataset_finds(root: Path) -> None:
    """Names, images, classes and masks agree with webdataset's own reading."""
    path = root / "toy" / "train-000001.tar"
    expected = list(webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False))
    given = list(stream_of(root).read(1))
    assert [sample.key for sample in given] == [other["__key__"] for other in expected]
    assert [sample.image for sample in given] == [other["png"] for other in expected]
    assert [sample.label for sample in given] == [int(other["cls"]) for other in expected]
    assert [sample.mask for sample in given] == [other["seg.png"] for other in expected]


@pytest.mark.parametrize("world_size", [1, 2, 3, 6])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_evaluation_counts_each_sample_once(root: Path, world_size: int, num_workers: int) -> None:
    """Over all ranks each image comes once with its own class and mask, in as many batches as foretold."""
    still = T.segment_eval(24)
    seen: dict[bytes, tuple[int, bytes]] = {}
    for rank in range(world_size):
        sharing: dict[str, int] = {"batch_size": 2, "rank": rank, "world_size": world_size, "num_workers": num_workers}
        labelled = LabelledImages(stream_of(root, "validation"), None, WHOLE, 0)
        masked = MaskedImages(stream_of(root, "validation"), None, still, 0)
        batches = list(eval_stream(labelled, **sharing))
        assert len(batches) == eval_passes((3, 4, 1, 3), **sharing)
        pairs = [sample for batch in eval_stream(masked, **sharing, stack=False) for sample in batch]
        images = [(image, label) for images, labels in batches for image, label in zip(images, labels, strict=True)]
        for (image, label), (_, mask) in zip(images, pairs, strict=True):
            assert image.numpy().tobytes() not in seen
            seen[image.numpy().tobytes()] = (int(label), mask.numpy().tobytes())
    assert seen == dict(stored_samples(root / "toy"))


def stored_samples(folder: Path) -> Iterator[tuple[bytes, tuple[int, bytes]]]:
    """Pixels, class and mask of the validation samples, read with tarfile and PIL alone."""
    for path in sorted(folder.glob("validation-*.tar")):
        with tarfile.open(path) as archive:
            for name in archive.getnames():
                if name.endswith(".cls"):
                    stem = name.removesuffix(".cls")
                    content = {part: archive.extractfile(stem + part).read() for part in (".png", ".cls", ".seg.png")}
                    pixels = np.array(Image.open(io.BytesIO(content[".png"]))).transpose(2, 0, 1)
                    stored = np.array(Image.open(io.BytesIO(content[".seg.png"]))).astype(np.int64)
                    mask = np.where(stored == 0, 255, stored - 1)
                    yield pixels.tobytes(), (int(content[".cls"]), mask.tobytes())


def one_shard(write_shards, files: list[tuple[str, bytes]], count: int) -> Path:
    """A data set whose one training shard holds these files and should hold ``count`` samples."""
    root = write_shards(train=(count,))
    write_tar(root / "toy" / "train-000000.tar", files)
    return root


def all_of(root: Path, dataset: type[Samples[Any]] = PretrainImages) -> list[Any]:
    """Every training sample of the set through the evaluation stream."""
    transform = T.segment_eval(24) if dataset is MaskedImages else WHOLE
    images = dataset(stream_of(root), None, transform, 0)  # type: ignore[call-arg]
    return list(eval_stream(images, batch_size=1, rank=0, world_size=1, num_workers=0))


class Explosive:
    """Unpickling it leaves a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.canary,)


def test_pickles_in_shards_are_not_executed(write_shards, tmp_path: Path) -> None:
    """Other members are passed over: none is loaded, whatever its name."""
    canary = tmp_path / "canary"
    payload = pickle.dumps(Explosive(canary))
    files = sample_files("train", 0, classes=3)
    strays = [(f"train_0000.{ext}", payload) for ext in ("pkl", "pyd", "pickle", "pth", "npy", "json", "x.cls")]
    root = one_shard(write_shards, [*files, *strays, ("stray.pkl", payload), ("__meta__.pyd", payload)], 1)
    assert len(all_of(root)) == 1
    assert not canary.exists()
    pickle.loads(payload)  # it would have worked
    assert canary.exists()


def damaged(content: bytes, how: str) -> bytes:
    """A shard cut off within a header or a member, with a flipped bit in a header, empty, or no tar."""
    third = content.index(b"train_0002.png")
    if how == "header":
        return content[: third + 100]
    if how == "member":
        return content[: third + 700]
    if how == "flipped":
        return content[:third] + bytes([content[third] ^ 1]) + content[third + 1 :]
    return b"" if how == "empty" else b"no tar " * 500


@pytest.mark.parametrize("how", ["header", "member", "flipped", "empty", "noise"])
def test_damaged_shard_is_an_error(root: Path, how: str) -> None:
    """webdataset passes over some of these in silence: the line names shard, expected and found."""
    path = root / "toy" / "train-000000.tar"
    path.write_bytes(damaged(path.read_bytes(), how))
    with pytest.raises(DataError) as caught:
        read(root)
    message = str(caught.value)
    assert str(path) in message
    assert "7 samples" in message
    assert len(message.splitlines()) == 1
    if how in ("header", "flipped"):
        assert message.endswith("but 2 found")


@pytest.mark.parametrize(("stated", "found"), [(6, 5), (4, 5)])
def test_other_number_of_samples_is_an_error(root: Path, stated: int, found: int) -> None:
    """More samples than stated are as wrong as fewer."""
    file = root / "toy" / "_info.json"
    info = json.loads(file.read_text())
    info["splits"]["train"]["shard_lengths"][1] = stated
    info["splits"]["train"]["num_samples"] += stated - 5
    file.write_text(json.dumps(info))
    with pytest.raises(DataError, match=rf"train-000001.tar' must hold {stated} samples .* but {found} found"):
        read(root)


def test_missing_shard_is_an_error(root: Path) -> None:
    """The line names what is missing."""
    (root / "toy" / "train-000003.tar").unlink()
    with pytest.raises(DataError, match=r"train-000003.tar' cannot be read after 0 of 8 samples: No such file"):
        read(root)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_bad_images_are_replaced_and_counted(root: Path, num_workers: int) -> None:
    """The next good image stands in, no other image is lost, and a resume sees the same."""
    settings = {"batch_size": 4, "micro_batch_size": 4, "seed": 1, "total_steps": 12, "rank": 0, "world_size": 1}
    dataset = PretrainImages(stream_of(root), None, WHOLE, seed=1)
    intact = images_of(train_stream(dataset, **settings | {"total_steps": 13}, start_step=0, num_workers=0))
    spoil(root, 0, 2)
    spoil(root, 0, 1)
    loaded = list(train_stream(dataset, **settings, start_step=0, num_workers=num_workers))
    if not num_workers:
        assert sorted(fault.partition("sample '")[2][:10] for each in loaded for fault in each.faults) == [
            "train_0001",
            "train_0002",
        ]
        images = images_of(loaded)
        assert len(set(images)) == len(images) - 2 == TOTAL - 2
        assert images == [next(image for image in intact[place:] if image in images) for place in range(TOTAL)]
    for step in (1, 2, 5):
        again = list(train_stream(dataset, **settings, start_step=step, num_workers=num_workers))
        for first, second in zip(loaded[step:], again, strict=True):
            assert torch.equal(first.batch, second.batch)


def images_of(loaded: Iterable[Loaded]) -> list[bytes]:
    """The images in their order."""
    return [image.numpy().tobytes() for each in loaded for image in each.batch]


def spoil(root: Path, shard: int, place: int) -> None:
    """Make an image undecodable."""
    path = root / "toy" / f"train-{shard:06d}.tar"
    content = path.read_bytes()
    start = -1
    for _ in range(2 * place + 1):  # images and masks are PNG files by turns
        start = content.index(b"\x89PNG", start + 1)
    path.write_bytes(content[:start] + b"JUNK" + content[start + 4 :])


def test_too_many_bad_images_in_a_row_end_it(write_shards) -> None:
    """A stream of rubbish is an error and no endless search."""
    root = one_shard(write_shards, [(f"train_{index:04d}.png", b"rubbish") for index in range(20)], 20)
    dataset = PretrainImages(stream_of(root), None, WHOLE, seed=1)
    settings = {"batch_size": 1, "micro_batch_size": 1, "seed": 1, "start_step": 0, "total_steps": 3}
    with pytest.raises(DataError, match="nor can the 7 samples after it"):
        list(train_stream(dataset, **settings, rank=0, world_size=1, num_workers=0))


@pytest.mark.parametrize("label", [None, b"-1", b"two", b"3"])
def test_invalid_label_is_an_error_where_labels_are_used(write_shards, label: bytes | None) -> None:
    """It names shard and sample; pre-training goes on, it reads no label."""
    image = encode(np.zeros((24, 24, 3), dtype=np.uint8))
    files = [("a.png", image), *([("a.cls", label)] if label else [])]
    root = one_shard(write_shards, files, 1)
    assert len(all_of(root)) == 1
    with pytest.raises(DataError, match=r"shard '.*train-000000.tar', sample 'a': .*(class|label)"):
        all_of(root, LabelledImages)
    with pytest.raises(DataError, match=r"shard '.*train-000000.tar', sample 'a': has no mask"):
        all_of(root, MaskedImages)


def test_sample_without_an_image_is_an_error(write_shards) -> None:
    """A class alone, or two images of one name, is no sample."""
    root = one_shard(write_shards, [("a.cls", b"1")], 1)
    with pytest.raises(DataError, match="sample 'a' has no image"):
        all_of(root)
    image = encode(np.zeros((24, 24, 3), dtype=np.uint8))
    write_tar(root / "toy" / "train-000000.tar", [("a.png", image), ("a.jpg", image)])
    with pytest.raises(DataError, match="sample 'a' has 2 images"):
        all_of(root)


def test_fewer_shards_than_readers_are_refused(root: Path) -> None:
    """The line names the numbers and the remedy, from the checks before a run and from the stream itself."""
    expected = "a shard for each of 3 devices x 3 workers, but there are 8 training shards: give data.num_workers=2"
    with pytest.raises(DataError, match=expected):
        read(root, batch_size=3, micro_batch_size=1, world_size=3, num_workers=3)
    from nepa_scale.config import validate

    config = parse(
        ["task=pretrain", *words(root), "data.streaming=true", "data.num_workers=3", "pretrain.batch_size=6"]
    )
    (problem,) = validate.check_batches(config, ("pretrain",), 3)
    assert expected in problem
    assert validate.check_batches(config, ("pretrain",), 2) == []


def words(root: Path) -> list[str]:
    return [f"data.root={root}", "pretrain.dataset=toy", "probe.dataset=toy"]


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        (["task=probe"], "task=probe reads by index"),
        (["pretrain.num_images=5"], "pretrain.num_images=5"),
        (["pretrain.fraction=0.5"], "pretrain.fraction=0.5"),
    ],
)
def test_what_needs_an_index_is_refused(root: Path, wrong: list[str], expected: str) -> None:
    """Probing and subsets are not possible in a stream, and said so in one line."""
    with pytest.raises(Exception, match=expected) as caught:
        parse(["task=pretrain", *words(root), "data.streaming=true", *wrong])
    assert len(str(caught.value).splitlines()) == 1


def test_ade20k_folder_is_refused(ade_root: Path) -> None:
    """A folder of photographs has no shards to stream."""
    with pytest.raises(DataError, match=r"data\.streaming=true reads shards"):
        open_stream(ade_root, "street", "train", allow_remote=False)


def remote(root: Path, url: str, name: str = "remote") -> Path:
    """A local folder with nothing but the _info.json of ``toy`` and a URL."""
    info = json.loads((root / "toy" / "_info.json").read_text())
    (root / name).mkdir()
    (root / name / "_info.json").write_text(json.dumps({**info, "url": url}))
    return root


def test_remote_shards_need_both_settings(root: Path) -> None:
    """A URL in a data set is not followed unless the user says so, and not by index."""
    remote(root, "https://example.org/data")
    allowed, streamed = {"allow_remote": True}, {"streaming": True}
    (problem,) = layout.access_problems(root, "remote", **streamed, allow_remote=False)
    assert problem.endswith("reading them needs data.allow_remote=true")
    (problem,) = layout.access_problems(root, "remote", **allowed, streaming=False)
    assert problem.endswith("can only be read with data.streaming=true")
    assert layout.access_problems(root, "remote", **allowed, **streamed) == []
    assert len(layout.access_problems(root, "remote", streaming=False, allow_remote=False)) == 2
    assert layout.check_dataset(root, "remote", needs={"label", "mask"}) == []
    assert layout.check_contents(root, "remote") == []
    with pytest.raises(DataError, match=r"data\.allow_remote=true"):
        open_stream(root, "remote", "train", allow_remote=False)
    with pytest.raises(DataError, match=r"data\.streaming=true"):
        open_source(root, "remote", "train")


@pytest.mark.parametrize(
    "url",
    [
        "pipe:touch {canary}",
        "pipe:touch%20{canary}",
        "PIPE:touch {canary}",
        "file://{canary}",
        "ftp://example.org/data",
        "scp://example.org/data",
        "ais://example.org/data",
        "https:example.org",
        "https://",
        "https://-o{canary}",
        "https://example.org/$(touch {canary})",
        "https://example.org/`touch {canary}`",
        "https://example.org/';touch {canary};'",
        "https://example.org/a b",
        "https://example.org/a\n",
        "https://example.org/[1-9]",
        "https://user@example.org/data",
        "https://example.org/?a&b",
        "/data",
        "",
        7,
    ],
)
def test_other_urls_are_refused_and_nothing_is_run(root: Path, tmp_path: Path, url: Any) -> None:
    """Schemes that are commands, and letters that a shell or curl would read as more than a name."""
    canary = tmp_path / "canary"
    remote(root, url.replace("{canary}", str(canary)) if isinstance(url, str) else url)
    with pytest.raises(DataError, match=r"_info\.json: url is"):
        open_stream(root, "remote", "train", allow_remote=True)
    assert len(layout.check_dataset(root, "remote")) == 1
    assert not canary.exists()


@pytest.mark.parametrize("name", ["a;touch canary;.tar", "$(touch canary).tar", "a b.tar", "a&b.tar", "'.tar"])
def test_other_file_names_are_refused_of_remote_shards(root: Path, name: str) -> None:
    """They end up in the same command line as the URL; plain names are right."""
    remote(root, "https://example.org/data")
    assert layout.check_dataset(root, "remote") == []
    file = root / "remote" / "_info.json"
    info = json.loads(file.read_text())
    info["splits"]["train"]["filenames"][0] = name
    file.write_text(json.dumps(info))
    with pytest.raises(DataError, match=r"file name .* of remote shards"):
        open_stream(root, "remote", "train", allow_remote=True)


def test_local_folder_named_like_a_command_is_a_folder(root: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """A relative data.root that begins with a scheme is still a path."""
    monkeypatch.chdir(tmp_path)
    root.rename(tmp_path / "pipe:touch canary;")
    assert len(numbers(read(Path("pipe:touch canary;")))) == 96
    assert not (tmp_path / "canary").exists()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files without a line for each."""

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def served(root: Path) -> Iterator[Path]:
    """The data set ``remote``, whose shards are those of ``toy`` behind a web server."""
    if shutil.which("curl") is None:
        pytest.skip("webdataset reads http through curl, which is not installed")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(root / "toy")))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield remote(root, f"http://127.0.0.1:{server.server_port}/")
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_shards_behind_a_web_server(served: Path, num_workers: int) -> None:
    """The stream of remote shards is that of the same shards on disk."""
    settings = {"batch_size": 4, "micro_batch_size": 2, "seed": 7, "start_step": 3, "total_steps": 20}
    settings |= {"rank": 0, "world_size": 1, "num_workers": num_workers}
    dataset = Numbers(open_stream(served, "remote", "train", allow_remote=True), None, WHOLE, 7)
    given = [loaded.batch.tolist() for loaded in train_stream(dataset, **settings)]
    assert given == read(served, **settings)


def test_lost_and_cut_off_remote_shards_are_errors(served: Path) -> None:
    """A shard that the server does not have, or has in part, is one line, without the command that fetched it."""
    path = served / "toy" / "train-000001.tar"
    path.write_bytes(path.read_bytes()[:3000])
    (served / "toy" / "train-000002.tar").unlink()
    source = open_stream(served, "remote", "train", allow_remote=True)
    for shard, place in ((1, r"\d"), (2, "0")):
        pattern = rf"^shard 'http://127.0.0.1:\d+/train-00000{shard}.tar' (cannot be read after|must hold) {place}"
        with pytest.raises(DataError, match=pattern) as caught:
            list(source.read(shard))
        assert "curl" not in str(caught.value)


def test_unreachable_server_is_tried_again_and_named(served: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What curl says is the reason, not that nothing came, and it is asked as often as a slow disk."""
    waits: list[float] = []
    monkeypatch.setattr(shard_stream, "RETRY_SECONDS", (7.0, 8.0, 9.0))
    monkeypatch.setattr(shard_stream.time, "sleep", waits.append)
    remote(served, f"http://127.0.0.1:{free_port()}", "gone")
    source = open_stream(served, "gone", "train", allow_remote=True)
    with pytest.raises(DataError, match=r"after 0 of 7 samples: the program that fetches it ended with exit 7$"):
        list(source.read(0))
    assert [wait for wait in waits if wait >= 7] == [7, 8, 9]


def test_connection_that_breaks_is_continued(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fetching program that dies half-way, where webdataset would see the end of a tar, is asked again."""
    gopen = importlib.import_module("webdataset.gopen")
    path = root / "toy" / "train-000000.tar"
    cut = path.read_bytes().index(b"train_0002.png")  # at a header
    commands = iter([f"head -c {cut} '{path}'; exit 18", f"head -c {cut + 700} '{path}'; exit 56", f"cat '{path}'"])
    monkeypatch.setattr(gopen, "gopen", lambda _: gopen.Pipe(["sh", "-c", next(commands)], mode="rb"))
    monkeypatch.setattr(shard_stream, "RETRY_SECONDS", (0.0, 0.0))
    assert [sample.key for sample in stream_of(root).read(0)] == [f"train_{index:04d}" for index in range(7)]


def test_abandoned_shard_ends_its_program(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who stops reading in the middle neither waits for the rest nor leaves a process behind."""
    gopen = importlib.import_module("webdataset.gopen")
    path = root / "toy" / "train-000000.tar"
    opened: list[Any] = []

    def fetch(_: str) -> Any:
        opened.append(gopen.Pipe(["sh", "-c", f"cat '{path}'; exec sleep 60"], mode="rb"))
        return opened[0]

    monkeypatch.setattr(gopen, "gopen", fetch)
    samples = stream_of(root).read(0)
    next(samples)
    before = time.monotonic()
    samples.close()  # type: ignore[attr-defined]
    assert time.monotonic() - before < 5
    assert opened[0].proc.poll() is not None


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def test_reading_goes_on_after_a_passing_failure(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection lost once costs a second reading of the shard, and no sample is doubled or lost."""
    gopen = importlib.import_module("webdataset.gopen")

    failures = iter([1500, 9000])

    class Breaking(io.BytesIO):
        """Ends with an error after some bytes, the first times."""

        def __init__(self, path: str) -> None:
            super().__init__(Path(path).read_bytes())
            self.left = next(failures, None)

        def read(self, size: int | None = -1) -> bytes:
            if self.left is not None and self.tell() + (size or 0) > self.left:
                raise OSError("(['curl', 'secret'], {}): exit 56 (read) {}")
            return super().read(size)

    monkeypatch.setattr(gopen, "gopen", Breaking)
    monkeypatch.setattr(shard_stream, "RETRY_SECONDS", (0.0, 0.0))
    assert [sample.key for sample in stream_of(root).read(0)] == [f"train_{index:04d}" for index in range(7)]
    failures = iter([1500] * 9)
    with pytest.raises(DataError, match="the program that fetches it ended with exit 56") as caught:
        list(stream_of(root).read(0))
    assert "secret" not in str(caught.value)


def test_a_token_of_the_command_does_not_reach_the_message(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """webdataset quotes the whole command in its errors, with the access token of hf:// shards."""
    gopen = importlib.import_module("webdataset.gopen")

    command = ["sh", "-c", "printf x; exit 7", "Authorization:Bearer secret"]
    monkeypatch.setattr(gopen, "gopen", lambda _: gopen.Pipe(command, mode="rb"))
    with pytest.raises(DataError) as caught:
        list(stream_of(root).read(0))
    assert "secret" not in str(caught.value)
    assert "train-000000.tar' cannot be read after 0 of 7 samples" in str(caught.value)


def test_what_is_not_read_is_told_once(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The first shard with such members is a line of the log; the samples are the same."""
    expected = numbers(read(root))
    for number in range(3):
        with tarfile.open(root / "toy" / f"train-{number:06d}.tar", "a") as archive:
            for name in ("a.json", f"b{number}.json", "._c.jpg"):
                archive.addfile(tarfile.TarInfo(name))
    logger.addHandler(caplog.handler)
    assert numbers(read(root)) == expected
    logger.removeHandler(caplog.handler)
    (line,) = {record.getMessage() for record in caplog.records if "not read" in record.getMessage()}
    assert "2 '.json' (such as 'a.json'), 1 '.jpg' (such as '._c.jpg')" in line


@pytest.mark.parametrize("names", [["x.1.png", "x.1.cls"], ["x.webp", "x.cls"], ["x.webp"]])
def test_a_streamed_sample_without_a_readable_image_is_named(root: Path, names: list[str]) -> None:
    """As by index: no sample is passed over because its image has another name."""
    with tarfile.open(root / "toy" / "train-000001.tar", "a") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name))
    with pytest.raises(DataError, match=r"sample 'x' has no image \(.*\), only \."):
        list(stream_of(root).read(1))
