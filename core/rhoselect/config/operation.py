"""The sections of operation: servers, snapshots, cluster, metrics, service."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from rhoselect.config.base import Place, Section, absolute

Amount = Annotated[float, Field(ge=0)]


class QueueConfig(Section):
    """The Redis-protocol server between scorers and trainer (unused at --workers 0)."""

    url: str = Field(
        "embedded", description="'embedded', or redis://, rediss:// or unix:// of a server"
    )
    password_file: Place | None = Field(None, description="file with the server's password")
    tls_ca: Place | None = Field(
        None, description="PEM file of the CA that signed a rediss:// server; the system's if unset"
    )
    tls_cert: Place | None = Field(
        None, description="PEM file of our certificate, for a server that asks for one"
    )
    tls_key: Place | None = Field(None, description="PEM file of its private key, unencrypted")
    lease_s: float = Field(30.0, gt=0, description="seconds before a claimed chunk is re-issued")
    timeout_s: float = Field(600.0, gt=0, description="longest wait without a score before failing")

    @field_validator("url")
    @classmethod
    def _absolute_socket(cls, url: str) -> str:
        home = url.startswith("unix://~")  # redis-py takes absolute paths alone
        return f"unix://{absolute(url.removeprefix('unix://'))}" if home else url


class SnapshotConfig(Section):
    """How weights travel from the trainer to the scorers."""

    transport: Literal["auto", "shm", "ray"] = Field(
        "auto", description="'shm' on one machine, 'ray' across machines; auto chooses"
    )
    only: Literal["all", "trainable"] = Field(
        "all",
        description="'trainable': parameters with requires_grad = False, as below adapters, stay"
        " out; each scorer makes them once",
    )


class ClusterConfig(Section):
    """The Ray cluster (unused at --workers 0 with one of trainer.devices), and the resources that
    an actor takes on its node (unused on a 'local' cluster, which has room for all actors). With
    several devices: how those processes share the work."""

    address: str = Field(
        "local",
        description="'local' starts one here; else a cluster's address, and trainer.devices may be"
        " on several machines of it",
    )
    trainer: dict[str, Amount] = Field(
        default_factory=dict,
        description="resources that each of trainer.devices takes: CPU, GPU and those given to 'ray"
        " start --resources'; unset: CPU as trainer.threads and, on CUDA, GPU = 1",
    )
    scorer: dict[str, Amount] = Field(
        default_factory=dict, description="resources that each scorer takes, likewise"
    )
    start_s: float = Field(
        120.0, gt=0, description="seconds to wait until every actor has a place; raise to autoscale"
    )
    mode: Literal["auto", "colocated", "split"] = Field(
        "auto",
        description="colocated: each device of trainer.devices scores and trains, beside scorers if"
        " there are any; split: they train, and scorers score; auto: the run says which and why",
    )
    rank_timeout_s: float = Field(
        60.0,
        gt=0,
        description="seconds without a word from one of trainer.devices after which a run ends;"
        " longer than its part of a step takes",
    )


class MetricsConfig(Section):
    """The Prometheus endpoints, one per process."""

    port: int = Field(
        0, ge=-1, le=65535, description="the trainer's port; 0 picks a free one; -1 is off"
    )
    host: str = Field(
        "127.0.0.1",
        description="address to listen on, without a password; '0.0.0.0' if Prometheus is on"
        " another machine",
    )
    discovery_dir: Place | None = Field(
        None,
        description="folder that Prometheus' file_sd_configs read, for any number of runs; the"
        " run folder's logs/metrics has the same files",
    )


class ServiceConfig(Section):
    """The gRPC service of a run. Secrets stay in files, or in RHOSELECT_SERVICE_TOKEN."""

    address: str = Field(
        "127.0.0.1:0",
        description="host:port (0 picks a free one) or unix:PATH; beyond loopback only with TLS"
        " and a token",
    )
    token_file: Place | None = Field(None, description="file with the token that callers must send")
    tls_cert: Place | None = Field(None, description="PEM file of the server's certificate chain")
    tls_key: Place | None = Field(None, description="PEM file of its private key")
    tls_client_ca: Place | None = Field(
        None, description="PEM file of the CA that signs callers' certificates; then required"
    )

    @field_validator("address")
    @classmethod
    def _absolute_socket(cls, address: str) -> str:
        kind, unix, path = address.partition("unix:")
        return f"unix:{absolute(path)}" if unix and path and not kind else address

    @model_validator(mode="after")
    def _pairs(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError(
                "service.tls_cert: got one of service.tls_cert and service.tls_key, allowed both or"
                " neither"
            )
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError(
                "service.tls_client_ca: got a file, allowed only with service.tls_cert and"
                " service.tls_key"
            )
        port = self.address.rpartition(":")[2]
        unix = self.address.startswith("unix:") and len(self.address) > len("unix:")
        if not unix and not (":" in self.address and port.isdecimal() and int(port) < 2**16):
            raise ValueError(
                f"service.address: got {self.address!r}, allowed host:port (port 0 picks a free"
                " one) or unix:PATH"
            )
        return self
