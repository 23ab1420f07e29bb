"""The Prometheus metrics of one process, and how a Prometheus server finds them."""

from rhoselect.metrics.collectors import WORKER_STATES, WorkerState
from rhoselect.metrics.endpoint import announced, check_endpoint, withdraw
from rhoselect.metrics.process import Metrics
from rhoselect.metrics.series import STALENESS_STEPS, Role

__all__ = [
    "STALENESS_STEPS",
    "WORKER_STATES",
    "Metrics",
    "Role",
    "WorkerState",
    "announced",
    "check_endpoint",
    "withdraw",
]
