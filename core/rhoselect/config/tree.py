"""The whole configuration, values derived from several keys, and the comparison of two of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, model_validator

from rhoselect.config.base import Section
from rhoselect.config.methods import InfoBatchConfig, SvpConfig
from rhoselect.config.operation import (
    ClusterConfig,
    MetricsConfig,
    QueueConfig,
    ServiceConfig,
    SnapshotConfig,
)
from rhoselect.config.scoring import ComputeConfig, ScorerConfig
from rhoselect.config.sections import (
    AugmentConfig,
    DataConfig,
    IlConfig,
    ModelConfig,
    SelectionConfig,
    TaskConfig,
)
from rhoselect.config.training import TrainerConfig
from rhoselect.errors import listed

INPUTS = {
    "data": {"path"},
    "model": {"weights"},
    "il": {"table", "weights"},
    "svp": {"table"},
}
"""Keys that say where a run's inputs are. These may move: what they hold is compared, by the hash
``inputs_sha256``."""

FREE: dict[str, Any] = {
    **INPUTS,
    "data": INPUTS["data"] | {"resident", "cache_dir", "cache_bytes", "timeout_s"},
    "queue": True,
    "snapshots": {"transport"},
    "cluster": True,
    "metrics": True,
    "service": True,
    "scorer": {"prefetch"},
    "trainer": {"scores", "devices", "tracker"},
    "selection": {"rescore"},
}
"""Keys that no result depends on."""


class Config(Section):
    """A whole run."""

    seed: int = Field(0, ge=0, lt=2**63, description="seed of everything")
    data: DataConfig
    augment: AugmentConfig = AugmentConfig()
    task: TaskConfig = TaskConfig()
    model: ModelConfig = ModelConfig()
    il: IlConfig = IlConfig()
    svp: SvpConfig = SvpConfig()
    infobatch: InfoBatchConfig = InfoBatchConfig()
    selection: SelectionConfig = SelectionConfig()
    scorer: ScorerConfig = ScorerConfig()
    trainer: TrainerConfig = TrainerConfig()
    compute: ComputeConfig = ComputeConfig()
    queue: QueueConfig = QueueConfig()
    snapshots: SnapshotConfig = SnapshotConfig()
    cluster: ClusterConfig = ClusterConfig()
    metrics: MetricsConfig = MetricsConfig()
    service: ServiceConfig = ServiceConfig()

    @model_validator(mode="after")
    def _folding(self) -> Self:
        selection = self.selection
        if self.scorer.fold_batchnorm and selection.bn != "running":
            raise ValueError(
                f"scorer.fold_batchnorm: got true with selection.bn = {selection.bn!r}, allowed"
                ' with "running": the statistics of a chunk are not known before it is scored; set'
                " one of the two"
            )
        return self

    @model_validator(mode="after")
    def _parts(self) -> Self:
        n_b, m, k = self.selection.n_b, self.trainer.micro_batches, self.trainer.devices
        if n_b % m:
            raise ValueError(
                f"trainer.micro_batches: got {m}, allowed {_powers(n_b)}, as they have equal parts"
                f" of the selection.n_b = {n_b} points of a batch; change one of the two"
            )
        if k > m:
            raise ValueError(
                f"trainer.devices: got {k}, allowed {_powers(m)}, as each device has an equal share"
                f" of trainer.micro_batches = {m}; change one of the two"
            )
        return self

    @model_validator(mode="after")
    def _fresh_on_all_devices(self) -> Self:
        if self.staleness_bound and self.cluster.mode == "colocated":
            lag, every = self.selection.lag, self.trainer.publish_every
            raise ValueError(
                f"cluster.mode: got 'colocated' with selection.lag = {lag} and"
                f" trainer.publish_every = {every}, allowed lag 0 and publish_every 1: devices that"
                " all score and then all train have nothing to overlap; or set cluster.mode ="
                " 'split' and use scorers"
            )
        return self

    @model_validator(mode="after")
    def _divided(self) -> Self:
        trainer = self.trainer
        if trainer.parallel != "fsdp":
            return self
        if trainer.ema:
            raise ValueError(
                f"trainer.ema: got {trainer.ema} with trainer.parallel = 'fsdp', allowed 0: no rank"
                " has a whole model to average; change one of the two"
            )
        groups = [group.optimizer.name for group in trainer.groups if group.optimizer]
        for name in (trainer.optimizer.name, *groups):
            if name.removeprefix("torch.optim:") not in ELEMENTWISE:
                raise ValueError(
                    f"trainer.optimizer: got {name!r} with trainer.parallel = 'fsdp', allowed"
                    f" {listed(ELEMENTWISE)}, which update each number by itself, as ranks have"
                    " parts of parameters; or set 'replicated'"
                )
        return self

    @model_validator(mode="after")
    def _walk(self) -> Self:
        selection = self.selection
        if selection.function != "infobatch":
            return self
        wrong = [
            f"selection.{key}: got {got}, allowed {allowed}"
            for key, allowed in (
                ("n_B", selection.n_b),
                ("lag", 0),
                ("audit_every", 0),
                ("max_tokens", 0),
            )
            if (got := getattr(selection, key)) != allowed
        ]
        if wrong:
            raise ValueError(
                f"{'; '.join(wrong)} with selection.function = 'infobatch', which scores nothing"
                f" and takes whole epochs by selection.n_b = {selection.n_b} points; change them"
            )
        return self

    @model_validator(mode="after")
    def _tokens(self) -> Self:
        share, trainer = self.selection.tokens, self.trainer
        if share < 1 and (trainer.micro_batches > 1 or trainer.label_smoothing):
            raise ValueError(
                f"selection.tokens: got {share} with trainer.micro_batches ="
                f" {trainer.micro_batches} and trainer.label_smoothing = {trainer.label_smoothing},"
                " allowed 1 and 0, as it compares the plain losses of all tokens of a batch; change"
                " one of them"
            )
        return self

    @property
    def k(self) -> int:
        """Shortlist factor: the best k n_b points of a window are re-scored. If
        selection.shortlist is 0: 1 (no second stage) if scores are always fresh, else 5."""
        selection = self.selection
        fresh = selection.lag == 0 and self.trainer.publish_every == 1
        return selection.shortlist or (1 if fresh else min(5, selection.n_B // selection.n_b))

    @property
    def staleness_bound(self) -> int:
        """The greatest age, in steps, of the weights that scored a point, when it is selected."""
        return self.selection.lag + self.trainer.publish_every - 1

    @property
    def scorers_rescore(self) -> bool:
        """Whether the scorers also re-score shortlists, through the queue. They can do so only if
        they have the target's weights of every version; otherwise only the trainer has them."""
        selection = self.selection
        have = self.trainer.publish_every == 1 and not self.scorer.proxy
        return selection.rescore == "scorers" and self.k > 1 and have

    def lanes(self, workers: int) -> int:
        """How many processes share the tickets of a window: the scorers, and the trainer if it
        scores, with all its ranks if they score, too."""
        ranks = self.trainer.devices if self.cluster.mode == "colocated" else 1
        return max(1, workers + ranks * self.trainer.scores) if workers else 1

    @property
    def inputs(self) -> dict[str, str]:
        """Where the run's inputs are: paths and URIs by key, of those that are set."""
        tree = self.model_dump(include=INPUTS, exclude_none=True)
        return {f"{section}.{key}": at for section in tree for key, at in tree[section].items()}

    @property
    def data_keys(self) -> dict[str, str]:
        """``data.dataset`` and its keywords, values in JSON: they say which points these are. Empty
        with ``data.path``: there the content says it."""
        if self.data.dataset is None:
            return {}
        return flat(self.model_dump(include={"data": {"dataset", "args"}}))

    def to_toml(self) -> str:
        """The configuration as TOML, with every key that has a value."""
        import tomlkit  # scorers and looks at a run write no configuration

        return tomlkit.dumps(self.model_dump(exclude_none=True))

    def changed_keys(self, other: Config) -> list[str]:
        """Dotted names of the keys that differ in ``other`` and that results depend on.

        The keys in `FREE` (paths, servers, timeouts, which processes score) may change on resume.
        """
        mine, theirs = (flat(config.model_dump(exclude=FREE)) for config in (self, other))
        return sorted(n for n in mine.keys() | theirs.keys() if mine.get(n) != theirs.get(n))


ELEMENTWISE = ("AdamW", "Adam", "SGD", "Adagrad", "RMSprop")
"""Optimizers of torch.optim that a divided model may have."""


def _powers(number: int) -> str:
    """The powers of two that divide ``number``, for a message."""
    return listed(2**n for n in range((number & -number).bit_length()))


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Dotted names mapped to values in JSON, in which true, 1 and 1.0 differ."""
    found: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = json.dumps(value)
    return found


def is_free(name: str) -> bool:
    """Whether no result depends on the key of this dotted name."""
    section, _, key = name.partition(".")
    free = FREE.get(section, ())
    return free is True or key in free
