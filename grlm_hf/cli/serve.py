"""The verb serve: a recommender over HTTP."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

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
    prior: Literal["own", "none"] | None = None,
    exclude_seen: bool | None = None,
    max_batch: int = 32,
    max_wait_ms: float = 2.0,
    queue: int = 256,
    max_body_mb: float = 1.0,
    max_upload_mb: float = 256.0,
    max_beams: int = 16_384,
    max_seconds: float = 30.0,
    allowed_host: list[str] | None = None,
    keep: int = 5,
    grace_s: float = 30.0,
    api_key_file: Path | None = None,
    log_histories: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Serve a recommender over HTTP: recommendations, and a catalog that changes while it runs.

    Example: `grlm serve grlm-quickstart/checkpoint --state serving-state --port 8000`

    Then: `curl localhost:8000/recommend -H 'content-type: application/json' -d '{"history": ["B0001", "B0042"], "k": 5}'`

    SIGTERM and Ctrl-C finish running requests. The API key may also be in the environment variable GRLM_API_KEY.

    Parameters
    ----------
    checkpoint
        Folder or Hub id.
    host
        Address to listen on; 0.0.0.0 for all, with an API key.
    port
        0 chooses a free port.
    state
        Folder that saves changes of the catalog, safe against kill -9; without it they are lost when the service stops.
    catalog
        Folder with the catalog.parquet that an empty POST /catalog/reload reads.
    backend
        transformers, or vllm to search with its engine.
    device
        Device of the model, such as cuda; by default where it is loaded.
    prior
        own, to use the checkpoint's recommender without a language model beside it, or none; for requests that do not say. By default as
        the checkpoint was evaluated.
    exclude_seen
        Whether items of the history are left out; for requests that do not say. By default as the checkpoint was evaluated.
    max_batch
        Largest number of histories in a search.
    max_wait_ms
        Time that a request waits for others to share its search.
    queue
        Largest number of waiting requests; further ones are answered 429.
    max_body_mb
        Largest size of a request.
    max_upload_mb
        Largest size of an uploaded catalog.
    max_beams
        Largest product of histories and beams in a request.
    max_seconds
        Time for a request; a request may state a shorter one (deadline_ms).
    allowed_host
        Host name, besides this machine's own, under which clients may ask; repeat for more. Without an API key, a service on 127.0.0.1
        answers only to 127.0.0.1, localhost and [::1].
    keep
        Number of versions of the catalog to keep for a rollback, including the current one.
    grace_s
        Time that a stop waits for running requests.
    api_key_file
        File with the key that clients must send: Authorization: Bearer KEY, or X-API-Key.
    log_histories
        Log the histories of requests; by default the log has no item ids.
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
        host=host, port=port, state=state, catalog=catalog, prior=prior, exclude_seen=exclude_seen,
        max_batch=max_batch, max_wait_ms=max_wait_ms, queue=queue,
        max_body_mb=max_body_mb, max_upload_mb=max_upload_mb, max_beams=max_beams, max_seconds=max_seconds,
        allowed_hosts=tuple(allowed_host or ()), keep=keep, grace_s=grace_s, api_key=key, log_histories=log_histories,
    )  # fmt: skip
    quiet()
    run(checkpoint, options, backend=backend, device=device)
