"""The vocabulary of a given model with the tokens of identifiers, such as the codes of Semantic IDs.

Rows that all start at the mean of the old ones are nearly equal, and a fine-tuning parts them slowly: Grounded Token Initialization
(arXiv 2604.02324) finds that what the new rows start as, and a phase that trains them alone on items' texts, decides how well the model
learns identifiers. Here they start apart (`extend`), and ``train.new_rows.steps`` is that phase (`grlm_hf.training.phases`), as stage 1 of
OpenOneRec trains nothing else. Rows of old tokens stay as they are, and so do the logits of old tokens.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from grlm_hf.data.catalog import Catalog
from grlm_hf.identifiers.symbols import code
from grlm_hf.tasks.prompts import written_title
from grlm_hf.tokens import without_specials
from grlm_hf.training.config import TrainConfig
from grlm_hf.training.preflight import check_added, check_head

if TYPE_CHECKING:
    import torch

_NOISE = 0.02
"""Noise on the rows that start "codebook" or "titles", in standard deviations of the old rows: equal ones must be able to part."""


def add_symbols(tokenizer: Any, catalog: Catalog) -> list[str]:
    """Adds the tokens that the catalog's identifiers need, as ordinary ones that no normaliser changes. Returns all of them, sorted."""
    from tokenizers import AddedToken

    tokens = catalog.added_tokens()
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in tokens])
    return tokens


def extend(model: Any, tokenizer: Any, catalog: Catalog, config: TrainConfig, seed: int) -> list[int]:
    """Gives a model and its tokenizer the tokens of the catalog's identifiers; those that they lack get rows that start as
    `config.new_rows.start` says. An output layer of its own gets rows too, in proportion to its own old rows.

    Returns:
        The ids of all tokens of identifiers, ascending; [] for a catalog whose identifiers are ordinary text.

    Raises:
        ValueError: see `check_head` and `check_added`; embeddings that are quantised or split; "codebook" without tables of a codebook.
    """
    tokens = catalog.added_tokens()
    if not tokens:
        return []
    check_head(model)
    vocabulary = tokenizer.get_vocab()
    lacking, old = [token for token in tokens if token not in vocabulary], max(vocabulary.values()) + 1
    titles = _title_tokens(tokenizer, catalog) if lacking and config.new_rows.start == "titles" else {}
    tables = _table_rows(catalog) if lacking and config.new_rows.start == "codebook" else []
    check_added(tokenizer, add_symbols(tokenizer, catalog))
    if lacking:
        resize(model, max(tokenizer.get_vocab().values()) + 1)
        at = tokenizer.convert_tokens_to_ids(lacking)
        for number, matrix in enumerate(matrices(model)):  # whatever padding held in these rows is replaced
            matrix.data[at] = _starts(matrix.data[:old].float(), lacking, titles, tables, seed + number).to(matrix)
    return sorted(tokenizer.convert_tokens_to_ids(tokens))


def resize(model: Any, rows: int) -> None:
    """Makes room for `rows` tokens. A vocabulary that is padded to more keeps its size. Raises ``ValueError`` for embeddings that are
    quantised, or split over processes."""
    for matrix in matrices(model):
        if matrix.dim() != 2 or not matrix.is_floating_point():
            raise ValueError(
                f"The model's embeddings are {matrix.dtype} {list(matrix.shape)}; expected floating-point numbers [vocab, hidden], to "
                "which rows of identifiers' tokens can be added. Load it unquantised, and start the training without ZeRO-3."
            )
    if rows > len(model.get_input_embeddings().weight):
        model.resize_token_embeddings(rows, mean_resizing=False)
        model.name_or_path = (
            ""  # it is another model now; peft would write all embeddings into each state where the name's have other sizes
        )


def matrices(model: Any) -> list[Any]:
    """The input embeddings [vocab, hidden], and those of an output layer of its own."""
    into, out = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    return [into] if into is out else [into, out]


def token_indices(model: Any, rows: Sequence[int]) -> dict[str, list[int]] | None:
    """What peft trains beside LoRA's matrices: rows of the embeddings, by the name of their layer; peft follows a tied output layer.

    Raises:
        ValueError: an output layer with a bias, which peft would leave out.
    """
    if not rows:
        return None
    into, out = model.get_input_embeddings(), model.get_output_embeddings()
    if getattr(out, "bias", None) is not None:
        raise ValueError(
            f"The output layer of {type(model).__name__} has a bias, and peft trains rows of layers without one only. Leave out "
            "train.lora.rank, or use a model without that bias."
        )
    names = {layer: name for name, layer in model.named_modules() if layer is into or layer is out}
    return {names[layer]: list(rows) for layer in ([into] if into.weight is out.weight else [into, out])}


def check_unsplit(setting: str) -> None:
    """Raises ``ValueError`` under FSDP and DeepSpeed. `setting`: what trains rows of a matrix."""
    if any(os.environ.get(f"ACCELERATE_USE_{name}", "").lower() == "true" for name in ("FSDP", "DEEPSPEED")):
        raise ValueError(f"{setting} trains rows of one matrix, which FSDP and DeepSpeed split. Start it without them.")


def train_rows(model: Any, weights: Sequence[Any], rows: Sequence[int]) -> None:
    """Freezes a model but these rows of its matrices, [vocab, hidden]. AdamW must not decay weights, since it knows no rows."""
    import torch

    model.requires_grad_(False)
    for weight in weights:
        trained = torch.zeros(len(weight), 1).index_fill_(0, torch.tensor(rows), 1.0)
        weight.requires_grad_(True).register_hook(lambda gradient, trained=trained: gradient * trained.to(gradient))


def _starts(
    known: torch.Tensor, tokens: Sequence[str], titles: dict[str, Counter[int]], tables: Sequence[dict[str, np.ndarray]], seed: int
) -> torch.Tensor:
    """The rows that tokens start with: noise around the mean of the old rows at their standard deviation; for a token in `titles` or
    `tables` what these say instead, and a little noise.

    Args:
        known: float32 [old, hidden], the old rows.
        titles: of a token, how often each old token is in the titles of its items.
        tables: of each level, of a token the row of its code.

    Returns:
        float32 [tokens, hidden].
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    mean, std, width = known.mean(0), known.std(0), known.shape[1]
    noise = torch.randn(len(tokens), width, generator=generator).to(known.device) * std
    rows, place = mean + noise, {token: n for n, token in enumerate(tokens)}
    for table in tables:
        vectors = torch.from_numpy(np.stack(list(table.values()))).float()
        projected = (vectors - vectors.mean(0)) @ torch.randn(vectors.shape[1], width, generator=generator)
        projected = (projected / projected.std().clamp(min=1e-12)).to(known.device)
        for token, vector in zip(table, projected, strict=True):
            if (n := place.get(token)) is not None:
                rows[n] = mean + std * vector + _NOISE * noise[n]
    for token, counts in titles.items():
        if (n := place.get(token)) is not None:
            shares = torch.tensor(list(counts.values()), dtype=torch.float32, device=known.device) / counts.total()
            rows[n] = shares @ known[list(counts)] + _NOISE * noise[n]
    return rows


def _title_tokens(tokenizer: Any, catalog: Catalog) -> dict[str, Counter[int]]:
    """Of each token of an identifier, how often each token of the old vocabulary is in the titles of its items."""
    texts = without_specials(tokenizer, map(written_title, catalog.items))
    found: dict[str, Counter[int]] = {}
    for ids, identifier in zip(tokenizer(texts, add_special_tokens=False)["input_ids"], catalog.item_identifiers, strict=True):
        for token in catalog.scheme.added_tokens([identifier]) if ids else ():
            found.setdefault(token, Counter()).update(ids)
    return found


def _table_rows(catalog: Catalog) -> list[dict[str, np.ndarray]]:
    """Of each level of the catalog's codebook the tokens with the rows of their codes, float32 [d]."""
    book = catalog.codebook
    if book is None or not book.tables:
        raise ValueError(
            "train.new_rows.start=codebook needs codes of a codebook with tables; "
            + ("the catalog has none" if book is None else f"that of the catalog has the structure {book.structure!r}")
            + ". Choose titles or gaussian."
        )

    def token(level: int, number: int) -> str:
        return catalog.scheme.added_tokens([(code(level, number, book.domain),)])[0]

    return [{token(level, number): row for number, row in enumerate(table)} for level, table in enumerate(book.tables)]
