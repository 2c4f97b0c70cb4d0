"""Language models that answer in a given form: transformers or vLLM behind one small interface. The form is a regular expression.
llguidance constrains the model to it token by token in both back ends, so every answer matches it. Decoding is greedy and without thinking:
the same batches give the same answers. In bfloat16, rounding and so sometimes a term depends on the rest of the batch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from grlm_hf.layout import Backend
from grlm_hf.loading import load_causal_lm, load_tokenizer
from grlm_hf.settings import check_value
from grlm_hf.tokens import without_specials

if TYPE_CHECKING:
    import torch


class Writer(Protocol):
    """A chat model that answers user messages."""

    identity: str
    """Back end, model and dtype, known without loading the model. Answers with different identities must not be mixed."""

    def write(self, messages: Sequence[str], pattern: str, max_new_tokens: int) -> list[str]:
        """One answer per message, in order, each a full match of `pattern` (a regular expression in llguidance's syntax). `max_new_tokens`
        must be enough for the longest match. Raises `ValueError` for a message that is too long for the model."""


def make_writer(
    backend: Backend,
    model: str,
    *,
    dtype: str = "auto",
    batch_size: int = 64,
    tensor_parallel: int = 1,
    max_model_len: int = 0,
    eager: bool = False,
) -> Writer:
    """A writer for a model's name or folder. The model is loaded by the first call of `write`.

    Args:
        backend: "transformers" or "vllm".
        dtype: of the weights; "auto": as saved, float32 on a CPU.
        batch_size: messages per batch with transformers; vLLM schedules by itself.
        tensor_parallel: GPUs over which vLLM splits one copy of the model.
        max_model_len: vLLM's limit for the tokens of a message and its answer; 0: the model's limit.
        eager: vLLM without compilation, which starts faster.

    Raises `ValueError` for an unknown back end. `write` raises it for a model that is unreadable or has no chat template, and
    `ImportError` naming what to install.
    """
    check_value("backend", backend, Backend)
    if backend == "transformers":
        return TransformersWriter(model, dtype=dtype, batch_size=batch_size)
    return VLLMWriter(model, dtype=dtype, tensor_parallel=tensor_parallel, max_model_len=max_model_len, eager=eager)


class TransformersWriter:
    """Answers with `generate()` of transformers, on a GPU if there is one."""

    def __init__(self, model: str, *, dtype: str = "auto", batch_size: int = 64):
        self.identity = f"transformers {_identity(model)} {dtype}"
        self.model, self.dtype, self.batch_size = model, dtype, batch_size

    @cached_property
    def _tokenizer(self) -> Any:
        return _tokenizer(self.model)

    @cached_property
    def _lm(self) -> Any:
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = "float32" if (self.dtype, device) == ("auto", "cpu") else self.dtype
        try:
            model: Any = load_causal_lm(self.model, dtype=dtype)
            return model.to(device).eval()
        except ValueError as error:
            raise ValueError(f"{self.model!r} is no causal language model that transformers can load: {_first(error)}") from error

    @cached_property
    def _eos(self) -> list[int]:
        eos = self._lm.generation_config.eos_token_id
        return eos if isinstance(eos, list) else [self._tokenizer.eos_token_id if eos is None else eos]

    @cached_property
    def _guide(self) -> Any:
        rows = self._lm.get_output_embeddings().weight.shape[0]  # some models pad the vocabulary beyond the tokenizer's
        return _llguidance().hf.from_tokenizer(self._tokenizer, n_vocab=max(rows, len(self._tokenizer)), eos_token=self._eos)

    def write(self, messages: Sequence[str], pattern: str, max_new_tokens: int) -> list[str]:
        import torch
        from transformers import GenerationConfig

        prompts = _prompts(self._tokenizer, messages)
        pad = self._tokenizer.pad_token_id
        pad = self._eos[0] if pad is None else pad  # masked: its value does not matter
        room = getattr(self._lm.config, "max_position_embeddings", None) or 1 << 30
        _check_lengths(prompts, room - max_new_tokens)
        greedy = GenerationConfig(do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=self._eos, pad_token_id=pad)
        self._lm.generation_config = greedy  # else generate() adds the checkpoint's settings, such as a repetition penalty
        answers = [""] * len(prompts)
        order = sorted(range(len(prompts)), key=lambda at: (-len(prompts[at]), at))  # batches of similar length need little padding
        for some in (order[i : i + self.batch_size] for i in range(0, len(order), self.batch_size)):
            width = len(prompts[some[0]])
            padded = torch.tensor([[pad] * (width - len(prompts[at])) + prompts[at] for at in some], device=self._lm.device)
            lengths = torch.tensor([[len(prompts[at])] for at in some], device=self._lm.device)
            with torch.inference_mode():
                out = self._lm.generate(
                    input_ids=padded,
                    attention_mask=(torch.arange(width, device=self._lm.device) >= width - lengths).long(),
                    generation_config=greedy,
                    logits_processor=[_RegexConstraint(self._guide, pattern, self._eos, len(some), width)],
                )
            for at, text in zip(some, self._tokenizer.batch_decode(out[:, width:], skip_special_tokens=True), strict=True):
                answers[at] = text.strip()
        return answers


class _RegexConstraint:
    """A logits processor that constrains each row to a regular expression."""

    def __init__(self, guide: Any, pattern: str, eos: list[int], rows: int, prompt_length: int):
        llguidance = _llguidance()
        grammar = llguidance.LLMatcher.grammar_from_regex(pattern)
        self._matchers = [llguidance.LLMatcher(guide, grammar) for _ in range(rows)]
        if self._matchers[0].is_error():
            raise ValueError(f"llguidance cannot compile {pattern!r}: {self._matchers[0].get_error()}")
        self._eos, self._next = eos, prompt_length

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        import numpy as np
        import torch

        written = input_ids[:, self._next :].tolist()
        self._next = input_ids.shape[1]
        legal = np.ones(scores.shape, dtype=bool)
        for row, matcher in enumerate(self._matchers):
            if not matcher.is_stopped():
                matcher.consume_tokens(written[row])
            legal[row] = False
            if matcher.is_stopped():  # only the end can follow; generate() pads rows that have ended
                legal[row, self._eos] = True
                continue
            bits = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
            found = np.unpackbits(bits, bitorder="little").astype(bool)[: scores.shape[1]]
            legal[row, : len(found)] = found
        return scores.masked_fill(~torch.from_numpy(legal).to(scores.device), float("-inf"))  # type: ignore[return-value]


class VLLMWriter:
    """Answers with vLLM's offline engine."""

    def __init__(self, model: str, *, dtype: str = "auto", tensor_parallel: int = 1, max_model_len: int = 0, eager: bool = False):
        self.identity = f"vllm {_identity(model)} {dtype}"
        self.model, self.dtype, self.tensor_parallel, self.max_model_len, self.eager = model, dtype, tensor_parallel, max_model_len, eager

    @cached_property
    def _tokenizer(self) -> Any:
        return _tokenizer(self.model)

    @cached_property
    def _llm(self) -> Any:
        from grlm_hf.llms.start import start

        return start(
            self.model,
            dtype=self.dtype,
            tensor_parallel_size=self.tensor_parallel,
            max_model_len=self.max_model_len or None,
            enforce_eager=self.eager,
            structured_outputs_config={"backend": "guidance"},  # llguidance, as in the transformers back end
        )

    def write(self, messages: Sequence[str], pattern: str, max_new_tokens: int) -> list[str]:
        prompts = _prompts(self._tokenizer, messages)
        _check_lengths(prompts, self._llm.llm_engine.model_config.max_model_len - max_new_tokens)  # raises where vLLM is missing
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        greedy = SamplingParams(temperature=0.0, max_tokens=max_new_tokens, structured_outputs=StructuredOutputsParams(regex=pattern))
        found = self._llm.generate([{"prompt_token_ids": ids} for ids in prompts], greedy, use_tqdm=False)
        return [answer.outputs[0].text.strip() for answer in found]


def _tokenizer(model: str) -> Any:
    try:
        tokenizer = load_tokenizer(model)
    except ValueError as error:
        raise ValueError(f"{model!r} is neither a folder with a tokenizer nor a readable one on the Hub: {_first(error)}") from error
    if not tokenizer.chat_template:
        raise ValueError(f"{model!r} has no chat template; expected an instruction-tuned model, such as Qwen/Qwen3-4B-Instruct-2507.")
    return tokenizer


def _prompts(tokenizer: Any, messages: Sequence[str]) -> list[list[int]]:
    """Token ids of each user message in the model's chat template without thinking, up to the beginning of the answer."""
    messages = without_specials(tokenizer, messages)
    texts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": message}], tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        for message in messages
    ]
    return tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []


def _check_lengths(prompts: Sequence[Sequence[int]], room: int) -> None:
    if prompts and (longest := max(map(len, prompts))) > room:
        raise ValueError(
            f"A message has {longest} tokens; the model's limit leaves {room} beside the answer. Show fewer neighbours or shorter "
            "descriptions (neighbors.k, terms.llm.description), or choose a model with a longer context."
        )


def _first(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def _identity(model: str) -> str:
    """A folder's name with a hash of its files (weights, configuration, tokenizer, chat template); a Hub id as it is."""
    folder = Path(model)
    if not folder.is_dir():
        return model
    digest = hashlib.sha256()
    for file in sorted(p for p in folder.iterdir() if p.is_file() and p.name != "README.md"):
        with open(file, "rb") as content:
            digest.update(file.name.encode() + hashlib.file_digest(content, "sha256").digest())
    return f"{folder.name} {digest.hexdigest()[:16]}"


def _llguidance() -> Any:
    try:
        import llguidance
        import llguidance.hf
    except ImportError as error:
        raise ImportError('Terms written by a language model need llguidance: pip install "grlm-hf[terms]"') from error
    return llguidance
