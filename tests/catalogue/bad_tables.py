"""Bad tables: CSV, TSV, Parquet and Hugging Face folders."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from cases import Arguments, Case, Place

GOOD = "text,label\ngood,1\nbad,0\n"
FLOWERS = "petal,kind\n1.5,rose\n2,lily\n"


def csv(name: str, files: Mapping[str, str | bytes], pattern: str, *more: str) -> Case:
    """A folder of text files, or one file of its name, imported as CSV."""

    def build(place: Place) -> Arguments:
        source = place.folder / "source"
        source.mkdir()
        for file, content in files.items():
            path = source / file
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        src = source / next(iter(files)) if len(files) == 1 else source
        return ["data", "import", "csv", src, place.new, *more]

    return Case("CSV", name, build, pattern)


def both(train: str | bytes, test: str = GOOD) -> dict[str, str | bytes]:
    return {"train.csv": train, "test.csv": test}


def parquet(name: str, columns: Mapping[str, pa.Array], pattern: str, *more: str) -> Case:
    """A folder of train.parquet and test.parquet, alike."""

    def build(place: Place) -> Arguments:
        source = place.folder / "source"
        source.mkdir()
        for split in ("train", "test"):
            pq.write_table(pa.table(dict(columns)), source / f"{split}.parquet")
        return ["data", "import", "parquet", source, place.new, *more]

    return Case("Parquet", name, build, pattern)


TABLES = [
    parquet(
        "names of pictures",
        {"image": pa.array(["a/1.PNG", "a/2.jpg"]), "label": pa.array([0, 1])},
        r"got names of pictures in 'image', such as 'a/1\.PNG', allowed .*kind image-folder",
    ),
    csv("one file of no split", {"a.csv": GOOD}, r"got rows of no split; allowed .*--test 0\.2"),
    csv(
        "columns of other names",
        both(FLOWERS, FLOWERS),
        r"got columns petal, kind, none .*give --columns INPUTS,LABEL, as in --columns petal,kind",
    ),
    csv("column missing", both(GOOD), r"but 'txt' is missing", "--columns", "txt,label"),
    csv(
        "label without a name", both(GOOD), r"--columns: got 'text,', allowed", "--columns", "text,"
    ),
    csv(
        "label missing in a row",
        both("text,label\ngood,\nbad,0\n"),
        r"train\.csv: row 0: got missing values in 'label'",
    ),
    csv("class of test alone", both(GOOD, "text,label\nx,a\n"), r"got label 'a', which train does"),
    csv("Latin-1", both("text,label\n\xe9,1\n".encode("latin-1")), r"iconv -f LATIN1 -t UTF-8"),
    csv("ragged", both("text,label\na,b,1\n"), r"train\.csv: row 0: got 3 values, allowed 2, "),
    csv(
        "words among features",
        both("a,b,kind\n1,n/a,rose\n2,3,lily\n", "a,b,kind\n1,2,rose\n"),
        r"train\.csv: row 0: got 'n/a' in 'b', .*allowed numbers",
        *("--columns", "a,b,kind"),
    ),
    csv("kind of another file", {"a.parquet": b""}, r"give its kind: rhoctl data import parquet"),
    parquet(
        "bytes", {"inputs": pa.array([b"x"]), "label": pa.array([0])}, r"give --shape, .*--enc"
    ),
    parquet(
        "labels in between",
        {"text": pa.array(["a", "b"]), "label": pa.array([0.5, 1.0])},
        r"train\.parquet: row 0: got label 0\.5, allowed whole numbers or names of classes",
    ),
    parquet(
        "dates as labels",
        {"text": pa.array(["a"]), "label": pa.array([1], pa.date32())},
        r"labels of type date32.*allowed integers, whole floats, booleans, or strings",
    ),
    parquet(
        "hundreds of columns",
        {f"column-{number:04d}-of-a-wide-table": pa.array([1]) for number in range(600)},
        r"got columns .*\(and 590 more\), none of them inputs and label",
    ),
    parquet(
        "share beside a test split",
        {"text": pa.array(["a", "b"]), "label": pa.array([0, 1])},
        r"test: got a fraction, but the source has a test split",
        *("--test", "0.5"),
    ),
    parquet(
        "share of nothing",
        {"text": pa.array(["a", "b"]), "label": pa.array([0, 1])},
        r"test: got 2\.0, allowed a fraction",
        *("--test", "2"),
    ),
]
