"""The dense half: an answer after one forward of the prompt, without decoding (Lite-LLM4Rec, Wang et al. 2024, arXiv 2402.09543).

    p(item | history) = softmax over all items of ⟨user, item⟩ / temperature

The user's vector is the last hidden state of the last prompt token, the item's vector that of the last token of
`grlm_hf.tasks.prompts.internalise_request`; both have length 1. At both places the model is about to write an identifier: the next item's,
and the item's own. An item's text is enough for a vector, so items that nobody has bought compete with all others (LIGER, Yang et al. 2024,
arXiv 2411.18814). ``train.contrastive`` trains the two sides on each other.

`Dense` is a `Scorer` as those of `grlm_hf.priors`: in a `Fused` its probabilities enter the search, and are weighed on validation users.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.items import Item
from grlm_hf.decoding.index import SearchIndex
from grlm_hf.engines.protocol import check_scores
from grlm_hf.modeling.prompter import Prompter
from grlm_hf.priors.awaited import DENSE, Awaited
from grlm_hf.tasks.encoding import item_tokens
from grlm_hf.tasks.prompts import internalise_request
from grlm_hf.tensors import read_tensors, write_tensors

TEMPERATURE = 0.05
"""Of vectors that no contrastive loss has trained."""
_TOKENS = 2**13  # of a forward


@dataclass(frozen=True, eq=False)
class ItemVectors:
    """The items' vectors, as a file beside the trie.

    Attributes:
        vectors: float16 `[n_items, hidden]`, of length 1.
        digests: int64 `[n_items]`, hashes of the items' texts: a vector is made again when the text changes.
        temperature: divides the cosines; that of the training, where it had a contrastive loss.
    """

    kind: ClassVar[str] = "vectors"
    item_ids: tuple[str, ...] = ()
    vectors: np.ndarray | None = None
    digests: np.ndarray | None = None
    temperature: float = TEMPERATURE

    def following(self, items: Sequence[Item], prompter: Prompter) -> ItemVectors:
        """The same for these items, in this order; the model reads only new items and changed texts."""
        digests = np.fromiter((_digest(item) for item in items), np.int64, len(items))
        row = {item: n for n, item in enumerate(self.item_ids)}
        at = np.fromiter((row.get(item.item_id, -1) for item in items), np.int64, len(items))
        old = np.zeros(len(items), bool)
        if self.digests is not None:
            old[at >= 0] = self.digests[at[at >= 0]] == digests[at >= 0]
        new = np.flatnonzero(~old)
        tokens = item_tokens(prompter.tokenizer, [items[n] for n in new.tolist()], prompter.engine.max_length)
        made = last_states(prompter, tokens)
        width = made.shape[1] if len(new) or self.vectors is None else self.vectors.shape[1]
        vectors = np.zeros((len(items), width), np.float16)
        vectors[new] = made
        if old.any() and self.vectors is not None:
            vectors[old] = self.vectors[at[old]]
        return replace(self, item_ids=tuple(item.item_id for item in items), vectors=vectors, digests=digests)

    def save(self, path: str | Path, model: str) -> None:
        """Writes one file in the safetensors format, atomically. `model`: `weights_hash` of the model that made the vectors."""
        arrays = {"vectors": self.vectors, "digests": self.digests}
        facts = {"item_ids": list(self.item_ids), "temperature": self.temperature, "model": model}
        write_tensors(path, self.kind, {"items": arrays}, facts)

    @classmethod
    def load(cls, path: str | Path, model: str) -> ItemVectors:
        """Reads what `save` wrote. Raises `ValueError` if the file is broken, or another model than `model` made the vectors."""
        groups, facts = read_tensors(path, cls.kind)
        try:
            arrays = {name: tensor.numpy() for name, tensor in groups["items"].items()}
            found, loaded = facts["model"], cls(tuple(facts["item_ids"]), **arrays, temperature=facts["temperature"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path} holds no item vectors that this grlm-hf reads ({error!r}). Remove it; it is made again.") from error
        if found != model:
            raise ValueError(
                f"{path} holds vectors of another model (hash {found}; the weights beside it have {model}). Remove it, and the vectors are "
                "made again; or restore the checkpoint's own files."
            )
        if not len(loaded.item_ids) == len(arrays["vectors"]) == len(arrays["digests"]):
            n = len(arrays["vectors"])
            raise ValueError(f"{path} holds {n} vectors for {len(loaded.item_ids)} items. Remove it; it is made again.")
        return loaded

    @cached_property
    def wide(self) -> np.ndarray:
        """`vectors` as float32: products of float16 are far slower."""
        assert self.vectors is not None
        return self.vectors.astype(np.float32)

    def without_rows(self) -> ItemVectors:
        """For other weights: the temperature alone."""
        return ItemVectors(temperature=self.temperature)


@dataclass(frozen=True, eq=False)
class Dense:
    """The scorer of one version of a catalog; it reads the history's items in that version. Each call is one forward a history."""

    kind: ClassVar[str] = DENSE
    prompter: Prompter
    index: SearchIndex
    vectors: ItemVectors

    @property
    def item_ids(self) -> tuple[str, ...]:
        return self.vectors.item_ids

    @property
    def known(self) -> np.ndarray:
        """bool `[n_items]`, all: an item's text is enough."""
        return np.ones(len(self.item_ids), bool)

    def scores(self, histories: Sequence[Sequence[str]]) -> np.ndarray:
        """See `Scorer`. A history without a known item has no prompt: all items are alike."""
        catalog = self.index.catalog
        positions = [[catalog.position(item) for item in history if item in catalog] for history in histories]
        full = [n for n, found in enumerate(positions) if found]
        scores = np.full((len(histories), len(self.item_ids)), -np.log(len(self.item_ids)), np.float32)
        if full:
            users = last_states(self.prompter, self.prompter.prompts(self.index, [positions[n] for n in full]))
            check_scores(users, self.prompter.engine.name)
            found = (users / np.float32(self.vectors.temperature)) @ self.vectors.wide.T
            found -= found.max(1, keepdims=True)
            scores[full] = found - np.log(np.exp(found).sum(1, keepdims=True))
        return scores

    def following(self, catalog: Catalog) -> Dense:
        """The same on another catalog."""
        if catalog is self.index.catalog:
            return self
        index = self.index.updated(catalog, self.prompter.tokenizer)
        return Dense(self.prompter, index, self.vectors.following(catalog.items, self.prompter))

    def save(self, path: str | Path) -> None:
        """Writes a file that names this part of a prior; the vectors are in the checkpoint (`ItemVectors`)."""
        Awaited(self.item_ids).save(path)


class DenseHalf:
    """The dense scorer of a recommender: `on` gives it for a version of the catalog, and makes missing vectors first.

    Attributes:
        vectors: those made last, or as loaded; ``None``: none yet.
    """

    def __init__(self, prompter: Prompter, vectors: ItemVectors | None = None):
        self.prompter, self.vectors = prompter, vectors
        self._last: Dense | None = None  # one reference, so that threads see a whole one

    def on(self, index: SearchIndex) -> Dense:
        """Raises `ValueError` where an engine keeps the model, or there is none."""
        last = self._last
        if last is None or last.index is not index:
            vectors = (self.vectors or ItemVectors()).following(index.catalog.items, self.prompter)
            last = self._last = Dense(self.prompter, index, vectors)
            self.vectors = vectors
        return last


def weights_hash(folder: str | Path) -> str:
    """Hash of the weights in a checkpoint's folder, by the content of their files."""
    found = hashlib.sha256()
    for path in sorted(Path(folder).glob("*.safetensors")):
        with open(path, "rb") as file:
            found.update(f"{path.name}:{hashlib.file_digest(file, 'sha256').hexdigest()}".encode())
    return found.hexdigest()[:16]


def decoder_of(model: Any) -> Any:
    """The model without its output layer; its result has ``last_hidden_state``, float [batch, length, hidden]."""
    if hasattr(model, "get_base_model"):  # of PEFT
        model = model.get_base_model()
    return model.base_model


@torch.inference_mode()
def last_states(prompter: Prompter, prompts: Sequence[Any]) -> np.ndarray:
    """float32 `[n, hidden]`, of length 1: the model's last hidden state at the last token of each text, given as token ids."""
    model = prompter.engine.language_model("A recommendation without decoding")
    decoder, device = decoder_of(model), prompter.engine.device
    found = np.zeros((len(prompts), model.get_output_embeddings().weight.shape[1]), np.float32)
    order = sorted(range(len(prompts)), key=lambda n: len(prompts[n]))
    while order:
        rows = order[-max(1, _TOKENS // len(prompts[order[-1]])) :]
        del order[-len(rows) :]
        ids, mask = padded([prompts[n] for n in rows], prompter.tokenizer.pad_token_id)
        hidden = decoder(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False).last_hidden_state
        found[rows] = at_ends(hidden, mask.to(device)).float().cpu().numpy()
    return found


def padded(prompts: Sequence[Any], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids padded on the right, and the mask of what is no padding; both int64 [n, longest]."""
    ids = torch.full((len(prompts), max(map(len, prompts))), pad)
    mask = torch.zeros_like(ids)
    for row, kept, prompt in zip(ids, mask, prompts, strict=True):
        row[: len(prompt)], kept[: len(prompt)] = torch.as_tensor(prompt), 1
    return ids, mask


def at_ends(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """float32 [n, hidden], of length 1: the states at the last tokens, of float [n, length, hidden]."""
    last = hidden[torch.arange(len(hidden), device=hidden.device), mask.sum(1) - 1]
    return torch.nn.functional.normalize(last.float(), dim=1)


def _digest(item: Item) -> int:
    return int.from_bytes(hashlib.blake2b(internalise_request(item).encode(), digest_size=8).digest(), "little", signed=True)
