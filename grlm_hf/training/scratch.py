"""A tiny language model from scratch: a byte-level BPE tokenizer trained on the catalog, and a small Qwen3.

It takes the place of a pretrained LLM, so the same path runs without a download.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Annotated, Any

from grlm_hf.settings import Range, Size, check_settings

# Qwen's split with one change: a comma, a space and the next word are one piece, as are `[` and its word, so that a frequent term of a
# Term ID can become one token. Runs of digits are one piece for the same reason.
_SPLIT = (
    r", [^\s,\[\]]+|\[[^\s,\[\]]+|\]\n"
    r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"


@dataclass(frozen=True)
class ScratchConfig:
    """Shape of a Qwen3 from scratch. vLLM needs a `head_dim` of at least 32."""

    vocab_size: Size = 4096
    hidden_size: Size = 128
    intermediate_size: Size = 384
    layers: Size = 2
    heads: Size = 4
    kv_heads: Size = 2
    head_dim: Annotated[int, Range(2)] = 32
    max_positions: Size = 1024

    def __post_init__(self) -> None:
        check_settings(self, "train.scratch.")
        if self.heads % self.kv_heads:
            raise ValueError(f"train.scratch.kv_heads is {self.kv_heads}; expected a divisor of heads, {self.heads}.")
        if self.head_dim % 2:
            raise ValueError(
                f"train.scratch.head_dim is {self.head_dim}; expected an even number: rotary positions turn pairs of dimensions."
            )


def count_parameters(shape: ScratchConfig) -> int:
    """The parameters of a model of this shape with a full vocabulary; the embeddings, which are the output layer too, count once."""
    width, heads, kv = shape.hidden_size, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    layer = 2 * width * (heads + kv) + 3 * width * shape.intermediate_size + 2 * width + 2 * shape.head_dim
    return shape.vocab_size * width + shape.layers * layer + width


def shape_of(parameters: int, like: ScratchConfig) -> ScratchConfig:
    """The shape whose number of parameters is nearest to `parameters`: `hidden_size` is a multiple of 16, and there are a layer for each 64
    of it, a head for each `head_dim` of it, and three times as many intermediate features, as in the default shape. Vocabulary, `head_dim`,
    positions and the share of `kv_heads` are those of `like`.

    Raises:
        ValueError: the nearest shape has less than two thirds of it, or more than half as much again.
    """
    found: list[ScratchConfig] = []
    while not found or count_parameters(found[-1]) < parameters:
        width = 16 * len(found) + 16
        heads = max(1, width // like.head_dim)
        most = max(1, heads * like.kv_heads // like.heads)
        kv_heads = next(n for n in range(most, 0, -1) if heads % n == 0)
        layers = max(1, (width + 32) // 64)
        found.append(replace(like, hidden_size=width, intermediate_size=3 * width, layers=layers, heads=heads, kv_heads=kv_heads))
    best = min(found[-2:], key=lambda shape: abs(count_parameters(shape) - parameters))
    if not 2 / 3 < (count := count_parameters(best)) / parameters < 3 / 2:
        raise ValueError(
            f"No model has about {parameters:,} parameters: the nearest one has {count:,}, with a vocabulary of {like.vocab_size:,}. "
            "Choose another size, or another train.scratch.vocab_size."
        )
    return best


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Any:
    """A byte-level BPE tokenizer with a ChatML template, trained on `texts`; any text can be encoded."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(_SPLIT), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    special = [END_OF_TEXT, TURN_START, TURN_END]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=1,
        special_tokens=[AddedToken(t, special=True) for t in special],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=TURN_END, pad_token=END_OF_TEXT, chat_template=_CHATML, padding_side="left", model_max_length=10**6
    )


def make_model(config: ScratchConfig, tokenizer: Any, seed: int) -> Any:
    """A randomly initialised Qwen3 causal LM for the tokenizer. It sets PyTorch's global seed."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(seed)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            head_dim=config.head_dim,
            max_position_embeddings=config.max_positions,
            tie_word_embeddings=True,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
        )
    )
