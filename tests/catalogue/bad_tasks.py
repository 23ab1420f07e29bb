"""Tasks whose losses or figures are wrong, for a fit and for a run; items of other tasks."""

from __future__ import annotations

from cases import Arguments, Case, Place, setting


def fitted(name: str, pattern: str, task: str, kind: str = "views", *more: str) -> Case:
    """``rhoctl il fit`` for ``task``."""

    def build(place: Place) -> Arguments:
        sets = [f"data.args.kind={kind}", f"task={task}", "trainer.device=cpu"]
        words = [word for each in sets for word in ("--set", each)]
        model = ["--model", "task_code:TwoViews", "--batch", "8", "--epochs", "1"]
        out = place.folder / "il.parquet"
        return ["il", "fit", "--data", "task_code:Points", "--out", out, *model, *words, *more]

    return Case("task of a fit", name, build, pattern)


def wrong(how: str, pattern: str) -> Case:
    return fitted(how, pattern, f"{{name = 'task_code:Wrong', args = {{how = '{how}'}}}}")


def items(name: str, pattern: str, task: str, kind: str) -> Case:
    data = f"data={{dataset = 'task_code:Points', args = {{kind = '{kind}'}}}}"
    return setting("items of another task", name, pattern, data, f"task.name={task}")


AGAIN = "losses: got others when those of the same 16 points were computed again"
VIEWS = ["data={dataset = 'task_code:Points', args = {kind = 'views'}}", "selection.function=loss"]
TASKS = [
    wrong("mean", r"losses: for 2 points gave \[\], allowed Losses of a tensor \[2\]"),
    wrong("mean for all", "losses: got others, by .*, for 8 points alone than among 16"),
    wrong("NaN", "losses: got nan and no finite one of 16 points, allowed finite ones"),
    wrong("random", AGAIN),
    wrong("counting", AGAIN),
    wrong("ranked", "losses: got others, by .*, for 16 points in reverse order"),
    fitted("no module", "task.name: got 'no:T', but module 'no' cannot be", "{name = 'no:T'}"),
    fitted(
        "dropped points",
        r"items \d+: got RuntimeError.*, allowed examples of which its collate makes a batch, of",
        "{name = 'task_code:Dropping'}",
    ),
    fitted(
        "tokens of numbers",
        "task.name: got a task without losses of tokens, allowed one whose Losses have",
        "{name = 'task_code:Fit'}",
        "views",
        "--tokens",
    ),
    fitted(
        "a folder that is a file",
        r"--out \S+: \S+cases\.py is no folder that this user may write to, allowed one",
        "{name = 'task_code:Fit'}",
        "views",
        "--out",
        f"{__file__.replace('bad_tasks', 'cases')}/il.parquet",
    ),
    items("pairs for tokens", r"got \w+Error.*, allowed token ids \[T\]", "causal_lm", "number"),
    items("dicts for tokens", r"got KeyError.*, allowed token ids \[T\]", "causal_lm", "views"),
    items(
        "tokens for classes", r"allowed \(tensor or array, integer\)", "classification", "sequence"
    ),
    setting(
        "items of another task",
        "another figure",
        r"task: its evaluation gave loss, allowed a number 'error' among them, which is its metric",
        *VIEWS,
        "task={name = 'task_code:Wrong', args = {how = 'metric'}}",
        "model.factory=task_code:TwoViews",
        "model.args={}",
        "selection.n_B=32",
    ),
]
