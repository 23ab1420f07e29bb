"""What ``rhoctl data import`` reads: each kind of source, and what it must hold.

The kinds are those of ``importers.KINDS``, whose readers take seconds to import. docs/kinds.md is
made from it (scripts/kinds_page.py).
"""

from __future__ import annotations

from collections.abc import Mapping

TABLES = "one file, or a folder of files (columns: docs/data.md)"
SOURCES: Mapping[str, str] = {
    "fashion-mnist": "`auto`, or a folder with its four IDX files (SHA-256 checked)",
    "idx": "`train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-…`, each also as .gz",
    "qmnist": (
        "`qmnist-{train,test}-images-idx3-ubyte`, `…-labels-idx2-int` (rows of 8 integers; the "
        "first is the class), also .gz"
    ),
    "cifar-10": "binary version: `data_batch_1.bin` … `5`, `test_batch.bin`",
    "cifar-100": "binary version: `train.bin`, `test.bin`; the classes are the fine ones",
    "cinic-10": (
        "`train/`, `valid/`, `test/` with ten folders of PNGs each; `valid` is the holdout"
    ),
    "image-folder": (
        "`train/CLASS/*.png` (.jpg, .jpeg), `test/…`, optionally `holdout`, `valid`, "
        "`validation` or `val`; classes are sorted by name; `--resize 64`"
    ),
    "clothing-1m": (
        "`noisy_label_kv.txt`, `clean_label_kv.txt`, `noisy_train_key_list.txt` (train), "
        "`clean_{train,val}_key_list.txt` (holdout), `clean_test_key_list.txt`, and the images "
        "that the keys name"
    ),
    "ambiguous-mnist": (
        "`amnist_samples` and `amnist_labels` as .pt (no code runs), .npy or in one .npz; one "
        "point per label of a sample: 60,000 train, the rest test"
    ),
    "cola": "GLUE's `train.tsv` and `dev.tsv`, or `in_domain_…`; dev is test",
    "sst-2": "GLUE's `train.tsv` and `dev.tsv`; dev is test",
    "hugging-face": (
        "what `save_to_disk` wrote of a `DatasetDict`, or of a `Dataset` with a column `split` "
        "(columns: docs/data.md)"
    ),
    "webdataset": (
        "`train-….tar`, `test-….tar` (or folders of tars): `KEY.png` or `.jpg`, `KEY.cls`, "
        "neighbours in the tar; a key ends at its first dot"
    ),
    "numpy": (
        "one .npz: `x_train`, `y_train`, `x_test`, `y_test`, optionally `x_holdout`, "
        "`y_holdout`. uint8: images [N, H, W], channels first or last (`--shape 3,32,32` for "
        "flat ones, or if both are possible). Other integers: tokens [N, T]. Floats: as they "
        "are, or with `--shape` channels first"
    ),
    "parquet": TABLES,
    "csv": TABLES,
    "tsv": TABLES,
}
KINDS = tuple(SOURCES)
