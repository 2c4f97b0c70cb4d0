"""What every request passes: the API key, the limits of its body, its line in the log, its metrics."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import hmac
import json
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from fastapi import HTTPException, Response

from grlm_hf.serving.batcher import Refused, failure
from grlm_hf.serving.options import LOCAL, MB
from grlm_hf.serving.service import Service
from grlm_hf.tables.parquet import release

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

UPLOAD_PATH = "/catalog/reload"
METHODS = ("GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH")
OPEN_PATHS = ("/health", "/health/live", "/health/ready", "/docs", "/openapi.json")
"""They need no key: of the catalog they state only the version."""
DISCARDED = 16 * MB
"""Bytes read and discarded after the limit, so that a client still uploading receives the 413 response."""
BODY_S, UPLOAD_S = 30.0, 600.0
"""Seconds within which a body must arrive."""
LARGE = "grlm_large"
"""Marks, in the scope of a request, that its memory is worth returning to the system."""
UNPACKED = 9.0
"""JSON may take this many times the limit of a body in memory, the body included."""
_HEADERS = {401: {"WWW-Authenticate": "Bearer"}, 408: {"Connection": "close"}, 429: {"Retry-After": "1"}, 503: {"Retry-After": "1"}}
log = logging.getLogger("grlm.serve")


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """The answer to a request that is refused."""
    # ASCII: the text may quote half of a surrogate pair, which UTF-8 cannot encode
    return Response(json.dumps({"detail": detail}), status, {**(headers or {}), **_HEADERS.get(status, {})}, "application/json")


def check_json(body: bytes, limit: float) -> None:
    """Raises `HTTPException` (422) for JSON whose values could take more than `UNPACKED` times `limit` bytes, the limit of a body. It is
    not read for this: three bytes can be an object that takes a hundred."""
    # Bytes a character: of Python's text with its largest character, and of the texts in it, which pydantic also keeps in UTF-8.
    text = 1 if body.isascii() else 6 if _WIDE.search(body) else 3
    values = 8 if b"\\u" in body else 5 if text == 6 else 1 if text == 1 else 3
    parts = sum(cost * body.count(mark) for cost, marks in _COSTS for mark in marks)
    if (found := len(body) * (1 + text + values) + parts) > UNPACKED * limit:
        raise HTTPException(
            422,
            f"The body has too many values, or too much text: it could take {found:,} bytes of memory, and this service allows "
            f"{int(UNPACKED * limit):,}. Send it in several requests, or start the service with a larger --max-body-mb.",
        )


_WIDE = re.compile(rb"[\xf0-\xff]")
_ENDS = [bytes([end]) for end in b'"]}0123456789elNy \t\r\n']  # of values, before a comma; a comma of a text mostly follows other letters
_COSTS = (
    (73, [end + b"," for end in _ENDS]),
    (110, [end + b":" for end in (b'"', b" ", b"\t", b"\r", b"\n")]),
    (112, [b"["]),
    (140, [b"{"]),
)
"""Bytes that CPython takes at most for a value besides its text (a text of one character, and its places in two lists); for a key; for a
list; for an object."""


def _host(header: str) -> str:
    """The name in a Host header, without its port."""
    name = header.strip().lower()
    address = re.fullmatch(r"\[([0-9a-f:.]+)\](?::\d*)?", name)
    return address[1] if address else name.partition(":")[0]


class Door:
    """ASGI middleware around the whole application."""

    def __init__(self, app: Any, service: Service):
        self.app, self.service = app, service
        options = service.options
        local = not options.api_key and options.host in LOCAL
        self._hosts = {*LOCAL, *map(str.lower, options.allowed_hosts)} if local or options.allowed_hosts else None
        """The names that may be asked; ``None``: all. A key protects by itself: a stranger's page does not have it."""
        self._key = hashlib.sha256(service.options.api_key.encode()).digest() if service.options.api_key else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        given = headers.get("x-request-id", "")
        facts: dict[str, Any] = {"id": given if re.fullmatch(r"[\w.-]{1,64}", given, re.ASCII) else uuid.uuid4().hex}
        scope["grlm"] = facts  # the routes add to it
        status = 0

        async def sending(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", facts["id"].encode())]
            await send(message)

        try:
            self._check(scope["path"], headers)
            await self.app(scope, self._limited(scope["path"], headers, receive), sending)
        except Refused as error:
            self.service.metrics.rejected.labels(error.reason).inc()
            await problem(error.status, error.detail)(scope, receive, sending)
        except Exception as error:
            log.error("request failed", extra={"facts": {"id": facts["id"], **failure(error)}})
            if not status:
                await problem(500, "The service failed; its log says more.")(scope, receive, sending)
        finally:
            route = getattr(scope.get("route"), "path", None) or "unmatched"  # the path itself may name an item
            seconds = time.perf_counter() - began
            status = facts.pop("status", None) or status or 499
            method = scope["method"] if scope["method"] in METHODS else "other"
            self.service.metrics.requests.labels(method, route, str(status)).inc()
            self.service.metrics.seconds.labels(method, route).observe(seconds)
            if scope.pop(LARGE, False):
                gc.collect(1)  # an error and the frames that it came through hold each other, and the body
                release()
            facts |= {"method": method, "route": route, "status": status, "ms": round(seconds * 1000, 2)}
            log.info("request", extra={"facts": facts})

    def _check(self, path: str, headers: dict[str, str]) -> None:
        """Raises `Refused` for a request that no route may see."""
        if self.service.stopping and path not in OPEN_PATHS and path != "/metrics":
            raise Refused(503, "The service is stopping.", "stopping")
        if "content-length" in headers and "transfer-encoding" in headers:  # a proxy may believe the one, and we the other
            raise Refused(400, "The request has both Content-Length and Transfer-Encoding; send one of them.", "headers")
        host = _host(headers.get("host", ""))
        if self._hosts and host not in self._hosts:  # a name that somebody else's page has pointed at this machine
            raise Refused(403, f"This service does not answer under the name {host[:100]!r}; start it with --allowed-host NAME.", "host")
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != headers.get("host"):  # a page of another site, in somebody's browser
            raise Refused(403, "Requests from pages of other sites are not answered.", "origin")
        if self._key and path not in OPEN_PATHS:
            kind, _, bearer = headers.get("authorization", "").partition(" ")
            given = bearer.strip() if kind.lower() == "bearer" else headers.get("x-api-key", "")
            if not hmac.compare_digest(hashlib.sha256(given.encode("latin-1")).digest(), self._key):
                raise Refused(401, "This service needs its API key: Authorization: Bearer KEY, or X-API-Key: KEY.", "key")

    def _limited(self, path: str, headers: dict[str, str], receive: Receive) -> Receive:
        """`receive` that raises for a body that is too large (413) or too slow (408), whatever its headers state."""
        options = self.service.options
        size, seconds = (options.max_upload_mb, UPLOAD_S) if path == UPLOAD_PATH else (options.max_body_mb, BODY_S)
        limit, until = int(size * MB), time.monotonic() + seconds
        too_large = HTTPException(413, f"The body is larger than {limit:,} bytes.")
        stated = headers.get("content-length", "")
        seen, finished = 0, False

        async def received() -> Any:
            nonlocal seen, finished
            while not finished:
                if stated.isdecimal() and int(stated) > limit + DISCARDED:
                    raise too_large
                try:
                    async with asyncio.timeout(until - time.monotonic()):
                        message = await receive()
                except TimeoutError:
                    raise HTTPException(408, "The body did not arrive in time.") from None
                if message["type"] != "http.request":
                    return message
                seen += len(message.get("body", b""))
                finished = not message.get("more_body", False)
                if seen <= limit:
                    return message
                if finished or seen > limit + DISCARDED:
                    raise too_large
            return await receive()  # the client's disconnect

        return received
