"""A given model to train, with LoRA, quantised weights and other kernels if the settings say so."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from grlm_hf.loading import load_causal_lm
from grlm_hf.training.config import TrainConfig
from grlm_hf.training.vocabulary import check_unsplit, resize, token_indices, train_rows

FLASH = "flash_attention_2"


def check_kernels(config: TrainConfig) -> None:
    """Raises ``ImportError`` for kernels that are not installed, ``ValueError`` for kernels that need a GPU where there is none."""
    import torch

    if config.attention == FLASH and not config.bf16:
        raise ValueError(f"train.attention={FLASH} computes in half precision only: set train.bf16=true.")
    wanted = {
        f"train.attention={config.attention}": "flash_attn" if config.attention == FLASH else "",
        "train.liger=true": "liger_kernel" if config.liger else "",
        "train.lora.bits=4": "bitsandbytes" if config.lora.bits == 4 else "",
    }
    for setting, package in wanted.items():
        if package and find_spec(package) is None:
            raise ImportError(f"{setting} needs {package}: pip install {package.replace('_', '-')}, or leave the setting out.")
        if package and package != "bitsandbytes" and not torch.cuda.is_available():
            raise ValueError(f"{setting} needs a GPU, and none was found; leave the setting out.")


def load_given(config: TrainConfig) -> Any:
    """The causal LM that `config.model` names, in float32; with LoRA in bfloat16 if `config.bf16`; with `lora.bits` 4 its linear layers
    in NF4.

    Raises:
        ImportError, ValueError: see `check_kernels`; or transformers knows no such attention.
    """
    import torch
    from transformers import BitsAndBytesConfig

    check_kernels(config)
    more: dict[str, Any] = {}
    if config.attention:
        more["attn_implementation"] = config.attention
    if config.lora.bits == 4:
        compute = torch.bfloat16 if config.bf16 else torch.float32
        more["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute, bnb_4bit_use_double_quant=True
        )
        if torch.cuda.is_available():
            from accelerate import PartialState

            more["device_map"] = {"": PartialState().device}
    frozen = config.bf16 and config.lora.rank  # trained weights stay in float32; bfloat16 would round small steps away
    return load_causal_lm(config.model, dtype="bfloat16" if frozen else "float32", **more)


def lora_settings(config: TrainConfig, model: Any = None, rows: Sequence[int] = ()) -> Any:
    """peft's settings, or ``None`` without LoRA. `rows`: of the model's embeddings, those of tokens of identifiers, which are trained too.

    Raises:
        ImportError: without peft.
        ValueError: see `token_indices`; matrices on layers whose rows are trained.
    """
    if not config.lora.rank:
        return None
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise ImportError('train.lora needs peft: pip install "grlm-hf[train]"') from error
    names = [name.strip() for name in config.lora.targets.split(",") if name.strip()]
    indices = token_indices(model, rows)
    if both := sorted(set(names) & {layer.rpartition(".")[2] for layer in indices or ()}):
        raise ValueError(
            f"train.lora.targets names {both[0]}, whose rows of identifiers' tokens are trained themselves; leave {both[0]} out of it."
        )
    return LoraConfig(
        r=config.lora.rank,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules="all-linear" if names == ["all-linear"] else names,
        task_type="CAUSAL_LM",
        trainable_token_indices=indices,
    )


def add_soft_tokens(model: Any, tokenizer: Any, count: int, seed: int) -> None:
    """Adds `count` tokens that the chat template writes before everything but the BOS token, and freezes all weights but their embeddings:
    prompt tuning (Lester et al., 2021; PromptRec, Wu et al., 2024) of an otherwise ordinary LM. Each begins as a token of the vocabulary,
    drawn with `seed`. AdamW must not decay weights, since it knows no rows. Raises ``ValueError`` under FSDP and DeepSpeed."""
    import torch
    from tokenizers import AddedToken

    if not count:
        return
    check_unsplit("train.soft_tokens")
    names = [f"<|soft_{n}|>" for n in range(count)]
    known = torch.tensor([i for i in tokenizer.get_vocab().values() if i not in tokenizer.all_special_ids])
    tokenizer.add_tokens([AddedToken(name, normalized=False) for name in names])
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer))
    own = re.match(r"\s*\{\{-?\s*bos_token\s*-?\}\}", tokenizer.chat_template)
    begin = own.end() if own else 0
    tokenizer.chat_template = tokenizer.chat_template[:begin] + "".join(names) + tokenizer.chat_template[begin:]
    weight, rows = model.get_input_embeddings().weight, tokenizer.convert_tokens_to_ids(names)
    with torch.no_grad():
        weight[rows] = weight[known[torch.randperm(len(known), generator=torch.Generator().manual_seed(seed))[:count]]]
    train_rows(model, [weight], rows)


def load_trained(folder: str | Path, config: TrainConfig) -> Any:
    """The model that a trainer saved in `folder`, as an ordinary causal LM on the CPU. LoRA is merged into the given model's own
    (unquantised) weights, with the rows of tokens that it lacks, in float32."""
    with _no_sharding():
        if not config.lora.rank:
            return load_causal_lm(folder, dtype=None if config.model == "scratch" else "float32")
        from peft import PeftConfig, PeftModel

        given = load_causal_lm(config.model, dtype="float32")
        trained = getattr(PeftConfig.from_pretrained(str(folder)), "trainable_token_indices", None) or {}
        resize(given, 1 + max((row for rows in trained.values() for row in rows), default=-1))
        return PeftModel.from_pretrained(given, folder).merge_and_unload()


@contextmanager
def dropout(model: Any, p: float) -> Iterator[None]:
    """Drops out embeddings and block outputs in training mode, by hooks, so that the saved architecture stays a stock one."""
    import torch

    def drop(module: Any, _inputs: Any, output: Any) -> Any:
        if not module.training:
            return output
        # Not F.dropout: on a CPU its random numbers take a tenth of a small model's training step.
        return output * ((torch.rand_like(output, dtype=torch.float32) >= p).to(output.dtype) / (1 - p))

    modules = [model.get_input_embeddings(), *(m for n, m in model.named_modules() if n.endswith(("self_attn.o_proj", "mlp.down_proj")))]
    hooks = [module.register_forward_hook(drop) for module in modules] if p else []
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _no_sharding() -> Iterator[None]:
    """A model loaded in here is whole in every process. Otherwise ZeRO-3 would split it, and FSDP leave it empty in most processes."""
    from transformers.integrations import deepspeed

    reference = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    fsdp = os.environ.pop("ACCELERATE_USE_FSDP", None)
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = reference
        if fsdp is not None:
            os.environ["ACCELERATE_USE_FSDP"] = fsdp
