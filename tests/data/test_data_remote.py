"""Data sets in an object store: as local ones, though the store is slow, away, or wrong."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_helpers import CPU, refused
from s3_server import BUCKET, Proxy, Server, credentials

from rhoselect.config import Config, DataConfig, SelectionConfig
from rhoselect.data import ArrowDataset, open_data
from rhoselect.errors import ConfigError, DataError, WaitError
from rhoselect.importers import write_dataset
from rhoselect.plan import open_plan
from support import CLASSES, made, patches, rhoctl
from warm import Process

ROWS, SHARD_ROWS, WIDTH = 600, 60, 256  # ten train shards of 60 kB
READ_ALL = """
import sys, hashlib, torch
from rhoselect.config import DataConfig
from rhoselect.data import open_data
points = open_data(DataConfig(path=sys.argv[1], cache_dir=sys.argv[2])).split("train")
print(hashlib.sha256(points.read(points.indices, torch.device("cpu")).inputs.numpy()).hexdigest())
"""


@pytest.fixture(scope="module", autouse=True)
def environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in credentials().items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def server(environment: None) -> Iterator[Server]:
    server = Server()
    yield server
    server.kill()


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    proxy = Proxy(server.port)
    yield proxy
    proxy.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten train shards and one test shard of floats."""
    path = tmp_path_factory.mktemp("local") / "set"
    random = np.random.default_rng(0)
    splits = {
        name: (random.standard_normal((n, WIDTH), np.float32), np.arange(n) % 5)
        for name, n in (("train", ROWS), ("test", 50))
    }
    write_dataset(path, "float", splits, label_noise=0.2, shard_rows=SHARD_ROWS)
    return path


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One train shard of 20 MB, which is fetched in several pieces."""
    path = tmp_path_factory.mktemp("large") / "set"
    inputs = np.random.default_rng(0).standard_normal((1000, 5000), np.float32)
    splits = {"train": (inputs, np.arange(1000) % 5), "test": (inputs[:2], np.arange(2))}
    write_dataset(path, "float", splits)
    return path


@pytest.fixture(scope="module")
def uploaded(server: Server, folder: Path, large: Path) -> None:
    server.upload(folder, "set")
    server.upload(large, "large")


def config(port: int, cache: Path, name: str = "set", **more: Any) -> DataConfig:
    query = f"scheme=http&endpoint_override=127.0.0.1:{port}"
    path = f"s3://{BUCKET}/{name}?{query}"
    return DataConfig(path=path, cache_dir=str(cache), **({"timeout_s": 60.0} | more))


def cached(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "shards").iterdir() if path.name != ".lock")


def same_points(remote: Any, folder: Path, indices: np.ndarray) -> None:
    local = ArrowDataset.open(folder).split("train")
    got, expected = remote.read(indices, CPU), local.read(indices, CPU)
    assert torch.equal(got.inputs, expected.inputs)
    assert torch.equal(got.labels, expected.labels)
    assert np.array_equal(remote.clean_labels(indices), local.clean_labels(indices))


@pytest.mark.usefixtures("uploaded")
def test_shards_come_when_they_are_read_and_stay(
    server: Server, folder: Path, tmp_path: Path
) -> None:
    dataset = open_data(config(server.port, tmp_path))
    assert cached(tmp_path) == []
    points = dataset.split("train")
    same_points(points, folder, np.array([SHARD_ROWS + 1, SHARD_ROWS]))
    assert len(cached(tmp_path)) == 1
    random = np.random.default_rng(0)
    same_points(points, folder, random.permutation(ROWS))
    assert len(cached(tmp_path)) == ROWS // SHARD_ROWS
    assert dataset.fingerprint == ArrowDataset.open(folder).fingerprint
    same_points(open_data(config(server.port, tmp_path)).split("train"), folder, np.arange(ROWS))
    found = points.origins(np.array([3, 1]))
    assert (found.source.tolist(), found.row.tolist()) == (["train", "train"], [3, 1])


@pytest.mark.usefixtures("uploaded")
def test_the_cache_keeps_its_bound_whoever_reads(
    server: Server, folder: Path, tmp_path: Path
) -> None:
    """Two readers take turns, so each finds shards evicted that it has mapped."""
    size = max(path.stat().st_size for path in folder.glob("*.arrow"))
    settings = config(server.port, tmp_path, cache_bytes=3 * size)
    readers = [open_data(settings).split("train") for _ in range(2)]
    random = np.random.default_rng(1)
    for turn in range(20):
        same_points(readers[turn % 2], folder, random.integers(0, ROWS, 5))
        files = list((tmp_path / "shards").iterdir())
        assert sum(path.stat().st_size for path in files) <= settings.cache_bytes
    same_points(readers[0], folder, np.arange(ROWS))


@pytest.mark.usefixtures("uploaded")
def test_the_least_recently_used_shard_goes(server: Server, folder: Path, tmp_path: Path) -> None:
    shards = ArrowDataset.open(folder).manifest.shards
    settings = config(server.port, tmp_path, cache_bytes=2 * shards[0].bytes + 10)
    points = open_data(settings).split("train")
    for shard in (0, 1, 0, 2):
        points.read(np.array([shard * SHARD_ROWS]), CPU)
    assert cached(tmp_path) == sorted(f"{shards[n].sha256}.arrow" for n in (0, 2))


@pytest.mark.usefixtures("uploaded")
def test_what_does_not_fit_is_refused(server: Server, folder: Path, tmp_path: Path) -> None:
    size = max(path.stat().st_size for path in folder.glob("*.arrow"))
    with refused(r"data\.cache_bytes: got 1000, allowed at least", ConfigError):
        open_data(config(server.port, tmp_path, cache_bytes=1000))
    selection = SelectionConfig(n_b=8, n_B=64, chunk=16)
    for order, blocks, room, fits in (
        ("shuffled", 8, 5 * size, False),
        ("streamed", 2, 5 * size, True),
        ("streamed", 3, 5 * size, False),
        ("shuffled", 8, 11 * size, True),
    ):
        more = {"cache_bytes": room, "order": order, "stream_blocks": blocks}
        data = config(server.port, tmp_path, **more)
        points = open_data(data).split("train")
        if fits:
            open_plan(Config(data=data, selection=selection), points)
        else:
            with refused(r"data\.cache_bytes: got .*raise it", ConfigError):
                open_plan(Config(data=data, selection=selection), points)


@pytest.mark.usefixtures("uploaded")
def test_two_processes_fetch_each_shard_once(proxy: Proxy, folder: Path, tmp_path: Path) -> None:
    path = config(proxy.port, tmp_path).path
    assert path is not None
    proxy.pause_s = 0.01  # so that they do meet
    processes = [Process("-c", READ_ALL, path, str(tmp_path)) for _ in range(2)]
    printed = {process.communicate()[0].strip() for process in processes}
    points = ArrowDataset.open(folder).split("train")
    inputs = points.read(points.indices, CPU).inputs.numpy()
    assert printed == {hashlib.sha256(inputs).hexdigest()}
    total = sum(file.stat().st_size for file in folder.glob("*.arrow"))
    assert proxy.passed < 1.3 * total
    assert all(name.endswith(".arrow") for name in cached(tmp_path))


@pytest.mark.usefixtures("uploaded")
def test_what_a_killed_process_left_is_replaced(proxy: Proxy, large: Path, tmp_path: Path) -> None:
    settings = config(proxy.port, tmp_path, name="large")
    proxy.stop_after(9 << 20, then="stall")
    process = Process("-c", READ_ALL, str(settings.path), str(tmp_path))
    assert proxy.reached.wait(60)
    process.kill()
    process.communicate()
    (left,) = cached(tmp_path)
    assert left.endswith(".partial")
    proxy.open()
    points = open_data(settings).split("train")
    expected = ArrowDataset.open(large).split("train").read(points.indices, CPU)
    assert torch.equal(points.read(points.indices, CPU).inputs, expected.inputs)
    assert [name.rpartition(".")[2] for name in cached(tmp_path)] == ["arrow"]


@pytest.mark.usefixtures("uploaded")
def test_room_that_a_killed_process_reserved_comes_free(
    proxy: Proxy, folder: Path, large: Path, tmp_path: Path
) -> None:
    proxy.stop_after(9 << 20, then="stall")
    settings = config(proxy.port, tmp_path, name="large")
    process = Process("-c", READ_ALL, str(settings.path), str(tmp_path))
    assert proxy.reached.wait(60)
    process.kill()
    process.communicate()
    proxy.open()
    points = open_data(config(proxy.port, tmp_path, cache_bytes=1 << 20)).split("train")
    same_points(points, folder, np.arange(ROWS))
    assert all(name.endswith(".arrow") for name in cached(tmp_path))


@pytest.mark.matrix
def test_a_server_killed_in_the_middle_of_a_read_and_started_again(
    large: Path, tmp_path: Path
) -> None:
    server = Server()
    server.upload(large, "large")
    proxy = Proxy(server.port)
    points = open_data(config(proxy.port, tmp_path, name="large")).split("train")
    proxy.stop_after(12 << 20, then="cut")
    with ThreadPoolExecutor(1) as reader:
        batch = reader.submit(points.read, points.indices, CPU)
        assert proxy.reached.wait(60)
        server.kill()
        server = Server(server.port)
        server.upload(large, "large")
        proxy.open()
        inputs = batch.result(60).inputs
    server.kill()
    proxy.close()
    expected = ArrowDataset.open(large).split("train").read(points.indices, CPU)
    assert torch.equal(inputs, expected.inputs)
    assert proxy.passed < 1.5 * inputs.numpy().nbytes, "it went on where it was"


@pytest.mark.usefixtures("uploaded")
@pytest.mark.parametrize("then", ["cut", "stall"])
def test_a_store_that_stays_away_is_told_after_the_deadline(
    proxy: Proxy, tmp_path: Path, then: str
) -> None:
    points = open_data(config(proxy.port, tmp_path, timeout_s=1.0)).split("train")
    proxy.stop_after(20_000, then)
    with pytest.raises(WaitError, match=r"shard s3://points/set/\d+\.arrow: nothing came for 1 s"):
        points.read(np.array([0]), CPU)
    proxy.open()
    assert cached(tmp_path) == []
    points.read(np.array([0]), CPU)


@pytest.mark.usefixtures("uploaded")
def test_a_slow_store_is_waited_for(proxy: Proxy, large: Path, tmp_path: Path) -> None:
    """20 MB at 64 KiB per 10 ms take many times the deadline, which counts from the last bytes."""
    points = open_data(config(proxy.port, tmp_path, name="large", timeout_s=0.5)).split("train")
    proxy.pause_s = 0.01
    expected = ArrowDataset.open(large).split("train").read(points.indices, CPU)
    assert torch.equal(points.read(points.indices, CPU).inputs, expected.inputs)


def test_a_corrupt_shard_is_refused(server: Server, folder: Path, tmp_path: Path) -> None:
    server.upload(folder, "corrupt")
    files = {path.name: path.read_bytes() for path in folder.glob("*.arrow")}
    flipped = bytearray(files["00003.arrow"])
    flipped[len(flipped) // 2] ^= 1
    for name, content in (("00003.arrow", flipped), ("00004.arrow", files["00004.arrow"][:-1])):
        with server.files.open_output_stream(f"{BUCKET}/corrupt/{name}") as file:
            file.write(bytes(content))
    server.files.delete_file(f"{BUCKET}/corrupt/00005.arrow")
    points = open_data(config(server.port, tmp_path, name="corrupt")).split("train")
    same_points(points, folder, np.arange(3 * SHARD_ROWS))
    for shard, pattern in (
        (3, r"00003\.arrow: got sha256 .*by the manifest"),
        (4, r"00004\.arrow: got \d+ bytes, allowed \d+ by"),
        (5, r"has no 00005\.arrow"),
    ):
        with refused(pattern, DataError):
            points.read(np.array([shard * SHARD_ROWS]), CPU)
    assert len(cached(tmp_path)) == 3


def test_labels_are_checked_when_a_shard_comes(
    server: Server, folder: Path, tmp_path: Path
) -> None:
    tree = json.loads((folder / "manifest.json").read_text())
    server.upload(folder, "labels")
    with server.files.open_output_stream(f"{BUCKET}/labels/manifest.json") as file:
        file.write(json.dumps(tree | {"classes": 3}).encode())
    points = open_data(config(server.port, tmp_path, name="labels")).split("train")
    with refused(r"s3://points/labels/00000\.arrow: got label 4, allowed 0 to 2", DataError):
        points.read(np.array([0]), CPU)


@pytest.mark.usefixtures("uploaded")
def test_addresses_that_lead_nowhere(server: Server, tmp_path: Path) -> None:
    for name in ("nothing", "set/below"):
        with refused(rf"data set s3://points/{name}: has no manifest\.json", DataError):
            open_data(config(server.port, tmp_path, name=name))
    for path, pattern in (
        ("s3://", "without a bucket"),
        ("s3://points/set?colour=blue", "got the option 'colour', allowed region"),
        ("ftp://host/set", r"data\.path: got 'ftp://host/set', allowed a folder or a URI"),
    ):
        with refused(pattern, ConfigError):
            open_data(DataConfig(path=path, cache_dir=str(tmp_path)))


def test_a_file_uri_is_a_folder(folder: Path) -> None:
    same_points(open_data(DataConfig(path=f"file://{folder}")).split("train"), folder, np.arange(9))


@pytest.mark.usefixtures("uploaded")
def test_shards_read_ahead_need_no_store(proxy: Proxy, folder: Path, tmp_path: Path) -> None:
    points = open_data(config(proxy.port, tmp_path)).split("train")
    indices = np.arange(2 * SHARD_ROWS, 5 * SHARD_ROWS)
    points.prefetch(indices)
    points.prefetch(indices)
    while sum(name.endswith(".arrow") for name in cached(tmp_path)) < 3:
        time.sleep(0.005)
    proxy.stop_after(0, then="cut")
    same_points(points, folder, indices)


@pytest.mark.usefixtures("uploaded")
def test_a_streamed_run_finds_the_next_group_at_hand(
    proxy: Proxy, folder: Path, tmp_path: Path
) -> None:
    """Who hints at what comes a group later meets its shards fetched, in spite of the bound."""
    shard = max(path.stat().st_size for path in folder.glob("*.arrow"))
    order = {"order": "streamed", "stream_blocks": 2}
    data = config(proxy.port, tmp_path, cache_bytes=5 * shard, **order)
    points = open_data(data).split("train")
    plan = open_plan(Config(data=data, selection=SelectionConfig(n_b=8, n_B=60, chunk=60)), points)
    points.read(plan.indices(plan.window(0)), CPU)
    windows = ROWS // 60
    assert windows == 10, "two windows a group"
    for window in range(2 * windows):
        indices, later = (
            plan.indices(positions)
            for positions in (plan.window(window), plan.ahead(plan.window(window)))
        )
        if window >= 2:
            proxy.stop_after(0, then="cut")
        same_points(points, folder, indices)
        proxy.open()
        points.prefetch(later)
        manifest = ArrowDataset.open(folder).manifest
        wanted = {f"{manifest.shards[n].sha256}.arrow" for n in set(later // SHARD_ROWS)}
        while not wanted <= set(cached(tmp_path)):
            time.sleep(0.005)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The session's tiny images in eight train shards."""
    path = tmp_path_factory.mktemp("images") / "set"
    write_dataset(path, "image", patches(), CLASSES, label_noise=0.1, shard_rows=50)
    return path


@pytest.mark.parametrize("order", ["shuffled", "streamed"])
def test_a_run_from_the_store_is_the_run_from_the_folder(
    server: Server, images: Path, tiny_config: Path, tmp_path: Path, order: str
) -> None:
    server.upload(images, "images")
    shard = (images / "00000.arrow").stat().st_size
    data = config(server.port, tmp_path / "cache", name="images")
    hashes = []
    for path in (str(images), str(data.path)):
        room = (5 if order == "streamed" else 9) * shard
        sets = [f"data.path={path}", f"data.order={order}", "data.stream_blocks=2"]
        sets += [f"data.cache_dir={tmp_path / 'cache'}", f"data.cache_bytes={room}"]
        flags = [word for item in sets for word in ("--set", item)]
        run = tmp_path / str(len(hashes))
        made("train", tiny_config, "--run-dir", run, "--workers", "0", *flags)
        summary = json.loads((run / "summary.json").read_text())
        hashes.append((summary["selected_sha256"], summary["weights_sha256"]))
    assert hashes[0] == hashes[1]
    files = (tmp_path / "cache" / "shards").iterdir()
    assert sum(file.stat().st_size for file in files) <= room


@pytest.mark.usefixtures("uploaded")
def test_the_command_line_looks_into_a_store(server: Server, tmp_path: Path) -> None:
    path = config(server.port, tmp_path).path
    shown = made("data", "info", str(path), "--verify").out
    assert f"train {ROWS}, test 50" in shown
    assert "endpoint_override" not in shown
    result = rhoctl("data", "info", "s3://me:hidden@points/set")
    assert result.code == 2
    assert "hidden" not in result.err
    assert os.environ["AWS_ACCESS_KEY_ID"] not in result.err
