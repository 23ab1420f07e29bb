"""Bad items, collators and folders of data sets in place."""

from __future__ import annotations

from cases import Case, setting

HUB = "rhoselect.data.hugging_face"


def points(name: str, pattern: str, broken: str = "", how: str = "") -> Case:
    """Items with something ``broken``, through a collator that does something else."""
    task = [f"task={{name = 'user_points:Collating', args = {{how = '{how}'}}}}"] if how else []
    return setting(
        "items of a data set",
        name,
        pattern,
        f"data={{dataset = 'user_points:Points', args = {{broken = '{broken}'}}}}",
        "model={factory = 'user_points:Bag', args = {vocabulary = 50}}",
        "selection.function=loss",
        *task,
    )


def folder(name: str, pattern: str, factory: str, args: str) -> Case:
    data = f"data={{dataset = 'rhoselect.data.{factory}', args = {{{args}}}}}"
    return setting("data set in place", name, pattern, data)


ORDER = r"gave rows in another order than the examples, allowed the same order"
POINTS = [
    points("dropped", r"items 0: the collator .* gave tensors .* for 1 examples", how="drops"),
    points("sorted", rf"items 0, 48, 95: .*{ORDER}", how="sorts"),
    points("reversed", ORDER, how="reverses"),
    points("random batch", r"gave another batch of the same examples, allowed", how="draws"),
    points("random items", r"an item that uses the random numbers of torch when", "again"),
    points("other keys", r"item \d+ of .*got \{input_ids: .*, allowed \{attention_m", "structure"),
    points("other dtype", r"got \{.*int32 of 1 dim.*, allowed \{.*input_ids: int64 of 1", "dtype"),
    points("an empty split", r"got test: no points, allowed a map-style data set of one", "empty"),
    points("more ids than the model", r"got token ids from 0 to 50, allowed .*50", "vocabulary"),
    points("an unknown id", r"got token id 57 in point 0, allowed 0 to 49 by the model", "id"),
    folder(
        "no folder",
        r"args\.path: got '/no/where', allowed a folder",
        "hugging_face:rows",
        "path = '/no/where'",
    ),
    folder(
        "no tokenizer",
        r"args\.tokenizer: got '/no/where' \(.*no such folder\), allowed a folder with a tok",
        "hugging_face:texts",
        "path = '/no/where', tokenizer = '/no/where'",
    ),
    folder(
        "a misspelt key",
        r"got train: TypeError: .*'lenght', allowed",
        "packing:packed",
        "path = '.', lenght = 9",
    ),
]
