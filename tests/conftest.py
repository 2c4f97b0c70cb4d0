"""Every test runs against a Hub of its own on 127.0.0.1 and an empty cache: none reaches the network or the user's files."""

import gc
import importlib.util
import os
import sys
import tempfile

import pytest
from hub_server import HubServer

assert "huggingface_hub" not in sys.modules, "huggingface_hub reads HF_ENDPOINT once, at import: nothing may import it before this"

if (_spec := importlib.util.find_spec("vllm")) and not _spec.loader:
    sys.modules["vllm"] = None  # type: ignore[assignment]  # not installed: found is tests/vllm, of which TRL would read a version

_server = HubServer()  # holds its port from here on, listens once a test asks for `hub`
_home = tempfile.TemporaryDirectory(prefix="grlm-hf-home-")  # removed at exit

for _name in [name for name in os.environ if name.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))]:
    del os.environ[_name]  # the user's token, offline switch and cache folders
os.environ |= {
    "HF_ENDPOINT": _server.url,
    "HF_HOME": _home.name,
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_UPDATE_DOWNLOAD_COUNTS": "0",  # else load_dataset asks s3.amazonaws.com
    "NO_PROXY": "*",
    "no_proxy": "*",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),  # tiny models: more threads only cost, above all on a shared machine
    "MPLBACKEND": "Agg",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()  # what was imported stays: collections look at what tests made only


@pytest.fixture
def blank_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures have their sizes and nothing in them: to draw them takes longer than to train a toy."""
    monkeypatch.setattr("matplotlib.figure.Figure.draw", lambda *_: None)


@pytest.fixture(scope="session")
def hub():
    """The running Hub; its token is in HF_TOKEN, so pass `token=False` to act as a stranger."""
    with _server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", _server.token)
        patch.setattr("datasets.config.USE_PARQUET_EXPORT", False)  # else load_dataset looks up datasets-server.127.0.0.1
        yield _server
