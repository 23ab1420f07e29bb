"""The queue on a Redis-protocol server: the only place that imports ``redis``."""

from rhoselect.queue.redis.backend import RedisQueue
from rhoselect.queue.redis.check import check_server
from rhoselect.queue.redis.server import ping, server_name

__all__ = ["RedisQueue", "check_server", "ping", "server_name"]
