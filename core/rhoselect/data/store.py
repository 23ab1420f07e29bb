"""Files of a remote data set, read through any pyarrow filesystem, with retries.

A read that fails is tried again from the byte where it stopped, with growing pauses, until nothing
has come for ``timeout_s``. Credentials come only from the environment (as the filesystem's own
client finds them); ``DataConfig`` refuses an address that holds a secret.
"""

from __future__ import annotations

import hashlib
import io
import time
from typing import Any, BinaryIO
from urllib.parse import parse_qsl, urlsplit

import pyarrow as pa
import pyarrow.fs

from rhoselect.errors import ConfigError, DataError, WaitError
from rhoselect.importing import one_line

PIECE_BYTES = 8 << 20
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
S3_OPTIONS = ("region", "scheme", "endpoint_override", "tls_ca_file_path")
REFUSALS = ("ACCESS_DENIED", "SIGNATURE_DOES_NOT_MATCH", "INVALID_ACCESS_KEY_ID")


class Store:
    """The folder that ``uri`` names, as in ``s3://bucket/prefix?endpoint_override=host:port``."""

    def __init__(self, uri: str, timeout_s: float) -> None:
        self.location = uri.partition("?")[0].rstrip("/")
        self._uri, self._timeout_s = uri, timeout_s
        self._files: tuple[Any, str] | None = None

    def read(self, name: str) -> bytes:
        """A whole small file. Raises as ``fetch``."""
        content = io.BytesIO()
        self.fetch(name, content)
        return content.getvalue()

    def fetch(
        self, name: str, file: BinaryIO, size: int | None = None, patient: bool = True
    ) -> str:
        """Write a file of the store into ``file``; return the sha256 of what was written.

        Raises DataError for a file that is not there, not readable or not of ``size`` bytes, and
        WaitError when nothing came for ``timeout_s``, or at the first failure unless ``patient``.
        """
        digest, offset = hashlib.sha256(), 0
        source, pause_s, deadline = None, FIRST_PAUSE_S, time.monotonic() + self._timeout_s
        while True:
            try:
                source = self._open(name, size) if source is None else source
                piece = source.read_at(PIECE_BYTES, offset)
            except (OSError, pa.ArrowException) as error:
                source = None
                self._raise_if_final(name, error)
                if not patient or time.monotonic() + pause_s > deadline:
                    raise self._gave_up(name, error) from None
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                continue
            if not piece:
                return digest.hexdigest()
            file.write(piece)
            digest.update(piece)
            offset += len(piece)
            pause_s, deadline = FIRST_PAUSE_S, time.monotonic() + self._timeout_s

    def _open(self, name: str, size: int | None) -> Any:
        if self._files is None:
            self._files = connect(self._uri)
        files, folder = self._files
        source = files.open_input_file(f"{folder}/{name}")
        if size is not None and (got := source.size()) != size:
            raise DataError(
                f"shard {self.location}/{name}: got {got} bytes, allowed {size} by the manifest;"
                " upload the data set again"
            )
        return source

    def _raise_if_final(self, name: str, error: Exception) -> None:
        """Raise DataError for an error that a retry cannot mend."""
        if isinstance(error, FileNotFoundError):
            raise DataError(
                f"data set {self.location}: has no {name}; allowed the files of a folder made by"
                " `rhoctl data import`"
            ) from None
        if any(refusal in str(error) for refusal in REFUSALS):
            raise DataError(
                f"data set {self.location}: {name} is refused ({one_line(error)}); set credentials"
                " in the environment, as in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            ) from None

    def _gave_up(self, name: str, error: Exception) -> WaitError:
        return WaitError(
            f"shard {self.location}/{name}: nothing came for {self._timeout_s:g} s"
            f" (data.timeout_s): {one_line(error)}"
        )


def connect(uri: str) -> tuple[Any, str]:
    """The filesystem of a URI and the path in it. Raises ConfigError for what none serves."""
    try:
        if uri.startswith("s3://"):
            return _s3(uri)
        files, path = pa.fs.FileSystem.from_uri(uri)
    except ValueError as error:
        raise ConfigError(
            f"data.path: got {uri!r}, allowed a folder or a URI that pyarrow serves, such as"
            f" s3://bucket/prefix ({one_line(error)})"
        ) from None
    return files, path.rstrip("/")


def _s3(uri: str) -> tuple[Any, str]:
    """As ``FileSystem.from_uri``, but that one keeps trying for 100 s by itself."""
    parts = urlsplit(uri)
    options = dict(parse_qsl(parts.query))
    if unknown := sorted(options.keys() - set(S3_OPTIONS)):
        raise ConfigError(
            f"data.path: got the option {unknown[0]!r}, allowed {', '.join(S3_OPTIONS)}"
        )
    if not parts.netloc:
        raise ConfigError(f"data.path: got {uri!r} without a bucket, allowed s3://bucket/prefix")
    if not options.keys() & {"region", "endpoint_override"}:
        options["region"] = pa.fs.resolve_s3_region(parts.netloc)
    once = pa.fs.AwsStandardS3RetryStrategy(max_attempts=1)
    files = pa.fs.S3FileSystem(retry_strategy=once, **options)
    return files, f"{parts.netloc}{parts.path}".rstrip("/")
