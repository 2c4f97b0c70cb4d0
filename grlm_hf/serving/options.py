"""How a service is set up."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MB = 2**20


@dataclass(frozen=True)
class ServeOptions:
    """What `grlm_hf.serving.serve` may be told. Raises ``ValueError`` for a number out of its range."""

    host: str = "127.0.0.1"
    port: int = 8000
    """0: any free one."""
    state: Path | None = None
    """Folder that keeps changes of the catalog; ``None``: they are gone when the service stops."""
    catalog: Path | None = None
    """Folder whose ``catalog.parquet`` an empty ``POST /catalog/reload`` reads."""
    max_batch: int = 32
    """Histories searched at once."""
    max_wait_ms: float = 2.0
    """How long a request waits for others to share its batch, where nothing is under way."""
    queue: int = 256
    """Requests that may wait; beyond them the answer is 429."""
    max_body_mb: float = 1.0
    max_upload_mb: float = 256.0
    """Of an uploaded catalog; unpacked it may take eight times as much."""
    max_items: int = 2_000_000
    keep: int = 5
    """Versions of the catalog that are kept, the one served among them."""
    grace_s: float = 30.0
    """How long a stop waits for what is under way."""
    api_key: str = ""
    """Empty: whoever reaches the port may use it."""
    log_histories: bool = False

    def __post_init__(self) -> None:
        for name, low in (("max_batch", 1), ("queue", 1), ("keep", 1), ("max_items", 1), ("max_wait_ms", 0), ("grace_s", 0)):
            if not low <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}={getattr(self, name)}; expected at least {low}.")
        for name in ("max_body_mb", "max_upload_mb"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name}={getattr(self, name)}; expected a size above 0.")
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port={self.port}; expected 0 (any free one) to 65535.")
