"""Checks of other tools' defaults: ``generation_config.json``, and the arguments of a vLLM engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from grlm_hf.decoding.rules import MIN_BEAMS
from grlm_hf.doctor.findings import Finding

_HARMLESS: dict[str, tuple[Any, ...]] = {
    "do_sample": (False,), "temperature": (1.0,), "top_k": (0, -1), "top_p": (1.0,), "min_p": (0.0,), "top_h": (), "typical_p": (1.0,),
    "epsilon_cutoff": (0.0,), "eta_cutoff": (0.0,), "repetition_penalty": (1.0,), "encoder_repetition_penalty": (1.0,),
    "frequency_penalty": (0.0,), "presence_penalty": (0.0,), "no_repeat_ngram_size": (0,), "encoder_no_repeat_ngram_size": (0,),
    "length_penalty": (0.0, 1.0), "exponential_decay_length_penalty": (), "diversity_penalty": (0.0,), "num_beam_groups": (1,),
    "penalty_alpha": (0.0,), "bad_words_ids": ([],), "suppress_tokens": ([],), "begin_suppress_tokens": ([],), "sequence_bias": ({},),
    "forced_bos_token_id": (), "forced_eos_token_id": (), "min_length": (0,), "min_new_tokens": (0,), "guidance_scale": (1.0,),
    "early_stopping": (False,), "renormalize_logits": (False,), "remove_invalid_values": (False,),
}  # fmt: skip
"""Allowed values in a generation config, besides None: they change no score and no choice."""


def generation(config: dict[str, Any] | None, tokenizer: Any, where: str) -> Iterator[Finding]:
    """Sampler defaults, and EOS and pad tokens that differ from the tokenizer's."""
    config = config or {}
    left = {n: config[n] for n, harmless in _HARMLESS.items() if config.get(n) is not None and config[n] not in harmless}
    if left:
        yield Finding("warning", "sampler-defaults", f"generation_config.json sets {', '.join(f'{n}={v}' for n, v in left.items())}.",
                      "generate() and vLLM use them as defaults: they sample, or change the scores. (recommend does not read them.)",
                      f"Remove {'them' if len(left) > 1 else 'it'} from the file; save_pretrained of grlm-hf writes none.",
                      where)  # fmt: skip
    for name in ("eos", "pad"):
        own = getattr(tokenizer, f"{name}_token_id", None)
        stated = config.get(f"{name}_token_id")
        if own is None or stated is None or own in (stated if isinstance(stated, list) else [stated]):
            continue
        yield Finding("error" if name == "eos" else "warning", f"{name}-differs",
                      f"generation_config.json has {name}_token_id {stated}, the tokenizer {own}.",
                      "Identifiers end in the tokenizer's EOS: generate() and vLLM would continue after them." if name == "eos"
                      else "Padding of one is text for the other.", f"Set {name}_token_id to {own} in the file.", where)  # fmt: skip


def engine(arguments: dict[str, Any], sampler_left: bool, needed_tokens: int) -> Iterator[Finding]:
    """The arguments of a vLLM engine, named as in ``vllm serve`` or ``LLM``. `sampler_left`: the checkpoint's generation config has sampler
    defaults. `needed_tokens`: the length of a typical prompt and its answer."""
    given = {str(n).lstrip("-").replace("-", "_"): v for n, v in arguments.items()}
    mode = given.get("logprobs_mode", "raw_logprobs")
    if not str(mode).startswith("processed"):
        yield Finding("error", "logprobs-mode", f"The engine runs with logprobs_mode {mode!r}.",
                      "LLM.beam_search ranks by the reported values, which are then taken before the trie's mask: beams leave the catalog.",
                      "logprobs_mode: processed_logits, whose values add up to the scores of recommend. Leave it out for "
                      "grlm_hf.vllm.recommend, " "which needs no mask.")  # fmt: skip
    most = given.get("max_logprobs", 20)
    if isinstance(most, int) and -1 < most < 2 * MIN_BEAMS:
        yield Finding("error", "max-logprobs", f"The engine reports at most {most} log-probabilities (max_logprobs).",
                      f"LLM.beam_search requests twice its width: {2 * MIN_BEAMS} with {MIN_BEAMS} beams.",
                      f"max_logprobs: {2 * MIN_BEAMS}")  # fmt: skip
    room = given.get("max_model_len")
    if isinstance(room, int) and 0 < room < needed_tokens:
        yield Finding("error", "length",
                      f"The engine allows {room} tokens (max_model_len); a prompt and its answer need about {needed_tokens}.",
                      "Requests are refused, or identifiers are truncated.", f"max_model_len: {needed_tokens} or more.")  # fmt: skip
    if sampler_left and given.get("generation_config") != "vllm":
        yield Finding("warning", "sampler-defaults", "The engine takes its sampling defaults from the checkpoint, which has some.",
                      "A request without its own settings is then sampled.", "generation_config: vllm")  # fmt: skip
