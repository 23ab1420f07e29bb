"""The configuration: what goes out comes back, what changed is named, what --set means."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rhoselect import compute
from rhoselect import config as configuration
from rhoselect.config import (
    Config,
    DataConfig,
    Section,
    SelectionConfig,
    TrainerConfig,
    parse,
    resolve,
)
from rhoselect.errors import ConfigError

FREE = ("queue", "cluster", "metrics", "service")
FREE_KEYS = (
    "data.path",
    "model.weights",
    "il.table",
    "il.weights",
    "svp.table",
    "data.resident",
    "data.cache_dir",
    "data.cache_bytes",
    "data.timeout_s",
    "scorer.prefetch",
    "snapshots.transport",
    "trainer.scores",
    "trainer.devices",
    "trainer.tracker",
    "selection.rescore",
)
TAKEN = ("params", "lr", "weight_decay")

words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
numbers = st.floats(allow_nan=False, allow_infinity=False)
positive = st.floats(0, exclude_min=True, allow_infinity=False)
not_negative = st.floats(0, allow_infinity=False)
paths = words.map(lambda word: f"/{word}")
counts = st.integers(1, 2**63 - 1)
arguments = st.dictionaries(words, st.booleans() | st.integers() | numbers | words)
some = st.booleans() | st.integers(-(2**63), 2**63 - 1) | numbers | words
own_arguments = st.dictionaries(words.filter(lambda word: word not in TAKEN), some | st.lists(some))
groups = st.fixed_dictionaries(
    {},
    optional={
        "pattern": words,
        "dims": st.lists(st.integers(0, 9)),
        "lr_factor": not_negative,
        "weight_decay": not_negative,
        "optimizer": st.fixed_dictionaries({"name": words, "args": own_arguments}),
    },
)
resources = st.dictionaries(words, not_negative)
precisions = st.sampled_from(["fp32", "bf16"])

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "seed": st.integers(0, 2**63 - 1),
    "data.dataset": words,
    "data.args": arguments,
    "data.order": st.just("shuffled"),
    "data.stream_blocks": counts,
    "data.resident": st.just(""),  # "device" needs a data.path
    "data.cache_dir": paths,
    "data.cache_bytes": counts,
    "data.timeout_s": positive,
    "augment.crop_padding": st.integers(0, 512),
    "augment.flip": st.booleans(),
    "task.name": words,
    "task.args": arguments,
    "model.factory": words,
    "model.args": arguments,
    "model.weights": paths,
    "model.weights_head": st.booleans(),
    "il.table": paths,
    "il.overlap": st.sampled_from(["forbid", "allow"]),
    "il.weights": paths,
    "il.update_lr_factor": not_negative,
    "svp.table": paths,
    "svp.keep": st.floats(0, 1, exclude_min=True),
    "infobatch.r": st.floats(0, 1, exclude_min=True, exclude_max=True),
    "infobatch.delta": st.floats(0, 1, exclude_min=True),
    "selection.function": words,
    "selection.n_b": st.sampled_from([2, 4, 6]),
    "selection.n_B": st.sampled_from([64, 96, 128]),
    "selection.chunk": st.sampled_from([1, 2, 16, 32]),
    "selection.lag": st.integers(0, 2**63 - 1),
    "selection.audit_every": st.integers(0, 2**63 - 1),
    "selection.rescore": st.sampled_from(["trainer", "scorers"]),
    "selection.shortlist": st.integers(0, 2),
    "selection.temperature": not_negative,
    "selection.tokens": st.just(1.0),  # less goes with some keys of the trainer only
    "selection.max_tokens": st.integers(0, 1 << 20),
    "selection.bn": st.sampled_from(["auto", "running", "batch"]),
    "scorer.precision": precisions,
    "scorer.threads": st.integers(1, 1024),
    "scorer.prefetch": st.integers(1, 1024),
    "scorer.cast": st.sampled_from(["autocast", "all"]),
    "scorer.channels_last": st.booleans(),
    "scorer.fold_batchnorm": st.just(False),  # true goes with one kind of BatchNorm only
    "scorer.quantize": st.sampled_from(["none", "int8", "fp8"]),
    "scorer.compile": st.booleans(),
    "scorer.graph": st.booleans(),
    "scorer.device": words,
    "scorer.proxy": words,
    "scorer.proxy_args": arguments,
    "scorer.proxy_lr_factor": positive,
    "compute.tf32": st.sampled_from(["convolutions", "all", "none"]),
    "trainer.steps": counts,
    "trainer.lr": positive,
    "trainer.optimizer.name": words,
    "trainer.optimizer.args": own_arguments,
    "trainer.groups": st.lists(groups, max_size=3),
    "trainer.weight_decay": not_negative,
    "trainer.schedule": st.sampled_from(["constant", "linear", "cosine", "wsd"]),
    "trainer.warmup_steps": st.integers(0, 2**63 - 1),
    "trainer.decay_steps": st.integers(0, 2**63 - 1),
    "trainer.label_smoothing": st.floats(0, 1),
    "trainer.micro_batches": st.sampled_from([1, 2]),
    "trainer.devices": st.just(1),  # more goes with some micro_batches only
    "trainer.reduce": st.sampled_from(["tree", "fast"]),
    "trainer.parallel": st.just("replicated"),  # fsdp goes with some optimizers only
    "trainer.blocks": words,
    "trainer.ema": st.floats(0, 1, exclude_max=True),
    "trainer.clip_norm": not_negative,
    "trainer.precision": precisions,
    "trainer.channels_last": st.booleans(),
    "trainer.threads": st.integers(1, 1024),
    "trainer.scores": st.booleans(),
    "trainer.device": words,
    "trainer.publish_every": counts,
    "trainer.eval_every": counts,
    "trainer.eval_batch": counts,
    "trainer.checkpoint_every": counts,
    "trainer.keep_checkpoints": counts,
    "trainer.tracker": words,
    "trainer.targets": st.lists(st.floats(0, 1, exclude_min=True)),
    "queue.url": words,
    "queue.password_file": paths,
    "queue.tls_ca": paths,
    "queue.tls_cert": paths,
    "queue.tls_key": paths,
    "queue.lease_s": positive,
    "queue.timeout_s": positive,
    "snapshots.transport": st.sampled_from(["auto", "shm", "ray"]),
    "snapshots.only": st.sampled_from(["all", "trainable"]),
    "cluster.address": words,
    "cluster.trainer": resources,
    "cluster.scorer": resources,
    "cluster.start_s": positive,
    "cluster.mode": st.sampled_from(["auto", "split"]),  # colocated goes with fresh scores only
    "cluster.rank_timeout_s": positive,
    "metrics.port": st.integers(-1, 65535),
    "metrics.host": words,
    "metrics.discovery_dir": paths,
    "service.address": st.integers(0, 65535).map("127.0.0.1:{}".format),
    "service.token_file": paths,
}
settings = st.fixed_dictionaries(
    {name: VALUES[name] for name in VALUES if name == "data.dataset"},
    optional={name: VALUES[name] for name in VALUES if name != "data.dataset"},
)


def config(values: dict[str, Any]) -> Config:
    """The configuration of these dotted names."""
    tree: dict[str, Any] = {}
    for name, value in values.items():
        *sections, key = name.split(".")
        place = tree
        for section in sections:
            place = place.setdefault(section, {})
        place[key] = value
    return parse(tree)


def names(section: type[Section], prefix: str = "") -> set[str]:
    """Dotted names of all keys."""
    found = set()
    for key, field in section.model_fields.items():
        kind = field.annotation
        inner = isinstance(kind, type) and issubclass(kind, Section)
        found |= names(kind, f"{prefix}{key}.") if inner else {prefix + key}
    return found


def test_these_tests_know_every_key() -> None:
    together = {"service.tls_cert", "service.tls_key", "service.tls_client_ca"}
    assert names(Config) == VALUES.keys() | {"data.path"} | together
    changes = {re.sub(r"args\..*", "args", name) for name in CHANGES}
    apart = {"data.order", "data.resident"}  # with tests of their own
    assert changes == VALUES.keys() - apart


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("config")


@given(values=settings)
def test_a_configuration_comes_back_from_its_file(values: dict[str, Any], folder: Path) -> None:
    written = config(values)
    path = folder / "config.toml"
    path.write_text(written.to_toml())
    read = configuration.load(path)
    assert read == written
    assert read.changed_keys(written) == []


@given(values=settings)
def test_a_configuration_comes_back_from_another_process(values: dict[str, Any]) -> None:
    sent = config(values)
    assert configuration.from_json(sent.model_dump_json()) == sent


CHANGES: dict[str, tuple[Any, Any]] = {
    "seed": (0, 1),
    "data.dataset": ("m:f", "m:g"),
    "data.args.root": ("a", "b"),
    "data.stream_blocks": (8, 4),
    "data.cache_dir": ("a", "b"),
    "data.cache_bytes": (1, 2),
    "data.timeout_s": (1.0, 2.0),
    "augment.crop_padding": (0, 4),
    "augment.flip": (False, True),
    "task.name": ("m:T", "m:U"),
    "task.args.flag": (1, True),
    "model.factory": ("m:f", "m:g"),
    "model.args.flag": (1, True),
    "model.args.rate": (1, 1.0),
    "model.weights": ("a", "b"),
    "model.weights_head": (True, False),
    "il.table": ("a", "b"),
    "il.overlap": ("forbid", "allow"),
    "il.weights": ("a", "b"),
    "il.update_lr_factor": (0.01, 0.0),
    "svp.table": ("a", "b"),
    "svp.keep": (0.5, 0.25),
    "infobatch.r": (0.5, 0.25),
    "infobatch.delta": (0.875, 1.0),
    "selection.function": ("loss", "uniform"),
    "selection.n_b": (8, 16),
    "selection.n_B": (64, 128),
    "selection.chunk": (16, 32),
    "selection.lag": (0, 1),
    "selection.audit_every": (0, 10),
    "selection.rescore": ("trainer", "scorers"),
    "selection.shortlist": (0, 2),
    "selection.temperature": (1.0, 0.5),
    "selection.tokens": (1.0, 0.5),
    "selection.max_tokens": (0, 1),
    "selection.bn": ("running", "batch"),
    "scorer.precision": ("bf16", "fp32"),
    "scorer.threads": (1, 2),
    "scorer.prefetch": (2, 3),
    "scorer.cast": ("autocast", "all"),
    "scorer.channels_last": (False, True),
    "scorer.fold_batchnorm": (False, True),
    "scorer.quantize": ("none", "int8"),
    "scorer.compile": (False, True),
    "scorer.graph": (False, True),
    "scorer.device": ("auto", "cpu"),
    "scorer.proxy": ("", "module:factory"),
    "scorer.proxy_args.width": (8, 16),
    "scorer.proxy_lr_factor": (1.0, 0.5),
    "trainer.steps": (1000, 1001),
    "trainer.lr": (1e-3, 1.0000000000000002e-3),
    "trainer.optimizer.name": ("AdamW", "SGD"),
    "trainer.optimizer.args.betas": ([0.9, 0.99], [0.9, 0.999]),
    "trainer.groups": ([{"pattern": "a"}, {}], [{}, {"pattern": "a"}]),
    "trainer.weight_decay": (0.01, 0.0),
    "trainer.schedule": ("constant", "cosine"),
    "trainer.warmup_steps": (0, 1),
    "trainer.decay_steps": (0, 1),
    "trainer.label_smoothing": (0.0, 0.1),
    "trainer.parallel": ("replicated", "fsdp"),
    "trainer.reduce": ("tree", "fast"),
    "trainer.blocks": ("", "layers.*"),
    "trainer.micro_batches": (1, 4),
    "trainer.devices": (1, 2),
    "trainer.ema": (0.0, 0.9),
    "trainer.clip_norm": (0.0, 1.0),
    "trainer.tracker": ("", "tensorboard"),
    "trainer.precision": ("fp32", "bf16"),
    "trainer.channels_last": (False, True),
    "trainer.threads": (1, 2),
    "trainer.scores": (True, False),
    "trainer.device": ("auto", "cpu"),
    "trainer.publish_every": (1, 2),
    "trainer.eval_every": (50, 10),
    "trainer.eval_batch": (1000, 100),
    "trainer.checkpoint_every": (500, 50),
    "trainer.keep_checkpoints": (2, 1),
    "trainer.targets": ([0.8], [0.8, 0.9]),
    "compute.tf32": ("convolutions", "all"),
    "queue.url": ("embedded", "redis://host"),
    "queue.password_file": ("a", "b"),
    "queue.tls_ca": ("a", "b"),
    "queue.tls_cert": ("a", "b"),
    "queue.tls_key": ("a", "b"),
    "queue.lease_s": (30.0, 1.0),
    "queue.timeout_s": (600.0, 1.0),
    "snapshots.transport": ("auto", "ray"),
    "snapshots.only": ("all", "trainable"),
    "cluster.address": ("local", "auto"),
    "cluster.trainer": ({}, {"GPU": 1.0}),
    "cluster.scorer": ({"CPU": 1.0}, {"CPU": 2.0}),
    "cluster.start_s": (120.0, 1.0),
    "cluster.mode": ("auto", "split"),
    "cluster.rank_timeout_s": (60.0, 1.0),
    "metrics.port": (0, -1),
    "metrics.host": ("127.0.0.1", "0.0.0.0"),
    "metrics.discovery_dir": ("a", "b"),
    "service.address": ("127.0.0.1:0", "unix:service.sock"),
    "service.token_file": ("a", "b"),
}


FORBIDDEN = [
    {"scorer.fold_batchnorm", "selection.bn"},
    {"selection.tokens", "trainer.micro_batches"},
    {"selection.tokens", "trainer.label_smoothing"},
    {"trainer.parallel", "trainer.ema"},
    {"trainer.parallel", "trainer.channels_last"},
]
"""Changes that no configuration may have together."""


def allowed(changed: set[str]) -> bool:
    too_many = "trainer.devices" in changed and "trainer.micro_batches" not in changed
    return not too_many and not any(changed >= pair for pair in FORBIDDEN)


@given(changed=st.sets(st.sampled_from(sorted(CHANGES))).filter(allowed))
def test_exactly_the_changed_keys_are_named(changed: set[str]) -> None:
    before = {name: one for name, (one, _) in CHANGES.items()}
    after = before | {name: CHANGES[name][1] for name in changed}
    bound = changed - set(FREE_KEYS)
    named = sorted(name for name in bound if name.split(".")[0] not in FREE)
    assert config(before).changed_keys(config(after)) == named
    assert config(after).changed_keys(config(before)) == named


def test_another_order_of_the_data_is_a_change() -> None:
    before, after = (config({"data.path": "d", "data.order": o}) for o in ("shuffled", "streamed"))
    assert before.changed_keys(after) == ["data.order"]


def test_where_points_lie_is_no_change() -> None:
    before, after = (config({"data.path": "d", "data.resident": r}) for r in ("", "device"))
    assert before.changed_keys(after) == []


SECRETS = {
    "s3://me:hidden@bucket/set": "a user and password",
    "s3://hidden@bucket/set": "a user and password",
    "abfs://account:hidden@box/set": "a user and password",
    "s3://bucket/set?region=eu&secret_key=hidden": "the option 'secret_key'",
    "gs://bucket/set?access_token=hidden": "the option 'access_token'",
}


@pytest.mark.parametrize("uri", SECRETS)
def test_an_address_with_a_secret_is_refused_without_telling_it(uri: str) -> None:
    with pytest.raises(ConfigError, match=rf"data\.path: got .*{SECRETS[uri]}") as caught:
        configuration.load(None, [f"data.path={uri}"])
    assert "hidden" not in str(caught.value)
    assert "AWS_ACCESS_KEY_ID" in str(caught.value)


def test_keys_that_come_or_go_are_named() -> None:
    before, after = {"data.path": "d", "model.args.a": 1}, {"data.dataset": "m:f"}
    assert config(before).changed_keys(config(after)) == ["data.dataset", "model.args.a"]


REMOVED = {
    "selection.max_lag: removed in 0.2; .*selection.lag": {"selection.max_lag": 2},
    "selection.mode: removed in 0.2; .*selection.lag = 1": {"selection.mode": "stream"},
    "stream: removed in 0.2; delete the section": {"stream.ahead": 2},
    "selection.agreement: removed in 0.2; .*audit_every": {"selection.agreement": 0.9},
    "selection.lag: got 'auto', removed in 0.2; set a number": {"selection.lag": "auto"},
    "selection.rescore: got 'auto', removed in 0.2; .*trainer": {"selection.rescore": "auto"},
}


@pytest.mark.parametrize("message", REMOVED)
def test_what_was_removed_is_refused_with_its_successor(message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        config({"data.path": "d"} | REMOVED[message])


def test_errors_in_a_section_of_a_section_name_the_place() -> None:
    said = {
        "trainer.optimizer.nam=x": r"trainer\.optimizer\.nam: unknown key; .*: name, args$",
        "trainer.groups=[{nam = 1}]": r"trainer\.groups\.0\.nam: unknown key; .*: pattern, dims",
        "trainer.groups=[{}, {dims = 2}]": r"trainer\.groups\.1\.dims: got 2; .*list",
    }
    for override, told in said.items():
        with pytest.raises(ConfigError, match=f"^{told}"):
            configuration.load(None, ["data.path=d", override])


def test_the_order_of_arguments_is_no_change() -> None:
    one, other = {"a": 1, "b": 2}, {"b": 2, "a": 1}
    before, after = ({"data.path": "d", "model.args": args} for args in (one, other))
    assert config(before).changed_keys(config(after)) == []


@pytest.mark.parametrize(
    ("lag", "n_b", "n_B", "shortlist", "k"),
    [
        (0, 32, 320, 0, 1),
        (0, 32, 320, 3, 3),
        (1, 32, 320, 0, 5),
        (4, 32, 96, 0, 3),  # a shortlist cannot exceed its window
        (1, 32, 32, 0, 1),
        (1, 20, 96, 0, 4),
        (1, 32, 320, 1, 1),
        (1, 32, 320, 10, 10),
    ],
)
def test_the_shortlist_in_force(lag: int, n_b: int, n_B: int, shortlist: int, k: int) -> None:
    sizes = {"n_b": n_b, "n_B": n_B, "lag": lag, "shortlist": shortlist}
    selection = SelectionConfig(chunk=1, **sizes)
    assert Config(data=DataConfig(path="data"), selection=selection).k == k


def test_weights_published_now_and_then_are_stale_scores() -> None:
    seldom = TrainerConfig(publish_every=4)
    assert Config(data=DataConfig(path="data"), trainer=seldom).k == 5


def test_what_a_run_keeps_has_nothing_automatic(
    fast_bf16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolved = resolve(Config(data=DataConfig(path="data")))
    assert resolved.selection.shortlist == 1
    assert resolved.scorer.device in ("cpu", "cuda")
    assert resolved.scorer.precision == ("bf16" if fast_bf16 else "fp32")
    assert resolved.trainer.precision == "fp32"
    trains = resolve(Config(data=DataConfig(path="data"), trainer={"precision": "auto"})).trainer
    assert trains.precision == resolved.scorer.precision
    assert resolved.trainer.device == resolved.scorer.device
    monkeypatch.setattr(compute, "has_fast_bf16", lambda device: not fast_bf16)
    assert resolve(resolved) == resolved, "on a machine of the other kind, too"


def test_whether_this_machine_has_bf16_is_known() -> None:
    assert compute.has_fast_bf16("cpu") in (True, False)


TEXTS: dict[str, Any] = {
    "3": 3,
    "-3": -3,
    "3.0": 3.0,
    "1e-3": 0.001,
    "true": True,
    "True": "True",
    "'3'": "3",
    '"a\\tb"': "a\tb",
    "word": "word",
    " two words ": " two words ",
    "rhoselect.models:mlp": "rhoselect.models:mlp",
    "/a/b=c.parquet": "/a/b=c.parquet",
    "redis://host:6379/0": "redis://host:6379/0",
    "a#b": "a#b",
    "2026-01-31": "2026-01-31",
    "'open": "'open",
    "": "",
}


@pytest.mark.parametrize(("text", "value"), TEXTS.items())
def test_set_takes_toml_values_and_bare_words(text: str, value: Any) -> None:
    given = configuration.load(None, ["data.path=d", f"model.args.x={text}"]).model.args["x"]
    assert (type(given), given) == (type(value), value)


def test_set_takes_lists_and_sections() -> None:
    overrides = ["data={path = 'd'}", "trainer.targets=[0.5, 1]", "selection={n_b = 8, n_B = 64}"]
    made = configuration.load(None, overrides)
    assert made.data.path == str(Path("d").absolute())
    assert made.trainer.targets == [0.5, 1.0]
    assert made.selection == SelectionConfig(n_b=8, n_B=64)


def test_set_goes_over_the_file_and_the_last_one_wins(folder: Path) -> None:
    path = folder / "file.toml"
    path.write_text("seed = 1\ndata = { path = 'd' }\n[trainer]\nlr = 0.5\nsteps = 7\n")
    made = configuration.load(path, ["trainer.lr=0.25", "seed=2", " seed =3"])
    assert (made.seed, made.trainer.lr, made.trainer.steps) == (3, 0.25, 7)


def told(*settings: str) -> str:
    """What is said of these settings."""
    with pytest.raises(ConfigError) as caught:
        configuration.load(None, ["data.path=d", *settings])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_all_errors_are_told_in_one_line() -> None:
    line = told("selection.n_b=x", "trainer.lr=y", "model.args.a=[1]", "selection.max_lag=2")
    assert re.fullmatch(
        r"model\.args\.a: got \[1\], allowed .*; and selection\.n_b: got 'x'; .*;"
        r" and selection\.max_lag: removed in 0\.2; .*; and trainer\.lr: got 'y'; .*",
        line,
    )


def test_unknown_keys_of_a_section_are_told_together() -> None:
    line = told("selection.nb=1", "selection.nB=2", "modle.args.width=3")
    assert line.startswith("selection.nb, selection.nB: unknown key; allowed in its section: func")
    assert line.count("n_B,") == 1 and "; and modle: unknown key; allowed" in line


def test_a_line_of_many_errors_ends() -> None:
    line = told(*(f"trainer.{key}=x" for key in TrainerConfig.model_fields))
    assert re.search(r"; and \d+ more$", line) and len(line) < 1500
