"""The configuration: one TOML file, one tree of frozen models, every key checked before a run.

Keys are named as in ``--set section.key=value``. Unknown keys are errors. Numbers that the result
depends on (seed, chunk, threads, precision, lag, …) are fixed here, never taken from the machine,
so that a run means the same wherever it runs.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterable, Mapping
from datetime import date, time
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import parse_qsl, urlsplit

import tomlkit
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from rhoselect.errors import ConfigError

Precision = Literal["fp32", "bf16", "fp16"]
ScoringPrecision = Literal["auto", "fp32", "bf16", "fp16"]
Scalar = bool | int | float | str


FREE: dict[str, Any] = {
    "data": {"cache_dir", "cache_bytes", "timeout_s"},
    "queue": True,
    "snapshots": True,
    "cluster": True,
    "metrics": True,
    "scorer": {"prefetch"},
    "trainer": {"scores"},
    "selection": {"rescore"},
}
"""Keys that no result depends on."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def cache_home() -> Path:
    """Where what can be made again is kept, if ``data.cache_dir`` does not say."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "rhoselect"


class DataConfig(Section):
    """Where the points are: a folder made by ``rhoctl data import``, here or in an object store, or
    a torch Dataset; and in which order they become candidates."""

    path: str | None = Field(
        None,
        description="folder of Arrow shards and manifest.json, or its URI (s3://, gs://, hdfs://),"
        " whose credentials come from the environment",
    )
    dataset: str | None = Field(
        None, description="'module:factory' of a map-style torch Dataset, called with split=…"
    )
    args: dict[str, Scalar] = Field(default_factory=dict, description="keywords for dataset")
    order: Literal["shuffled", "streamed"] = Field(
        "shuffled", description="of candidates: all points shuffled, or groups of shards in turn"
    )
    stream_blocks: int = Field(8, ge=1, description="shards shuffled together in order 'streamed'")
    cache_dir: str | None = Field(
        None, description="folder for fetched shards and mapped tables; ~/.cache/rhoselect if unset"
    )
    cache_bytes: int = Field(
        32 << 30, ge=1, description="bound of the fetched shards, which a node's processes share"
    )
    timeout_s: float = Field(
        120.0, gt=0, description="longest wait for a store that sends nothing before failing"
    )

    @property
    def remote(self) -> bool:
        """Whether shards are fetched from a store."""
        return self.path is not None and "://" in self.path.removeprefix("file://")

    @property
    def cache_folder(self) -> Path:
        """``cache_dir``, or its default."""
        return cache_home() if self.cache_dir is None else Path(self.cache_dir)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.path is None) == (self.dataset is None):
            raise ValueError("set exactly one of data.path and data.dataset")
        if self.dataset is not None and self.order == "streamed":
            raise ValueError(
                "data.order: got 'streamed', allowed 'shuffled' for data.dataset, which has no"
                " shards; import the data"
            )
        if self.remote and (secret := _secret_in(str(self.path))):
            raise ValueError(
                f"data.path: got a URI with {secret}, allowed none that holds a secret; set"
                " credentials in the environment, as in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        return self


class ModelConfig(Section):
    """The target model: a factory called as factory(input_shape=…, classes=…, **args)."""

    factory: str = Field("rhoselect.models:mlp", description="'module:factory'")
    args: dict[str, Scalar] = Field(default_factory=dict, description="keywords for factory")


class IlConfig(Section):
    """The irreducible-loss table, made by ``rhoctl il fit``."""

    table: str | None = Field(None, description="Parquet file; needed by functions that use IL")
    overlap: Literal["forbid", "allow"] = Field(
        "forbid", description="'allow' accepts an IL model trained on points of the train split"
    )


class SelectionConfig(Section):
    """Which candidates become a batch (Algorithm 1)."""

    function: str = Field("reducible_loss", description="a built-in name or 'module:object'")
    n_b: int = Field(32, ge=1, description="points trained on per step")
    n_B: int = Field(320, ge=1, description="candidates drawn per step")
    chunk: int = Field(32, ge=1, description="candidates scored at once; divides n_B")
    mode: Literal["window", "stream"] = Field(
        "window", description="'stream': scorers never wait for weights; not exact, see [stream]"
    )
    lag: int | Literal["auto"] = Field(
        0,
        description="age in steps of the weights that score; 0 is Algorithm 1; 'auto' chooses by"
        " audits whichever takes least time, and is not exact",
    )
    max_lag: int = Field(1, ge=1, description="greatest lag that 'auto' may choose")
    audit_every: int = Field(
        0, ge=0, description="steps between audits of stale ranks; 0: 200 at lag 'auto', else none"
    )
    agreement: float = Field(
        0.9,
        gt=0,
        le=1,
        description="'auto' keeps to lags whose picks have at least this share of the reducible"
        " loss of fresh picks",
    )
    rescore: Literal["auto", "trainer", "scorers"] = Field(
        "auto", description="who re-scores a shortlist; the result is the same"
    )
    shortlist: int = Field(
        0,
        ge=0,
        description="k: re-score the best k n_b afresh; 0: 1 if scores are fresh, else 5",
    )
    temperature: float = Field(
        1.0, ge=0, description="Gumbel noise on stale scores when shortlist > 1"
    )
    bn: Literal["running", "batch"] = Field(
        "running", description="BatchNorm statistics when scoring: running, or of the chunk"
    )

    @field_validator("lag", mode="before")
    @classmethod
    def _lag(cls, value: object) -> object:
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= 0
        if not whole and value != "auto":
            raise ValueError(
                f"selection.lag: got {value!r}, allowed a whole number from 0 or 'auto'; 0 is exact"
            )
        return value

    @model_validator(mode="after")
    def _sizes(self) -> Self:
        if self.n_b > self.n_B:
            raise ValueError(
                f"selection.n_b: got {self.n_b}, allowed at most selection.n_B = {self.n_B};"
                " lower n_b or raise n_B"
            )
        if self.n_B % self.chunk:
            raise ValueError(
                f"selection.chunk: got {self.chunk}, allowed a divisor of selection.n_B ="
                f" {self.n_B}; change one of the two"
            )
        if self.shortlist * self.n_b > self.n_B:
            raise ValueError(
                f"selection.shortlist: got {self.shortlist}, allowed at most n_B / n_b ="
                f" {self.n_B // self.n_b}; a shortlist cannot exceed its window"
            )
        return self


class ScorerConfig(Section):
    """How scores are computed. Part of the result: the same on every worker."""

    precision: ScoringPrecision = Field(
        "auto",
        description="autocast dtype of the scoring forward; auto: bf16 where the hardware has it,"
        " else fp32",
    )
    threads: int = Field(1, ge=1, description="CPU threads of one scorer")
    prefetch: int = Field(2, ge=1, description="tickets claimed and read ahead of their weights")
    device: str = Field("auto", description="'auto', 'cpu', 'cuda' or 'cuda:N'")


class TrainerConfig(Section):
    """The optimizer steps."""

    steps: int = Field(1000, ge=1, description="optimizer steps")
    lr: float = Field(1e-3, gt=0, description="AdamW's learning rate at its peak")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's decoupled weight decay")
    schedule: Literal["constant", "cosine"] = Field("constant", description="learning rate")
    warmup_steps: int = Field(0, ge=0, description="steps of linear warm-up")
    clip_norm: float = Field(0.0, ge=0, description="gradient norm limit; 0 is off")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="autocast of training")
    threads: int = Field(1, ge=1, description="CPU threads of the trainer")
    scores: bool = Field(True, description="score chunks, too, while waiting for the scorers")
    device: str = Field("auto", description="'auto', 'cpu', 'cuda' or 'cuda:N'")
    publish_every: int = Field(1, ge=1, description="steps between snapshots")
    eval_every: int = Field(50, ge=1, description="steps between evaluations on the test split")
    eval_batch: int = Field(1000, ge=1, description="points per evaluation forward")
    checkpoint_every: int = Field(500, ge=1, description="steps between checkpoints")
    keep_checkpoints: int = Field(2, ge=1, description="newest checkpoints kept")
    targets: list[float] = Field(
        default_factory=lambda: [0.8, 0.85, 0.86, 0.87, 0.88, 0.89, 0.9],
        description="test accuracies whose first step goes into summary.json",
    )


class StreamConfig(Section):
    """The rolling queue of mode "stream" (unused in mode "window")."""

    ahead: int = Field(4, ge=1, description="windows that scorers may be ahead of the trainer")
    max_age: int = Field(16, ge=1, description="steps after which the weights of a score are old")
    capacity: int = Field(0, ge=0, description="points held at most, the lowest go; 0: ahead x n_B")


class QueueConfig(Section):
    """The Redis-protocol server between scorers and trainer (unused at --workers 0)."""

    url: str = Field(
        "embedded", description="'embedded', or redis://, rediss:// or unix:// of a server"
    )
    password_file: str | None = Field(None, description="file with the server's password")
    lease_s: float = Field(30.0, gt=0, description="seconds before a claimed chunk is re-issued")
    timeout_s: float = Field(600.0, gt=0, description="longest wait for a window before failing")


class SnapshotConfig(Section):
    """How weights travel from the trainer to the scorers."""

    transport: Literal["auto", "shm", "ray"] = Field(
        "auto", description="'shm' on one machine, 'ray' across machines; auto chooses"
    )


class ClusterConfig(Section):
    """The Ray cluster (unused at --workers 0)."""

    address: str = Field("local", description="'local' starts one here; else a cluster's address")


class MetricsConfig(Section):
    """The Prometheus endpoints, one a process, on loopback."""

    port: int = Field(
        0, ge=-1, le=65535, description="the trainer's port; 0 picks a free one; -1 is off"
    )


class Config(Section):
    """A whole run."""

    seed: int = Field(0, ge=0, lt=2**63, description="seed of everything")
    data: DataConfig
    model: ModelConfig = ModelConfig()
    il: IlConfig = IlConfig()
    selection: SelectionConfig = SelectionConfig()
    stream: StreamConfig = StreamConfig()
    scorer: ScorerConfig = ScorerConfig()
    trainer: TrainerConfig = TrainerConfig()
    queue: QueueConfig = QueueConfig()
    snapshots: SnapshotConfig = SnapshotConfig()
    cluster: ClusterConfig = ClusterConfig()
    metrics: MetricsConfig = MetricsConfig()

    @model_validator(mode="after")
    def _modes(self) -> Self:
        selection = self.selection
        if selection.lag == "auto" and self.trainer.publish_every > 1:
            raise ValueError(
                f"trainer.publish_every: got {self.trainer.publish_every}, allowed 1 with"
                ' selection.lag = "auto", which compares weights of every step'
            )
        if selection.mode == "window":
            return self
        if selection.lag != 0 or self.trainer.publish_every > 1:
            raise ValueError(
                f'selection.mode: got "stream" with selection.lag = {selection.lag!r} and'
                f" trainer.publish_every = {self.trainer.publish_every}, allowed lag 0 and 1:"
                " scorers take the newest weights; the bound of their age is stream.max_age"
            )
        wanted = self.k * selection.n_b
        if self.k == 1:
            raise ValueError(
                'selection.shortlist: got 1, allowed 2 or more with selection.mode = "stream":'
                " scores of mixed ages have to be taken afresh"
            )
        if self.capacity < wanted:
            raise ValueError(
                f"stream.capacity: got {self.capacity} points, allowed at least shortlist x n_b ="
                f" {wanted}, or no step could ever start"
            )
        return self

    @property
    def capacity(self) -> int:
        """Points that the rolling queue holds at most."""
        return self.stream.capacity or self.stream.ahead * self.selection.n_B

    @property
    def k(self) -> int:
        """Shortlist factor of windows scored with stale weights: without a choice 1 where there
        are none, else 5."""
        selection = self.selection
        fresh = selection.lag == 0 and self.trainer.publish_every == 1
        fresh = fresh and selection.mode == "window"
        return selection.shortlist or (1 if fresh else min(5, selection.n_B // selection.n_b))

    def k_of(self, window: int, version: int) -> int:
        """Shortlist factor of one window: with auto-lag, fresh ones need no second stage."""
        return 1 if self.selection.lag == "auto" and version == window else self.k

    @property
    def audit_every(self) -> int:
        """Steps between audits; 0 is never."""
        return self.selection.audit_every or (200 if self.selection.lag == "auto" else 0)

    @property
    def exact(self) -> bool:
        """Whether the result is the same for any number of workers."""
        return self.selection.mode == "window" and self.selection.lag != "auto"

    def to_toml(self) -> str:
        """The resolved configuration as TOML, every key present that has a value."""
        return tomlkit.dumps(self.model_dump(exclude_none=True))

    def changed_keys(self, other: Config) -> list[str]:
        """Dotted names of the keys in which ``other`` would give another result.

        Where servers are, who scores, how often things are shown and how long waits last may change
        on resume.
        """
        mine, theirs = (_flat(config.model_dump(exclude=FREE)) for config in (self, other))
        return sorted(n for n in mine.keys() | theirs.keys() if mine.get(n) != theirs.get(n))


def load(path: Path | None, overrides: Iterable[str] = ()) -> Config:
    """Read a TOML file, apply ``section.key=value`` overrides (values in TOML), check it all.

    Raises ConfigError with one line.
    """
    tree: dict[str, Any] = {}
    if path is not None:
        try:
            tree = tomllib.loads(path.read_text())
        except FileNotFoundError:
            raise ConfigError(
                f"configuration {path}: no such file; examples/ has one to copy"
            ) from None
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"configuration {path}: cannot be read as TOML: {error}") from None
    return apply(tree, overrides)


def apply(tree: dict[str, Any], overrides: Iterable[str]) -> Config:
    """Apply ``section.key=value`` overrides to a tree in place and check it. Raises ConfigError."""
    for override in overrides:
        _override(tree, override)
    return parse(tree)


def parse(tree: Mapping[str, Any]) -> Config:
    """Check a tree of plain values. Raises ConfigError naming the first offending key."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_one_line(error)) from None


def from_json(text: str) -> Config:
    """The configuration back from ``model_dump_json`` (crossing a process)."""
    return parse(json.loads(text))


def _secret_in(uri: str) -> str | None:
    """What in a URI looks like a secret, by its place or its name; never the secret itself."""
    parts = urlsplit(uri)
    if parts.password is not None or (parts.username is not None and parts.scheme == "s3"):
        return "a user and password before '@'"
    words = ("key", "secret", "token", "password", "credential", "signature")
    for name, _ in parse_qsl(parts.query, keep_blank_values=True):
        if any(word in name.lower() for word in words):
            return f"the option {name!r}"
    return None


def _override(tree: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set: got {override!r}, allowed section.key=value")
    try:
        value: Any = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word is a string, as a shell user expects
    if isinstance(value, date | time):
        value = text  # no key is a date; a folder's name may look like one
    for key in keys[:-1]:
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"--set {name}: got a path through {key!r}, which is not a section")
    tree[keys[-1]] = value


def _one_line(error: ValidationError) -> str:
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "value_error":
        return str(first["ctx"]["error"])
    if first["type"] == "extra_forbidden":
        return f"{name}: unknown key; allowed in its section: {_siblings(first['loc'])}"
    if first["type"] == "missing":
        return f"{name}: missing; set it in the file or with --set {name}.…"
    if first["type"] == "model_type":
        return f"{name}: got {first['input']!r}, allowed a section, as in [{name}]"
    if "args" in first["loc"][:-1]:  # each kind of value that an argument may be had its say
        name = ".".join(str(part) for part in first["loc"][:-1])
        return f"{name}: got {first['input']!r}, allowed a boolean, a finite number or a string"
    return f"{name}: got {first['input']!r}; {first['msg'].lower()}"


def _siblings(loc: tuple[int | str, ...]) -> str:
    section: Any = Config
    for part in loc[:-1]:
        section = section.model_fields[str(part)].annotation
    return ", ".join(section.model_fields)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Dotted names to values in JSON, which tells true, 1 and 1.0 apart."""
    flat: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = json.dumps(value)
    return flat
