"""One evaluation in several processes, started by ``accelerate launch`` or ``torchrun``. In a single process nothing more is imported."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
Movable = TypeVar("Movable", bound=Any)


def world() -> tuple[int, int]:
    """(rank of this process, number of processes), from the launcher's variables; (0, 1) without a launcher."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this process writes and prints."""
    return world()[0] == 0


def to_device(model: Movable) -> Movable:
    """Moves a model to this process's GPU, if it has one."""
    import torch

    if torch.cuda.is_available():
        model.to(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
    return model


def everywhere(work: Callable[[], T]) -> list[T]:
    """Does `work` in every process; returns the results of all, by rank, in every process.

    An error in one process is raised in all, so that none waits for ever. Results must be picklable; they are not written to disk.

    Raises:
        ImportError: several processes, and accelerate is not installed.
        RuntimeError: another process failed; its message is repeated.
    """
    if world()[1] == 1:
        return [work()]
    gather = _gather()
    try:
        mine: tuple[T | None, str] = (work(), "")
    except Exception as error:
        gather([(None, f"{type(error).__name__}: {error}")])
        raise
    found = gather([mine])
    for rank, (_, failure) in enumerate(found):
        if failure:
            raise RuntimeError(f"Process {rank} of {len(found)} failed: {failure}")
    return [value for value, _ in found]


def on_main(work: Callable[[], T]) -> T:
    """Does `work` in the main process alone; returns its result in every process. Raises as `everywhere`."""
    return everywhere(lambda: work() if is_main() else None)[0]  # type: ignore[return-value]


def _gather() -> Callable[[list[Any]], list[Any]]:
    try:
        from accelerate import PartialState
        from accelerate.utils import gather_object
    except ImportError as error:
        raise ImportError('Evaluating in several processes needs accelerate: pip install "grlm-hf[train]"') from error
    from datetime import timedelta

    import torch

    # Joins the group, unless this process has joined. The timeout: one process may finish hours before the slowest one.
    state = PartialState(cpu=not torch.accelerator.is_available(), timeout=timedelta(days=1))
    if state.num_processes != world()[1]:
        raise RuntimeError(
            f"The launcher started {world()[1]} processes, but accelerate joined {state.num_processes}. Without GPUs, start them with "
            "torchrun, before other code sets accelerate up."
        )
    return gather_object
