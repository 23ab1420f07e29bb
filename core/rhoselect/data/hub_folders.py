"""Folders as the libraries of Hugging Face write them, opened where they are."""

from __future__ import annotations

import hashlib
import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

from rhoselect.data.fingerprint import file_hash
from rhoselect.errors import ConfigError, DataError, listed
from rhoselect.importing import one_line

VALIDATION = ("validation", "valid", "val", "dev")
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def opened_split(path: str, split: str) -> tuple[Any, str]:
    """A ``datasets.Dataset``, and a text that identifies its content wherever the folder is.

    "holdout" is the split of that name or else a validation split; "test" that of its name, or else
    a validation split, which is then no holdout. Raises KeyError for an absent holdout, DataError.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise DataError(f"data.args.path: got {path!r}, allowed a folder; there is none")
    datasets = library("datasets")
    names = _names(datasets, folder)
    validation = next((name for name in VALIDATION if name in names), split)
    name = split if split in names or split == "train" else validation
    if split == "holdout" and name == validation and "test" not in names:
        name = split
    if name not in names:
        if split == "holdout":
            raise KeyError(split)
        raise DataError(
            f"data.args.path {path}: got splits {listed(names)}, {split!r} is missing; save a"
            " DatasetDict, as of data.train_test_split(0.1)"
        )
    try:
        if _saved(folder):
            table = datasets.load_from_disk(str(folder / name))
            content = json.loads((folder / name / "state.json").read_text("utf-8"))["_fingerprint"]
        else:
            table, content = datasets.load_dataset(str(folder), split=name), _sizes(folder)
    except Exception as error:  # of that library anything may come
        raise DataError(f"data.args.path {path}: split {name!r}: {one_line(error)}") from None
    return table, f"{content} {name} {len(table)}"


def opened_tokenizer(folder: str) -> tuple[Any, str]:
    """The tokenizer in a folder, and the hash of its files. Raises DataError."""
    try:
        if not Path(folder).is_dir():
            raise FileNotFoundError("no such folder")
        auto = library("transformers").AutoTokenizer
        tokenizer = auto.from_pretrained(folder, local_files_only=True)
    except ConfigError:
        raise
    except Exception as error:  # of that library anything may come
        raise DataError(
            f"data.args.tokenizer: got {folder!r} ({one_line(error)}), allowed a folder with a"
            " tokenizer, as of AutoTokenizer.from_pretrained(NAME).save_pretrained(FOLDER)"
        ) from None
    digest = hashlib.sha256()
    for name in sorted({*TOKENIZER, *tokenizer.vocab_files_names.values()}):
        if (file := Path(folder) / name).is_file():
            digest.update(f"{name} {file_hash(file)}".encode())
    return tokenizer, digest.hexdigest()


def library(name: str) -> ModuleType:
    """A library of Hugging Face. Raises ConfigError that says how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"data.dataset: needs the package {name} ({one_line(error)}); install it with: pip"
            " install 'rhoselect[hugging-face]'"
        ) from None


def _saved(folder: Path) -> bool:
    """Whether it is of ``DatasetDict.save_to_disk``; else it has files of data."""
    return (folder / "dataset_dict.json").exists()


def _names(datasets: Any, folder: Path) -> list[str]:
    """The splits of a folder. Raises DataError."""
    if (folder / "state.json").exists() and not _saved(folder):
        raise DataError(
            f"data.args.path {folder}: got a Dataset without splits, allowed a DatasetDict; save"
            " data.train_test_split(0.1)"
        )
    try:
        if _saved(folder):
            return list(json.loads((folder / "dataset_dict.json").read_text("utf-8"))["splits"])
        return [str(name) for name in datasets.get_dataset_split_names(str(folder))]
    except Exception as error:  # of that library anything may come
        raise DataError(
            f"data.args.path {folder}: got {one_line(error)}, allowed a folder of save_to_disk, or"
            " of parquet, arrow or JSON-lines files"
        ) from None


def _sizes(folder: Path) -> str:
    """A hash of the names and sizes of the files in a folder."""
    found = ((file.relative_to(folder).as_posix(), file.stat().st_size) for file in _files(folder))
    return hashlib.sha256(json.dumps(sorted(found)).encode()).hexdigest()


def _files(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file() and file.name[0] not in "._"]
