"""Supervised fine-tuning on the mixture with TRL's `SFTTrainer`, in one process or, under a launcher, in several."""

from __future__ import annotations

import os
import random
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.interactions import Case
from grlm_hf.files import read_json, write_json
from grlm_hf.tasks.prompts import prompt_hash
from grlm_hf.tokens import tokenizer_hash
from grlm_hf.training.config import TrainConfig
from grlm_hf.training.labels import tokenize_mixture
from grlm_hf.training.models import add_dropout, load_given, load_trained, lora_settings
from grlm_hf.training.resume import check_same_run, digest, last_whole_checkpoint
from grlm_hf.training.scratch import make_model, train_tokenizer

if TYPE_CHECKING:
    from datasets import Dataset

    from grlm_hf.modeling.recommender import GRLMForRecommendation
    from grlm_hf.priors.sequence import SequenceModel


def train(
    catalog: Catalog,
    mixture: Dataset,
    work: str | Path,
    config: TrainConfig | None = None,
    *,
    validation: Dataset | None = None,
    cases: Sequence[Case] = (),
    max_history: int = 20,
    history: str = "term_ids",
    max_tokens: int = 0,
    seed: int = 0,
    teacher: SequenceModel | None = None,
) -> GRLMForRecommendation | None:
    """Trains a recommender; resumes from the last checkpoint in `work` if there is one.

    Under ``accelerate launch`` or ``torchrun`` every process calls it with the same arguments, and `work` is a folder that all of them
    see. With `config.hub` the checkpoint is pushed while it is trained; the finished one is left to the caller.

    Args:
        mixture: prompt/completion examples (`grlm_hf.tasks.mixture`).
        work: folder for the trainer's checkpoints and its log, ``log.json``.
        validation: examples of validation users whose loss is logged each epoch.
        cases: validation users that early stopping asks for their next item. Never test users.
        teacher: learnt from too, as `config.distill` says; trained on the same histories.
        max_history, history, max_tokens: what the mixture was built with (`grlm_hf.tasks.config.MixtureConfig`); the checkpoint states it.

    Returns:
        The recommender, on the device that it was trained on; after LoRA, sharding or early stopping, on the CPU. ``None`` in all processes
        but the main one.

    Raises:
        ImportError: trl, or what a setting needs, is not installed.
        ValueError: see `tokenize_mixture`, `TrainConfig.check` and `check_same_run`; early stopping without cases; or the loss became NaN:
            then the checkpoints in `work` are those from before.
        MemoryError: with the settings that need less.
    """
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed, where it is installed, wonders aloud why there is no GPU
    try:
        from trl import SFTConfig
    except ImportError as error:
        raise ImportError('Training needs TRL: pip install "grlm-hf[train]"') from error
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list, gather_object
    from transformers import AutoTokenizer

    from grlm_hf.modeling.config import GRLMConfig
    from grlm_hf.modeling.recommender import GRLMForRecommendation
    from grlm_hf.training.callbacks import EarlyStopping, Pushes, best_folder, places, ranks_metrics, standing
    from grlm_hf.training.distill import Teacher
    from grlm_hf.training.trainer import TermIDTrainer

    config = config or TrainConfig()
    config.check()
    stopping = config.early_stopping
    if stopping.metric and not cases:
        raise ValueError(
            f"train.early_stopping.metric={stopping.metric} asks validation users, and there are none. Split the data so that some are "
            "held out (read.split), or leave the metric empty."
        )
    work = Path(work)
    # 1. TRL's settings; they come first, since they connect the processes and start DeepSpeed
    on_cpu, deepspeed = not torch.cuda.is_available(), os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # transformers renames gradient_checkpointing; TRL does not yet
        sft_args = SFTConfig(
            output_dir=str(work),
            num_train_epochs=config.epochs,
            max_steps=config.max_steps,
            learning_rate=config.learning_rate,
            per_device_train_batch_size=config.batch_size,
            per_device_eval_batch_size=config.batch_size,
            gradient_accumulation_steps=config.gradient_accumulation,
            lr_scheduler_type="cosine",
            warmup_steps=config.warmup,
            weight_decay=config.weight_decay,
            adam_beta1=config.beta1,
            adam_beta2=config.beta2,
            adam_epsilon=config.epsilon,
            max_grad_norm=config.clip,
            bf16=config.bf16,
            dataloader_pin_memory=not on_cpu,
            use_cpu=on_cpu and not deepspeed,  # with it accelerate would leave DeepSpeed out
            ddp_backend="gloo" if on_cpu and deepspeed else None,
            gradient_checkpointing=config.gradient_checkpointing and config.model != "scratch",
            use_liger_kernel=config.liger,
            completion_only_loss=True,
            max_length=None,
            eval_strategy="no",  # evaluations are asked for by the trainer's own callback
            save_steps=config.save_steps,
            save_total_limit=2,
            logging_steps=10,
            logging_nan_inf_filter=False,
            ddp_find_unused_parameters=None if on_cpu else False,
            ddp_timeout=7200,  # a push or a search for validation users takes its time, and the others wait
            seed=seed,
            data_seed=seed,
            disable_tqdm=False,
            report_to="none",
        )
    processes = PartialState()
    # 2. the model
    if config.model == "scratch":
        tokenizer = train_tokenizer(_tokenizer_texts(catalog, mixture), config.scratch.vocab_size)
        model = make_model(config.scratch, tokenizer, seed)
        if not torch.cuda.is_available():  # for short texts on a CPU the fused kernels take longer; half as long again for a whole step
            model.set_attn_implementation("eager")
    else:
        tokenizer = AutoTokenizer.from_pretrained(config.model)
        model = load_given(config)
    limit = getattr(model.config, "max_position_embeddings", None)
    # 3. the data
    if config.distill.weight and teacher is None:
        raise ValueError("train.distill.weight asks for a teacher, and there is none; name its file as train.distill.model.")
    taught = bool(config.distill.weight)
    examples = tokenize_mixture(mixture, tokenizer, catalog, limit, objective=config.objective, identifiers=taught)
    held_out = None
    if validation is not None and (watched := min(config.validation_examples, len(validation))):
        held_out = tokenize_mixture(validation.shuffle(seed=seed).select(range(watched)), tokenizer, catalog, limit, True, config.objective)
    if len(set(gather_object([digest(examples)]))) > 1:
        raise ValueError("The processes have read different examples. Give all of them the same data, model and grlm-hf version.")
    # 4. TRL's trainer
    if processes.is_main_process:
        check_same_run(work, config, seed, processes.num_processes, examples)
    (resume,) = broadcast_object_list([last_whole_checkpoint(work) if processes.is_main_process else None])
    trie = catalog.trie(tokenizer) if config.objective == "trie" else None
    trainer = TermIDTrainer(
        model,
        trie=trie,
        teacher=Teacher(teacher, catalog, trie, config.distill.temperature) if taught and teacher and trie else None,
        teacher_weight=config.distill.weight,
        args=sft_args,
        train_dataset=examples,
        eval_dataset=held_out,
        processing_class=tokenizer,
        peft_config=lora_settings(config),
    )
    facts = GRLMConfig(
        max_history=max_history,
        prompt_hash=prompt_hash(history),
        tokenizer_hash=tokenizer_hash(tokenizer),
        objective=config.objective,
        history=history,
        max_tokens=max_tokens,
    )
    autocast = config.bf16 and config.model != "scratch"

    def saved(folder: Path) -> Path:
        """The weights as they are now, written by all processes together; it takes `folder`'s place when it is whole."""
        trainer.save_model(str(folder.with_name(f"{folder.name}-new")))
        trainer.accelerator.wait_for_everyone()
        if processes.is_main_process:
            shutil.rmtree(folder, ignore_errors=True)
            folder.with_name(f"{folder.name}-new").rename(folder)
        trainer.accelerator.wait_for_everyone()
        return folder

    def assembled(folder: Path) -> GRLMForRecommendation:
        trained = load_trained(folder, config)
        return GRLMForRecommendation(trained.to(torch.bfloat16) if autocast else trained, tokenizer, catalog, facts)

    asked = random.Random(seed).sample(list(cases), min(stopping.users, len(cases)))

    def ask() -> dict[str, float]:
        if trainer.sharded:
            grlm = assembled(saved(work / "asked")).to(sft_args.device)
        else:
            grlm = GRLMForRecommendation(trainer.accelerator.unwrap_model(trainer.model), tokenizer, catalog, facts)
        trainer.model.eval()  # type: ignore[union-attr]  # what is logged next belongs to an evaluation
        mine = range(processes.process_index, len(asked), processes.num_processes)
        with torch.autocast(sft_args.device.type, torch.bfloat16, enabled=autocast):
            found = gather_object(list(zip(mine, places(grlm, [asked[i] for i in mine]), strict=True)))
        return ranks_metrics([place for _, place in sorted(found, key=lambda pair: pair[0])])

    def push() -> None:
        folder = saved(work / "pushed")
        try:
            if processes.is_main_process:
                assembled(folder).push_to_hub(config.hub.repo)
        finally:  # also behind a push that failed: the others wait
            trainer.accelerator.wait_for_everyone()

    if stopping.metric:
        trainer.add_callback(EarlyStopping(stopping, work, ask, trainer.log, saved))
    if config.hub.every:
        trainer.add_callback(Pushes(config.hub.every, push))
    hooks = add_dropout(trainer.model, config.dropout)
    if processes.process_index:  # dropout of its own in each process
        torch.manual_seed(seed + processes.process_index)
    log = read_json(Path(resume) / "trainer_state.json")["log_history"] if resume else []
    if not (stopping.metric and standing(log, stopping)[1]):  # else it was broken off after it had stopped
        with _memory_knobs(config):
            trainer.train(resume_from_checkpoint=resume)
        log = trainer.state.log_history
    for hook in hooks:
        hook.remove()
    # 5. the checkpoint
    if processes.is_main_process:
        write_json(work / "log.json", log)
    best = standing(log, stopping)[0] if stopping.metric else None
    if best is not None or trainer.sharded or config.lora.rank:
        folder = saved(work / "final") if best is None else best_folder(work, best)
        return assembled(folder) if processes.is_main_process else None
    if not processes.is_main_process:
        return None
    trained = trainer.accelerator.unwrap_model(trainer.model)
    return GRLMForRecommendation(trained.to(torch.bfloat16) if autocast else trained, tokenizer, catalog, facts)


@contextmanager
def _memory_knobs(config: TrainConfig) -> Iterator[None]:
    """Says of memory that ran out which settings need less."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        said = str(error)
        short = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in said
        if not short:
            raise
        knobs = [f"train.batch_size={max(1, config.batch_size // 2)} with train.gradient_accumulation={config.gradient_accumulation * 2}"]
        if config.model != "scratch":
            knobs += ["train.gradient_checkpointing=true"] if not config.gradient_checkpointing else []
            knobs += ["train.bf16=true"] if not config.bf16 else []
            knobs += ["train.lora.rank=16"] if not config.lora.rank else ["train.lora.bits=4"] if config.lora.bits == 16 else []
            knobs += ["several GPUs under ZeRO-2 or ZeRO-3 (docs/training.md)"]
        knobs += ["a lower mixture.max_tokens or mixture.max_history, with the data made again"]
        found = said.splitlines()[0] if said else "MemoryError"
        raise MemoryError(f"Memory ran out in training ({found}). Try {'; '.join(knobs)}.") from error


def _tokenizer_texts(catalog: Catalog, mixture: Dataset) -> Sequence[str]:
    # Identifiers count ten times as much as user turns: terms are to become single tokens before the words of descriptions do.
    lines = [catalog.scheme.line(identifier) for identifier in catalog.identifiers]
    known = set(lines)
    written = (line for row in mixture["completion"] for line in row[-1]["content"].splitlines(keepends=True) if line not in known)
    asked = ("".join(f"{turn['role']}\n{turn['content']}\n" for turn in row) + "assistant\n" for row in mixture["prompt"])
    return [*lines * 10, *asked, *written]
