"""Over real HTTP: answers are those of `recommend`, and whatever one client does, the others get theirs."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import forks
import httpx2
import pytest
from serving_toys import Running, held, on, running, same, until
from toys import TERM_IDS, toy_catalog, toy_grlm

from grlm_hf import Catalog, Item
from grlm_hf.serving import ServeOptions

IDS = [item.item_id for item in toy_catalog()]


@pytest.fixture(scope="module")
def shared() -> Iterator[Running]:
    """For tests that leave the catalog as it is."""
    with running() as r:
        yield r


NOTHING = {"items": [], "certified": False, "gap": None, "answered_by": "model", "skipped": []}


def ask(r: Running, **body: Any) -> httpx2.Response:
    return r.client.post("/recommend", json=body)


# --- answers -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"k": 12},
        {"k": 3, "exclude_seen": True},
        {"k": 4, "allow": IDS[2:7]},
        {"k": 3, "exclude": IDS[:5], "banned_terms": ["Steel"]},
        {"k": 5, "exact": True},
        {"k": 2, "exact": True, "deadline_ms": 60_000},
        {"k": 3, "num_beams": 5, "edge_wise": True, "length_penalty": 0.5, "shared": "equal"},
        {"k": 3, "allow": []},
    ],
)
def test_answers_are_those_of_recommend(shared: Running, options: dict[str, Any]) -> None:
    histories = [["i20"], ["i13", "i14", "i9"], IDS * 3]
    options = {"k": 10, **options}
    answer = ask(shared, histories=histories, **options)
    assert answer.status_code == 200, answer.text
    plain = {name: value for name, value in options.items() if name != "deadline_ms"}
    for got, want in zip(answer.json()["results"], shared.grlm.recommend(histories, **plain), strict=True):
        same(got, want)
    assert answer.json()["version"] == 1
    one = ask(shared, history=histories[1], **options).json()["results"]
    same(one[0], shared.grlm.recommend(histories[1], **plain))


def test_requests_that_wait_share_a_search_and_get_their_own_answers() -> None:
    with running(ServeOptions(max_batch=8)) as r:
        sizes: list[int] = []
        searched = r.service.batcher.searched
        r.service.batcher.searched = lambda histories, forwards: (sizes.append(histories), searched(histories, forwards))
        bodies: list[dict[str, Any]] = [{"history": [i], "k": k} for k in (3, 5) for i in IDS]
        bodies += [{"history": ["gone"], "k": 3}, {"history": ["i20"], "k": 3, "allow": ["gone"]}, {"history": ["i20"], "k": 13},
                   {"history": ["i20"], "k": 3, "num_beams": 13}, {"history": ["i20"], "k": 3, "domain": "none"},
                   {"histories": [[i] for i in IDS], "k": 3}]  # fmt: skip
        with ThreadPoolExecutor(len(bodies) + 1) as pool, held(r.grlm) as gate:
            pool.submit(ask, r, history=["i9"], k=3)
            until(lambda: taken(r))
            later = [pool.submit(ask, r, **body) for body in bodies]
            until(lambda: len(r.service.batcher) >= len(bodies))
            gate.set()
            answers = [f.result() for f in later]
        for body, answer in zip(bodies, answers, strict=True):
            if body["k"] == 13 or "num_beams" in body or "domain" in body or "gone" in str(body):
                assert answer.status_code == 422
                continue
            histories = body.get("histories") or [body["history"]]
            for got, want in zip(answer.json()["results"], r.grlm.recommend(histories, body["k"]), strict=True):
                same(got, want)
        assert max(s for s in sizes if s != len(IDS)) == 8  # full batches
        assert sum(sizes) == 1 + 3 * len(IDS)  # and nothing was searched twice


# --- bad input ---------------------------------------------------------------------------------------------------------------------

BAD: list[tuple[str, Any, int]] = [
    ("an unknown item", {"history": ["B0001"]}, 422),
    ("a path for an id", {"history": ["../../etc/passwd"]}, 422),
    ("an id of another script", {"history": ["水🚀\u0000"]}, 422),
    ("half a character", b'{"history": ["\\ud800"]}', 422),
    ("half a character for a name", b'{"\\ud800": 1}', 422),
    ("no history", {}, 422),
    ("both kinds of history", {"history": ["i20"], "histories": [["i20"]]}, 422),
    ("an empty history", {"history": []}, 422),
    ("no histories", {"histories": []}, 422),
    ("one empty among several", {"histories": [["i20"], []]}, 422),
    ("a history of 100,000 items", {"history": ["i20"] * 100_000}, 422),
    ("many histories", {"histories": [["i20"]] * 257}, 422),
    ("text for a history", {"history": "i20"}, 422),
    ("numbers for ids", {"history": [20]}, 422),
    ("a long id", {"history": ["i" * 257]}, 422),
    ("k of 0", {"history": ["i20"], "k": 0}, 422),
    ("negative k", {"history": ["i20"], "k": -1}, 422),
    ("huge k", {"history": ["i20"], "k": 10**30}, 422),
    ("k above the catalog", {"history": ["i20"], "k": 13}, 422),
    ("k as text", {"history": ["i20"], "k": "3"}, 422),
    ("k as a truth value", {"history": ["i20"], "k": True}, 422),
    ("an infinite k", b'{"history": ["i20"], "k": 1e999}', 422),
    ("a number that is none", b'{"history": ["i20"], "prior_weight": NaN}', 422),
    ("thousands of digits", b'{"history": ["i20"], "k": ' + b"9" * 9000 + b"}", 400),
    ("an option that is none", {"history": ["i20"], "temperature": 1}, 422),
    ("an unknown catalog", {"history": ["i20"], "catalog": "spring"}, 422),
    ("a prior that is not there", {"history": ["i20"], "k": 3, "prior": "own"}, 422),
    ("beams beyond the trie", {"history": ["i20"], "k": 3, "num_beams": 400}, 422),
    ("an unknown domain", {"history": ["i20"], "k": 3, "domain": "x"}, 422),
    ("a term that is none", {"history": ["i20"], "k": 3, "banned_terms": ["!?"]}, 422),
    ("a deadline of 0", {"history": ["i20"], "k": 3, "deadline_ms": 0}, 422),
    ("broken JSON", b'{"history": ["i20"', 422),
    ("deep JSON", b"[" * 50_000, 400),
    ("deep and long JSON", b"[" * 500_000, 422),
    ("many small values", b'{"history": [' + b"[]," * 300_000 + b"[]]}", 422),
    ("no JSON at all", b"\xff\xfe\x00", 400),
    ("a list", b"[]", 422),
    ("nothing", b"", 422),
]


@pytest.mark.parametrize(("body", "status"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_bad_requests_are_told_what_is_wrong(shared: Running, body: Any, status: int) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = shared.client.post("/recommend", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == status
    assert 0 < len(answer.json()["detail"]) < 1000
    assert ask(shared, history=["i20"], k=1).status_code == 200


def test_an_unknown_id_is_told_the_most_similar_one(shared: Running) -> None:
    for body in ({"history": ["I20"]}, {"history": ["i19"], "allow": ["i20x"], "k": 1}, {"history": ["i19"], "exclude": ["I20"]}):
        assert "Did you mean 'i20'?" in ask(shared, **body).json()["detail"]
    assert "Did you mean 'i20'?" in shared.client.get("/items/I20").json()["detail"]
    removal = shared.client.request("DELETE", "/items", json={"item_ids": ["I20"]})
    assert (removal.status_code, removal.json()["detail"].endswith("Did you mean 'i20'?")) == (404, True)


@pytest.mark.parametrize(
    "path", ["/items/..%2F..%2Fetc%2Fpasswd", "/items/%00", "/items/%FF", "/items/", "/items/水", "/items?domain=x", "/x"]
)
def test_what_is_not_there_is_404(shared: Running, path: str) -> None:
    answer = shared.client.get(path)
    assert answer.status_code == 404
    assert "root:" not in answer.text


@pytest.mark.parametrize("query", ["offset=-1", "limit=0", "limit=1001", "limit=x", f"offset={10**30}"])
def test_pages_have_bounds(shared: Running, query: str) -> None:
    assert shared.client.get(f"/items?{query}").status_code == 422


@pytest.mark.parametrize("known", [True, False], ids=["length stated", "in chunks"])
def test_a_body_of_10_mb_is_413(shared: Running, known: bool) -> None:
    body = b'{"history": ["' + b"i" * 10 * 2**20 + b'"]}'
    content = body if known else (body[i : i + 65536] for i in range(0, len(body), 65536))
    answer = shared.client.post("/recommend", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 413
    assert "1,048,576 bytes" in answer.json()["detail"]


def test_a_body_that_states_a_terabyte_is_413_at_once(shared: Running) -> None:
    with socket.create_connection(("127.0.0.1", shared.port)) as s:
        s.sendall(b"POST /recommend HTTP/1.1\r\nHost: [::1]\r\nContent-Type: application/json\r\nContent-Length: 1099511627776\r\n\r\n{")
        assert s.recv(100).startswith(b"HTTP/1.1 413")


# --- too much, too late, gone ------------------------------------------------------------------------------------------------------


def test_a_full_queue_is_429_and_what_waits_is_answered() -> None:
    with running(ServeOptions(queue=2)) as r, ThreadPoolExecutor(3) as pool:
        with held(r.grlm):
            under_way = pool.submit(ask, r, history=["i20"], k=3)
            until(lambda: taken(r))
            waiting = [pool.submit(ask, r, history=["i9"], k=3) for _ in range(2)]
            until(lambda: len(r.service.batcher) == 2)
            refused = ask(r, history=["i13"], k=3)
            assert refused.status_code == 429
            assert int(refused.headers["retry-after"]) > 0
            assert 'grlm_rejected_total{reason="queue"} 1.0' in r.client.get("/metrics").text
            assert "grlm_queue_depth 2.0" in r.client.get("/metrics").text
        for future, history in [(under_way, "i20"), *((w, "i9") for w in waiting)]:
            same(future.result().json()["results"][0], r.grlm.recommend([history], 3))


def taken(r: Running) -> bool:
    """The model is at work, and nothing waits."""
    return r.service.batcher.busy and not len(r.service.batcher)


def test_deadlines_cover_the_waiting() -> None:
    with running() as r, ThreadPoolExecutor(1) as pool, held(r.grlm) as gate:
        under_way = pool.submit(ask, r, history=["i20"], k=3)
        until(lambda: taken(r))
        for exact in (False, True):
            late = ask(r, history=["i9"], k=3, exact=exact, deadline_ms=30)
            assert late.json() == {"version": 1, "late": True, "results": [NOTHING]}
        assert not len(r.service.batcher)  # their work is not done for nobody
        gate.set()
        assert under_way.result().status_code == 200
        in_time = ask(r, history=["i9"], k=3, deadline_ms=60_000).json()
        assert not in_time["late"]
        assert len(in_time["results"][0]["items"]) == 3
        assert 'grlm_rejected_total{reason="deadline"} 2.0' in r.client.get("/metrics").text


def test_an_exact_search_answers_with_what_it_has_by_the_deadline() -> None:
    with running() as r:
        slow = r.grlm.model.register_forward_pre_hook(lambda *_: (threading.Event().wait(0.15), None)[1])
        answer = ask(r, history=["i9"], k=10, exact=True, deadline_ms=200)
        slow.remove()
        assert answer.status_code == 200
        assert answer.json()["late"]
        (result,) = answer.json()["results"]
        assert not result["certified"]
        assert {i["item_id"] for i in result["items"]} <= set(IDS)


def test_a_client_that_goes_leaves_no_work_behind() -> None:
    with running() as r, ThreadPoolExecutor(2) as pool, held(r.grlm) as gate:
        under_way = pool.submit(ask, r, history=["i20"], k=3)
        until(lambda: taken(r))
        stays = pool.submit(ask, r, history=["i9"], k=4)
        body = b'{"history": ["i13"], "k": 3}'
        with socket.create_connection(("127.0.0.1", r.port)) as s:
            s.sendall(
                b"POST /recommend HTTP/1.1\r\nHost: [::1]\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
                + body
            )
            until(lambda: len(r.service.batcher) == 2)
        until(lambda: len(r.service.batcher) == 1)
        with socket.create_connection(("127.0.0.1", r.port)) as s:  # another, in the middle of its body
            s.sendall(b"POST /recommend HTTP/1.1\r\nHost: [::1]\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{")
        gate.set()
        assert under_way.result().status_code == stays.result().status_code == 200
        until(lambda: 'status="499"} 1.0' in r.client.get("/metrics").text)
        assert "grlm_batch_histories_sum 2.0" in r.client.get("/metrics").text


def test_a_stop_finishes_what_is_under_way_and_takes_nothing_new() -> None:
    with running() as r, ThreadPoolExecutor(3) as pool:
        with held(r.grlm) as gate:
            asked = [pool.submit(ask, r, history=["i20"], k=3)]
            until(lambda: taken(r))
            asked.append(pool.submit(ask, r, history=["i9"], k=3))
            until(lambda: len(r.service.batcher) == 1)
            r.server.service.stopping = True
            assert r.client.get("/health").status_code == 503
            assert r.client.get("/health/live").status_code == 200
            refused = ask(r, history=["i13"], k=3)
            assert refused.status_code == 503
            assert refused.headers["retry-after"]
            r.server.handle_exit(15, None)
            gate.set()
        for future, history in zip(asked, ("i20", "i9"), strict=True):
            same(future.result().json()["results"][0], r.grlm.recommend([history], 3))


@pytest.mark.parametrize(("blow", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_ends_it_with_one_line(tmp_path: Path, blow: signal.Signals, status: int) -> None:
    toy_grlm().save_pretrained(tmp_path / "c")
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);" + forks.GRLM  # in the background it is ignored
    call = ["serve", str(tmp_path / "c"), "--port", "0", "--state", str(tmp_path / "s")]
    with forks.Process(code, *call) as process:
        until(lambda: "No API key" in process.printed())
        os.kill(process.pid, blow)
        done = process.wait(60)
    assert done.returncode == status
    said = done.stderr.split("may use it.\n")[1]
    assert said == f"grlm: Stopped. Changes of the catalog are kept in {tmp_path / 's'}.\n"


def test_a_stop_does_not_wait_for_ever() -> None:
    with running() as r, ThreadPoolExecutor(2) as pool, held(r.grlm):
        pool.submit(ask, r, history=["i20"], k=3)
        until(lambda: taken(r))
        waiting = pool.submit(ask, r, history=["i9"], k=4)
        until(lambda: len(r.service.batcher) == 1)
        r.service.batcher.close(0.05)
        assert waiting.result().status_code == 503


# --- keys, logs, pages of others ---------------------------------------------------------------------------------------------------


def test_the_key_opens_and_nothing_else_does() -> None:
    with running(ServeOptions(api_key="sésame")) as r:
        url, key = f"http://127.0.0.1:{r.port}/catalog", "sésame".encode()
        assert r.client.get("/health").status_code == r.client.get("/openapi.json").status_code == 200
        for headers in ({"x-api-key": key}, {"authorization": b"Bearer " + key}, {"authorization": b"bearer  " + key}):
            assert r.client.get(url, headers=headers).status_code == 200
        for headers in ({}, {"x-api-key": b""}, {"x-api-key": key[:-1]}, {"authorization": b"Basic " + key}, {"authorization": key}):
            for answer in (
                r.client.get(url, headers=headers),
                r.client.get("/metrics", headers=headers),
                r.client.get("/x", headers=headers),
            ):
                assert answer.status_code == 401
                assert answer.headers["www-authenticate"] == "Bearer"


def test_pages_of_other_sites_are_refused(shared: Running) -> None:
    assert shared.client.post("/catalog/rollback", headers={"origin": "https://elsewhere.example"}).status_code == 403
    assert shared.client.get("/catalog", headers={"origin": f"http://127.0.0.1:{shared.port}"}).status_code == 200
    assert "access-control-allow-origin" not in shared.client.get("/catalog").headers


def test_the_log_has_one_line_a_request_and_no_histories(caplog: pytest.LogCaptureFixture) -> None:
    def lines(**options: Any) -> list[dict[str, Any]]:
        caplog.clear()
        with running(ServeOptions(**options)) as r, caplog.at_level(logging.INFO, "grlm.serve"):
            ask(r, histories=[["i20"], ["i9", "i13"]], k=3)
            ask(r, history=["secret-id"], k=3)
            r.client.get("/items/i20", headers={"x-request-id": "mine-1"})
            r.client.get("/items/i20", headers={"x-request-id": "i20\"'{"})
        return [record.__dict__["facts"] for record in caplog.records if record.getMessage() == "request"]

    logging.getLogger("grlm.serve").propagate = True
    said = lines()
    assert [(f["route"], f["status"]) for f in said[:3]] == [
        ("/recommend", 200), ("/recommend", 422), ("/items/{item_id:path}", 200),
    ]  # fmt: skip
    assert said[0]["histories"] == 2
    assert said[0]["version"] == 1
    assert said[2]["id"] == "mine-1"
    assert not any(i in json.dumps(said) for i in ('"i20"', "i9", "i13", "secret", "i20"))
    assert ["i9", "i13"] in lines(log_histories=True)[0]["items"]


def test_an_unexpected_error_is_500_and_the_next_request_is_served(caplog: pytest.LogCaptureFixture) -> None:
    with running() as r:

        def broken(*_: Any) -> None:
            raise RuntimeError("device lost while reading i20")

        hook = r.grlm.model.register_forward_pre_hook(broken)
        failed = ask(r, history=["i20"], k=3)
        hook.remove()
        assert failed.status_code == 500
        assert "device" not in failed.text
        assert ask(r, history=["i20"], k=3).status_code == 200
        assert r.client.get("/health").json()["ready"]


# --- a catalog that changes --------------------------------------------------------------------------------------------------------


def test_every_answer_is_right_for_the_version_it_states() -> None:
    """Reloads, additions, removals and rollbacks under concurrent requests."""
    grlm = toy_grlm()
    first = toy_catalog()
    second = Catalog([Item(f"i{20 - n}", f"Other {n}") for n in range(6)] + [Item("x", "X")], [*TERM_IDS[5:11], ("mug", "led")])
    with running(ServeOptions(keep=4), grlm) as r:
        catalogs, kept = {1: first}, [1]
        answers: list[tuple[list[list[str]], dict[str, Any]]] = []
        done = threading.Event()

        def asking(seed: int) -> None:
            rng = random.Random(seed)
            with httpx2.Client(base_url=f"http://127.0.0.1:{r.port}", timeout=120, trust_env=False) as client:
                while not done.is_set():
                    histories = [rng.choices(IDS[:6], k=rng.randint(1, 3)) for _ in range(rng.randint(1, 3))]
                    answer = client.post("/recommend", json={"histories": histories, "k": rng.choice((2, 5))})
                    assert answer.status_code == 200, answer.text
                    answers.append((histories, answer.json()))

        def changing() -> None:
            rng = random.Random(0)
            for n in range(14):
                now = catalogs[kept[-1]]
                kind = rng.choice("turar")
                if kind == "t" and len(kept) > 1:
                    said, kept[:], new = r.client.post("/catalog/rollback"), kept[:-2], catalogs[kept[-2]]
                elif kind == "u":
                    new = second if n % 2 else first
                    said = upload(r, new)
                elif kind == "a":
                    item = Item(f"n{n}", f"New {n}")
                    new = now.add([item], [("lamp", f"n{n}")])
                    said = r.client.post(
                        "/items", json={"items": [{"item_id": f"n{n}", "title": f"New {n}"}], "term_ids": [["lamp", f"n{n}"]]}
                    )
                else:
                    if now[now.items[-1].item_id].item_id in IDS[:6]:
                        continue
                    new = now.remove([now.items[-1].item_id])
                    said = r.client.request("DELETE", "/items", json={"item_ids": [now.items[-1].item_id]})
                assert said.status_code == 200, said.text
                kept[:] = [*kept, said.json()["version"]][-4:]
                assert said.json()["rollback_to"] == kept[:-1]
                assert said.json()["version"] not in catalogs
                catalogs[said.json()["version"]] = new

        with ThreadPoolExecutor(3) as pool:
            askers = [pool.submit(asking, seed) for seed in range(2)]
            try:
                pool.submit(changing).result()
            finally:
                done.set()
            for asker in askers:
                asker.result()
        assert len({a["version"] for _, a in answers}) > 3
        references = {v: on(grlm, c) for v, c in catalogs.items()}
        for histories, answer in random.Random(1).sample(answers, min(60, len(answers))):
            for history, got in zip(histories, answer["results"], strict=True):
                same(got, references[answer["version"]].recommend(history, len(got["items"])))


def upload(r: Running, catalog: Catalog, **headers: str) -> httpx2.Response:
    import hashlib
    import tempfile

    with tempfile.TemporaryDirectory() as work:
        data = catalog.save_pretrained(work).read_bytes()
    return r.client.post("/catalog/reload", content=data, headers={"x-content-sha256": hashlib.sha256(data).hexdigest(), **headers})
