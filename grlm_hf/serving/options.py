"""The settings of a service."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from grlm_hf.settings import Count, NotNegative, Positive, Range, check_settings

MB = 2**20
LOCAL = ("127.0.0.1", "localhost", "::1")
"""Names of this machine, which nobody else can reach."""


@dataclass(frozen=True)
class ServeOptions:
    """The options of `grlm_hf.serving.serve`. Raises ``ValueError`` for a number out of its range."""

    host: str = "127.0.0.1"
    port: Annotated[int, Range(0, 65535, text="0 (any free one) to 65535")] = 8000
    state: Path | None = None
    """Folder that keeps changes of the catalog; ``None``: they are lost when the service stops."""
    catalog: Path | None = None
    """Folder whose ``catalog.parquet`` an empty ``POST /catalog/reload`` reads."""
    prior: Literal["own", "none"] | None = None
    """For requests that do not say; ``None``: as the checkpoint was evaluated."""
    exclude_seen: bool | None = None
    """Likewise: whether items of the history are left out."""
    max_batch: Count = 32
    """Histories searched at once."""
    max_wait_ms: NotNegative = 2.0
    """How long the first request of a batch waits for others."""
    queue: Count = 256
    """Maximum number of waiting requests; the next ones get status 429."""
    max_body_mb: Positive = 1.0
    max_upload_mb: Positive = 256.0
    """Maximum size of an uploaded catalog; unpacked it may be six times as large."""
    max_items: Count = 2_000_000
    max_beams: Count = 16_384
    """Maximum of histories times beams in a request."""
    max_seconds: Positive = 30.0
    """Time for a request that states no deadline of its own, or a later one."""
    allowed_hosts: tuple[str, ...] = ()
    """Further names under which the service may be asked; see `grlm_hf.serving.door`."""
    keep: Count = 5
    """Versions of the catalog to keep, the current one among them."""
    grace_s: NotNegative = 30.0
    """How long a stop waits for running requests."""
    api_key: str = ""
    """Empty: no key is needed."""
    log_histories: bool = False

    def __post_init__(self) -> None:
        check_settings(self)
