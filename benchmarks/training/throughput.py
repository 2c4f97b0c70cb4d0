"""Training on the ordinary loss: real tokens a second and peak memory, against TRL's `SFTTrainer` as it comes.

    OMP_NUM_THREADS=1 python benchmarks/training/throughput.py [--datasets runs/beauty-cpu/datasets] [--rounds 3] [--shapes tiny wide]

Same model, same tokenized examples, same batch size, same AdamW. TRL's defaults are random batches, bfloat16 autocast and gradient
checkpointing; the second peer is TRL without checkpointing, the third its own packing. Gate: on the same padded batch, in float32, our
loss is TRL's to 1e-5. Real tokens leave padding out. On a CPU the seconds are CPU seconds of one thread (other programs do not count),
the runs take turns, and the ratios are medians over the rounds. Memory is the growth of a process of its own, from before its first
step to its peak. On a GPU it prints model FLOPs utilisation too (written, not run: no GPU was at hand).

Without --datasets: the sample shop. Writes results/training-SHAPE-DATA.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "decoding"))
import numpy as np
import torch
from harness import Results
from torch.utils.data import SequentialSampler
from transformers import Qwen3Config, Qwen3ForCausalLM, TrainerCallback
from trl import SFTConfig, SFTTrainer

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.repository import load_table
from grlm_hf.training.scratch import train_tokenizer
from grlm_hf.training.sft import tokenize_mixture, tokenizer_texts
from grlm_hf.training.trainer import TermIDTrainer

GPU = torch.cuda.is_available()
COMMAND = "OMP_NUM_THREADS=1 python benchmarks/training/throughput.py"


@dataclass(frozen=True)
class Shape:
    """A Qwen3 from nothing, and how it is fed."""

    label: str
    vocabulary: int  # 0: the tokenizer's
    hidden: int
    layers: int
    batch: int
    steps: int  # timed, each round


SHAPES = {
    "tiny": Shape("d=128, 2 layers, 8k tokens", 0, 128, 2, 32, 4),
    "wide": Shape("d=256, 4 layers, 151,936 tokens (Qwen3's number)", 151_936, 256, 4, 8, 2),
}
# TermIDTrainer groups examples by length and takes logits of labels only; the rest is as named.
RUNS: dict[str, tuple[type[SFTTrainer], dict[str, Any]]] = {
    "TRL defaults": (SFTTrainer, {}),
    "TRL without checkpointing": (SFTTrainer, {"gradient_checkpointing": False}),
    "TRL packing": (SFTTrainer, {"gradient_checkpointing": False, "packing": True, "per_device_train_batch_size": 1}),
    "grlm with checkpointing": (TermIDTrainer, {}),
    "grlm": (TermIDTrainer, {"gradient_checkpointing": False}),
    "grlm in float32": (TermIDTrainer, {"gradient_checkpointing": False, "bf16": False}),
    "grlm, eager attention": (TermIDTrainer, {"gradient_checkpointing": False, "attention": "eager"}),
}
MEASURED_ALONE = ("TRL defaults", "TRL without checkpointing", "grlm with checkpointing", "grlm")  # memory, in processes of their own


def load(datasets: Path) -> tuple[Any, Any]:
    """A tokenizer and the mixture in its tokens, which the processes share as files."""
    catalog, mixture = Catalog.from_pretrained(datasets), load_table(datasets, "sft", "train")
    tokenizer = train_tokenizer(tokenizer_texts(catalog, mixture), 8192)
    return tokenizer, tokenize_mixture(mixture, tokenizer, catalog)


def make_model(shape: Shape, tokenizer: Any, attention: str) -> Any:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=shape.vocabulary or len(tokenizer), hidden_size=shape.hidden, intermediate_size=3 * shape.hidden,
        num_hidden_layers=shape.layers, num_attention_heads=shape.hidden // 32, num_key_value_heads=shape.hidden // 64, head_dim=32,
        tie_word_embeddings=True, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
        attn_implementation=attention,
    )  # fmt: skip
    return Qwen3ForCausalLM(config)


def make_trainer(name: str, shape: Shape, tokenizer: Any, examples: Any, work: Path, steps: int) -> SFTTrainer:
    kind, changed = RUNS[name]
    attention = changed.get("attention", "sdpa")
    settings: dict[str, Any] = {
        "output_dir": str(work), "per_device_train_batch_size": shape.batch, "max_steps": steps, "use_cpu": not GPU, "report_to": "none",
        "disable_tqdm": True, "save_strategy": "no", **{k: v for k, v in changed.items() if k != "attention"},
    }  # fmt: skip
    if settings.get("packing"):  # a row of as many tokens as a batch has
        settings["max_length"] = int(np.mean([len(ids) for ids in examples["input_ids"]]) * shape.batch)
    model = make_model(shape, tokenizer, attention)
    more: dict[str, Any] = {"trie": None} if kind is TermIDTrainer else {}
    trainer = kind(model, args=SFTConfig(**settings), train_dataset=examples, processing_class=tokenizer, **more)
    if kind is TermIDTrainer:
        # A few steps must stand for an epoch, whose batches differ in length: the longest first, for the memory, and behind it, timed, the
        # middle one of each of as many equal shares of them.
        lengths, order = np.array([len(ids) for ids in examples["input_ids"]]), list(trainer._get_train_sampler())
        batches = [order[i : i + shape.batch] for i in range(0, len(order) - shape.batch + 1, shape.batch)]
        batches.sort(key=lambda rows: lengths[rows].max())
        chosen = [batches[-1], *(batches[int((i + 0.5) * len(batches) / (steps - 1))] for i in range(steps - 1))]
        trainer.train_dataset = trainer.train_dataset.select([row for rows in chosen for row in rows])
        trainer._get_train_sampler = lambda dataset=None: SequentialSampler(trainer.train_dataset)  # type: ignore[method-assign]
    return trainer


class Meter(TrainerCallback):
    """Seconds, real tokens, labels and positions of the steps behind the first."""

    def __init__(self, trainer: SFTTrainer):
        self.trainer, self.seen = trainer, np.zeros(3)
        self.marks: list[tuple[float, np.ndarray]] = []
        trainer.add_callback(self)
        self.collate = trainer.data_collator
        compute = trainer.compute_loss

        def counted(model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
            real = inputs["attention_mask"].sum().item() if "attention_mask" in inputs else inputs["input_ids"].numel()
            self.seen += [real, (inputs["labels"] != -100).sum().item(), inputs["input_ids"].numel()]
            return compute(model, inputs, *args, **kwargs)

        trainer.compute_loss = counted  # type: ignore[method-assign]

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        if GPU:
            torch.cuda.synchronize()
        self.marks.append((time.perf_counter() if GPU else time.process_time(), self.seen.copy()))

    def run(self) -> tuple[float, float, float, float]:
        """(seconds, real tokens, labels, positions)."""
        self.marks.clear()
        self.trainer.train()
        self.trainer.optimizer = None  # the next round starts anew
        (begin, before), (end, after) = self.marks[0], self.marks[-1]
        tokens, labels, positions = after - before
        return end - begin, tokens, labels, positions


def same_loss(shape: Shape, tokenizer: Any, examples: Any, work: Path) -> bool:
    """The gate: our loss against TRL's on one padded batch, float32."""
    trainer = make_trainer("grlm in float32", shape, tokenizer, examples, work, 1)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(shape.batch)])
    batch = {name: value.to(trainer.args.device) if torch.is_tensor(value) else value for name, value in batch.items()}
    with torch.no_grad():
        ours = trainer.compute_loss(trainer.model, dict(batch)).item()
        theirs = SFTTrainer.compute_loss(trainer, trainer.model, dict(batch)).item()
    print(f"loss on one batch: ours {ours:.7f}, TRL {theirs:.7f}", flush=True)
    return abs(ours - theirs) <= 1e-5


def utilisation(config: Any, seconds: float, tokens: float, labels: float, positions: float, examples: int) -> float | None:
    """Share of the GPU's bfloat16 peak that went into what was asked for: layers at real tokens, logits at labels; ``None`` for a GPU whose
    peak TRL does not know. What is missing went into padding, launches of small kernels, and waiting for the data."""
    from trl.trainer.utils import compute_flops_per_token, get_peak_flops

    peak = get_peak_flops(torch.cuda.get_device_name(), "bfloat16")
    if peak is None:
        return None
    head = 6 * config.vocab_size * config.hidden_size
    layers = compute_flops_per_token(config, int(tokens / examples)) - head
    return (layers * tokens + head * labels) / seconds / peak


def measure(results: Results, key: str, tokenizer: Any, examples: Any, rounds: int, names: list[str], shared: Path) -> None:
    shape = SHAPES[key]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        gate = same_loss(shape, tokenizer, examples, work)
        meters = {name: Meter(make_trainer(name, shape, tokenizer, examples, work, shape.steps + 1)) for name in names}
        found: dict[str, list[tuple[float, ...]]] = {name: [] for name in names}
        for n in range(rounds):
            for name, meter in meters.items():
                found[name].append(meter.run())
                print(f"  round {n + 1}, {name}: {found[name][-1][1] / found[name][-1][0]:.0f} tokens/s", flush=True)
    speed = {name: [tokens / seconds for seconds, tokens, _, _ in runs] for name, runs in found.items()}
    memory = {name: peak_megabytes(key, name, shared) for name in names if name in MEASURED_ALONE}
    for name, runs in found.items():
        results.add(name, "real tokens/s", median(speed[name]), gate=gate if "grlm" in name else None)
        results.add(f"{name}: positions that hold a token", "share", runs[0][1] / runs[0][3])
        if name in memory:
            results.add(f"{name}: memory of training", "MB", memory[name], better="lower")
        if GPU and (share := utilisation(meters[name].trainer.model.config, *runs[-1], examples=shape.steps * shape.batch)):
            results.add(f"{name}: model FLOPs utilisation", "share", share)
    for theirs in (name for name in names if name.startswith("TRL")):
        for ours in (name for name in names if name.startswith("grlm")):
            ratio = median(a / b for a, b in zip(speed[ours], speed[theirs], strict=True))
            goal = 1.5 if (ours, theirs) in (("grlm", "TRL defaults"), ("grlm", "TRL without checkpointing")) else None
            results.add(f"{ours} against {theirs}", "times faster", ratio, goal, gate=gate)


def peak_megabytes(shape: str, name: str, shared: Path) -> float:
    """Growth of a fresh process in two steps; ours begin with the longest batch there is."""
    if GPU:
        grown = _steps_alone(shape, name, shared)
    else:
        command = [sys.executable, __file__, "--alone", shape, name, str(shared)]
        grown = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    print(f"  {name}: {grown:.0f} MB", flush=True)
    return grown


def _steps_alone(shape: str, name: str, shared: Path) -> float:
    from datasets import Dataset
    from transformers import AutoTokenizer

    tokenizer, examples = AutoTokenizer.from_pretrained(shared / "tokenizer"), Dataset.from_parquet(str(shared / "examples.parquet"))
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(name, SHAPES[shape], tokenizer, examples, Path(folder), 2)
        if GPU:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            trainer.train()
            return (torch.cuda.max_memory_allocated() - before) / 1e6
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak starts anew from here
        before = _peak_kilobytes()
        trainer.train()
        return (_peak_kilobytes() - before) / 1e3


def _peak_kilobytes() -> int:
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))


def main() -> None:
    warnings.filterwarnings("ignore", category=FutureWarning)  # transformers renames gradient_checkpointing; TRL does not yet
    if sys.argv[1:2] == ["--alone"]:
        shape, name, shared = sys.argv[2:]
        print(_steps_alone(shape, name, Path(shared)))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", type=Path, help="a dataset repository's folder (default: the sample shop's, made on the spot)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--runs", nargs="+", choices=list(RUNS), default=list(RUNS))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        shared = Path(folder)
        if args.datasets is None:
            from grlm_hf.stages.chain import run
            from grlm_hf.stages.quickstart import quickstart_recipe

            run(quickstart_recipe(shared / "sample", ["until=dataset", "train.objective=vocabulary"]))
        tokenizer, examples = load(args.datasets or shared / "sample" / "datasets")
        tokenizer.save_pretrained(shared / "tokenizer")
        examples.to_parquet(str(shared / "examples.parquet"))
        data = args.datasets.resolve().parent.name if args.datasets else "sample"
        lengths = [len(ids) for ids in examples["input_ids"]]
        print(f"{data}: {len(lengths):,} examples of {np.mean(lengths):.0f} tokens on average, {max(lengths)} at most", flush=True)
        for key in args.shapes:
            results = Results(f"training-{key}-{data}", COMMAND + (" --datasets runs/beauty-cpu/datasets" if args.datasets else ""))
            measure(results, key, tokenizer, examples, args.rounds, args.runs, shared)
            results.save(f"Training on the ordinary loss, {SHAPES[key].label}, {data}", "real tokens/s")


if __name__ == "__main__":
    main()
