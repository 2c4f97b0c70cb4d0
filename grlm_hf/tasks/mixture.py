"""The training mixture: examples of all tasks, weighted and seeded, as prompt/completion rows that any TRL script can train on.

The set of rows does not depend on the order of items, histories or conversations; only the order of the rows does.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.interactions import Case, History
from grlm_hf.files import rows_to_dataset
from grlm_hf.identifiers.scheme import Scheme
from grlm_hf.identifiers.terms import TERMS
from grlm_hf.tasks.config import TASKS, MixtureConfig
from grlm_hf.tasks.encoding import prompt_tokens
from grlm_hf.tasks.evidence import Evidence
from grlm_hf.tasks.examples import Example, Source, default_spans
from grlm_hf.tasks.histories import sequences
from grlm_hf.tasks.task import Inputs
from grlm_hf.tokens import without_specials

if TYPE_CHECKING:
    from datasets import Dataset, Features


@dataclass(frozen=True, eq=False)
class Mixture:
    """Rows to train on, and their statistics.

    Attributes:
        dataset: the ``sft`` table, with `mixture_features`.
        statistics: plain values, ready for JSON: `examples`; and by task in `tasks`: `examples`, `share` of all, distinct `keys`,
            `characters` and, where a tokenizer is given, `tokens` of prompt and answer together (mean, p95, max), `shortened` (examples
            that lost their oldest items to `max_tokens`), and `dropped`: how many sources gave no example, by reason.
    """

    dataset: Dataset
    statistics: dict[str, Any]


def make_mixture(
    catalog: Catalog,
    histories: Iterable[History],
    config: MixtureConfig | None = None,
    seed: int = 0,
    *,
    neighbors: Mapping[str, Sequence[str]] | None = None,
    tokenizer: Any = None,
) -> Mixture:
    """All examples of all tasks in one seeded order.

    Args:
        neighbors: item_id → collaborative neighbours, nearest first, in place of the file ``config.neighbors``.
        tokenizer: in place of ``config.tokenizer``; without either tokens are not counted.

    Raises:
        ValueError: nothing to train on; a task without its file; `max_tokens` without a tokenizer; see also
            `grlm_hf.tasks.collaborative.load_item_neighbors` and `grlm_hf.tasks.chat.chat`.
    """
    c = config or MixtureConfig()
    check_inputs(c, tokenizer)
    if tokenizer is None and c.tokenizer:
        tokenizer = load_tokenizer(c.tokenizer)
    histories = list(histories)
    evidence = Evidence.fit(catalog, histories, c.max_history, c.evidence) if c.evidence else None
    inputs = Inputs(catalog, histories, c, c, seed, neighbors, evidence)
    examples: list[Example] = []
    about: dict[str, Any] = {}
    for name, task in TASKS.items():
        if weight := getattr(c, name):
            own = replace(inputs, dropped=Counter())
            drawn = draw(list(task.sources(own)), weight, f"{seed} {name}")
            found, tokens, shortened, dropped = _make_examples(drawn, tokenizer, c.max_tokens, c.caps[name], f"{seed} {name}")
            examples += found
            reasons = dict(sorted((dropped + own.dropped).items()))
            about[name] = _statistics(found, tokens) | {"shortened": shortened, "dropped": reasons}
    if not examples and not about:
        raise ValueError("No task has a weight above 0; give one, such as mixture.sequence=1.")
    if not examples:
        reasons = {task: values["dropped"] for task, values in about.items() if values["dropped"]}
        raise ValueError(
            f"No training example; of the tasks with a weight above 0 were left out: {reasons or 'nothing; their weights draw none'}."
        )
    for values in about.values():
        values["share"] = round(values["examples"] / len(examples), 6)
    random.Random(seed).shuffle(examples)
    return Mixture(examples_to_dataset(examples, catalog.scheme, spans=bool(c.evidence)), {"examples": len(examples), "tasks": about})


def check_inputs(config: MixtureConfig, tokenizer: Any = None) -> None:
    """Raises ``ValueError`` where a task's file, or the tokenizer to count in, is not named or does not exist. Call it before long work."""
    if config.max_tokens and not config.tokenizer and tokenizer is None:
        raise ValueError(f"mixture.max_tokens={config.max_tokens} needs a tokenizer to count in; name one: mixture.tokenizer=MODEL.")
    for name, task in TASKS.items():
        if getattr(config, name):
            task.check(config)


def validation_sequences(
    catalog: Catalog,
    cases: Iterable[Case],
    max_history: int,
    history: str = "term_ids",
    *,
    max_tokens: int = 0,
    tokenizer: Any = None,
    evidence: Evidence | None = None,
) -> Iterator[Example]:
    """The validation cases as examples of the task sequence, for a validation loss. A case is left out if its target and its last item
    alone exceed `max_tokens`. `evidence`: as in a recommendation, with the counts of all training users."""
    whole = [History(c.user_id, (*c.history, c.target)) for c in cases]
    evidence = evidence and replace(evidence, own={})
    sources = sequences(catalog, whole, max_history, history, evidence)
    found, *_ = _make_examples([(source, 0) for source in sources], tokenizer, max_tokens)
    yield from found


def draw(sources: Sequence[Source], weight: float, salt: str) -> list[tuple[Source, int]]:
    """Sources and variants: each source once for every whole unit of `weight`, and for the fraction a share of them once more.

    That share depends on the sources' content and on `salt`, not on their order; the share of .5 is a part of that of .7.
    """
    whole = int(weight)
    drawn = [(source, variant) for variant in range(whole) for source in sources]
    part = round((weight - whole) * len(sources))
    return drawn + [(sources[i], whole) for i in _lowest([(s, 0) for s in sources], part, salt)]


def _lowest(drawn: Sequence[tuple[Source, int]], n: int, salt: str) -> list[int]:
    """Indices of the `n` with the lowest hashes of their content, ascending: a choice that does not depend on their order."""
    if not 0 < n < len(drawn):
        return list(range(min(n, len(drawn))))

    def number(i: int) -> bytes:
        source, variant = drawn[i]
        return hashlib.blake2b("\0".join((salt, str(variant), source.key, *source.items)).encode(), digest_size=8).digest()

    return sorted(sorted(range(len(drawn)), key=number)[:n])


def _make_examples(
    drawn: Sequence[tuple[Source, int]], tokenizer: Any, max_tokens: int, cap: int = 0, salt: str = ""
) -> tuple[list[Example], list[int], int, Counter[str]]:
    """The examples, their numbers of tokens (none without a tokenizer), the number of examples that lost items of their history, and
    the reasons of sources without an example."""
    made: dict[int, tuple[Example, int]] = {}
    dropped: Counter[str] = Counter()
    now = [source for source, _ in drawn]
    todo = list(range(len(drawn)))
    while todo:
        found = {}
        for i in todo:
            example = now[i].make(now[i].items, drawn[i][1])
            if isinstance(example, str):
                dropped[example] += 1
            else:
                found[i] = example
        lengths = dict(zip(found, example_tokens(tokenizer, list(found.values())) if tokenizer else [0] * len(found), strict=True))
        todo = []
        for i, example in found.items():
            if not max_tokens or lengths[i] <= max_tokens:
                made[i] = example, lengths[i]
            elif len(now[i].items) > now[i].least:
                now[i] = replace(now[i], items=now[i].items[1:])  # the oldest, whole
                todo.append(i)
            else:
                dropped["more than max_tokens"] += 1
    order = sorted(made)
    if cap and len(order) > cap:
        dropped["above the cap"] = len(order) - cap
        order = [order[i] for i in _lowest([drawn[i] for i in order], cap, salt)]
    shortened = sum(now[i] is not drawn[i][0] for i in order)
    return [made[i][0] for i in order], [made[i][1] for i in order] if tokenizer else [], shortened, dropped


def example_tokens(tokenizer: Any, examples: Sequence[Example]) -> list[int]:
    """The tokens of each example: its turns under the chat template, its answer and EOS."""
    if not examples:
        return []
    rows = [_row(e) for e in examples]
    answers = tokenizer(without_specials(tokenizer, [e.completion for e in examples]), add_special_tokens=False)["input_ids"]
    return [len(a) + len(b) + 1 for a, b in zip(prompt_tokens(tokenizer, [r["prompt"] for r in rows]), answers, strict=True)]


def _statistics(examples: Sequence[Example], tokens: Sequence[int]) -> dict[str, Any]:
    characters = [sum(len(t) for _, t in e.before) + len(e.prompt) + len(e.completion) for e in examples]
    about: dict[str, Any] = {"examples": len(examples), "share": 0.0, "keys": len({e.key for e in examples})}
    for name, lengths in (("characters", characters), ("tokens", tokens)):
        if lengths:
            rank = math.ceil(0.95 * len(lengths)) - 1
            about[name] = {"mean": round(sum(lengths) / len(lengths), 2), "p95": sorted(lengths)[rank], "max": max(lengths)}
    return about


def load_tokenizer(name: str, setting: str = "mixture.tokenizer") -> Any:
    """A tokenizer by name or folder. Raises ``ValueError`` with the setting that names it, if there is none."""
    from grlm_hf.loading import load_tokenizer as load

    try:
        return load(name)
    except ValueError as error:
        raise ValueError(
            f"{setting}={name!r} is neither a folder with a tokenizer nor one on the Hub: {str(error).splitlines()[0]}"
        ) from error


def examples_to_dataset(examples: Iterable[Example], scheme: Scheme = TERMS, spans: bool = False) -> Dataset:
    """The ``sft`` table: `prompt` and `completion` as chat messages, `task` and `key` beside them.

    It also has the column `spans` where an example has other spans than `default_spans` finds in its completion; its other rows have
    none in it.

    Args:
        scheme: what an identifier is in the completions.
        spans: write the column in any case, as in another split of the same table.
    """
    examples = list(examples)
    stated = [[] if e.spans == default_spans(e.task, e.completion, scheme) else [asdict(span) for span in e.spans] for e in examples]
    rows = [_row(e) for e in examples]
    if spans := spans or any(stated):
        rows = [row | {"spans": own} for row, own in zip(rows, stated, strict=True)]
    return rows_to_dataset(rows, mixture_features(spans))


def mixture_features(spans: bool = False) -> Features:
    """The columns of the ``sft`` table, with or without `spans`."""
    from datasets import Features, List, Value

    messages = List({"role": Value("string"), "content": Value("string")})
    columns = {"task": Value("string"), "key": Value("string"), "prompt": messages, "completion": messages}
    if spans:
        columns["spans"] = List({"text": Value("string"), "kind": Value("string"), "learnt": Value("bool")})
    return Features(columns)


def _row(example: Example) -> dict[str, Any]:
    return {
        "task": example.task,
        "key": example.key,
        "prompt": [{"role": role, "content": content} for role, content in (*example.before, ("user", example.prompt))],
        "completion": [{"role": "assistant", "content": example.completion}],
    }
