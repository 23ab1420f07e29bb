"""The options of ``write_dataset`` for label noise, a holdout, and a mix of points.

Each option draws from a random stream of its own, seeded by ``noise_seed``, so that one option does
not change what another one draws. They are applied in this order: labels mapped, test, noise,
holdout, relevance, ambiguous points, duplicates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rhoselect.data.manifest import Pairs
from rhoselect.errors import DataError, listed
from rhoselect.importers.columns import Columns
from rhoselect.sources.source import ORDER

NOISE, HOLDOUT, RELEVANCE, AMBIGUOUS, TEST = range(5)
"""The random streams: each is seeded by (noise_seed, one of these)."""
Parts = Mapping[str, Columns]


@dataclass(frozen=True)
class Recipe:
    """Options of ``write_dataset``.

    ``map_labels``: the labels that occur are numbered anew, from 0 in their order, and no other
    class is left.

    ``label_noise`` = P: each label of train and holdout becomes, independently with probability P,
    one of the *other* classes, uniformly; with ``noise_pairs`` ((from, to), …) a label ``from``
    becomes ``to``, and classes that are no ``from`` keep theirs (structured noise between
    confusable classes, Rolnick et al. 2017). The true one is kept in ``clean_label``.
    ``holdout_noise`` is P for the holdout, if it is to differ: 0 keeps its labels clean.

    ``test`` makes that random fraction of train the split "test", first of all, for a source that
    has none.

    ``holdout`` moves that random fraction of train into the split "holdout" (``holdout_seed``
    defaults to ``noise_seed``). The noise is drawn before, so a point has the same label whatever
    the fraction.

    ``relevance`` = (K, share) keeps K random classes in full and ``share`` of each other class, by
    true label, in the splits ``relevance_splits``: with (20, 0.0625), 20 of 100 classes have 80% of
    the data.

    ``ambiguous`` = A appends A times as many points as there are to train and holdout, each the
    mean of two of the split's points of different classes, with the true label of either at random.

    ``duplicates`` = K: a ``duplicate_share`` of the points of train is there K times in all.
    """

    map_labels: bool = False
    test: float = 0.0
    label_noise: float = 0.0
    noise_seed: int = 0
    noise_pairs: Pairs = ()
    holdout_noise: float | None = None
    holdout: float = 0.0
    holdout_seed: int | None = None
    relevance: tuple[int, float] | None = None
    relevance_splits: tuple[str, ...] = ORDER
    ambiguous: float = 0.0
    duplicates: int = 1
    duplicate_share: float = 1.0

    @property
    def needed(self) -> tuple[str, ...]:
        """The splits that a source must have."""
        return ("train",) if self.test else ("train", "test")

    def check(self) -> None:
        """Raises DataError for a fraction, a seed, a number or a pair that makes no sense."""
        self._check_noise()
        for name, seed in (("noise", self.noise_seed), ("holdout", self.holdout_seed or 0)):
            if seed < 0:
                raise DataError(f"{name} seed: got {seed}, allowed 0 or more")
        if not 0 <= self.ambiguous < 10:
            raise DataError(f"ambiguous: got {self.ambiguous}, allowed a share in [0, 10)")
        if self.duplicates < 1 or not 0 < self.duplicate_share <= 1:
            raise DataError(
                f"duplicates: got {self.duplicates} of a share {self.duplicate_share}, allowed 1 or"
                " more times, of a share in (0, 1]"
            )
        if self.relevance is not None and not (
            self.relevance[0] >= 1 and 0 < self.relevance[1] <= 1
        ):
            raise DataError(
                f"relevance: got {self.relevance}, allowed 1 or more classes in full and a share in"
                " (0, 1] of the others"
            )
        if unknown := sorted(set(self.relevance_splits) - set(ORDER)):
            raise DataError(f"relevance splits: got {unknown[0]!r}, allowed {', '.join(ORDER)}")

    def _check_noise(self) -> None:
        fractions = {
            "label noise": self.label_noise,
            "holdout noise": self.holdout_noise or 0.0,
            "holdout": self.holdout,
            "test": self.test,
        }
        for name, value in fractions.items():
            if not 0 <= value < 1:
                raise DataError(f"{name}: got {value}, allowed a fraction in [0, 1)")
        if self.noise_pairs and not (self.label_noise or self.holdout_noise):
            raise DataError("noise pairs: got pairs without label noise, allowed with, such as 0.5")
        sources = [pair[0] for pair in self.noise_pairs]
        if len(set(sources)) < len(sources) or any(
            a == b or min(a, b) < 0 for a, b in self.noise_pairs
        ):
            raise DataError(
                f"noise pairs: got {listed(self.noise_pairs)}, allowed (from, to) of two classes,"
                " each class at most once as the first"
            )
