"""The exceptions of rhoselect, and the parts of their messages that have to be kept short.

    RhoError
    ├── UserError (ValueError)      bad input: exit code 2, one line: what, got, allowed, what to do
    │   ├── ConfigError             a key of the configuration, or a flag
    │   │   └── HardwareError       a process on other hardware or releases than the run's others
    │   ├── DataError               a data set: folder, manifest, shard, label
    │   ├── IrreducibleLossError    an irreducible-loss table
    │   ├── ModelError              a model factory, or what its model returns
    │   ├── QueueConfigError        a queue server that cannot be used as it is set up
    │   ├── RunFolderError          a run folder: exists, missing, changed configuration
    │   └── NonFiniteLossError      training diverged: the settings do not train
    ├── RunStopped                  a run that was asked to end before its last step: exit code 0
    └── RunError (RuntimeError)     a run that could not go on: exit code 1
        ├── FencedError             a newer trainer owns this run folder
        ├── WindowError             a window with fewer than n_b usable scores
        ├── SnapshotGoneError       a snapshot that no open window needs any more
        ├── ServiceError            a service that cannot be reached
        ├── StorageError            the run folder cannot be written: full, gone, read-only
        ├── LostRankError           a rank of a data-parallel trainer that does not come
        └── WaitError               a wait passed its deadline: names what never came

Broken invariants of our own are ``assert``; they are bugs, not errors of this tree.

Sources can have thousands of names, and other libraries write long texts. A message of ours is read
in one look: it lists names with ``listed``, several faults with ``faults`` and quotes others with
``shortened``.
"""

from __future__ import annotations

from collections.abc import Iterable

MOST_LISTED = 10
MOST_CHARACTERS = 120
"""Of one listed name."""
MOST_QUOTED = 500
"""Characters of a text that is not ours."""
MOST_FAULTS = 4


def listed(names: Iterable[object], most: int = MOST_LISTED, between: str = ", ") -> str:
    """The first ``most`` names and how many more there are; "none" if there are none."""
    everything = [str(name) for name in names]
    shown = [shortened(name, MOST_CHARACTERS) for name in everything[:most]]
    more = f" (and {len(everything) - most} more)" if len(everything) > most else ""
    return f"{between.join(shown) or 'none'}{more}"


def shortened(text: str, most: int = MOST_QUOTED) -> str:
    """The text in one line of at most ``most`` characters."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def faults(found: Iterable[tuple[str, str]]) -> str:
    """All faults (name, what is wrong with it) in one line, so that a user mends them at once.

    Names with the same fault are told together; an empty one is left out. After ``MOST_FAULTS`` it
    says how many more there are.
    """
    names: dict[str, dict[str, None]] = {}
    for name, fault in found:
        names.setdefault(fault, {})[name] = None
    told = [f"{listed(group)}: {fault}" if all(group) else fault for fault, group in names.items()]
    more = f"; and {len(told) - MOST_FAULTS} more" if len(told) > MOST_FAULTS else ""
    return "; and ".join(told[:MOST_FAULTS]) + more


class RhoError(Exception):
    """Everything that rhoselect raises on purpose."""

    exit_code = 1


class UserError(RhoError, ValueError):
    """Bad input. The message is one line: what, got, allowed, what to do."""

    exit_code = 2


class ConfigError(UserError):
    """A configuration key or a flag has a value that cannot be used."""


class HardwareError(ConfigError):
    """A process that scores differs from the others in hardware, releases or the probe's bits."""


class DataError(UserError):
    """A data set on disk (or a source to import) cannot be used."""


class IrreducibleLossError(UserError):
    """An irreducible-loss table is missing, foreign or incomplete."""


class ModelError(UserError):
    """A model factory cannot be imported, or its model breaks the [C, K] contract."""


class QueueConfigError(UserError):
    """The queue server is unreachable, refuses us, or is set up to lose data."""


class RunFolderError(UserError):
    """A run folder exists, is missing, or was made with another configuration."""


class NonFiniteLossError(UserError):
    """The training loss became NaN or infinite."""


class RunStopped(RhoError):
    """A run ended before its last step because someone asked it to; it can be resumed."""

    exit_code = 0


class RunError(RhoError, RuntimeError):
    """A run that was set up well could not go on."""


class FencedError(RunError):
    """A newer trainer generation owns the run folder; this one must stop."""


class WindowError(RunError):
    """A window has fewer than n_b points with a finite score."""


class SnapshotGoneError(RunError):
    """The snapshot asked for is older than the oldest one kept."""


class ServiceError(RunError):
    """A selection service cannot be reached."""


class StorageError(RunError):
    """A run folder cannot be written any more."""


class LostRankError(RunError):
    """Another rank of a data-parallel trainer died, froze or cannot be reached."""


class WaitError(RunError):
    """A wait passed its deadline."""
