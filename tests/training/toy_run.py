"""Trainings on the toys in processes of their own, one or several together, that can be killed at a step and started again."""

from __future__ import annotations

import os
import pickle
import resource
import signal
import socket
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import forks
from toys import toy_catalog, toy_histories

from grlm_hf.data.interactions import leave_one_out
from grlm_hf.tasks.mixture import MixtureConfig, examples_to_dataset, make_mixture, validation_sequences
from grlm_hf.training.config import EarlyStoppingConfig
from grlm_hf.training.scratch import ScratchConfig
from grlm_hf.training.sft import TrainConfig, train
from grlm_hf.training.trainer import TermIDTrainer

CATALOG = toy_catalog()
SPLIT = leave_one_out(toy_histories())
MIXTURE = make_mixture(CATALOG, SPLIT.train, MixtureConfig(max_history=3)).dataset
VALIDATION = examples_to_dataset(validation_sequences(CATALOG, SPLIT.validation, 3))
TINY = ScratchConfig(vocab_size=380, hidden_size=32, intermediate_size=64, layers=1, heads=1, kv_heads=1, max_positions=256)
STOPPING = EarlyStoppingConfig("ndcg@10", users=30, every=4, patience=99)


def toy_train(folder: Path, exclude_seen: bool = True, **settings: Any) -> Any:
    """Six steps an epoch of eight examples; the last one has four."""
    config = TrainConfig(**{"scratch": TINY, "learning_rate": 1e-2, "batch_size": 8, "epochs": 4, "save_steps": 5} | settings)  # type: ignore[arg-type]
    given = {"validation": VALIDATION, "cases": SPLIT.validation, "max_history": 3, "seed": 3, "exclude_seen": exclude_seen}
    return train(CATALOG, MIXTURE, folder / "work", config, **given)  # type: ignore[arg-type]


def run(jobs: dict[Path, dict[str, Any]], processes: int = 1, kill_at: int | None = None, kill_saving: int | None = None,
        environment: dict[str, str] | None = None, memory: int = 0) -> list[int]:  # fmt: skip
    """Trains the jobs, folder → settings, one after the other; returns the exit codes of the processes. Output: ``FOLDER.N.log``.

    Args:
        kill_at: the last process ends itself with SIGKILL before this step.
        kill_saving: it does so while the checkpoint of this step is written.
        memory: bytes that a process may take beyond what it begins with; 0: any.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    several = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)} if processes > 1 else {}
    code = "import pickle, sys, toy_run; toy_run.work(*pickle.loads(bytes.fromhex(sys.argv[1])))"
    started = []
    with ExitStack() as stack:
        for n in range(processes):
            ranks = {"RANK": str(n), "LOCAL_RANK": str(n)} if processes > 1 else {}
            is_last = n == processes - 1
            arguments = pickle.dumps((jobs, is_last and kill_at, is_last and kill_saving, memory)).hex()
            variables = {**os.environ, **several, **ranks, **(environment or {})}
            started.append(stack.enter_context(forks.Process(code, arguments, env=variables)))
        *others, last = started
        status = last.wait().returncode
        for process in others if status else ():  # as a launcher would
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        return [*(process.wait().returncode for process in others), status]


def work(jobs: dict[Path, dict[str, Any]], kill_at: int, kill_saving: int, memory: int) -> None:
    rank = os.environ.get("RANK", "0")
    output = os.open(f"{next(iter(jobs))}.{rank}.log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    if "ACCELERATE_USE_DEEPSPEED" in os.environ:
        import deepspeed.ops

        deepspeed.ops.__compatible_ops__ = {}  # it would compile a reduction of its own; gloo has one
    if memory:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + memory,) * 2)

    def before(name: str, step: int) -> None:
        inner = getattr(TermIDTrainer, name)

        def outer(self: Any, *args: Any, **kwargs: Any) -> Any:
            if self.state.global_step == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return inner(self, *args, **kwargs)

        setattr(TermIDTrainer, name, outer)

    if kill_at:
        before("training_step", kill_at - 1)
    if kill_saving:
        before("_save_rng_state", kill_saving)
    for folder, settings in jobs.items():
        grlm = toy_train(folder, **settings)
        if grlm is not None:
            grlm.save_pretrained(folder / "checkpoint")
