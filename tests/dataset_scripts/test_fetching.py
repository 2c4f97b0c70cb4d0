"""Downloads from a real server that cuts connections, forgets ranges, changes its file, or refuses."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from common.download import download

BODY = bytes(range(256)) * 5000
PAGE = "https://example.org/official"


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.tag, self.ranges, self.length = BODY, '"one"', True, True
        self.cuts: list[int] = []  # after how many bytes each of the next answers ends
        self.statuses: list[int] = []  # of the next answers, before the file comes
        self.asked: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/raw/data.json.gz"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append(wanted)
        if server.statuses and (status := server.statuses.pop(0)) != 200:
            self.send_error(status)
            return
        start = 0
        if wanted and server.ranges and self.headers.get("If-Range") == server.tag:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(server.body):
                self.send_error(416)
                return
        data = server.body[start:]
        self.send_response(206 if start else 200)
        self.send_header("ETag", server.tag)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.body) - 1}/{len(server.body)}")
        if server.length:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: server.cuts.pop(0)] if server.cuts else data)
        self.close_connection = True

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def fetch(server: Server, folder: Path) -> Path:
    return download(server.url, folder, PAGE, pause=0.001)


def test_whole_file_at_once_and_never_again(server: Server, tmp_path: Path) -> None:
    path = fetch(server, tmp_path / "new")
    assert path.read_bytes() == BODY
    assert fetch(server, tmp_path / "new") == path
    assert server.asked == [None]
    assert [p.name for p in path.parent.iterdir()] == ["data.json.gz"]


def test_cut_connections_are_resumed_where_they_broke(server: Server, tmp_path: Path) -> None:
    server.cuts = [len(BODY) // 2, 1000, 1]
    assert fetch(server, tmp_path).read_bytes() == BODY
    half = len(BODY) // 2
    assert server.asked == [None, f"bytes={half}-", f"bytes={half + 1000}-", f"bytes={half + 1001}-"]


def test_a_later_call_goes_on(server: Server, tmp_path: Path) -> None:
    server.cuts, server.statuses = [1234], [200, *[503] * 4]
    with pytest.raises(ValueError, match=r"503.*1,234 bytes are kept.*" + PAGE):
        fetch(server, tmp_path)
    assert not (tmp_path / "data.json.gz").exists()
    server.asked.clear()
    assert fetch(server, tmp_path).read_bytes() == BODY
    assert server.asked == ["bytes=1234-"]


@pytest.mark.parametrize("change", ["file", "no ranges", "no tag"])
def test_what_cannot_be_resumed_starts_anew(server: Server, tmp_path: Path, change: str) -> None:
    if change == "no tag":
        server.tag = ""
    server.cuts, server.statuses = [1234], [200, *[503] * 4]
    with pytest.raises(ValueError, match="503"):
        fetch(server, tmp_path)
    if change == "file":
        server.body, server.tag = BODY[::-1], '"two"'
    elif change == "no ranges":
        server.ranges = False
    assert fetch(server, tmp_path).read_bytes() == server.body


def test_a_part_that_is_too_long_is_thrown_away(server: Server, tmp_path: Path) -> None:
    server.cuts, server.statuses = [1234], [200, *[503] * 4]
    with pytest.raises(ValueError, match="503"):
        fetch(server, tmp_path)
    with open(tmp_path / "data.json.gz.part", "ab") as part:
        part.write(BODY)
    assert fetch(server, tmp_path).read_bytes() == BODY


def test_unknown_length(server: Server, tmp_path: Path) -> None:
    server.length = False
    assert fetch(server, tmp_path).read_bytes() == BODY


def test_missing_file_says_where_to_get_it(server: Server, tmp_path: Path) -> None:
    server.statuses = [404] * 9
    with pytest.raises(ValueError, match=f"404.*download data.json.gz from {PAGE} into"):
        fetch(server, tmp_path)
    assert server.asked == [None]  # asking again would not help


def test_no_host(tmp_path: Path) -> None:
    with Server() as gone:
        pass
    with pytest.raises(ValueError, match=f"refused.*{PAGE}"):
        fetch(gone, tmp_path)
