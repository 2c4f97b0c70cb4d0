"""Starts and stops the server."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from grlm_hf.modeling.recommender import GRLMForRecommendation
from grlm_hf.serving import logs
from grlm_hf.serving.app import make_app
from grlm_hf.serving.options import LOCAL, ServeOptions
from grlm_hf.serving.service import MAX_CHANGES, Service

HEADERS_S = 30.0
"""Seconds within which a connection must send the whole head of a request."""
READ_S = 30.0
"""Seconds within which a client must take some of an answer that waits for it."""
IDLE_S = 75
"""Seconds that a connection may stay open between two requests."""


def serve(checkpoint: str, options: ServeOptions | None = None, *, backend: str = "transformers", device: str = "") -> None:
    """Serves a checkpoint over HTTP until SIGTERM or Ctrl-C; then waits up to ``options.grace_s`` seconds for running requests. After
    Ctrl-C it raises ``KeyboardInterrupt`` at the end.

    Args:
        checkpoint: folder or Hub id.
        backend: of `GRLMForRecommendation.from_pretrained`.
        device: such as ``cuda``; by default as loaded.

    Raises:
        ValueError: no such checkpoint, a port that is taken, a state folder that is in use or cannot be read.
    """
    options = options or ServeOptions()
    if device and backend != "transformers":
        raise ValueError(f"device={device!r} with backend={backend!r}: an engine chooses its device itself. Leave --device out.")
    listener = _bind(options.host, options.port)  # first, so that a wrong port is reported before the model is loaded
    with contextlib.closing(listener):
        more: dict[str, Any] = {} if backend == "transformers" else {"backend": backend}
        grlm = GRLMForRecommendation.from_pretrained(checkpoint, **more)
        if device:
            grlm.to(device)
        logs.configure()
        service = Service(grlm, options)
        server = _Server(service, checkpoint, listener)
        gc.collect()
        gc.freeze()  # what stays until the end: without it, each large body makes the collector walk through torch's objects
        # The server raises its signal again once it is down: SIGTERM ends in a return, and Ctrl-C in KeyboardInterrupt.
        signal.signal(signal.SIGTERM, _terminated)
        end = f"Stopped. Changes of the catalog {_kept(options, 'are lost')}"
        try:
            with contextlib.suppress(_Terminated):
                server.run([listener])
        except KeyboardInterrupt:
            raise KeyboardInterrupt(end) from None
        finally:
            service.stop()
    print(f"grlm: {end}", file=sys.stderr, flush=True)


class _Terminated(BaseException):
    """SIGTERM has come."""


def _terminated(*_: Any) -> None:
    raise _Terminated


def _kept(options: ServeOptions, lost: str) -> str:
    return f"are kept in {options.state}." if options.state else f"{lost}; keep them with --state FOLDER."


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except (OSError, UnicodeError) as error:
        raise ValueError(
            f"Cannot listen on {host}:{port} ({getattr(error, 'strerror', error)}). Choose another --port or --host."
        ) from error
    return listener


class _Protocol(H11Protocol):
    """Closes a connection whose head of a request does not arrive, or whose answer is not read: uvicorn limits only the time between
    requests."""

    _timer: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop()
        elif self._timer is None:
            self._wait()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = asyncio.get_running_loop().call_later(READ_S, self.transport.abort)

    def resume_writing(self) -> None:
        self._read()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        self._read()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(HEADERS_S, self._close)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _read(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
            self.transport.close()


class _Server(uvicorn.Server):
    def __init__(self, service: Service, checkpoint: str, listener: socket.socket):
        grace = service.options.grace_s
        super().__init__(
            uvicorn.Config(
                make_app(service), log_config=None, access_log=False, server_header=False, lifespan="off", ws="none",
                http=_Protocol, proxy_headers=False, timeout_keep_alive=IDLE_S, timeout_graceful_shutdown=int(grace) + 5,
            )
        )  # fmt: skip
        self.service, self.checkpoint, self.listener = service, checkpoint, listener

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        # Enough threads for all changes that may wait: more are refused at once, and an upload does not wait behind them.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2 * MAX_CHANGES, "grlm-change"))
        await super().startup(sockets)
        options, current, config = self.service.options, self.service.current, self.service.grlm.config
        host, port = self.listener.getsockname()[:2]
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        lines = [
            f"Serving {self.checkpoint} ({len(current.catalog)} items, version {current.number}) on {url}",
            f"Docs: {url}/docs",
            f"Requests that do not say: prior {'own' if config.own_prior else 'none'}, items of the history "
            f"{'left out' if config.exclude_seen else 'recommended, too'}.",
            f"Changes of the catalog {_kept(options, 'are lost when the service stops')}",
        ]
        if not options.api_key:
            open_to = "." if options.host in LOCAL else f", and {options.host} is more than this machine. Set one: --api-key-file FILE."
            lines.append(f"No API key: whoever reaches this port may use it{open_to}")
        print("\n".join(lines), file=sys.stderr, flush=True)

    def handle_exit(self, sig: int, frame: Any) -> None:
        if not self.service.stopping:
            self.service.stopping = True
            threading.Thread(target=self.service.batcher.close, args=(self.service.options.grace_s,), daemon=True).start()
        super().handle_exit(sig, frame)
