"""bfloat16 on a CPU, for every training that computes in it."""

from __future__ import annotations

import logging
import os
import platform
from functools import cache

log = logging.getLogger("grlm_hf")

CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
_KEPT = "32"


def bound_caches() -> None:
    """Bounds the compiled bfloat16 products that oneDNN and PyTorch keep, unless the user has set the capacities. They keep 1,024 each, one
    a shape, and a training has new shapes in every step: its memory grows by megabytes a step. 32 are enough for the shapes that return
    within a step, and no number changes. The capacities are read at the first such product of a process, so this comes before it."""
    for name in CACHES:
        os.environ.setdefault(name, _KEPT)


@cache
def say_float32_is_faster(setting: str) -> None:
    """Logs, once a process, that `setting` (such as "train.bf16") costs time on an x86 CPU without AMX. Silent where there is AMX, and on
    other CPUs, which were not measured."""
    import torch

    if platform.machine() in ("x86_64", "AMD64") and not torch.cpu._is_amx_tile_supported():
        log.warning(f"{setting} is on, and this CPU has no AMX: a step in float32 is faster here. Set {setting}=false.")
