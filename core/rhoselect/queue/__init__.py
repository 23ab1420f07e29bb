"""The selection queue: windows of scored candidates, best first. Contract in ``base``."""

from rhoselect.queue.base import SelectionQueue

__all__ = ["SelectionQueue"]
