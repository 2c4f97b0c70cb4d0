"""The Hub of the tests instead of the real one, and processes that start at once; imported before `huggingface_hub`."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from hub_server import HubServer  # noqa: E402

HUB = HubServer()
HUB.__enter__()  # it serves until the process ends
os.environ |= {"HF_ENDPOINT": HUB.url, "HF_TOKEN": HUB.token, "HF_HOME": tempfile.mkdtemp(prefix="grlm-trials-home-")}
os.environ |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "*", "no_proxy": "*"}
os.environ |= {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}

import forks  # noqa: E402

__all__ = ["HUB", "ROOT", "forks"]
