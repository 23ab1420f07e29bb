"""Bad input on the command line: exit code 2, one line (what, got, allowed), nothing half made."""

from __future__ import annotations

import json
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
import typer
from safetensors import safe_open

from rhoselect.cli.main import commands
from rhoselect.trainer.checkpoint import checkpoint_paths
from servers import PASSWORD, free_port, tcp_server
from support import Result, hashes, made, rhoctl

Sets = tuple[str, ...]
Refuse = Callable[..., None]
MLP = ("--model", "rhoselect.models:mlp", "--set", "model.args.width=16")


def sets(*settings: str) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


def refused(result: Result, pattern: str) -> None:
    """Exit code 2 and one line on standard error that matches ``pattern``."""
    assert result.code == 2, (result.out, result.err)
    assert result.err.count("\n") == 1 and result.err.startswith("rhoctl: "), result.err
    assert re.search(pattern, result.err), result.err
    assert "Traceback" not in result.out + result.err


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    """A folder that is not there."""
    return tmp_path / "new" / "made"


@pytest.fixture
def refuse(destination: Path) -> Refuse:
    """Run a command line that must be refused, and leave not even the destination's parent."""

    def run(pattern: str, *arguments: str | Path) -> None:
        refused(rhoctl(*arguments), pattern)
        assert not destination.parent.exists()

    return run


@pytest.fixture
def refuse_train(refuse: Refuse, tiny_config: Path, destination: Path) -> Refuse:
    """Refused, likewise: ``rhoctl train`` with settings changed."""

    def run(pattern: str, *settings: str, workers: int = 0) -> None:
        arguments = ("--run-dir", destination, "--workers", str(workers))
        refuse(pattern, "train", tiny_config, *arguments, *sets(*settings))

    return run


def test_dry_run_refuses_as_well(refuse: Refuse, tiny_config: Path, destination: Path) -> None:
    arguments = ("--dry-run", "--run-dir", destination, "--set", "selection.chunk=15")
    refuse(r"selection\.chunk: got 15", "train", tiny_config, *arguments)
    assert made("train", tiny_config, "--dry-run", "--run-dir", destination).err == ""
    assert not destination.parent.exists()


def test_the_command_alone_shows_help() -> None:
    assert made() == made("--help")


def test_json_has_one_wording() -> None:
    def told(command: Any) -> set[str]:
        inner = getattr(command, "commands", {}).values()
        own = {option.help for option in command.params if "--json" in option.opts}
        return own.union(*map(told, inner))

    whole = typer.main.get_command(commands(["--help"]))
    assert told(whole) == {"Print one JSON object.", "Write one JSON object to this file."}


# Irreducible-loss tables.


def changed_metadata(table: pa.Table, **changes: Any) -> pa.Table:
    metadata = json.loads(table.schema.metadata[b"rhoselect"]) | changes
    return table.replace_schema_metadata({"rhoselect": json.dumps(metadata)})


def with_losses(table: pa.Table, losses: Any) -> pa.Table:
    return table.set_column(1, "irreducible_loss", losses)


def one_nan(table: pa.Table) -> pa.Table:
    losses = table["irreducible_loss"].to_numpy().copy()
    losses[7] = np.nan
    return with_losses(table, pa.array(losses))


def one_infinite(table: pa.Table) -> pa.Table:
    losses = table["irreducible_loss"].to_numpy().copy()
    losses[7] = np.inf
    return with_losses(table, pa.array(losses))


def one_null(table: pa.Table) -> pa.Table:
    losses = table["irreducible_loss"].to_pylist()
    return with_losses(table, pa.array([None, *losses[1:]], pa.float32()))


def null_index(table: pa.Table) -> pa.Table:
    index = pa.array([None, *table["index"].to_pylist()[1:]], pa.int64())
    return table.set_column(0, "index", index)


def repeated(table: pa.Table) -> pa.Table:
    return pa.concat_tables([table, table.slice(0, 1)])


def repeated_for_another(table: pa.Table) -> pa.Table:
    return pa.concat_tables([table.slice(1), table.slice(1, 1)])


TABLES: dict[str, tuple[Callable[[pa.Table], pa.Table], str]] = {
    "another data set": (
        lambda table: changed_metadata(table, fingerprint="0" * 64),
        r"made for data set 000000000000, allowed [0-9a-f]{12} .*il fit",
    ),
    "NaN": (one_nan, r"irreducible_loss of index 7 is not finite"),
    "infinite": (one_infinite, r"irreducible_loss of index 7 is not finite"),
    "null": (one_null, r"irreducible_loss of index 0 is not finite"),
    "null index": (null_index, r"index.*allowed"),
    "missing indices": (lambda table: table.slice(3), r"got 397 rows .*400 .*3 points missing"),
    "repeated index": (repeated, r"got 401 rows for the 400 points .*allowed one row a point"),
    "repeated for another": (repeated_for_another, r"got 400 rows .*1 points missing"),
    "no rows": (lambda table: table.slice(0, 0), r"got 0 rows .*400 points missing"),
    "column missing": (
        lambda table: table.drop_columns("index"),
        r"not a file of 'rhoctl il fit --out'",
    ),
    "losses in words": (
        lambda table: with_losses(table, pa.array(["low"] * len(table))),
        r"not a file of 'rhoctl il fit --out'",
    ),
    "no metadata": (
        lambda table: table.replace_schema_metadata(None),
        r"not a file of 'rhoctl il fit --out'",
    ),
    "trained on train": (
        lambda table: changed_metadata(table, holdout=[399, 500]),
        r"learnt from points \[399, 500\], which overlap the train split \[0, 400\]",
    ),
}


@pytest.mark.parametrize(("change", "pattern"), TABLES.values(), ids=TABLES)
def test_tables(
    refuse_train: Refuse,
    il_table: Path,
    tmp_path: Path,
    change: Callable[[pa.Table], pa.Table],
    pattern: str,
) -> None:
    path = tmp_path / "changed.parquet"
    pq.write_table(change(pq.read_table(il_table)), path)
    refuse_train(f"il.table {path}: .*{pattern}", f"il.table={path}")


@pytest.mark.parametrize("content", [b"", b"not Parquet", b"PAR1" + bytes(99) + b"PAR1"])
def test_tables_that_are_none(refuse_train: Refuse, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "il.parquet"
    path.write_bytes(content)
    refuse_train(f"il.table {path}: not a file of 'rhoctl il fit --out'", f"il.table={path}")


def test_a_truncated_table(refuse_train: Refuse, il_table: Path, tmp_path: Path) -> None:
    path = tmp_path / "il.parquet"
    path.write_bytes(il_table.read_bytes()[:-100])
    refuse_train(f"il.table {path}: not a file of 'rhoctl il fit --out'", f"il.table={path}")


def test_a_table_that_is_not_needed_is_not_read(tiny_config: Path, tmp_path: Path) -> None:
    settings = sets("selection.function=uniform", "il.table=no/where", "trainer.steps=1")
    made("train", tiny_config, "--run-dir", tmp_path / "run", *settings)


def test_holdout_that_overlaps_train(
    refuse: Refuse,
    refuse_train: Refuse,
    dataset_dir: Path,
    tiny_config: Path,
    tmp_path: Path,
    destination: Path,
) -> None:
    fit = ("il", "fit", "--data", dataset_dir, *MLP, "--epochs", "1", "--split", "train")
    refuse(r"split train: .*overlap the train split \[0, 400\]", *fit, "--out", destination)
    table = tmp_path / "il.parquet"
    made(*fit, "--out", table, "--overlap", "allow")
    refuse_train(rf"il.table {table}: .*overlap .*il\.overlap = .allow", f"il.table={table}")
    settings = sets(f"il.table={table}", "il.overlap=allow", "trainer.steps=1")
    made("train", tiny_config, "--run-dir", tmp_path / "run", *settings)


FITS: dict[str, tuple[list[str], str]] = {
    "split": (["--split", "valid"], r"split: got 'valid', allowed one of train, holdout, test"),
    "batch": (["--batch", "201"], r"batch: got 201, allowed at most the 200 of 'holdout'"),
    "overlap": (["--overlap", "maybe"], r"il\.overlap: got 'maybe'.*'forbid' or 'allow'"),
    "model": (["--model", "user_code:f"], r"model\.factory: .*'user_code' has no 'f'"),
    "output": (["--model", "user_code:TupleOutput", "--set", "model.args={}"], r"returns a tuple"),
    "setting": (["--set", "trainer.lr=0"], r"trainer\.lr: got 0; .*greater than 0"),
    "micro-batches": (
        ["--set", "trainer.micro_batches=8", "--batch", "4"],
        r"trainer\.micro_batches: got 8, allowed at most the 4 points of a batch",
    ),
    "data": (["--data", "no/where"], r"data set /\S+/no/where: no such folder"),
    "one fold": (["--folds", "1"], r"--folds"),
    "more folds than points": (["--folds", "401"], r"folds: got 401, allowed 2 to the 400"),
    "batch of folds": (["--folds", "2", "--batch", "201"], r"batch: got 201, .* the 200 of 'tr"),
    "folds of a reference": (["--folds", "2", "--reference", "m:f"], r"--folds: .*one of the two"),
    "weights of folds": (["--folds", "2", "--weights-out", "w"], r"--weights-out: .*--folds 2"),
    "weights alone": (["--weights", "w"], r"--weights: .*allowed with --reference"),
    "weights not there": (
        ["--reference", "rhoselect.models:mlp", "--weights", "no/w"],
        r"model\.weights: got /\S+/no/w, no such file",
    ),
    "weights of no format": (
        ["--reference", "rhoselect.models:mlp", "--weights", __file__],
        r"model\.weights .*: cannot be read .*allowed",
    ),
    "reference": (["--reference", "user_code:f"], r"model\.factory: .*'user_code' has no 'f'"),
    "diverged": (["--set", "trainer.lr=1e30", "--batch", "64"], r"training loss .*got .*lower"),
}


@pytest.mark.parametrize(("arguments", "pattern"), FITS.values(), ids=FITS)
def test_fits(
    refuse: Refuse, dataset_dir: Path, destination: Path, arguments: list[str], pattern: str
) -> None:
    fit = ("il", "fit", "--data", dataset_dir, "--out", destination, *MLP)
    refuse(pattern, *fit, *arguments)


PROXIES: dict[str, tuple[list[str], str]] = {
    "batch": (["--batch", "401"], r"batch: got 401, allowed at most the 400 of 'train'"),
    "model": (["--model", "user_code:f"], r"model\.factory: .*'user_code' has no 'f'"),
    "data": (["--data", "no/where"], r"data set /\S+/no/where: no such folder"),
    "diverged": (
        ["--set", "trainer.lr=1e30", "--epochs", "1"],
        r"training loss .*got .*lower",
    ),
}


@pytest.mark.parametrize(("arguments", "pattern"), PROXIES.values(), ids=PROXIES)
def test_proxies(
    refuse: Refuse, dataset_dir: Path, destination: Path, arguments: list[str], pattern: str
) -> None:
    refuse(pattern, "svp", "fit", "--data", dataset_dir, "--out", destination, *MLP, *arguments)


def test_a_fit_into_a_folder(dataset_dir: Path, tmp_path: Path) -> None:
    result = rhoctl("il", "fit", "--data", dataset_dir, *MLP, "--out", tmp_path)
    refused(result, f"--out {tmp_path}: .*folder, allowed a file")
    assert list(tmp_path.iterdir()) == []


# Data sets on disk.


@pytest.fixture
def data_copy(dataset_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(dataset_dir, tmp_path / "copy"))


def change_manifest(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def change_shard(folder: Path, change: Callable[[bytearray], None]) -> None:
    path = folder / "00000.arrow"
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(content)


def truncate(content: bytearray) -> None:
    del content[-1000:]


def zero_the_end(content: bytearray) -> None:
    content[-100:] = bytes(100)


def zero_the_magic(content: bytearray) -> None:
    content[:8] = bytes(8)


FOLDERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "manifest missing": (lambda d: (d / "manifest.json").unlink(), r"has no manifest\.json"),
    "manifest not JSON": (
        lambda d: (d / "manifest.json").write_text("{"),
        r"manifest\.json: malformed",
    ),
    "fingerprint": (
        lambda d: change_manifest(d, lambda m: m.update(fingerprint="abc")),
        r"manifest\.json: malformed at fingerprint",
    ),
    "rows": (
        lambda d: change_manifest(
            d, lambda m: (m["shards"][0].update(rows=401), m.update(origins=None))
        ),
        r"00000\.arrow: got 400 rows, allowed 401 by the manifest",
    ),
    "split beyond the rows": (
        lambda d: change_manifest(d, lambda m: m["splits"].update(test=[600, 701])),
        r"splits\.test: got \[600, 701\), allowed .*\[0, 700\)",
    ),
    "no test split": (
        lambda d: change_manifest(d, lambda m: m["splits"].pop("test")),
        r"split 'test' is missing, got train, holdout",
    ),
    "columns": (
        lambda d: change_manifest(d, lambda m: m.update(clean_label=False)),
        r"00000\.arrow: got columns .*clean_label",
    ),
    "labels out of range": (
        lambda d: change_manifest(d, lambda m: m.update(classes=3)),
        r"00000\.arrow: got label 3, allowed 0 to 2",
    ),
    "shard missing": (lambda d: (d / "00000.arrow").unlink(), r"00000\.arrow: missing"),
    "shard truncated": (
        lambda d: change_shard(d, truncate),
        r"00000\.arrow: got \d+ bytes, allowed \d+ by the manifest",
    ),
    "footer corrupt": (
        lambda d: change_shard(d, zero_the_end),
        r"00000\.arrow: got not an Arrow file",
    ),
    "shards mixed up": (
        lambda d: shutil.copy(d / "00002.arrow", d / "00000.arrow"),
        r"00000\.arrow: got \d+ bytes, allowed \d+ by the manifest",
    ),
}


@pytest.mark.parametrize(("change", "pattern"), FOLDERS.values(), ids=FOLDERS)
def test_data_sets(
    refuse: Refuse,
    refuse_train: Refuse,
    data_copy: Path,
    change: Callable[[Path], Any],
    pattern: str,
) -> None:
    change(data_copy)
    refuse_train(pattern, f"data.path={data_copy}")
    if "'test'" not in pattern:  # a data set without one can still be looked at
        refuse(pattern, "data", "info", data_copy)


def test_a_changed_pixel_is_found_by_verify(refuse: Refuse, data_copy: Path) -> None:
    def flip(content: bytearray) -> None:
        content[len(content) // 3] ^= 1

    change_shard(data_copy, flip)
    refuse(r"00000\.arrow: got sha256 \w+, allowed \w+", "data", "info", data_copy, "--verify")


# Imports.


@pytest.fixture
def points(tmp_path: Path) -> Path:
    """An .npz of ten points of two classes."""
    path = tmp_path / "points.npz"
    x, y = np.zeros((10, 4, 4), np.uint8), np.arange(10) % 2
    np.savez(path, x_train=x, y_train=y, x_test=x, y_test=y)
    return path


IMPORTS = {
    "kind": ("cifar POINTS DST", r"kind: got 'cifar', allowed one of fashion-mnist, idx"),
    "source": ("numpy no/points.npz DST", r"source no/points\.npz: no such file"),
    "noise": ("numpy POINTS DST --label-noise 1.5", r"label noise: got 1\.5, allowed a fraction"),
    "noise in words": ("numpy POINTS DST --label-noise some", r"--label-noise.*number"),
    "holdout": ("numpy POINTS DST --holdout 1.0", r"holdout: got 1\.0, allowed a fraction"),
    "nothing held out": ("numpy POINTS DST --holdout 0.01", r"holdout: got 0\.01 of 10 training"),
    "seed": ("numpy POINTS DST --noise-seed -1", r"noise seed: got -1, allowed 0 or more"),
    "shape": ("parquet POINTS DST --shape 3x3", r"--shape: got '3x3', allowed integers"),
    "shape of another kind": ("idx POINTS DST --shape 1,4,4", r"shape: .* for idx, allowed sizes"),
    "not Parquet": (
        "parquet POINTS DST",
        r"points\.npz: got a \.npz file for parquet; give its kind",
    ),
    "no IDX folder": ("idx POINTS DST", r"points\.npz: got a \.npz file for idx; give its kind"),
}


@pytest.mark.parametrize(("arguments", "pattern"), IMPORTS.values(), ids=IMPORTS)
def test_imports(
    refuse: Refuse, points: Path, destination: Path, arguments: str, pattern: str
) -> None:
    places = {"POINTS": points, "DST": destination}
    refuse(pattern, "data", "import", *(places.get(word, word) for word in arguments.split()))


def test_an_import_into_a_folder_with_content(points: Path, tmp_path: Path) -> None:
    result = rhoctl("data", "import", "numpy", points, tmp_path)
    refused(result, f"destination {tmp_path}: exists; allowed a new or empty folder")
    assert list(tmp_path.iterdir()) == [points]


def test_an_import_of_unknown_arrays(refuse: Refuse, tmp_path: Path, destination: Path) -> None:
    path = tmp_path / "points.npz"
    np.savez(path, inputs=np.zeros((3, 4)), label=np.zeros(3))
    refuse(r"points\.npz: .*inputs.*x_train", "data", "import", "numpy", path, destination)


def test_an_import_of_corrupt_idx(refuse: Refuse, tmp_path: Path, destination: Path) -> None:
    source = tmp_path / "idx"
    source.mkdir()
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (source / f"{name}-ubyte").write_bytes(b"\0\0\x08\x03" + bytes(5))
    refuse(r"train-images-idx3-ubyte: got 9 bytes", "data", "import", "idx", source, destination)


# Queue servers.


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with tcp_server(tmp_path_factory.mktemp("server"), free_port()) as url:
        yield url


def plain(url: str) -> str:
    """The URL without its password."""
    return f"redis://{url.rpartition('@')[2]}"


def test_a_queue_server_that_is_not_there(refuse_train: Refuse, tmp_path: Path) -> None:
    url = f"redis://127.0.0.1:{free_port()}"
    refuse_train(rf"queue\.url: {url} cannot be reached", f"queue.url={url}", workers=1)
    url = f"unix://{tmp_path}/none.sock"
    refuse_train(rf"queue\.url: {url} cannot be reached", f"queue.url={url}", workers=1)


def test_a_password_within_the_url(refuse_train: Refuse) -> None:
    pattern = r"queue\.url: holds a password(?!.*s3cret).*password_file"
    refuse_train(pattern, "queue.url=redis://:s3cret@host")
    pattern = r"queue\.url: got a malformed URL(?!.*s3cret)"
    refuse_train(pattern, "queue.url=redis://:s3cret/@host")


def test_a_wrong_password(
    refuse_train: Refuse, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RHOSELECT_QUEUE_PASSWORD", raising=False)
    url = plain(server)
    pattern = rf"queue\.url: {url} refuses the user name or password"
    refuse_train(pattern, f"queue.url={url}", workers=1)
    (tmp_path / "password").write_text("guess\n")
    password_file = f"queue.password_file={tmp_path / 'password'}"
    refuse_train(pattern + "(?!.*guess)", f"queue.url={url}", password_file, workers=1)
    monkeypatch.setenv("RHOSELECT_QUEUE_PASSWORD", "guess")
    refuse_train(pattern + "(?!.*guess)", f"queue.url={url}", workers=1)


def test_a_server_that_evicts(refuse_train: Refuse, server: str, tmp_path: Path) -> None:
    with redis.Redis.from_url(server) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
    (tmp_path / "password").write_text(PASSWORD)
    settings = f"queue.url={plain(server)}", f"queue.password_file={tmp_path / 'password'}"
    pattern = r"queue\.url: .* maxmemory-policy allkeys-lru, allowed noeviction"
    refuse_train(pattern, *settings, workers=1)


def test_a_metrics_port_that_is_taken(refuse_train: Refuse) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refuse_train(rf"metrics\.port: got {port}, .*allowed a free port", f"metrics.port={port}")


# Run folders.


@pytest.fixture(scope="module")
def finished(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "finished"
    made("train", tiny_config, "--run-dir", path, "--set", "trainer.steps=2")
    return path


@pytest.fixture
def unfinished(finished: Path, tmp_path: Path) -> Path:
    """A run folder as a trainer leaves it that was killed after its last checkpoint."""
    path = Path(shutil.copytree(finished, tmp_path / "unfinished"))
    (path / "summary.json").unlink()
    (path / "steps.parquet").unlink()
    return path


RESUME = ("train", "--resume", "--run-dir")


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_run_folder_that_exists(finished: Path, tiny_config: Path, tmp_path: Path) -> None:
    before = content(finished)
    result = rhoctl("train", tiny_config, "--run-dir", finished)
    refused(result, f"run folder {finished}: exists; .*--resume")
    assert content(finished) == before
    refused(rhoctl("train", tiny_config, "--run-dir", tmp_path), f"run folder {tmp_path}: exists")
    assert list(tmp_path.iterdir()) == []


def test_a_run_folder_below_a_file(tiny_config: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = rhoctl("train", tiny_config, "--run-dir", tmp_path / "file" / "run")
    refused(result, f"run folder {tmp_path}/file/run: cannot be made")


def test_resume_of_a_missing_folder(refuse: Refuse, destination: Path) -> None:
    pattern = f"run folder {destination}: has no config.toml; allowed a folder of a run"
    refuse(pattern, "train", "--resume", "--run-dir", destination)


def test_resume_of_a_finished_run(finished: Path) -> None:
    """As a job does that is put into the queue again: it ends quietly."""
    before = content(finished)
    assert f"{finished}: is finished, after 2 steps" in made(*RESUME, finished).out
    assert content(finished) == before


@pytest.mark.parametrize("lag", [0, 1])
def test_a_finished_run_goes_on_with_more_steps(
    tiny_config: Path, tmp_path: Path, lag: int
) -> None:
    """It ends as one that was made for as many."""
    run, long = tmp_path / "run", tmp_path / "long"
    settings = sets(f"selection.lag={lag}")
    made("train", tiny_config, "--run-dir", run, *settings, *sets("trainer.steps=7"))
    made(*RESUME, run, *sets("trainer.steps=20"))
    made("train", tiny_config, "--run-dir", long, *settings)
    assert hashes(run) == hashes(long)
    assert "is finished, after 20 steps" in made(*RESUME, run).out, "its config.toml says so, too"


def test_steps_that_a_run_cannot_go_on_to(
    finished: Path, tiny_config: Path, tmp_path: Path
) -> None:
    """Fewer; and more where the rates of the steps taken depend on their number."""
    run = tmp_path / "cosine"
    words = sets("trainer.steps=2", "trainer.schedule=cosine")
    made("train", tiny_config, "--run-dir", run, *words)
    for path, steps in ((finished, 1), (run, 3)):
        before = content(path)
        result = rhoctl(*RESUME, path, *sets(f"trainer.steps={steps}"))
        refused(result, r"changed configuration: trainer\.steps; allowed .*more trainer\.steps")
        assert content(path) == before


def test_resume_with_a_changed_configuration(unfinished: Path, tiny_config: Path) -> None:
    before = content(unfinished)
    settings = sets("trainer.steps=2", "trainer.lr=0.1", "model.args.width=16", "queue.lease_s=9")
    result = rhoctl("train", tiny_config, "--resume", "--run-dir", unfinished, *settings)
    refused(
        result, r"--resume with a changed configuration: model\.args\.width, trainer\.lr; allowed"
    )
    assert content(unfinished) == before


def test_resume_with_only_settings(unfinished: Path) -> None:
    """The settings given are changes of the stored configuration."""
    resume = ("train", "--resume", "--run-dir", unfinished)
    result = rhoctl(*resume, "--set", "trainer.lr=0.1")
    refused(result, r"--resume with a changed configuration: trainer\.lr; allowed")
    made(*resume, "--set", "queue.lease_s=9")


def test_resume_of_a_run_of_an_earlier_version(unfinished: Path) -> None:
    config = unfinished / "config.toml"
    config.write_text(config.read_text().replace("\naudit_every", "\nmax_lag = 1\naudit_every"))
    refused(
        rhoctl("train", "--resume", "--run-dir", unfinished),
        f"run folder {unfinished}: its config.toml cannot be used: selection.max_lag: removed in"
        " 0.2; .*by that version",
    )


def test_resume_on_other_irreducible_losses(
    unfinished: Path, tiny_config: Path, il_table: Path, tmp_path: Path
) -> None:
    """Same key, same file name, other contents."""
    table = pq.read_table(il_table)
    losses = pa.array(table["irreducible_loss"].to_numpy() + 1, pa.float32())
    changed = tmp_path / "changed.parquet"
    pq.write_table(table.set_column(1, "irreducible_loss", losses), changed)
    config = unfinished / "config.toml"
    config.write_text(config.read_text().replace(str(il_table), str(changed)))
    refused(
        rhoctl("train", "--resume", "--run-dir", unfinished),
        f"run folder {unfinished}: got other data or irreducible losses .*restore",
    )
    assert not (unfinished / "summary.json").exists()


def test_a_cluster_that_is_not_there(refuse_train: Refuse) -> None:
    address = f"127.0.0.1:{free_port()}"
    there = (f"cluster.address={address}", "snapshots.transport=ray")
    refuse_train(f"cluster.address: got '{address}', .*embedded queue", *there, workers=1)


def test_a_folder_that_is_of_no_use_to_ray(
    refuse_train: Refuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, reason in (("/tmp/" + "x" * 90, "bytes too long"), ("/dev/null/x", "Not a dir")):
        monkeypatch.setenv("RAY_TMPDIR", folder)
        refuse_train(rf"RAY_TMPDIR: got '{folder}', .*{reason}.*; unset it", workers=1)


def test_resume_from_a_broken_checkpoint(unfinished: Path) -> None:
    newest = checkpoint_paths(unfinished)[-1]
    newest.write_bytes(newest.read_bytes()[:-10])
    refused(
        rhoctl("train", "--resume", "--run-dir", unfinished),
        f"checkpoint {newest}: cannot be read .*restore it",
    )
    assert not (unfinished / "summary.json").exists()


def test_places_that_cannot_be_written(finished: Path, points: Path, tmp_path: Path) -> None:
    """A failure of the file system is one line that names the file, exit code 1."""
    below = points / "folder"
    results = {
        tmp_path: rhoctl("report", finished, "--json", tmp_path),
        points: rhoctl("data", "import", "numpy", points, below / "data"),
    }
    for place, result in results.items():
        assert result.code == 1
        assert re.fullmatch(rf"rhoctl: {place}.*: [^\n]+\n", result.err), result.err


def test_report_of_an_unfinished_run(
    refuse: Refuse, finished: Path, unfinished: Path, tmp_path: Path, destination: Path
) -> None:
    pattern = f"run folder {unfinished}: has no summary.json; .*--resume"
    refuse(pattern, "report", finished, unfinished, "--out", destination.with_suffix(".png"))
    refuse(r"run folder .*nowhere: has no summary\.json", "report", tmp_path / "nowhere")
    (unfinished / "summary.json").write_text("{")
    refuse(r"summary\.json cannot be read", "report", unfinished)


# Training that diverges.


def diverged(path: Path, result: Result, pattern: str) -> None:
    """Refused; the run folder keeps readable checkpoints of finite weights and has no summary."""
    refused(result, pattern)
    assert not (path / "summary.json").exists()
    named = result.err.partition("last good checkpoint: ")[2].partition(";")[0]
    if named != "none":
        with safe_open(named, framework="pt") as file:
            assert all(file.get_tensor(name).isfinite().all() for name in file.keys())  # noqa: SIM118


@pytest.mark.parametrize(("every", "good"), [(2, 6), (1, 6), (10, None)])
def test_a_training_loss_that_is_not_finite(
    tiny_config: Path, tmp_path: Path, every: int, good: int | None
) -> None:
    """A checkpoint of the very weights that gave NaN is not the last good one."""
    path = tmp_path / "run"
    settings = sets(
        "model={factory = 'user_code:DivergesAt', args = {step = 7}}",
        f"trainer.checkpoint_every={every}",
    )
    name = "none" if good is None else f"{path}/checkpoints/step-00000000{good}.safetensors"
    diverged(
        path,
        rhoctl("train", tiny_config, "--run-dir", path, *settings),
        rf"training loss at step 7: got nan, allowed .*last good checkpoint: {name}; lower tr",
    )
    resumed = rhoctl("train", "--resume", "--run-dir", path)
    diverged(path, resumed, f"training loss at step 7: .*last good checkpoint: {name}; lower")
    assert "start anew in another run folder" in resumed.err
    again = rhoctl("train", tiny_config, "--run-dir", path)
    refused(again, r"exists; allowed a new one; choose another --run-dir, or .*continue it with: ")
    assert ("delete this one, which has no checkpoint" in again.err) == (good is None)


@pytest.mark.parametrize("lag", [0, 1])
@pytest.mark.parametrize("function", ["reducible_loss", "irreducible_loss", "uniform"])
def test_a_rate_that_is_too_high(
    function: str, lag: int, tiny_config: Path, tmp_path: Path
) -> None:
    """Said as such, not as points without a usable score, though scorers see NaN first."""
    path = tmp_path / "run"
    settings = sets(f"selection.function={function}", f"selection.lag={lag}", "trainer.lr=1e30")
    result = rhoctl("train", tiny_config, "--run-dir", path, *settings)
    diverged(path, result, r"training loss at step 1: got nan, .*lower trainer\.lr")


def test_a_last_step_that_diverges(tiny_config: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    settings = sets("trainer.steps=1", "trainer.lr=1e30")
    result = rhoctl("train", tiny_config, "--run-dir", path, *settings)
    diverged(path, result, r"test loss at step 1: got nan, .*last good checkpoint: none; lower")


@pytest.mark.usefixtures("ray_session")
def test_a_trainer_elsewhere_that_diverges(tiny_config: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    arguments = ("--run-dir", path, "--workers", "1", "--set", "trainer.lr=1e30")
    result = rhoctl("train", tiny_config, *arguments)
    diverged(path, result, r"training loss at step 1: got nan, .*last good checkpoint: none; lower")


FEW = ("selection.function=user_code:FiniteForFew",)
MOST = ("model={factory = 'user_code:NanForMost'}", "scorer.precision=fp32")


@pytest.mark.parametrize(("settings", "got"), [(FEW, 4), ((*FEW, "selection.lag=1"), 4), (MOST, 5)])
def test_points_without_a_score_are_named(
    tiny_config: Path, tmp_path: Path, settings: Sets, got: int
) -> None:
    """A failure of the run, not of the input: exit code 1."""
    result = rhoctl("train", tiny_config, "--run-dir", tmp_path / "run", *sets(*settings))
    assert result.code == 1
    pattern = rf"window 0: got {got} points with a finite score, needed n_b = 8; {64 - got} were"
    assert re.search(pattern + r" rejected, data-set indices \[\d+, ", result.err), result.err
    assert result.err.count("\n") == 1
