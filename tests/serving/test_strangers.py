"""What strangers may not do to a service: pages that point a name at it, clients that leave, that send slowly, or that ask for too much;
and what those get whose items or histories the catalog does not know."""

from __future__ import annotations

import asyncio
import json
import socket
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from fastapi import HTTPException
from pydantic import BaseModel, ValidationError
from serving_toys import Running, held, running, until
from toys import toy_catalog, toy_grlm, toy_histories

from grlm_hf.engines.protocol import BrokenModel
from grlm_hf.priors.fused import Fused
from grlm_hf.priors.knn import ItemKNN
from grlm_hf.serving import ServeOptions, door
from grlm_hf.serving import run as server
from grlm_hf.serving.app import _Request
from grlm_hf.serving.door import UNPACKED, check_json
from grlm_hf.serving.options import MB
from grlm_hf.serving.schemas import AddRequest, RecommendRequest, RemoveRequest
from grlm_hf.serving.service import MAX_CHANGES


@pytest.fixture(scope="module")
def shared() -> Iterator[Running]:
    ids = [item.item_id for item in toy_catalog()]
    grlm = toy_grlm()
    grlm.prior = Fused({"item_knn": (ItemKNN.fit(ids, toy_histories()), 1.0)})
    with running(grlm=grlm) as r:
        yield r


JSON = "Content-Type: application/json\r\n"


def raw(r: Running, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", r.port), timeout=60) as s:
        s.sendall(data)
        return s.recv(65536)


NAMES = ["evil.example", "evil.example:8000", "[::2]:8000", "127.0.0.1.evil.example", "", "localhost.", "[", "[::1]x", "[::1].evil.example"]


@pytest.mark.parametrize("host", NAMES)
def test_a_name_that_points_here_is_not_answered(shared: Running, host: str) -> None:
    """DNS rebinding: for the page's browser this service is the page's own site."""
    body = b'{"item_ids": ["i20"]}'
    head = (
        f"DELETE /items HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    )
    status = raw(shared, head.encode() + b"\r\n\r\n" + body).split()[1]
    assert status in (b"403", b"400")
    assert "i20" in shared.grlm.catalog


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:{port}", "localhost:{port}", "LOCALHOST", "[::1]:{port}"])
def test_this_machine_has_these_names(shared: Running, host: str) -> None:
    name = host.format(port=shared.port).encode()
    assert raw(shared, b"GET /health HTTP/1.1\r\nHost: " + name + b"\r\n\r\n").split()[1] == b"200"


def test_other_names_are_a_setting_and_a_key_needs_none() -> None:
    request = b"GET /catalog HTTP/1.1\r\nHost: shop.example\r\n%s\r\n"
    with running(ServeOptions(allowed_hosts=("Shop.example",))) as r:
        assert raw(r, request % b"").split()[1] == b"200"
        assert raw(r, request.replace(b"shop.", b"evil.") % b"").split()[1] == b"403"
    with running(ServeOptions(api_key="k"), key="k") as r:
        assert raw(r, request % b"X-API-Key: k\r\n").split()[1] == b"200"


@pytest.mark.parametrize("origin", ["http://[", "http://evil.example", "null", "://", "http://127.0.0.1.evil.example"])
def test_other_origins_are_refused_and_never_an_error(shared: Running, origin: str) -> None:
    assert shared.client.get("/catalog", headers={"origin": origin}).status_code == 403


def test_two_lengths_are_refused(shared: Running) -> None:
    head = b"POST /recommend HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    assert raw(shared, head).split()[1] == b"400"


def test_a_head_that_does_not_arrive_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEADERS_S", 0.5)
    request = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with running() as r:
        for before, slow in ((b"", b""), (b"", b"GET /hea"), (request, b"GET / HTTP/1.1\r\nHost"), (request, b"")):
            with socket.create_connection(("127.0.0.1", r.port), timeout=60) as s:
                s.sendall(before)
                if before:
                    whole_answer(s)
                s.sendall(slow)
                if before and not slow:  # between two requests it may stay longer
                    time.sleep(0.7)
                    s.sendall(request)
                    whole_answer(s)
                    continue
                for _ in range(200):  # a byte now and then does not help
                    try:
                        if slow:
                            s.sendall(b"x")
                    except OSError:
                        break
                    time.sleep(0.02)
                    s.settimeout(0.001)
                    try:
                        if not (answer := s.recv(65536)) or b"408" in answer:
                            break
                    except TimeoutError:
                        continue
                    except OSError:
                        break
                else:
                    raise AssertionError("the connection is still open")


@pytest.mark.parametrize("path", ["/recommend", "/items", "/catalog/reload"])
def test_a_body_that_does_not_arrive_ends_the_connection(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setattr(door, "BODY_S", 0.3)
    monkeypatch.setattr(door, "UPLOAD_S", 0.3)
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{JSON}Content-Length: 100\r\n\r\n".encode()
    with running() as r, socket.create_connection(("127.0.0.1", r.port), timeout=20) as s:
        s.sendall(head + b"half")
        answer = b""
        while more := s.recv(65536):  # until the end of the connection
            answer += more
        assert answer.split()[1] == b"408"
        assert r.client.post("/recommend", json={"history": ["i20"], "k": 3}).status_code == 200


def test_an_answer_that_nobody_reads_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "READ_S", 0.5)
    with running() as r, socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        s.connect(("127.0.0.1", r.port))
        s.settimeout(20)
        with pytest.raises(OSError, match=r"reset|[Bb]roken pipe|timed out"):
            s.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 100_000)  # the buffers of both ends hold fewer answers
        r.client.close()
        until(lambda: not r.server.server_state.connections, 20)


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (RecommendRequest, {"history": [1] * 100_000}),
        (RecommendRequest, {"histories": [[1] * 1000] * 250}),
        (RecommendRequest, {"histories": [[]] * 100_000}),
        (RecommendRequest, {"history": [], "allow": [1] * 9_000, "exclude": [1] * 9_000, "banned_terms": [1] * 900}),
        (RecommendRequest, {f"field-{n}": 1 for n in range(50_000)}),
        (AddRequest, {"items": [{"item_id": 1, "title": 2, "categories": [1] * 60}] * 900}),
        (AddRequest, {"items": [{f"field-{n}": 1 for n in range(50_000)}]}),
        (AddRequest, {"items": [{"item_id": "i", "title": "t"}], "term_ids": [[1] * 15] * 20_000}),
        (RemoveRequest, {"item_ids": [1] * 9_000}),
    ],
)
def test_a_body_of_wrong_values_is_a_few_errors(kind: type[BaseModel], data: dict[str, Any]) -> None:
    """Each takes a kilobyte and some microseconds of the thread that serves everybody."""
    with pytest.raises(ValidationError) as error:
        kind.model_validate(data)
    assert 1 <= error.value.error_count() < 30


IDS = ",".join(f'"B{n:09}"' for n in range(70_000))
SENTENCE = "A tent, for two; light, dry: of nylon. "
KETTLE = {"item_id": "n", "title": "T" * 90, "brand": "B", "categories": ["Home", "Kitchen"], "price": 9.5, "description": SENTENCE * 20}


@pytest.mark.parametrize(
    ("body", "fits"),
    [
        ('{"histories": [[' + IDS + "]]}", True),
        ('{"histories": [[' + IDS.replace("B00000", "") + "]]}", True),
        (json.dumps({"items": [KETTLE] * 1000}), True),
        (json.dumps({"items": [KETTLE | {"title": "Kettle 水 é"}] * 800}, ensure_ascii=False), True),
        (json.dumps({"items": [KETTLE | {"title": "Kettle 🫖"}] * 600}, ensure_ascii=False), True),
        ('{"history": [' + "1," * 500_000 + "1]}", False),
        ('{"history": [' + "[]," * 330_000 + "[]]}", False),
        ("{" + ",".join(f'"k{n}":1' for n in range(90_000)) + "}", False),
        ('{"history": ["' + "x" * 1_000_000 + '😀"]}', False),
    ],
    ids=["ids", "short ids", "items", "items with wide letters", "items with emoji", "numbers", "lists", "fields", "wide text"],
)
def test_json_that_would_unpack_to_much_is_not_read(body: str, fits: bool) -> None:
    """Tracemalloc counts what the parser takes; the bound has to be above it."""
    data = body.encode()
    assert len(data) < MB
    if not fits:
        with pytest.raises(HTTPException) as raised:
            check_json(data, MB)
        assert raised.value.status_code == 422
        assert "--max-body-mb" in raised.value.detail
        return
    check_json(data, MB)
    tracemalloc.start()
    json.loads(data)
    peak = tracemalloc.get_traced_memory()[1] + len(data)
    tracemalloc.stop()
    assert peak < UNPACKED * MB


def test_a_body_in_many_small_pieces_takes_no_more_memory() -> None:
    pieces = 200_000
    sent = iter(range(pieces))

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": bytes((97, next(sent) % 256)), "more_body": sent.__length_hint__() > 0}

    tracemalloc.start()
    body = asyncio.run(_Request({"type": "http", "method": "POST", "headers": []}, receive).body())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(body) == 2 * pieces
    assert peak < 4 * len(body)


def test_a_body_that_is_not_sent_as_json_is_told_the_header(shared: Running) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        answer = shared.client.post("/recommend", content=b'{"history": ["i20"]}', headers={"content-type": kind})
        assert (answer.status_code, answer.json()["detail"]) == (422, "body: expected JSON under the header Content-Type: application/json")


def test_a_few_unknown_fields_are_named() -> None:
    with pytest.raises(ValidationError, match=r"(?s)temperature.*top_p"):
        RecommendRequest.model_validate({"history": [], "temperature": 1, "top_p": 1})
    with pytest.raises(ValidationError, match=r"found 101 fields; expected at most 1: item_ids"):
        RemoveRequest.model_validate({"item_ids": ["i"], **{f"f{n}": 1 for n in range(100)}})


def test_changes_beyond_those_that_may_wait_are_refused_at_once() -> None:
    with running() as r, ThreadPoolExecutor(2 * MAX_CHANGES) as pool:
        bodies = [{"items": [{"item_id": f"n{n}", "title": "T"}], "term_ids": [["kettle", f"n{n}"]]} for n in range(2 * MAX_CHANGES)]
        with r.grlm.shelf.paused():
            answers = [pool.submit(r.client.post, "/items", json=body) for body in bodies]
            until(lambda: sum(a.done() for a in answers) == MAX_CHANGES)
            assert {a.result().status_code for a in answers if a.done()} == {429}
            assert r.client.post("/recommend", json={"history": ["i20"], "k": 3}).status_code == 200
        assert sorted(a.result(60).status_code for a in answers) == [200] * MAX_CHANGES + [429] * MAX_CHANGES


def whole_answer(s: socket.socket) -> None:
    answer = b""
    while not answer.endswith(b"}"):
        answer += s.recv(65536)
    assert b"200 OK" in answer


def test_too_much_for_one_request(shared: Running) -> None:
    with running(ServeOptions(max_beams=100)) as r:
        answer = r.client.post("/recommend", json={"histories": [["i20"]] * 6, "k": 3})
        assert answer.status_code == 422
        assert "6 histories with 20 beams are 120 beams; this service allows 100" in answer.json()["detail"]
        assert r.client.post("/recommend", json={"histories": [["i20"]] * 5, "k": 3}).status_code == 200


@pytest.mark.parametrize("exact", [False, True])
def test_a_search_stops_when_its_client_has_gone(exact: bool) -> None:
    with running(ServeOptions(max_batch=1)) as r:
        forwards = []
        r.grlm.model.register_forward_hook(lambda *_: forwards.append(1))
        body = json.dumps({"histories": [["i20", "i9"]] * 200, "k": 12, "exact": exact}).encode()
        head = b"POST /recommend HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        with held(r.grlm) as gate:
            with socket.create_connection(("127.0.0.1", r.port)) as s:
                s.sendall(head + body)
                until(lambda: r.service.batcher.busy)
            until(lambda: 'status="499"} 1.0' in r.client.get("/metrics").text)
            gate.set()
        assert r.client.post("/recommend", json={"history": ["i20"], "k": 3}).status_code == 200
        assert len(forwards) < 50  # of the hundreds that 200 histories take


def test_a_request_without_a_deadline_has_that_of_the_service() -> None:
    with running(ServeOptions(max_seconds=0.3)) as r, held(r.grlm), ThreadPoolExecutor(1) as pool:
        answer = pool.submit(r.client.post, "/recommend", json={"history": ["i20"], "k": 3}).result(60).json()
        assert answer["late"]
        assert answer["results"][0]["items"] == []


def ask(r: Running, **body: Any) -> dict[str, Any]:
    answer = r.client.post("/recommend", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["results"][0]


def test_unknown_items_are_skipped_on_request_and_reported(shared: Running) -> None:
    for body in ({"history": ["GONE", "i20"]}, {"history": ["i20"], "exclude": ["GONE"]}, {"histories": [["i20"], ["GONE"]]}):
        assert shared.client.post("/recommend", json=body).status_code == 422
    got = ask(shared, history=["GONE", "i20", "GONE"], exclude=["i9", "OLD"], allow=["i13", "i9", "NEVER"], k=5, unknown_items="skip")
    want = shared.grlm.recommend(["i20"], 5, exclude=["i9"], allow=["i13", "i9"])
    assert [i["item_id"] for i in got["items"]] == [r.item_id for r in want] == ["i13"]
    assert got["skipped"] == ["GONE", "OLD", "NEVER"]
    assert got["answered_by"] == "model"


@pytest.mark.parametrize("body", [{"history": []}, {"history": ["GONE"], "unknown_items": "skip"}])
def test_who_has_no_history_gets_what_is_popular_and_is_told(shared: Running, body: dict[str, Any]) -> None:
    got = ask(shared, **body, k=4, exclude=["i20"])
    counts: dict[str, int] = {}
    for history in toy_histories():
        for item in history.items:
            counts[item] = counts.get(item, 0) + 1
    order = sorted((i.item_id for i in shared.grlm.catalog if i.item_id != "i20"), key=lambda i: -counts.get(i, 0))
    assert [i["item_id"] for i in got["items"]] == order[:4]
    assert got["answered_by"] == "popularity"
    assert shared.grlm.recommend([], 4).answered_by == "popularity"


def test_without_counts_there_is_no_popularity() -> None:
    with pytest.raises(ValueError, match=r"history"):
        toy_grlm().recommend([], 3)


def test_a_catalog_smaller_than_the_default_k() -> None:
    grlm = toy_grlm()
    grlm.remove_items([i.item_id for i in list(grlm.catalog)[:4]])
    with running(grlm=grlm) as r:
        assert len(ask(r, history=[r.grlm.catalog.items[0].item_id])["items"]) == 8


@pytest.mark.parametrize("objective", ["vocabulary", "trie"])
def test_scores_that_are_no_numbers_are_an_error(objective: str) -> None:
    grlm = toy_grlm(objective)
    with torch.no_grad():
        grlm.model.get_input_embeddings().weight.fill_(float("nan"))
    for call in (
        lambda: grlm.recommend(["i20"], 3),
        lambda: grlm.recommend(["i20"], 3, exact=True),
        lambda: grlm.recommend(["i20"], 3, edge_wise=True),
        lambda: grlm.sample(["i20"], 3),
        lambda: grlm.explain(["i20"], "i9"),
    ):
        with pytest.raises(BrokenModel, match="not numbers"):
            call()
    with running(grlm=grlm) as r:
        assert r.client.post("/recommend", json={"history": ["i20"]}).status_code == 500


def test_the_first_page_says_what_is_here(shared: Running) -> None:
    assert shared.client.get("/").json()["docs"] == "/docs"
