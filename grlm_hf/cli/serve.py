"""The verb that answers over HTTP: serve."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from grlm_hf.cli.app import app, quiet
from grlm_hf.layout import Backend


@app.command
def serve(
    checkpoint: str,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    state: Path | None = None,
    catalog: Path | None = None,
    backend: Backend = "transformers",
    device: str = "",
    max_batch: int = 32,
    max_wait_ms: float = 2.0,
    queue: int = 256,
    max_body_mb: float = 1.0,
    max_upload_mb: float = 256.0,
    keep: int = 5,
    grace_s: float = 30.0,
    api_key_file: Path | None = None,
    log_histories: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Serve a recommender over HTTP: recommendations, and a catalog that changes while it runs.

    Example: `grlm serve grlm-quickstart/checkpoint --state serving-state --port 8000`

    Then: `curl localhost:8000/recommend -H 'content-type: application/json' -d '{"history": ["B0001", "B0042"], "k": 5}'`

    SIGTERM and Ctrl-C finish what is under way. The API key may also come in the environment, as GRLM_API_KEY.

    Parameters
    ----------
    checkpoint
        Folder or Hub id.
    host
        Address to listen on; 0.0.0.0 for all. Set an API key then.
    port
        0 takes any free one.
    state
        Folder that keeps changes of the catalog, through kill -9 too; without it they are lost at the end.
    catalog
        Folder whose catalog.parquet an empty POST /catalog/reload reads.
    backend
        transformers, or vllm for its engine.
    device
        Such as cuda; by default as loaded.
    max_batch
        Histories searched at once.
    max_wait_ms
        How long a request waits for others to share its search.
    queue
        Requests that may wait; the next is answered 429.
    max_body_mb
        Size of a request.
    max_upload_mb
        Size of an uploaded catalog.
    keep
        Versions of the catalog to keep for a rollback, the current one among them.
    grace_s
        How long a stop waits for what is under way.
    api_key_file
        File that holds the key clients must send: Authorization: Bearer KEY, or X-API-Key.
    log_histories
        Write the histories asked about into the log; by default it holds no item ids.
    """
    from grlm_hf.serving import ServeOptions
    from grlm_hf.serving import serve as run

    key = os.environ.get("GRLM_API_KEY", "").strip()
    if api_key_file is not None:
        try:
            key = api_key_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"Cannot read the API key from {api_key_file}: {error}") from error
        if not key:
            raise ValueError(f"{api_key_file} is empty; expected an API key.")
    options = ServeOptions(
        host=host, port=port, state=state, catalog=catalog, max_batch=max_batch, max_wait_ms=max_wait_ms, queue=queue,
        max_body_mb=max_body_mb, max_upload_mb=max_upload_mb, keep=keep, grace_s=grace_s, api_key=key, log_histories=log_histories,
    )  # fmt: skip
    quiet()
    run(checkpoint, options, backend=backend, device=device)
