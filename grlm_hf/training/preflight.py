"""What a training will need, tried before its first step: a fault that is found when the first checkpoint is saved costs hours."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from grlm_hf.loading import check_template
from grlm_hf.training.config import TrainConfig

log = logging.getLogger("grlm_hf")

PLAIN = "{% for m in messages %}{{ m['role'] }}:\n{{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}assistant:\n{% endif %}"
"""The template of base models, which have none: each turn behind a line with its role."""
TEMPLATES = {"plain": PLAIN}


def set_template(tokenizer: Any, chosen: str) -> None:
    """Gives a tokenizer the chat template of ``train.chat_template``: the name of one of `TEMPLATES`, or a file; "": its own, or "plain"
    where it has none.

    Raises:
        ValueError: no such file, or no Jinja.
    """
    if not chosen and getattr(tokenizer, "chat_template", None):
        return
    if not chosen:
        log.warning("The base model has no chat template; it is trained with train.chat_template=plain, and saved with it.")
    template = TEMPLATES.get(chosen or "plain")
    if template is None:
        if not Path(chosen).is_file():
            raise ValueError(f"train.chat_template is {chosen!r}; expected {', '.join(map(repr, TEMPLATES))} or a file of Jinja.")
        template = Path(chosen).read_text(encoding="utf-8")
        try:
            check_template(template)
        except ValueError as error:
            raise ValueError(f"train.chat_template={chosen}: {error}.") from error
    tokenizer.chat_template = template


def check_model(model: Any, tokenizer: Any) -> None:
    """Makes a model safe to save, and checks that it can be trained with the tokenizer.

    Base models come with sampling settings that their own class refuses to save (a temperature without sampling). No setting of the
    generation matters for a training, and a finished checkpoint gets its own, so only the tokens are kept.

    Raises:
        ValueError: no EOS token; special tokens or a vocabulary beyond the model's embeddings.
    """
    from transformers import GenerationConfig

    name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
    if tokenizer.eos_token_id is None:
        raise ValueError(f"The tokenizer of {name} has no EOS token, so no answer could end. Set tokenizer.eos_token, and save it.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    rows = model.get_input_embeddings().weight.shape[0]
    for role, token in (("EOS", tokenizer.eos_token_id), ("pad", tokenizer.pad_token_id)):
        if token >= rows:
            raise ValueError(
                f"The {role} token of {name} has the id {token}, and the model has {rows} embeddings. Tokenizer and model do not belong "
                "together; or call model.resize_token_embeddings(len(tokenizer)), and save both."
            )
    if (largest := max(tokenizer.get_vocab().values())) >= rows:
        raise ValueError(
            f"The tokenizer of {name} has token ids up to {largest}, and the model has {rows} embeddings. They do not belong together; or "
            "call model.resize_token_embeddings(len(tokenizer)), and save both."
        )
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)


def check_head(model: Any) -> None:
    """Raises ``ValueError`` for an output layer that a saved model would not have as it is here: of another size than the embeddings, or
    tied to them where the model's config says the opposite."""
    into, out, stated = model.get_input_embeddings(), model.get_output_embeddings(), model.config.get_text_config().tie_word_embeddings
    name = type(model).__name__
    if out is None or len(into.weight) != len(out.weight):
        found = "no output layer" if out is None else f"{len(into.weight)} embeddings and an output layer for {len(out.weight)} tokens"
        raise ValueError(f"{name} has {found}; expected one row for each token in both. Save it with equal sizes, or use another model.")
    if (tied := into.weight is out.weight) != bool(stated):
        raise ValueError(
            f"{name} has an output layer that is {'' if tied else 'not '}the input embeddings, and its config says tie_word_embeddings="
            f"{bool(stated)}; a checkpoint of it would load as another model. Correct its config.json, or save it again."
        )


def check_added(tokenizer: Any, tokens: Sequence[str]) -> None:
    """Raises ``ValueError`` unless each of the added tokens is one ordinary token, before, behind and between others."""
    name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
    ids = tokenizer.convert_tokens_to_ids(list(tokens))
    if special := sorted(set(ids) & set(tokenizer.all_special_ids)):
        raise ValueError(
            f"The tokenizer of {name} has {tokenizer.convert_ids_to_tokens(special[0])!r} as a special token, which prompts leave out; "
            "expected an ordinary one. Remove it from the tokenizer's special tokens, or use another model."
        )
    if tokenizer("".join(tokens), add_special_tokens=False)["input_ids"] != ids:
        lines = tokenizer([f"\n{token}\n" for token in tokens], add_special_tokens=False)["input_ids"]
        some = next((t for t, i, row in zip(tokens, ids, lines, strict=True) if i not in row), tokens[0])
        raise ValueError(
            f"The tokenizer of {name} splits {some!r}, which was added to it, into {tokenizer.tokenize(some)}; expected one token. Use its "
            "fast version, or another model."
        )


def check_room(work: Path, model: Any, trained_share: float = 1.0) -> None:
    """Checks that the folder of a training can be written, and has room for its states.

    Args:
        trained_share: of the weights; each trained one has two more numbers in the optimizer.

    Raises:
        ValueError: no permission; or less free space than two states and the finished checkpoint take.
    """
    place = next(p for p in (work.absolute(), *work.absolute().parents) if p.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise ValueError(f"{place} cannot be written, and the training would keep its states in {work}. Choose another output.")
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    needed = int(weights * (3 + 4 * trained_share))
    if (free := shutil.disk_usage(place).free) < needed:
        raise ValueError(
            f"{place} has {free / 2**30:.1f} GiB free; two states of the training and the finished checkpoint take about "
            f"{needed / 2**30:.1f} GiB. Free some space, or choose another output."
        )


def check_memory(name: str, parameters: int) -> None:
    """Raises ``ValueError`` where the weights, gradients and two means of AdamW of a training in float32, 16 bytes a parameter, are alone
    more than the memory of the GPU, or without one of the machine. `name`: of the model, for the error."""
    import torch

    on_gpu = torch.cuda.is_available()
    has = torch.cuda.get_device_properties(0).total_memory if on_gpu else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if 16 * parameters > has:
        raise ValueError(
            f"{name} has {parameters:,} parameters, whose training takes {16 * parameters / 2**30:,.1f} GiB before any activation; the "
            f"{'GPU' if on_gpu else 'machine'} has {has / 2**30:,.1f} GiB. Leave this size out."
        )


def less_memory(config: TrainConfig) -> list[str]:
    """Settings of a training that takes less memory, as advice."""
    advice = [f"train.batch_size={max(1, config.batch_size // 2)} with train.gradient_accumulation={config.gradient_accumulation * 2}"]
    if config.model != "scratch":
        advice += ["train.gradient_checkpointing=true"] if not config.gradient_checkpointing else []
        advice += ["train.bf16=true"] if not config.bf16 else []
        advice += ["train.lora.rank=16"] if not config.lora.rank else ["train.lora.bits=4"] if config.lora.bits == 16 else []
        advice += ["several GPUs under ZeRO-2 or ZeRO-3 (docs/training.md)"]
    return [*advice, "a lower mixture.max_tokens or mixture.max_history, with the data made again"]
