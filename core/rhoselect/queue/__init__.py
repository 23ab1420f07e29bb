"""The queues: windows of scored candidates, or one rolling set of them. Contracts in ``base``."""

from rhoselect.queue.base import SelectionQueue

__all__ = ["SelectionQueue"]
