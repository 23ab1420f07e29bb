"""Bad tokens: losses of a reference and ids of a tokenizer that are others; streams to spool."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np

from cases import Arguments, Case, Place, setting
from hub import WORDS, reviews, word_tokenizer
from rhoselect.config import parse
from rhoselect.data import open_data
from rhoselect.data.il_table import IlMetadata, IlTable, write_table
from rhoselect.data.token_losses import TokenLosses
from rhoselect.tasks import Classification, Task
from rhoselect.tasks.causal_lm import CausalLM
from task_code import SIZES, Points

ABOUT = ("reference", "", "none", (0, 0), "fp32", "", "", 0.0, 0)
SEQUENCES = "dataset = 'task_code:Points', args = {kind = 'sequence'}"


def table_for(place: Place, data: str, task: Task, tokens: TokenLosses | None = None) -> Path:
    """Losses of 0 for the points of a data set; ``data`` is its section in TOML."""
    config = parse(tomllib.loads(f"data = {{{data}}}"))
    dataset = open_data(config.data, None, task)
    start, stop = dataset.splits["train"]
    about = IlMetadata(dataset.fingerprint, *ABOUT)
    path = place.folder / "il.parquet"
    write_table(path, IlTable(start, np.zeros(stop - start, np.float32), about, tokens))
    return path


def other_tokens(place: Place) -> Arguments:
    points = Points("train", "sequence")
    counts = [len(points[row]) for row in range(SIZES["train"])]  # one a token: one too many
    tokens = TokenLosses.of(counts, np.zeros(sum(counts), np.float32))
    table = table_for(place, SEQUENCES, CausalLM(), tokens)
    model = "model={factory = 'task_code:Recurrent'}"
    keys = ("task.name=causal_lm", "selection.tokens=0.5", model)
    return place.train(f"data={{{SEQUENCES}}}", *keys, f"il.table={table}")


def other_tokenizer(place: Place) -> Arguments:
    """One machine fitted the irreducible losses, another has words of other numbers."""
    words = place.folder / "words"
    args = f"path = '{reviews(place.folder / 'reviews')}', tokenizer = '{word_tokenizer(words)}'"
    data = f"dataset = 'rhoselect.data.hugging_face:texts', args = {{{args}}}"
    table = table_for(place, data, Classification())
    word_tokenizer(words, WORDS[::-1])
    return place.train(f"data={{{data}}}", f"il.table={table}", "selection.n_B=32")


def stream(name: str, pattern: str, broken: str = "", limit: str = "35") -> Case:
    """An iterable data set with something ``broken``, spooled."""

    def build(place: Place) -> Arguments:
        options = ["--limit", limit] if limit else []
        words = ["data", "spool", "user_points:stream", place.new, *options]
        return [*words, "--set", f"data.args.broken={broken or 'nothing'}"]

    return Case("iterable data set", name, build, pattern)


TOKENS = [
    Case(
        "tokens",
        "a reference table of other tokens",
        other_tokens,
        r"irreducible_token_losses of index \d+ has \d+ losses, allowed \d+",
    ),
    Case(
        "tokens",
        "a tokenizer that differs between machines",
        other_tokenizer,
        r"il\.parquet: made for data set \w{12}, allowed \w{12}",
    ),
    stream("no limit", r"Missing option '--limit'", limit=""),
    stream("a limit of 0", r"Invalid value for .--limit.: .*greater than or equal to 1", limit="0"),
    stream("other points in each pass", r"got other points when the first ones of train", "again"),
    stream("another key", r"got columns input_ids, mask of item 30 of train, allowed in", "keys"),
    stream("another type", r"got items 0 to 34 of train: Arrow\w+: .*allowed numbers", "type"),
    stream("an object", r"got items 0 to 34 of train: Arrow\w+: .*allowed numbers", "object"),
    stream("a missing value", r"got items 0 to 34 of train: None in column input_ids", "none"),
    stream("lost on the way", r"got train: item 30: OSError: connection lost, allowed", "raises"),
    stream("no test split", r"got test: no points, allowed one or more", "empty"),
    setting(
        "tokens",
        "an iterable data set without a folder",
        r"got train: an IterableDataset, allowed a map-style.*'rhoctl data spool' makes one",
        "data={dataset = 'user_points:Endless'}",
    ),
]
