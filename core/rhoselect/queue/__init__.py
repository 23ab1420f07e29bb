"""The selection queue: windows of scored candidates, best first. Contract in ``base``."""

from rhoselect.queue.base import SelectionQueue, StreamQueue

__all__ = ["SelectionQueue", "StreamQueue"]
