"""Supervised fine-tuning on the mixture with TRL's `SFTTrainer`, in one process or, under a launcher, in several."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.interactions import Case
from grlm_hf.files import read_json, write_json
from grlm_hf.loading import load_tokenizer
from grlm_hf.tasks.evidence import Evidence
from grlm_hf.tasks.prompts import prompt_hash
from grlm_hf.tokens import tokenizer_hash
from grlm_hf.training.config import TrainConfig
from grlm_hf.training.current import CurrentRun
from grlm_hf.training.labels import tokenize_mixture
from grlm_hf.training.models import add_soft_tokens, dropout, load_given, lora_settings
from grlm_hf.training.phases import Phase, phases
from grlm_hf.training.preflight import check_model, check_room, less_memory, set_template
from grlm_hf.training.resume import check_same_run, digest, last_whole_checkpoint
from grlm_hf.training.run import LOG_FILE, memory_advice, patches_removed, require_trl, trl_settings, whole_run
from grlm_hf.training.scratch import make_model, train_tokenizer
from grlm_hf.training.vocabulary import add_symbols, check_unsplit, extend, matrices, train_rows

if TYPE_CHECKING:
    from datasets import Dataset

    from grlm_hf.modeling.recommender import GRLMForRecommendation
    from grlm_hf.training.label_store import LabelStore
    from grlm_hf.training.trainer import TermIDTrainer


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
    teacher: LabelStore | None = None,
    finish: bool = False,
    exclude_seen: bool = True,
    evidence: Evidence | None = None,
) -> GRLMForRecommendation | None:
    """Trains a recommender; resumes from the last checkpoint in `work` if there is one.

    Under ``accelerate launch`` or ``torchrun`` every process calls it with the same arguments, and `work` is a folder that all of them
    see. With `config.hub` the checkpoint is pushed while it is trained; the finished one is left to the caller.

    Args:
        mixture: an ``sft`` table (`grlm_hf.tasks.mixture`).
        work: folder for the trainer's checkpoints and its log, ``log.json``.
        validation: examples of validation users; their loss is logged each epoch.
        cases: validation users, whose next item early stopping searches for. Never test users.
        max_history, history, max_tokens: as the mixture was built (`grlm_hf.tasks.config.MixtureConfig`); the checkpoint states them.
        teacher: the answers to this mixture's questions (`grlm_hf.training.label_store`), for `config.distill`.
        finish: train no further; the recommender has the weights of the last whole state in `work`.
        exclude_seen: early stopping leaves out items of the history, as the evaluation will do.
        evidence: of a mixture whose prompts show some (`mixture.evidence`); fitted on its training histories.

    Returns:
        The recommender, on the training's device; after LoRA, sharding or early stopping on the CPU. ``None`` in all processes but the
        main one.

    Raises:
        ImportError: trl, or a package that a setting needs, is not installed.
        ValueError: see `tokenize_mixture`, `TrainConfig.check` and `check_same_run`; early stopping without cases; or a loss that became
            NaN, before it reached a checkpoint.
        MemoryError: with the settings that need less.
    """
    require_trl()
    config, work = config or TrainConfig(), Path(work)
    _check(config, cases, teacher)
    same: dict[str, Any] = {
        "settings": config,
        "max_history": max_history,
        "history": history,
        "max_tokens": max_tokens,
        "seed": seed,
        "evidence": evidence,
    }
    given = config
    for phase in phases(config, mixture, catalog, work, seed):
        if not phase.is_done:
            if finish:
                raise ValueError(
                    f"{work} holds no state of the training itself: one of the {len(config.phases_before)} phases before it is not done, "
                    "so there is nothing to finish. Run it with the same settings, without --finish."
                )
            _train_phase(phase, catalog, same)
        given = replace(config, model=str(phase.result))
    more: dict[str, Any] = {"validation": validation, "cases": cases, "teacher": teacher, "finish": finish, "exclude_seen": exclude_seen}
    return _train(catalog, mixture, work, given, **more, **same)


def _train_phase(phase: Phase, catalog: Catalog, same: dict[str, Any]) -> None:
    import gc

    import torch
    from accelerate import PartialState

    made = _train(catalog, phase.mixture, phase.work, phase.config, rows_only=phase.rows_only, is_phase=True, **same)
    if made is not None:
        phase.save(made)
    PartialState().wait_for_everyone()
    del made
    gc.collect()  # a trainer and its model hold each other
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _train(
    catalog: Catalog,
    mixture: Dataset,
    work: Path,
    config: TrainConfig,
    *,
    settings: TrainConfig,
    rows_only: bool = False,
    is_phase: bool = False,
    validation: Dataset | None = None,
    cases: Sequence[Case] = (),
    max_history: int,
    history: str,
    max_tokens: int,
    seed: int,
    teacher: LabelStore | None = None,
    finish: bool = False,
    exclude_seen: bool = True,
    evidence: Evidence | None,
) -> GRLMForRecommendation | None:
    """`train` without the phases before it, or one of these.

    Args:
        settings: those of the whole training, which a resume must have.
        rows_only: train only the rows of identifiers' tokens.
        is_phase: another training follows, so weights keep the type that they are trained in.
    """
    import torch
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    from grlm_hf.modeling.config import GRLMConfig

    # 1. TRL's settings come first, since they connect the processes and start DeepSpeed
    args = _trl_settings(config, work, seed)
    processes = PartialState()
    # 2. the model, and the data in its tokens
    if teacher is not None and config.distill.sampled:
        mixture = _with_sampled(mixture, teacher, catalog, config, seed, history, evidence)
    model, tokenizer, rows = _model_and_tokenizer(config, catalog, mixture, seed)
    if rows_only:
        check_unsplit("A phase of new rows")
        train_rows(model, matrices(model), rows)
    check_room(work, model, 0.1 if config.lora.rank else 1.0)
    examples, held_out = _examples(config, catalog, mixture, validation, tokenizer, model, seed)
    # 3. the checkpoint to resume from, and its log
    if processes.is_main_process:
        check_same_run(work, settings, seed, processes.num_processes, examples)
    (resume,) = broadcast_object_list([last_whole_checkpoint(work) if processes.is_main_process else None])
    log = read_json(Path(resume) / "trainer_state.json")["log_history"] if resume else []
    if finish and not resume:
        raise ValueError(
            f"{work} holds no whole state of this training, so there is nothing to finish. States are written every train.save_steps="
            f"{config.save_steps} steps; run it with the same settings, without --finish."
        )
    stated = {"objective": config.objective, "history": history, "max_history": max_history, "max_tokens": max_tokens}
    shown = evidence.number if evidence else 0
    hashes = {"prompt_hash": prompt_hash(history, catalog.scheme, shown), "tokenizer_hash": tokenizer_hash(tokenizer)}
    facts = GRLMConfig(**hashes, **stated, scheme=catalog.scheme.name, codebook=catalog.codebook_hash, evidence=shown)  # type: ignore[arg-type]
    with patches_removed(model):
        # 4. TRL's trainer
        more = {"args": args, "train_dataset": examples, "eval_dataset": held_out, "processing_class": tokenizer}
        trainer = _trainer(model, catalog, config, teacher, rows, **more)
        run = CurrentRun(trainer, catalog, tokenizer, facts, config, work, exclude_seen, evidence and replace(evidence, own={}), is_phase)
        run.add_callbacks(random.Random(seed).sample(list(cases), min(config.early_stopping.users, len(cases))))
        # 5. the steps
        with dropout(trainer.model, config.dropout), memory_advice(less_memory(config)):
            if processes.process_index:  # another dropout in each process
                torch.manual_seed(seed + processes.process_index)
            if not finish and not run.has_stopped(log):  # it may have been interrupted after its early stop
                trainer.train(resume_from_checkpoint=resume)
                log = trainer.state.log_history
        # 6. the checkpoint
        if processes.is_main_process:
            write_json(work / LOG_FILE, whole_run(log))
        if finish and resume and not config.early_stopping.metric:
            return run.from_folder(Path(resume)) if processes.is_main_process else None
        return run.finished(log)


def _check(config: TrainConfig, cases: Sequence[Case], teacher: LabelStore | None) -> None:
    config.check()
    if config.early_stopping.metric and not cases:
        raise ValueError(
            f"train.early_stopping.metric={config.early_stopping.metric} needs validation users, and there are none. Split the data "
            "so that some are held out (read.split), or leave the metric empty."
        )
    if config.distill.weight and teacher is None:
        raise ValueError("train.distill.weight needs the teacher's answers, and there are none; see grlm_hf.stages.teacher.make_teacher.")


def _with_sampled(
    mixture: Dataset, teacher: LabelStore, catalog: Catalog, config: TrainConfig, seed: int, history: str, evidence: Evidence | None
) -> Dataset:
    from datasets import concatenate_datasets

    from grlm_hf.tasks.mixture import examples_to_dataset
    from grlm_hf.training.distill import sampled_examples
    from grlm_hf.training.labels import taught_items

    found = [(s, user) for s, user in zip(taught_items(mixture, catalog), mixture["key"], strict=True) if s]
    sequences, users = [s for s, _ in found], [user for _, user in found]
    examples = sampled_examples(teacher, catalog, sequences, config.distill.sampled, seed, history, evidence, users)
    more = examples_to_dataset(examples, catalog.scheme, spans="spans" in mixture.column_names)
    return concatenate_datasets([mixture, more])


def _trl_settings(config: TrainConfig, work: Path, seed: int) -> Any:
    import torch
    from trl import SFTConfig

    on_cpu, deepspeed = not torch.cuda.is_available(), os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true"
    return trl_settings(
        SFTConfig,
        "train",
        config,
        work,
        seed,
        num_train_epochs=config.epochs,
        max_steps=config.max_steps,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation,
        adam_beta1=config.beta1,
        adam_beta2=config.beta2,
        adam_epsilon=config.epsilon,
        max_grad_norm=config.clip,
        dataloader_pin_memory=not on_cpu,
        dataloader_num_workers=0 if on_cpu else 2,  # they collate while the GPU works; anew each epoch, so that no random number moves
        use_cpu=on_cpu and not deepspeed,  # if it were true, accelerate would not start DeepSpeed
        ddp_backend="gloo" if on_cpu and deepspeed else None,
        gradient_checkpointing=config.gradient_checkpointing and config.model != "scratch",
        use_liger_kernel=config.liger,
        completion_only_loss=True,
        max_length=None,
        eval_strategy="no",  # the trainer's own callback evaluates
        logging_steps=10,
        ddp_find_unused_parameters=None if on_cpu else False,
        ddp_timeout=7200,  # the other processes wait for a push or for the search of early stopping
    )


def _model_and_tokenizer(config: TrainConfig, catalog: Catalog, mixture: Dataset, seed: int) -> tuple[Any, Any, list[int]]:
    """Both, and the rows of the tokens of identifiers; [] for a model from scratch, which trains all rows in any case."""
    import torch

    if config.model != "scratch":
        model, tokenizer = load_given(config), load_tokenizer(config.model)
        set_template(tokenizer, config.chat_template)
        check_model(model, tokenizer)
        rows = extend(model, tokenizer, catalog, config, seed)
        add_soft_tokens(model, tokenizer, config.soft_tokens, seed)
        return model, tokenizer, rows
    tokenizer = train_tokenizer(tokenizer_texts(catalog, mixture), config.scratch.vocab_size)
    add_symbols(tokenizer, catalog)
    model = make_model(config.scratch, tokenizer, seed)
    if not torch.cuda.is_available():  # on a CPU the fused kernels are slower for short texts: half as long again for a whole step
        model.set_attn_implementation("eager")
    return model, tokenizer, []


def tokenizer_texts(catalog: Catalog, mixture: Dataset) -> Sequence[str]:
    """The texts on which the tokenizer of a model from scratch is trained."""
    # Identifiers count ten times as much as user turns: terms are to become single tokens before the words of descriptions do.
    # Symbols are tokens already, and no text.
    symbols = catalog.scheme.added_tokens(catalog.identifiers)
    lines = [catalog.scheme.line(identifier) for identifier in catalog.identifiers]
    known = set(lines)
    answers = (line for row in mixture["completion"] for line in row[-1]["content"].splitlines(keepends=True) if line not in known)
    prompts = ("".join(f"{turn['role']}\n{turn['content']}\n" for turn in row) + "assistant\n" for row in mixture["prompt"])
    if symbols:
        spelled = re.compile("|".join(map(re.escape, symbols)))
        return ["0123456789\n", *(spelled.sub("", text) for text in (*prompts, *answers))]
    return [*lines * 10, *prompts, *answers]


def _examples(
    config: TrainConfig, catalog: Catalog, mixture: Dataset, validation: Dataset | None, tokenizer: Any, model: Any, seed: int
) -> tuple[Dataset, Dataset | None]:
    """The mixture, and the validation examples for the loss of each epoch, as tokens."""
    from accelerate.utils import gather_object

    limit = getattr(model.config, "max_position_embeddings", None)
    taught = bool(config.distill.weight)
    columns = {"identifiers": taught, "answers": bool(config.contrastive.weight)}
    examples = tokenize_mixture(mixture, tokenizer, catalog, limit, objective=config.objective, **columns)
    if len(set(gather_object([digest(examples)]))) > 1:
        raise ValueError("The processes have read different examples. Give all of them the same data, model and grlm-hf version.")
    n_validation = min(config.validation_examples, len(validation)) if validation is not None else 0
    if validation is None or not n_validation:
        return examples, None
    chosen = validation.shuffle(seed=seed).select(range(n_validation))
    return examples, tokenize_mixture(chosen, tokenizer, catalog, limit, last_only=True, objective=config.objective)


def _trainer(
    model: Any, catalog: Catalog, config: TrainConfig, teacher: LabelStore | None, rows: Sequence[int], **more: Any
) -> TermIDTrainer:
    from grlm_hf.training.contrastive import Contrastive
    from grlm_hf.training.distill import Teacher, add_readout
    from grlm_hf.training.trainer import TermIDTrainer

    trie = catalog.trie(more["processing_class"]) if config.objective == "trie" else None
    if trie and teacher is not None and config.distill.weight:
        more |= {"teacher": Teacher(teacher, catalog, trie), "teacher_weight": config.distill.weight}
        if config.distill.auxiliary:
            add_readout(model)
    if config.contrastive.weight:
        limit = getattr(model.config, "max_position_embeddings", None)
        answers = more["train_dataset"]["answers"][:]
        more["contrastive"] = Contrastive(config.contrastive, more["processing_class"], catalog, answers, limit)
    return TermIDTrainer(model, trie=trie, peft_config=lora_settings(config, model, rows), **more)
