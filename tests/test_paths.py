"""Paths that users name: a tilde is a home folder everywhere, a relative path is resolved when a
run starts, and a run goes on from another folder and with inputs that have moved."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rhoselect import config as configuration
from rhoselect.cli.main import main
from rhoselect.config import Config, cache_home
from rhoselect.config.base import Section
from rhoselect.errors import ConfigError
from rhoselect.files import place
from rhoselect.importers import write_dataset
from rhoselect.inputs import open_inputs
from rhoselect.trainer.runfolder import RunFolder, stored_config
from support import CLASSES, hashes, made, patches, rhoctl

NAMES = ("path", "cache_dir", "discovery_dir", "weights", "table")
ENDINGS = ("_file", "_ca", "_cert", "_key")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder; the working folder is another one."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("home", "work"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


@pytest.fixture
def no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs with a number that /etc/passwd does not have."""

    def unknown(_: object) -> None:
        raise KeyError("uid not found")

    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)


def path_keys() -> list[str]:
    """Every key of the configuration that names a file or a folder."""
    keys = []
    for name, field in Config.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            for key in field.annotation.model_fields:
                if key in NAMES or key.endswith(ENDINGS):
                    keys.append(f"{name}.{key}")
    return keys


def value(config: Config, name: str) -> Any:
    section, key = name.split(".")
    return getattr(getattr(config, section), key)


def test_every_path_of_a_configuration_is_absolute(home: Path) -> None:
    keys = path_keys()
    assert {"data.path", "il.table", "queue.tls_ca", "service.tls_client_ca"} <= set(keys)
    for given, meant in {"~/in": home / "in", "in": Path.cwd() / "in", "/in": Path("/in")}.items():
        config = configuration.load(None, [f"{key}={given}" for key in keys])
        assert {key: value(config, key) for key in keys} == dict.fromkeys(keys, str(meant))
        elsewhere = configuration.from_json(config.model_dump_json())
        assert elsewhere == config


@pytest.mark.parametrize(
    ("key", "given", "meant"),
    [
        ("data.path", "s3://bucket/~set", "s3://bucket/~set"),
        ("data.path", "file:///data/set", "/data/set"),
        ("service.address", "unix:~/socket", "unix:HOME/socket"),
        ("service.address", "unix:socket", "unix:WORK/socket"),
        ("service.address", "127.0.0.1:0", "127.0.0.1:0"),
        ("queue.url", "unix://~/redis.sock?db=1", "unix://HOME/redis.sock?db=1"),
    ],
)
def test_addresses(home: Path, key: str, given: str, meant: str) -> None:
    config = configuration.load(None, ["data.path=d", f"{key}={given}"])
    meant = meant.replace("HOME", str(home)).replace("WORK", str(Path.cwd()))
    assert value(config, key) == meant


def test_a_tilde_on_the_command_line_is_the_home_folder(
    home: Path, tiny_config: Path, dataset_dir: Path
) -> None:
    """Shells leave it in --run-dir=~/x, and within quotes."""
    shutil.copy(tiny_config, home / "tiny.toml")
    shutil.copytree(dataset_dir, home / "data")
    made("train", "~/tiny.toml", "--run-dir=~/runs/a", "--set", "data.path=~/data")
    assert (home / "runs" / "a" / "summary.json").is_file()
    made("report", "~/runs/a", "--out", "~/page.html", "--json=~/table.json")
    made("export", "~/runs/a", "--out=~/points.parquet")
    assert str(home / "data") in made("data", "info", "~/data").out
    assert str(home / "runs" / "a") in rhoctl("status", "~/runs/a").err
    assert sorted(path.name for path in home.glob("[a-z]*.*")) == [
        *("page.html", "points.parquet", "table.json", "tiny.toml"),
    ]
    assert list(Path.cwd().iterdir()) == [], "no folder of the name ~"


@pytest.mark.parametrize("given", ["--run-dir=~no-such-user/x", "--set=data.path=~no-such-user/x"])
def test_a_home_folder_that_is_not_known_is_said(home: Path, tiny_config: Path, given: str) -> None:
    result = rhoctl("train", tiny_config, given, "--dry-run")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "~no-such-user/x" in result.err and "home folder is not known" in result.err


@pytest.mark.usefixtures("no_home")
def test_without_a_home_folder_there_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^data\.cache_dir: not set, .*XDG_CACHE_HOME or HOME$"):
        cache_home()
    with pytest.raises(ConfigError, match=r"^~/x: .*set HOME"):
        place("~/x")
    with pytest.raises(ConfigError, match=r"^data\.path: got '~/x'; .*set HOME"):
        configuration.load(None, ["data.path=~/x"])


@pytest.fixture
def gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder that was deleted, as a terminal that stayed in it has it."""
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()


@pytest.mark.usefixtures("gone")
def test_in_a_deleted_folder_there_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["rhoctl", "doctor"])
    with pytest.raises(SystemExit, match=r"^2$"):
        main()
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert "the working folder of this process is gone" in said.err
    with pytest.raises(ConfigError, match=r"^data\.path: got 'data'; the working folder .* gone"):
        configuration.load(None, ["data.path=data"])


def begun(tiny_config: Path, dataset_dir: Path, il_table: Path, run: Path) -> Path:
    """A run that was started in the folder of its inputs, with relative paths, and stopped before
    its first checkpoint. Returns that folder."""
    inputs_dir = run.with_name("inputs")
    shutil.copytree(dataset_dir, inputs_dir / "data")
    shutil.copy(il_table, inputs_dir / "il.parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(inputs_dir)
        keys = ["data.path=data", "il.table=il.parquet"]
        inputs = open_inputs(configuration.load(tiny_config, keys))
        RunFolder.create(run, inputs.config, inputs.sha256)
    return inputs_dir


@pytest.fixture(scope="module")
def reference(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """What a run on the same inputs, wherever they are, selects and learns."""
    run = tmp_path_factory.mktemp("reference") / "run"
    made("train", tiny_config, "--run-dir", run)
    return hashes(run)


def test_a_run_goes_on_from_another_folder(
    home: Path, tiny_config: Path, dataset_dir: Path, il_table: Path, reference: tuple[str, str]
) -> None:
    run = home / "run"
    begun(tiny_config, dataset_dir, il_table, run)
    made("train", "--resume", "--run-dir", run)
    assert hashes(run) == reference
    made("report", run, "--out", home / "page.html")
    assert "no such folder" not in (home / "page.html").read_text()


def test_a_run_goes_on_with_inputs_that_have_moved(
    home: Path, tiny_config: Path, dataset_dir: Path, il_table: Path, reference: tuple[str, str]
) -> None:
    """The paths may differ; what lies there may not. The run's folder may move, too."""
    run, moved = home / "elsewhere", home / "moved"
    begun(tiny_config, dataset_dir, il_table, home / "run").rename(moved)
    (home / "run").rename(run)
    lost = rhoctl("train", "--resume", "--run-dir", run)
    assert lost.code == 2 and "if it moved, say where it is" in lost.err
    resume = ("train", "--resume", "--run-dir", run, "--set", f"data.path={moved}/data", "--set")
    other = moved / "other.parquet"
    model = ("--model", "rhoselect.models:mlp", "--epochs", "1", "--set", "model.args.width=8")
    made("il", "fit", "--data", moved / "data", "--out", other, *model)
    refused = rhoctl(*resume, f"il.table={other}")
    assert refused.code == 2 and "other data or irreducible losses" in refused.err
    assert str(moved) not in (run / "config.toml").read_text(), "nothing is kept of what is refused"
    made(*resume, f"il.table={moved}/il.parquet")
    assert hashes(run) == reference
    assert stored_config(run).data.path == str(moved / "data")
    made("export", run, "--out", home / "points.parquet")


def test_an_export_and_a_report_find_inputs_that_have_moved(
    home: Path, tiny_config: Path, dataset_dir: Path, il_table: Path
) -> None:
    """Another data set there is not taken for the run's."""
    run, out, page = home / "run", home / "points.parquet", home / "page.html"
    before = begun(tiny_config, dataset_dir, il_table, run)
    made("train", "--resume", "--run-dir", run)
    before.rename(home / "moved")
    assert rhoctl("export", run, "--out", out).code == 2
    keys = [f"data.path={home}/moved/data", f"il.table={home}/moved/il.parquet"]
    moved = [word for key in keys for word in ("--set", key)]
    made("export", run, "--out", out, *moved)
    made("report", run, "--out", page)
    assert "--set data.path=DIR" in page.read_text() and "<img" not in page.read_text()
    made("report", run, "--out", page, *moved)
    assert "<img" in page.read_text() and "cannot be shown" not in page.read_text()
    write_dataset(home / "other", "image", patches(seed=1), CLASSES)
    made("report", run, "--out", page, "--set", f"data.path={home}/other", *moved[2:])
    assert "cannot be shown" in page.read_text() and "<img" not in page.read_text()
    for command in (["export", run, "--out", out], ["report", run, "--out", page]):
        for key in ("selection.n_b=4", "data.pth=x"):
            refused = rhoctl(*command, "--set", key)
            assert (refused.code, refused.err.count("\n")) == (2, 1)
            assert key.partition("=")[0] in refused.err and "earlier version" not in refused.err
    alone = rhoctl("report", run, *moved)
    assert alone.code == 2 and "--out FILE.html" in alone.err


def test_runs_of_several_places_are_reported_together(
    home: Path, tiny_config: Path, dataset_dir: Path, il_table: Path
) -> None:
    """One has moved, another one is where it was."""
    before = begun(tiny_config, dataset_dir, il_table, home / "moved")
    made("train", "--resume", "--run-dir", home / "moved")
    before.rename(home / "inputs of moved")
    made("train", tiny_config, "--run-dir", home / "still", "--set", "trainer.lr=0.01")
    keys = [f"data.path={home}/inputs of moved/data", f"il.table={home}/gone.parquet"]
    page = home / "page.html"
    moved = [word for key in keys for word in ("--set", key)]
    made("report", home / "still", home / "moved", "--out", page, *moved)
    assert page.read_text().count("cannot be shown") == 1
    assert "Points of still" in page.read_text()


def test_text_is_utf_8_whatever_the_locale_says(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes('\ufeff[data]\npath = "/größe"\n'.encode())  # as Windows' editors save it
    code = (
        "import sys; from pathlib import Path; from rhoselect.config import load;"
        "sys.exit(load(Path(sys.argv[1])).data.path != '/gr\\xf6\\xdfe')"
    )
    locale = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    ran = subprocess.run(
        [sys.executable, "-c", code, path], env=os.environ | locale, capture_output=True, text=True
    )
    assert (ran.returncode, ran.stderr) == (0, "")
