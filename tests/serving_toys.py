"""A real server on a toy recommender, and a gate that holds its model."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx2
import pytest
from toys import toy_grlm

from grlm_hf import Catalog, GRLMForRecommendation
from grlm_hf.modeling.results import Recommendations
from grlm_hf.serving import ServeOptions, Service
from grlm_hf.serving.run import _bind, _Server


@dataclass
class Running:
    service: Service
    server: _Server
    client: httpx2.Client
    port: int

    @property
    def grlm(self) -> GRLMForRecommendation:
        return self.service.grlm


@contextmanager
def running(options: ServeOptions | None = None, grlm: GRLMForRecommendation | None = None, key: str = "") -> Iterator[Running]:
    """The application over real HTTP, on a free port."""
    listener = _bind("127.0.0.1", 0)
    service = Service(grlm or toy_grlm(), replace(options or ServeOptions(), port=0))
    server = _Server(service, "toy", listener)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    port = listener.getsockname()[1]
    try:
        until(lambda: server.started)
        with httpx2.Client(
            base_url=f"http://127.0.0.1:{port}", timeout=120, trust_env=False, headers={"x-api-key": key} if key else {}
        ) as client:
            yield Running(service, server, client, port)
    finally:
        server.should_exit = True
        thread.join(60)
        service.stop()
        listener.close()
    assert not thread.is_alive()


def until(true: Callable[[], Any], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)


@contextmanager
def held(grlm: GRLMForRecommendation) -> Iterator[threading.Event]:
    """The model waits at its first forward until the event is set."""
    gate = threading.Event()
    hook = grlm.model.register_forward_pre_hook(lambda *_: (gate.wait(120), None)[1])
    try:
        yield gate
    finally:
        gate.set()
        hook.remove()


def on(grlm: GRLMForRecommendation, catalog: Catalog) -> GRLMForRecommendation:
    """The same model on another catalog, made from scratch."""
    return GRLMForRecommendation(grlm.model, grlm.tokenizer, catalog, grlm.config)


def same(got: dict[str, Any], want: Recommendations) -> None:
    """One result of an answer is what `recommend` says; scores vary with the batch in their last digits."""
    assert [r["item_id"] for r in got["items"]] == [r.item_id for r in want]
    assert [r["score"] for r in got["items"]] == pytest.approx([r.score for r in want], abs=1e-4)
    assert [tuple(r["term_id"]) for r in got["items"]] == [r.term_id for r in want]
    assert [r["title"] for r in got["items"]] == [r.title for r in want]
    assert got["certified"] == want.certified
