"""Supervised fine-tuning on the mixture with TRL's `SFTTrainer`."""

from __future__ import annotations

import json
import shutil
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grlm_hf.catalog import Catalog
from grlm_hf.files import read_json
from grlm_hf.tasks.examples import FREE_TEXT, LAST_ONLY
from grlm_hf.tasks.prompts import (
    identifier_tokens,
    item_line,
    line_tokens,
    prompt_hash,
    prompt_tokens,
    title_line,
    tokenizer_hash,
    without_specials,
)
from grlm_hf.training.scratch import ScratchConfig, make_model, train_tokenizer

if TYPE_CHECKING:
    from datasets import Dataset

    from grlm_hf.modeling import GRLMForRecommendation


@dataclass(frozen=True)
class TrainConfig:
    """How the model is trained."""

    model: str = "scratch"
    """A causal LM on the Hub or in a folder, such as Qwen/Qwen3-4B-Instruct-2507; "scratch" makes a tiny Qwen3 from nothing."""
    scratch: ScratchConfig = field(default_factory=ScratchConfig)
    """Shape of the model from scratch."""
    objective: str = "vocabulary"
    """"vocabulary": the usual loss, and probabilities over all tokens. "trie": both over the legal children of the trie node only."""
    epochs: float = 10.0
    """3 for a pretrained model, as in the paper."""
    learning_rate: float = 2e-3
    """1e-4 for a pretrained model of 4 B parameters, 2e-4 for .6 or 1.7 B."""
    batch_size: int = 64
    """Examples a step and device."""
    gradient_accumulation: int = 1
    warmup: float = 0.1
    """Share of all steps in which the learning rate rises; it then falls as a cosine."""
    weight_decay: float = 0.05
    dropout: float = 0.1
    """Dropout on the embeddings and on every block's output, in training only; for models from scratch, which have none of their own."""
    bf16: bool = False
    """Compute in bfloat16 over float32 weights; a given model is saved in bfloat16."""
    save_steps: int = 200
    """A checkpoint to resume from is written every so many steps."""
    max_steps: int = -1
    """Stop after so many steps; -1: as many as `epochs` takes."""
    validation_examples: int = 1000
    """Validation users on whose held-out item the loss is watched after each epoch; 0: none."""

    def __post_init__(self) -> None:
        if self.objective not in ("vocabulary", "trie"):
            raise ValueError(f"train.objective is {self.objective!r}; expected 'vocabulary' or 'trie'.")
        if self.epochs <= 0 and self.max_steps <= 0:
            raise ValueError(f"train.epochs is {self.epochs}; expected more than 0.")


def tokenize_mixture(
    mixture: Dataset,
    tokenizer: Any,
    catalog: Catalog,
    max_length: int | None = None,
    last_only: bool = False,
    objective: str = "vocabulary",
) -> Dataset:
    """The mixture as `input_ids` and `completion_mask`: 1 on what is learnt, the Term IDs of a completion and the EOS behind it.

    Titles of a history are read and not learnt; so are the Term IDs before the last one in the tasks of
    `grlm_hf.tasks.examples.LAST_ONLY`, and in all with `last_only`: for validation, whose earlier items are training targets. Of the
    tasks in `FREE_TEXT` every token of the answer is learnt; under the objective "trie" they are left out, with a warning that counts
    them, since free text has no trie.

    Every label is checked: the tokens of a completion are exactly the trie paths of its items and its title lines, then EOS.

    Raises:
        ValueError: a completion that is not made of the catalog's identifiers and titles, an example longer than `max_length`, or nothing
            left.
    """
    from datasets import Dataset

    if objective == "trie":
        mixture = _without_free_text(mixture)
    prompts = prompt_tokens(tokenizer, mixture["prompt"])
    texts = [row[-1]["content"] for row in mixture["completion"]]
    free = [task in FREE_TEXT for task in mixture["task"]]
    learnt = dict(zip(map(item_line, catalog.identifiers), identifier_tokens(tokenizer, catalog.identifiers), strict=True))
    lines = [[text] if is_free else text.splitlines(keepends=True) for text, is_free in zip(texts, free, strict=True)]
    read = _title_paths(tokenizer, catalog, {line for some, is_free in zip(lines, free, strict=True) if not is_free for line in some})
    completions = tokenizer(without_specials(tokenizer, texts), add_special_tokens=False)["input_ids"]
    rows: dict[str, list[Any]] = {"input_ids": [], "completion_mask": []}
    for i, (key, task, prompt, completion) in enumerate(zip(mixture["key"], mixture["task"], prompts, completions, strict=True)):
        mask = [1] * len(completion)
        if not free[i]:
            for n, line in enumerate(lines[i] or [""]):
                if line not in learnt and (line not in read or n == len(lines[i]) - 1):
                    raise ValueError(f"Example {key!r} has a completion with {line!r}, which is no identifier of the catalog.")
            if [token for line in lines[i] for token in learnt.get(line) or read[line]] != completion:
                raise ValueError(f"Example {key!r}: the tokens of its completion are not its items' trie paths: {texts[i]!r}.")
            mask = [int(line in learnt) for line in lines[i] for _ in learnt.get(line) or read[line]]
            if last_only or task in LAST_ONLY:
                asked = len(learnt[lines[i][-1]])
                mask = [0] * (len(mask) - asked) + [1] * asked
        ids = [*prompt, *completion, tokenizer.eos_token_id]
        if max_length is not None and len(ids) > max_length:
            raise ValueError(f"Example {key!r} has {len(ids)} tokens, the model takes {max_length}; lower max_history, or set max_tokens.")
        rows["input_ids"].append(ids)
        rows["completion_mask"].append([0] * len(prompt) + mask + [1])
    return Dataset.from_dict(rows)


def _without_free_text(mixture: Dataset) -> Dataset:
    count = Counter(task for task in mixture["task"] if task in FREE_TEXT)
    if not count:
        return mixture
    if count.total() == len(mixture):
        raise ValueError(f"All examples are of {sorted(count)}, whose answers are free text: train.objective=trie learns Term IDs only.")
    warnings.warn(
        f"Left out {dict(sorted(count.items()))}: answers in free text, of which train.objective=trie learns nothing.", stacklevel=3
    )
    return mixture.select([i for i, task in enumerate(mixture["task"]) if task not in FREE_TEXT])


def _title_paths(tokenizer: Any, catalog: Catalog, lines: set[str]) -> dict[str, list[int]]:
    """Token ids of those of the lines that are titles of the catalog."""
    lines = {line for line in lines if not line.startswith("[")}
    titles = sorted(lines & set(map(title_line, catalog))) if lines else []
    return dict(zip(titles, line_tokens(tokenizer, without_specials(tokenizer, titles)), strict=True))


def train(
    catalog: Catalog,
    mixture: Dataset,
    work: str | Path,
    config: TrainConfig | None = None,
    *,
    validation: Dataset | None = None,
    max_history: int = 20,
    history: str = "term_ids",
    max_tokens: int = 0,
    seed: int = 0,
) -> GRLMForRecommendation:
    """Trains a recommender; resumes from the last checkpoint in `work` if there is one.

    Args:
        mixture: prompt/completion examples (`grlm_hf.tasks.mixture`).
        work: folder for the trainer's checkpoints and its log.
        validation: examples of validation users whose loss is logged each epoch.
        max_history, history, max_tokens: what the mixture was built with (`grlm_hf.tasks.config.MixtureConfig`); the checkpoint states it.

    Raises:
        ImportError: trl is not installed.
        ValueError: see `tokenize_mixture`; or the loss became NaN.
    """
    try:
        from trl import SFTConfig
    except ImportError as error:
        raise ImportError('Training needs TRL: pip install "grlm-hf[train]"') from error
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from grlm_hf.modeling import GRLMConfig, GRLMForRecommendation
    from grlm_hf.training.trainer import TermIDTrainer

    config = config or TrainConfig()
    work = Path(work)
    # 1. the model
    if config.model == "scratch":
        tokenizer = train_tokenizer(_tokenizer_texts(catalog, mixture), config.scratch.vocab_size)
        model = make_model(config.scratch, tokenizer, seed)
    else:
        tokenizer = AutoTokenizer.from_pretrained(config.model)
        model = AutoModelForCausalLM.from_pretrained(config.model, dtype="float32")
    limit = getattr(model.config, "max_position_embeddings", None)
    # 2. the data
    examples = tokenize_mixture(mixture, tokenizer, catalog, limit, objective=config.objective)
    held_out = None
    if validation is not None and (watched := min(config.validation_examples, len(validation))):
        held_out = tokenize_mixture(validation.shuffle(seed=seed).select(range(watched)), tokenizer, catalog, limit, last_only=True)
    # 3. TRL
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
            adam_beta2=0.95,
            max_grad_norm=1.0,
            bf16=config.bf16,
            use_cpu=not torch.cuda.is_available(),
            gradient_checkpointing=config.model != "scratch",
            completion_only_loss=True,
            max_length=None,
            eval_strategy="epoch" if held_out is not None else "no",
            save_steps=config.save_steps,
            save_total_limit=2,
            logging_steps=10,
            logging_nan_inf_filter=False,
            seed=seed,
            data_seed=seed,
            disable_tqdm=False,
            report_to="none",
        )
    trainer = TermIDTrainer(
        model,
        trie=catalog.trie(tokenizer) if config.objective == "trie" else None,
        args=sft_args,
        train_dataset=examples,
        eval_dataset=held_out,
        processing_class=tokenizer,
    )
    hooks = _add_dropout(trainer.model, config.dropout)
    trainer.train(resume_from_checkpoint=_last_whole_checkpoint(work))
    for hook in hooks:
        hook.remove()
    (work / "log.json").write_text(json.dumps(trainer.state.log_history, indent=1))
    # 4. the checkpoint
    if config.bf16 and config.model != "scratch":
        trainer.accelerator.unwrap_model(trainer.model).to(torch.bfloat16)
    return GRLMForRecommendation(
        trainer.accelerator.unwrap_model(trainer.model),
        tokenizer,
        catalog,
        GRLMConfig(
            max_history=max_history,
            prompt_hash=prompt_hash(history),
            tokenizer_hash=tokenizer_hash(tokenizer),
            objective=config.objective,
            history=history,
            max_tokens=max_tokens,
        ),
    )


def _tokenizer_texts(catalog: Catalog, mixture: Dataset) -> Sequence[str]:
    # Identifiers count ten times as much as user turns: terms are to become single tokens before the words of descriptions do.
    known = set(map(item_line, catalog.identifiers))
    written = (line for row in mixture["completion"] for line in row[-1]["content"].splitlines(keepends=True) if line not in known)
    asked = ("".join(f"{turn['role']}\n{turn['content']}\n" for turn in row) + "assistant\n" for row in mixture["prompt"])
    return [*map(item_line, catalog.identifiers * 10), *asked, *written]


def _last_whole_checkpoint(work: Path) -> str | None:
    """The newest checkpoint that was written to its end; a half-written one, left by a kill, is removed."""
    for folder in sorted(work.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]), reverse=True):
        try:
            read_json(folder / "trainer_state.json")  # the trainer writes it last
        except ValueError:
            shutil.rmtree(folder)
            continue
        return str(folder)
    return None


def _add_dropout(model: Any, p: float) -> list[Any]:
    """Hooks that drop out embeddings and block outputs while training, so that the saved architecture stays a stock one."""
    from torch.nn import functional as F

    if not p:
        return []

    def drop(module: Any, _inputs: Any, output: Any) -> Any:
        return F.dropout(output, p, module.training)

    modules = [model.get_input_embeddings(), *(m for n, m in model.named_modules() if n.endswith(("self_attn.o_proj", "mlp.down_proj")))]
    return [module.register_forward_hook(drop) for module in modules]
