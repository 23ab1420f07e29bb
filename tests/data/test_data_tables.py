"""Tables of the user's own: CSV, TSV, Parquet and Hugging Face folders, as people have them."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_helpers import CPU, entries, refused
from PIL import Image

from rhoselect.config import parse
from rhoselect.data import ArrowDataset
from rhoselect.errors import DataError
from rhoselect.importers import import_dataset
from rhoselect.inputs import open_inputs
from rhoselect.sources.leftovers import Seen
from rhoselect.sources.source import Options
from rhoselect.sources.text import tokenize
from support import made, rhoctl

TEXTS = ["A gem.", 'He said "no", twice', "two\nlines", "NA", "null", "", "10", "été"]
NAMES = ["pos", "neg", "pos", "NA", "neg", "pos", "neg", "NA"]
NUMBERS = [sorted(set(NAMES)).index(name) for name in NAMES]


def read(dataset: ArrowDataset, split: str = "train") -> tuple[np.ndarray, list[int]]:
    """Inputs and labels of a split."""
    points = dataset.split(split)
    batch = points.read(points.indices, CPU)
    return batch.inputs.numpy(), batch.labels.tolist()


def tokens(texts: list[str]) -> np.ndarray:
    return tokenize(texts, Options(), Seen())


def folder(path: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def parquet(path: Path, files: dict[str, pa.Table]) -> Path:
    for name, table in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path / name, row_group_size=3)
    return path


def saved(path: Path, splits: dict[str, pa.Table]) -> Path:
    """What ``DatasetDict.save_to_disk`` writes."""
    path.mkdir()
    (path / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))
    for name, table in splits.items():
        (path / name).mkdir()
        with pa.ipc.new_stream(str(path / name / "data.arrow"), table.schema) as writer:
            writer.write_table(table)
        state = {"_data_files": [{"filename": "data.arrow"}]}
        (path / name / "state.json").write_text(json.dumps(state))
        (path / name / "dataset_info.json").write_text("{}")
    return path


# Texts


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_texts_and_named_classes_as_pandas_writes_them(tmp_path: Path, kind: str) -> None:
    """Texts such as "NA" and "null" stay texts, which pandas itself would read as missing."""
    frame = pd.DataFrame({"text": TEXTS, "label": NAMES, "stars": range(8)})
    if kind == "tsv":  # which has neither quotes nor line breaks in a field
        frame["text"] = [text.replace("\n", " ") for text in frame["text"]]
    source = tmp_path / "src"
    source.mkdir()
    for split in ("train", "test"):
        if kind == "parquet":
            frame.to_parquet(source / f"{split}.parquet")
        elif kind == "csv":
            frame.to_csv(source / f"{split}.csv", index=False)
        else:
            rows = zip(frame["text"], frame["label"], frame["stars"], strict=True)
            lines = ["text\tlabel\tstars", *(f"{t}\t{n}\t{s}" for t, n, s in rows)]
            (source / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    dataset = import_dataset(kind, source, tmp_path / "set")
    dataset.verify()
    inputs, labels = read(dataset)
    assert np.array_equal(inputs, tokens(frame["text"].tolist()))
    assert labels == NUMBERS
    assert dataset.class_names == ("NA", "neg", "pos")
    assert dataset.manifest.columns == ("text", "label")
    assert dataset.manifest.vocabulary == 8192


TYPES = {
    "large_string": pa.large_string(),
    "string_view": pa.string_view(),
    "dictionary": pa.dictionary(pa.int8(), pa.string()),
    "dictionary of large ones": pa.dictionary(pa.int32(), pa.large_string()),
}


@pytest.mark.parametrize("kind", TYPES)
def test_strings_of_every_layout_are_texts_and_names(tmp_path: Path, kind: str) -> None:
    columns = {"text": pa.array(TEXTS), "label": pa.array(NAMES)}
    table = pa.table({name: column.cast(TYPES[kind]) for name, column in columns.items()})
    sources = {"hugging-face": saved(tmp_path / "saved", {"train": table, "test": table})}
    if kind != "string_view":  # not every release of Arrow writes it as Parquet
        files = {"train.parquet": table, "test.parquet": table}
        sources["parquet"] = parquet(tmp_path / "files", files)
    for reader, source in sources.items():
        dataset = import_dataset(reader, source, tmp_path / f"set-{reader}")
        inputs, labels = read(dataset)
        assert np.array_equal(inputs, tokens(TEXTS)) and labels == NUMBERS
        assert dataset.class_names == ("NA", "neg", "pos")


def test_texts_as_the_datasets_library_saves_them(tmp_path: Path) -> None:
    import datasets  # here, because it takes a second

    part = datasets.Dataset.from_pandas(pd.DataFrame({"text": TEXTS, "label": NUMBERS}))
    both = datasets.DatasetDict(train=part, test=part)
    both.save_to_disk(str(tmp_path / "saved"))
    for split, dataset in both.items():
        dataset.to_parquet(str(tmp_path / "files" / f"{split}-00000-of-00001.parquet"))
    for kind, source in (("hugging-face", "saved"), ("parquet", "files")):
        found = import_dataset(kind, tmp_path / source, tmp_path / f"set-{kind}")
        assert np.array_equal(read(found)[0], tokens(TEXTS))


# Labels


@pytest.mark.parametrize(
    ("column", "labels", "names"),
    [
        (pa.array([2, 0, 1, 2], pa.int8()), [2, 0, 1, 2], None),
        (pa.array([2, 0, 1, 2], pa.uint64()), [2, 0, 1, 2], None),
        (pa.array([2.0, 0.0, 1.0, 2.0]), [2, 0, 1, 2], None),
        (pa.array([True, False, False, True]), [1, 0, 0, 1], ("false", "true")),
        (pa.array(["b", " a", "a ", "b"]), [1, 0, 0, 1], ("a", "b")),
        (pa.array(["b", "a", "a", "b"]).dictionary_encode(), [1, 0, 0, 1], ("a", "b")),
        (pa.array([7, 7, 5, 5]).dictionary_encode(), [7, 7, 5, 5], None),
    ],
)
def test_labels_of_every_type(tmp_path: Path, column: pa.Array, labels: Any, names: Any) -> None:
    table = pa.table({"inputs": [[0.5]] * 4, "label": column})
    source = parquet(tmp_path / "src", {"train.parquet": table, "test.parquet": table})
    dataset = import_dataset("parquet", source, tmp_path / "set")
    assert read(dataset)[1] == labels and dataset.class_names == names


@pytest.mark.parametrize(
    ("column", "pattern"),
    [
        (pa.array([1.0, 0.5]), "train.parquet: row 1: got label 0.5, allowed whole numbers"),
        (
            pa.array([1.0, np.nan]),
            r"train.parquet: row 1: got missing values in 'label' \(2 in all",
        ),
        (pa.array([1, None]), "row 1: got missing values in 'label'"),
        (pa.array(["a", "  "]), "row 1: got missing values in 'label'"),
        (pa.array([2**64 - 1, 1], pa.uint64()), "allowed integers of 64 bits"),
        (pa.array([[1], [2]]), "labels of type list<.*allowed integers, whole floats, booleans"),
        (pa.array([0, 1], pa.timestamp("s")), "labels of type timestamp"),
        (pa.array([None, None]), "got splits none, but 'train' is missing"),
    ],
)
def test_labels_that_are_none_are_refused(tmp_path: Path, column: pa.Array, pattern: str) -> None:
    table = pa.table({"inputs": [[0.5]] * 2, "label": column})
    source = parquet(tmp_path / "src", {"train.parquet": table, "test.parquet": table})
    with refused(pattern, DataError):
        import_dataset("parquet", source, tmp_path / "set")
    assert entries(tmp_path) == ["src"]


def test_a_class_that_train_does_not_have_is_refused(tmp_path: Path) -> None:
    files = {"train.csv": "text,label\nx,cat\ny,dog\n", "test.csv": "text,label\nz,dgo\n"}
    with refused("test.csv: row 0: got label 'dgo', .* allowed cat, dog", DataError):
        import_dataset("csv", folder(tmp_path / "src", files), tmp_path / "set")


def test_classes_that_differ_in_case_or_spaces_are_noted(tmp_path: Path) -> None:
    rows = "text,label\nx,Cat\ny, cat \nz,dog\nz,a  b\nz,A b\n"
    source = folder(tmp_path / "src", {"train.csv": rows, "test.csv": rows})
    dataset = import_dataset("csv", source, tmp_path / "set")
    assert dataset.class_names == ("A b", "Cat", "a  b", "cat", "dog")
    [note] = dataset.manifest.notes
    assert "kept apart: 'A b' and 'a b', 'Cat' and 'cat'; if they are the same, spell" in note


def test_one_class_is_noted_and_refused_by_a_run(tmp_path: Path) -> None:
    files = {"train.csv": "text,label\nx,cat\ny,cat\n", "test.csv": "text,label\nz,cat\n"}
    said = made("data", "import", "csv", folder(tmp_path / "src", files), tmp_path / "set").out
    assert "note         one class alone, from which nothing can be learnt: runs and fits" in said
    with refused("data: got labels of 1 class, allowed two or more", DataError):
        open_inputs(parse({"data": {"path": str(tmp_path / "set")}}))


def test_a_number_in_a_list_that_float32_does_not_hold(tmp_path: Path) -> None:
    table = pa.table({"inputs": [[0.5], [-1e39]], "label": [0, 1]})
    source = parquet(tmp_path / "src", {"train.parquet": table, "test.parquet": table})
    with refused(r"train.parquet: row 1: got -1e\+39, allowed numbers up to 3\.4e38", DataError):
        import_dataset("parquet", source, tmp_path / "set")


def test_a_text_for_a_label_is_refused(tmp_path: Path) -> None:
    rows = "".join(f"text {number},{number % 2}\n" for number in range(30))
    source = folder(tmp_path / "src", {"train.csv": "text,label\n" + rows})
    with refused("got 30 different labels in 30 rows, .*is 'text' the label", DataError):
        import_dataset("csv", source, tmp_path / "set", columns=("label", "text"), test=0.2)


def test_names_of_classes_that_the_hub_keeps_in_a_file(tmp_path: Path) -> None:
    """Also of classes that no point has."""
    feature = {"names": ["cat", "dog", "eel"], "_type": "ClassLabel"}
    about = json.dumps({"info": {"features": {"label": feature}}})
    table = pa.table({"text": ["a", "b"], "label": [1, 0]})
    table = table.replace_schema_metadata({"huggingface": about})
    files = {"train.parquet": table, "test.parquet": table}
    dataset = import_dataset("parquet", parquet(tmp_path / "src", files), tmp_path / "set")
    assert (dataset.classes, dataset.class_names) == (3, ("cat", "dog", "eel"))


def test_names_follow_labels_that_are_numbered_anew(tmp_path: Path) -> None:
    files = {"train.csv": "text,label\nx,11\ny,1\n", "test.csv": "text,label\nz,21\n"}
    source = folder(tmp_path / "src", files)
    dataset = import_dataset("csv", source, tmp_path / "set", map_labels=True)
    assert dataset.class_names == ("1", "11", "21") and read(dataset)[1] == [1, 0]


# Names of files and folders


def rows_of(label: int, count: int = 2) -> pa.Table:
    return pa.table({"inputs": [[float(label)]] * count, "label": [label] * count})


HUB, SPARK = "-of-00002", "snappy.parquet"
LAYOUTS = {
    "the Hub": (f"train-00000{HUB}.parquet", f"train-00001{HUB}.parquet", "test-0.parquet"),
    "a folder": (
        f"data/train-0{HUB}-a.parquet",
        f"data/train-1{HUB}-a.parquet",
        "data/test.parquet",
    ),
    "converted": ("default/train/0.parquet", "default/train/1.parquet", "default/test/0.parquet"),
    "Spark": (f"train.parquet/0.{SPARK}", f"train.parquet/1.{SPARK}", f"test.parquet/0.{SPARK}"),
    "Hive": ("split=train/a.parquet", "split=train/b.parquet", "split=test/a.parquet"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_names_of_the_hub_of_spark_and_of_hive(tmp_path: Path, layout: str) -> None:
    names = LAYOUTS[layout]
    source = parquet(tmp_path / "src", {name: rows_of(n % 2) for n, name in enumerate(names)})
    (source / "_SUCCESS").touch()
    (source / "README.md").touch()
    dataset = import_dataset("parquet", source, tmp_path / "set")
    assert read(dataset)[1] == [0, 0, 1, 1] and read(dataset, "test")[1] == [0, 0]


def test_folders_of_hive_are_columns(tmp_path: Path) -> None:
    files = {
        f"{split}/label={name}/part-0.parquet": pa.table({"text": [f"{name} {split}"]})
        for split in ("train", "test")
        for name in ("cat", "old%20dog")
    }
    dataset = import_dataset("parquet", parquet(tmp_path / "src", files), tmp_path / "set")
    assert dataset.class_names == ("cat", "old dog") and read(dataset)[1] == [0, 1]
    numbers = {name.replace("cat", "0").replace("old%20dog", "1"): t for name, t in files.items()}
    dataset = import_dataset("parquet", parquet(tmp_path / "numbers", numbers), tmp_path / "set2")
    assert dataset.class_names is None and read(dataset)[1] == [0, 1]


def test_tables_of_two_folders_are_not_mixed(tmp_path: Path) -> None:
    files = {f"{name}/{s}.parquet": rows_of(0) for name in ("en", "fr") for s in ("train", "test")}
    source = parquet(tmp_path / "src", files)
    with refused("got tables in the folders en, fr, allowed in one; give that folder", DataError):
        import_dataset("parquet", source, tmp_path / "set")
    import_dataset("parquet", source / "en", tmp_path / "set")


def test_tables_of_no_split_are_left_out_and_counted(tmp_path: Path) -> None:
    """Kaggle's folder: a test split without labels, and a form to fill in."""
    files = {
        "train.csv": "text,label\n" + "x,1\ny,0\n" * 5,
        "test.csv": "text\nhidden\n",
        "sample_submission.csv": "id,label\n0,0\n",
    }
    source = folder(tmp_path / "src", files)
    pattern = r"\(without labels: test\): .*but 'test' is missing.* --test 0.2 takes a random fifth"
    with refused(pattern, DataError):
        import_dataset("csv", source, tmp_path / "set")
    made_of = import_dataset("csv", source, tmp_path / "set", test=0.2).manifest
    assert made_of.notes == (
        "splits that are not read: test",
        "tables whose names tell no split, skipped: 1",
    )


@pytest.mark.parametrize("name", ["validation_matched", "training", "my_test"])
def test_a_split_is_a_whole_name(tmp_path: Path, name: str) -> None:
    files = {f"{split}.parquet": rows_of(0) for split in ("train", "test", name)}
    dataset = import_dataset("parquet", parquet(tmp_path / "src", files), tmp_path / "set")
    assert dataset.splits == {"train": (0, 2), "test": (2, 4)}


# One column a feature


FLOWERS = "sepal,petal,id,kind\n5.1,1,7,setosa\n6,2.5,8,virginica\n"


def test_one_column_a_feature(tmp_path: Path) -> None:
    source = folder(tmp_path / "src", {"train.csv": FLOWERS, "test.csv": FLOWERS})
    columns = ("sepal", "petal", "kind")
    dataset = import_dataset("csv", source, tmp_path / "set", columns=columns)
    inputs, labels = read(dataset)
    assert inputs.tolist() == np.float32([[5.1, 1], [6, 2.5]]).tolist() and labels == [0, 1]
    assert dataset.class_names == ("setosa", "virginica")
    every = import_dataset("csv", source, tmp_path / "every", columns=("kind",))
    assert every.manifest.columns == ("sepal", "petal", "id", "kind")
    assert every.input_shape == (3,)


def test_pixels_in_columns(tmp_path: Path) -> None:
    """As the digits are handed round: a label and 784 columns."""
    pixels = np.arange(12).reshape(2, 6) * 20
    lines = [f"{number}," + ",".join(map(str, row)) for number, row in enumerate(pixels)]
    text = "label," + ",".join(f"pixel{n}" for n in range(6)) + "\n" + "\n".join(lines) + "\n"
    source = folder(tmp_path / "src", {"train.csv": text, "test.csv": text})
    dataset = import_dataset("csv", source, tmp_path / "set", columns=("label",), shape=(1, 2, 3))
    assert dataset.manifest.inputs.kind == "image" and dataset.input_shape == (1, 2, 3)
    flat = import_dataset("csv", source, tmp_path / "flat", columns=("label",))
    assert read(flat)[0].tolist() == pixels.tolist()
    with refused("got 300 in 'pixel5', allowed pixels from 0 to 255", DataError):
        folder(source, {"train.csv": text.replace("220", "300")})
        import_dataset("csv", source, tmp_path / "x", columns=("label",), shape=(1, 2, 3))


TWO = ("sepal", "petal", "kind")
MISFITS: dict[str, tuple[str, Any, str]] = {
    "none of a usual name": (
        FLOWERS,
        None,
        "got columns sepal, petal, id, kind, none of them inputs and label by name; give --columns"
        " INPUTS,LABEL, as in --columns sepal,kind, or the label alone, --columns kind",
    ),
    "missing": (FLOWERS, ("sepal", "kid"), "but 'kid' is missing; give --columns"),
    "twice": (FLOWERS, ("id", "id", "kind"), "columns: got id, id, kind, allowed each name once"),
    "words": (FLOWERS, ("sepal", "kind", "id"), "row 0: got 'setosa' in 'kind', .*allowed numbers"),
    "one word": (FLOWERS.replace("2.5", "n/a"), TWO, "train.csv: row 1: got 'n/a' in 'petal'"),
    "too large": (
        FLOWERS.replace("2.5", "1e39"),
        TWO,
        r"train.csv: row 1, 'petal': got 1e\+39, allowed numbers up to 3\.4e38, the greatest",
    ),
    "not a number": (
        FLOWERS.replace("2.5", "nan"),
        TWO,
        r"row 1, 'petal': got nan, allowed finite",
    ),
    "ragged": (
        FLOWERS.replace("2.5", "2.5,7"),
        TWO,
        r"train.csv: row 1: got 5 values, allowed 4, one a name of the first line: '",
    ),
    "no value": (FLOWERS.replace("2.5", ""), TWO, r"row 1: got missing values in 'petal' \(1"),
    "label alone": ("label\n1\n", ("label",), "got column 'label' alone, allowed inputs beside it"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_columns_that_do_not_fit_are_refused(tmp_path: Path, name: str) -> None:
    text, columns, pattern = MISFITS[name]
    source = folder(tmp_path / "src", {"train.csv": text, "test.csv": text})
    with refused(pattern, DataError):
        import_dataset("csv", source, tmp_path / "set", columns=columns)
    assert entries(tmp_path) == ["src"]


# CSV as it is written elsewhere


GOOD = "text,label\nan apple,1\na pear,0\n"
FORMS: dict[str, tuple[str, str | bytes]] = {
    "byte-order mark": ("csv", b"\xef\xbb\xbf" + GOOD.encode()),
    "semicolons": ("csv", GOOD.replace(",", ";")),
    "tabs": ("csv", GOOD.replace(",", "\t")),
    "Windows' lines": ("csv", GOOD.replace("\n", "\r\n")),
    "no last line break": ("csv", GOOD.rstrip()),
    "empty lines": ("csv", GOOD.replace("\n", "\n\n")),
    "spaces": ("csv", "text , label\nan apple, 1\na pear, 0\n"),
    "quotes": ("csv", 'text,"label"\n"an apple",1\n"a pear","0"\n'),
    "gzip": ("csv.gz", gzip.compress(GOOD.encode())),
    "tab-separated": ("tsv", GOOD.replace(",", "\t")),
}


@pytest.mark.parametrize("form", FORMS)
def test_csv_of_many_forms(tmp_path: Path, form: str) -> None:
    ending, content = FORMS[form]
    source = folder(tmp_path / "src", {f"{s}.{ending}": content for s in ("train", "test")})
    dataset = import_dataset(ending.removesuffix(".gz"), source, tmp_path / "set")
    inputs, labels = read(dataset)
    assert np.array_equal(inputs, tokens(["an apple", "a pear"])) and labels == [1, 0]


def test_a_long_text_and_types_that_change_late(tmp_path: Path) -> None:
    """Neither a text beyond Arrow's block of a megabyte nor a float after integers breaks it."""
    long = "word " * 300_000
    rows = f'text,n,label\n"{long}",1,0\n' + "x,1,0\n" * 100 + "x,1.5,1\n"
    source = folder(tmp_path / "src", dict.fromkeys(("train.csv", "test.csv"), rows))
    assert read(import_dataset("csv", source, tmp_path / "texts"))[0].shape == (102, 64)
    dataset = import_dataset("csv", source, tmp_path / "set", columns=("n", "label"))
    assert read(dataset)[0][:, 0].tolist() == [1.0] * 101 + [1.5]


@pytest.mark.parametrize(
    ("content", "pattern"),
    [
        ("text,label\nx,1\ny,0,2\n", "row 1: got 3 values, allowed 2, one a name"),
        ("text,label\n\xe9,1\n".encode("latin-1"), "iconv -f LATIN1 -t UTF-8"),
        (GOOD.encode("utf-16"), "line 1: got a NUL byte, .* iconv -f UTF-16 -t UTF-8"),
        (GOOD + "a\0pple,1\n", "train.csv: line 4: got a NUL byte"),
        ("", "train.csv: cannot be read as a table: Empty"),
        ("text,label\n", "got splits test, but 'train' is missing"),
        ("text,text,label\nx,y,1\n", "got column 'text' twice, allowed once"),
        ('text,label\n"x,1\ny,0\n', "row 0: got 1 value, allowed 2"),
        ("x,1\ny,0\n", "got columns x, 1, none of them inputs and label by name"),
    ],
)  # fmt: skip
def test_csv_that_is_none_is_refused(tmp_path: Path, content: str | bytes, pattern: str) -> None:
    source = folder(tmp_path / "src", {"train.csv": content, "test.csv": GOOD})
    with refused(pattern, DataError):
        import_dataset("csv", source, tmp_path / "set")
    assert entries(tmp_path) == ["src"]


# Images in Parquet


def test_images_of_the_hub_and_files_as_bytes(tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (4, 5, 4, 3), np.uint8)
    contents = []
    for picture in pictures:
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "png")
        contents.append(file.getvalue())
    columns = {
        "image": pa.array([{"bytes": content, "path": None} for content in contents]),
        "inputs": pa.array(contents),
    }
    for name, column in columns.items():
        table = pa.table({name: column, "label": [0, 1, 0, 1]})
        files = {f"{split}-00000-of-00001.parquet": table for split in ("train", "test")}
        source = parquet(tmp_path / name, files)
        for encoding in (None, "png"):
            dataset = import_dataset(
                "parquet", source, tmp_path / f"{name}-{encoding}", encoding=encoding
            )
            mean, std = (
                np.reshape(v, (-1, 1, 1)) for v in (dataset.manifest.mean, dataset.manifest.std)
            )
            inputs = np.round((read(dataset)[0] * std + mean) * 255)
            assert np.array_equal(inputs, pictures.transpose(0, 3, 1, 2))


# A test split of train


def test_a_share_of_train_for_test(tmp_path: Path) -> None:
    text = "x,label\n" + "".join(f"{number},{number % 2}\n" for number in range(100))
    file = folder(tmp_path / "src", {"points.csv": text}) / "points.csv"
    columns = ("x", "label")
    with refused("got rows of no split; allowed .* or --test 0.2", DataError):
        import_dataset("csv", file, tmp_path / "set", columns=columns)
    dataset = import_dataset(
        "csv", file, tmp_path / "set", columns=columns, test=0.2, holdout=0.25, label_noise=0.3
    )
    assert dataset.splits == {"train": (0, 60), "holdout": (60, 80), "test": (80, 100)}
    everything = [read(dataset, split)[0][:, 0].tolist() for split in dataset.splits]
    assert all(values == sorted(values) for values in everything)
    assert sorted(number for values in everything for number in values) == list(range(100))
    test = dataset.split("test")
    assert np.array_equal(test.labels(test.indices), test.clean_labels(test.indices))
    again = import_dataset("csv", file, tmp_path / "again", columns=columns, test=0.2)
    assert read(again, "test")[0].tolist() == read(dataset, "test")[0].tolist()
    other = import_dataset("csv", file, tmp_path / "other", columns=columns, test=0.2, noise_seed=1)
    assert read(other, "test")[0].tolist() != read(dataset, "test")[0].tolist()


def test_no_share_of_train_beside_a_test_split(tmp_path: Path) -> None:
    source = folder(tmp_path / "src", {"train.csv": GOOD, "test.csv": GOOD, "dev.csv": GOOD})
    with refused("the source has a test split; drop the flag", DataError):
        import_dataset("csv", source, tmp_path / "set", test=0.5)
    (source / "test.csv").unlink()
    dataset = import_dataset("csv", source, tmp_path / "set", test=0.5)
    assert dataset.splits == {"train": (0, 1), "holdout": (1, 3), "test": (3, 4)}


# The command


def test_the_command_shows_what_it_made_of_a_table(tmp_path: Path) -> None:
    file = folder(tmp_path / "src", {"flowers.csv": FLOWERS * 2 + FLOWERS}) / "flowers.csv"
    file.write_text(FLOWERS + FLOWERS.partition("\n")[2] * 4)
    said = made(
        "data", "import", "csv", file, tmp_path / "set", "--columns", "sepal,petal,kind",
        "--test", "0.2",
    ).out  # fmt: skip
    assert "points       train 8, test 2\n" in said
    assert "inputs       float [2]\ncolumns      sepal, petal; label kind\n" in said
    assert "classes      2: setosa, virginica\n" in said
    assert made("data", "info", tmp_path / "set").out == said


@pytest.mark.parametrize(
    ("kind", "file", "pattern"),
    [
        ("numpy", "a.csv", r"got a \.csv file for numpy; give its kind: rhoctl data import csv /"),
        ("csv", "a.parquet", r"got a \.parquet file for csv; give its kind: .* parquet "),
        ("hugging-face", "a.parquet", "give its kind: .* parquet "),
        ("excel", "a.csv", "kind: got 'excel', allowed one of .*csv, tsv"),
    ],
)  # fmt: skip
def test_the_kind_of_another_file(tmp_path: Path, kind: str, file: str, pattern: str) -> None:
    source = folder(tmp_path / "src", {file: GOOD}) / file
    with refused(pattern, DataError):
        import_dataset(kind, source, tmp_path / "set")


def test_names_of_columns_may_hold_a_comma(tmp_path: Path) -> None:
    file = folder(tmp_path / "src", {"a.csv": 'x,"yes, or no"\n1,0\n2,1\n3,0\n4,1\n'}) / "a.csv"
    words = ("--columns", 'x,"yes, or no"', "--test", "0.5")
    made("data", "import", "csv", file, tmp_path / "set", *words)
    assert ArrowDataset.open(tmp_path / "set").manifest.columns == ("x", "yes, or no")
    refusal = rhoctl("data", "import", "csv", file, tmp_path / "other", "--columns", "x,,y")
    assert refusal.code == 2 and "--columns: got 'x,,y', allowed INPUTS,LABEL" in refusal.err
