"""Items and their neighbours → Term IDs written by a language model: context-aware term generation (GRLM, arXiv 2601.06798, section 3.1).

The model sees an item and its nearest neighbours and answers with exactly `n_terms` terms. `grlm_hf.llms.writers` constrains its decoding
to that form, so every answer has it. A second pass shows the neighbours' identifiers and repeats the request for items with repeated or
empty terms, or with an identifier of another item. Remaining faults are repaired from the item's own text. The
prompt is ours and versioned; its hash is in the dataset's card.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from grlm_hf.data.items import Item
from grlm_hf.files import Incomplete
from grlm_hf.identifiers.terms import N_TERMS, TermID, normalise, parse, render
from grlm_hf.indexing.neighbors import Neighbors
from grlm_hf.indexing.words import FILLERS, STOP_WORDS, words
from grlm_hf.layout import Dtype
from grlm_hf.llms.answers import AnswerForm, parse_part, sharded_answers
from grlm_hf.llms.writers import Writer
from grlm_hf.settings import Count, Limit, Size, check_settings

PROMPT_VERSION = "1"
TERM_CHARS = 32  # longest term as written; longer ones are sentences

_PROMPT = json.loads((files("grlm_hf") / "indexing" / "terms_prompt.json").read_text(encoding="utf-8"))
_TASK, _TAKEN = ("\n".join(_PROMPT[name]) for name in ("task", "taken"))
_ASPECTS, _EXAMPLE = _PROMPT["aspects"], _PROMPT["example"]
_NONE = "(none)"
_LETTER, _INNER, _LAST = r"[\p{L}\p{N}]", r"[\p{L}\p{M}\p{N} '.\-]", r"[\p{L}\p{M}\p{N}]"


@dataclass(frozen=True)
class LLMConfig:
    """Settings of the language model that writes terms."""

    model: str = "Qwen/Qwen3-4B-Instruct-2507"
    """Name or folder of an instruction-tuned causal model."""
    dtype: Dtype = "auto"
    """Number format of its weights: "auto" (as saved; float32 on a CPU), "float32", "bfloat16" or "float16"."""
    batch_size: Size = 64
    """Items per batch with transformers; vLLM schedules by itself."""
    tensor_parallel: Count = 1
    """GPUs over which vLLM splits one copy of the model."""
    max_model_len: Limit = 0
    """vLLM's limit for the tokens of a prompt and its answer; 0: the model's limit."""
    eager: bool = False
    """Run vLLM without compilation, which starts faster."""
    description: Limit = 150
    """Characters of a description in the prompt (150 as in the paper); half as many of a neighbour's."""
    second_pass: Literal["needed", "all", "none"] = "needed"
    """A second request with the neighbours' terms: "needed" (for repeated terms and shared identifiers), "all" items, or "none"."""
    shard_size: Count = 1024
    """Items whose answers are written to disk together; an interrupted run loses at most one shard."""
    part: str = ""
    """"2/8": ask for every eighth shard only, beginning with the third; start one process per GPU, then run once without it to finish."""

    def __post_init__(self) -> None:
        check_settings(self, "terms.llm.")
        parse_part(self.part, "terms.llm.part")


@dataclass(frozen=True)
class Generated:
    """Term IDs written by a model, one per item: `n_terms` different terms in normal form, fewer where answer and text have no more.
    `facts` are JSON-ready: model, prompt version and hash, numbers of answers that were requested again, changed, repaired."""

    term_ids: list[TermID]
    facts: dict[str, Any] = field(default_factory=dict)


def answer_pattern(n_terms: int = N_TERMS) -> str:
    """The form of an answer as a regular expression: ``[a, b, c, d, e]``, each term of at most `TERM_CHARS` characters, beginning with a
    letter or digit of any script. Every full match parses into `n_terms` terms, except for terms with an empty normal form (``ﾞ``)."""
    term = f"{_LETTER}({_INNER}{{0,{TERM_CHARS - 2}}}{_LAST})?"
    return rf"\[{term}(, {term}){{{n_terms - 1}}}\]"


def longest_answer(n_terms: int = N_TERMS) -> int:
    """Upper bound on the tokens of an answer: four bytes per character, one token per byte, brackets, separators and the end."""
    return 4 * TERM_CHARS * n_terms + 2 * n_terms + 2


def request(
    item: Item, near: Sequence[Item], n_terms: int = N_TERMS, *, description: int = 150,
    near_terms: Sequence[TermID] = (), taken: Sequence[TermID] = (),
) -> str:  # fmt: skip
    """The user message that requests an item's terms.

    Args:
        near: its neighbours, closest first; `near_terms`: their identifiers, in the second pass.
        description: characters of the item's description; half as many of a neighbour's.
        taken: identifiers from which the answer must differ.
    """
    lines = [f"{at}. {_about(other, description // 2, '; ')}" for at, other in enumerate(near, 1)]
    if near_terms:
        lines = [f"{line} → {render(terms)}" for line, terms in zip(lines, near_terms, strict=True)]
    return _TASK.format(
        n=n_terms,
        aspects="; ".join(_ASPECTS[:n_terms]),
        item=_about(item, description, "\n"),
        near="\n".join(lines) or _NONE,
        taken=_TAKEN.format(lines="\n".join(map(render, taken))) if taken else "",
        example=", ".join(_EXAMPLE[:n_terms]),
    )


def _about(item: Item, description: int, apart: str) -> str:
    fields = [("Title", item.title, 200), ("Brand", item.brand, 60), ("Category", " > ".join(item.categories[-3:]), 120)]
    fields += [("Description", item.description if description else "", description)]
    return apart.join(f"{name}: {_cut(text, most)}" for name, text, most in fields if text or name == "Title")


def _cut(text: str, most: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else text[:most].rsplit(" ", 1)[0] + " …"


def generation_hash(n_terms: int = N_TERMS) -> str:
    """Hash of the prompt text and the form of the answer, for the dataset's card."""
    probe = Item("id", "T", "B", ("C",), "D")
    text = [PROMPT_VERSION, answer_pattern(n_terms), request(probe, [probe], n_terms, near_terms=[("a",)], taken=[("b",)])]
    return hashlib.sha256(json.dumps(text).encode()).hexdigest()[:16]


def generate_terms(
    items: Sequence[Item],
    neighbors: Neighbors,
    writer: Writer,
    work: str | Path,
    n_terms: int = N_TERMS,
    config: LLMConfig | None = None,
) -> Generated:
    """Term IDs for all items, written by a language model. Resumes from the shards of answers in `work` (`sharded_answers`).

    Args:
        neighbors: of these items, in their order.
        writer: from `grlm_hf.llms.writers.make_writer`; a finished run loads no model.
        n_terms: number of terms in an identifier, 3 to 8.

    Raises:
        ValueError: `neighbors` is of other items; `n_terms` outside 3–8; an answer in another form.
        Incomplete: always with `config.part`: a part only writes answers, and a run without it makes the identifiers.
    """
    config = config or LLMConfig()
    if not 3 <= n_terms <= len(_ASPECTS):
        raise ValueError(f"n_terms is {n_terms}; expected 3 to {len(_ASPECTS)}.")
    neighbors.check_items(items)
    near = [neighbors.of(at) for at in range(len(items))]

    def ask(name: str, positions: Sequence[int], message: Callable[[int], str]) -> list[TermID]:
        ids = [items[at].item_id for at in positions]
        return _ask(writer, Path(work) / name, ids, lambda n: message(positions[n]), n_terms, config)

    def first_message(at: int) -> str:
        return request(items[at], [items[j] for j in near[at]], n_terms, description=config.description)

    first = ask("first", range(len(items)), first_message)
    faults = {at for at, terms in enumerate(first) if len(set(terms)) < n_terms}
    term_ids = [mend(item, terms, n_terms) for item, terms in zip(items, first, strict=True)]

    by_id = sorted(range(len(items)), key=lambda at: items[at].item_id)
    kept = {term_ids[at]: at for at in reversed(by_id)}  # of items that share a Term ID the first by item_id keeps it
    sharing = set(by_id).difference(kept.values())
    again = {"needed": sorted(faults | sharing), "all": range(len(items)), "none": ()}[config.second_pass]

    def second_message(at: int) -> str:
        return request(
            items[at], [items[j] for j in near[at]], n_terms, description=config.description,
            near_terms=[term_ids[j] for j in near[at]], taken=[term_ids[at]] if at in sharing else [],
        )  # fmt: skip

    second = dict(zip(again, ask("second", again, second_message), strict=True)) if again else {}
    changed = 0
    count = Counter(term_ids)
    for at in sorted(again, key=lambda at: items[at].item_id):  # of two equal answers the first item by item_id gets it
        new = second[at]
        if len(set(new)) < n_terms or (new != term_ids[at] and count[new]):
            continue
        count[term_ids[at]] -= 1
        count[new] += 1
        faults.discard(at)
        changed += new != term_ids[at]
        term_ids[at] = new
    if config.part:  # else two parts that end at once would both continue
        raise Incomplete("All answers are written. Run once without terms.llm.part to make the identifiers.")
    facts = {
        "model": Path(config.model).name if Path(config.model).is_dir() else config.model,  # cards are public and must not show local paths
        "prompt_version": PROMPT_VERSION,
        "prompt_hash": generation_hash(n_terms),
        "n_terms": n_terms,
        "answers": len(items),
        "legal_in_form": len(items),  # any other answer is refused
        "asked_again": len(again),
        "changed_by_second_pass": changed,
        "mended": len(faults),
        "settings": {k: v for k, v in asdict(config).items() if k not in ("part", "model")},
    }
    return Generated(term_ids, facts)


def _ask(
    writer: Writer, folder: Path, item_ids: Sequence[str], message: Callable[[int], str], n_terms: int, config: LLMConfig
) -> list[TermID]:
    """The terms that the model writes for each item; they may repeat. Raises as `sharded_answers`."""

    def matches(answer: str) -> bool:
        return answer.startswith("[") and answer.endswith("]") and answer.count(",") == n_terms - 1

    form = AnswerForm(answer_pattern(n_terms), longest_answer(n_terms), matches, f"{n_terms} terms in brackets")
    title = f"terms, {folder.name} pass"
    try:
        answers = sharded_answers(writer, folder, item_ids, message, form, shard_size=config.shard_size, part=config.part, title=title)
    except Incomplete as rest:
        raise Incomplete(
            f"{rest} When every part has ended, run them again for the second pass, then once without terms.llm.part."
        ) from None
    return [tuple(parse(answer) or ()) for answer in answers]


def mend(item: Item, terms: Iterable[str], n_terms: int) -> TermID:
    """Up to `n_terms` different terms in normal form: the valid ones of `terms`, then words of the item's own text (title, categories from
    the leaf upwards, brand, description). Of an item without any, the term ``product``."""
    kept = [term for term in dict.fromkeys(map(normalise, terms)) if term]
    if len(kept) < n_terms:
        own = words("\n".join((item.title, *reversed(item.categories), item.brand, item.description)))
        kept = list(dict.fromkeys([*kept, *(w for w in own if w not in STOP_WORDS and len(w) <= TERM_CHARS)]))
    return tuple(kept[:n_terms] or FILLERS[:1])
