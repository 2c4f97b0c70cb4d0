"""Item texts → unit vectors from any sentence-transformers model, in shards that survive an interruption. The paper embeds title,
description and categories with Qwen3-Embedding-8B (GRLM, arXiv 2601.06798, section 3.1). Here any sentence-transformers model works.
Without one, a TF-IDF model is fitted on the catalog, which needs no download."""

from __future__ import annotations

import hashlib
import importlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from grlm_hf.data.items import Item
from grlm_hf.files import replacing
from grlm_hf.progress import progress

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

SHARD_SIZE = 10_000  # items; an interrupted run repeats at most one shard, and 100 files hold a million items
_PROGRESS_FROM = 5_000  # items; fewer take too little time for a progress bar
_DOCUMENT_PROMPTS = ("document", "passage", "corpus")  # the names that models give the prompt for documents
_SHARD = "vectors-{:05d}.safetensors"


def item_text(item: Item) -> str:
    """The embedded text: title, brand, categories (root to leaf) and description on one line each, without empty ones."""
    parts = (item.title, item.brand, " > ".join(item.categories), item.description)
    return "\n".join(part.strip() for part in parts if part.strip())


def tfidf_embedder(texts: Iterable[str], dim: int = 256, seed: int = 0) -> SentenceTransformer:
    """A `SentenceTransformer` fitted on `texts`, which are read once: TF-IDF in `dim` dimensions, without a download.

    With at most `dim` words, cosines are those of TF-IDF. With more words, a Gaussian random projection R estimates them without bias and
    with a standard error of about dim ** -.5 (Johnson and Lindenstrauss, 1984). On product titles it finds better neighbours than a
    truncated SVD of the same dimension, which flattens the items of one category into near ties.

    The model's one module is a `StaticEmbedding`: word w has the row idf(w) · R[w], idf(w) = ln((1 + n) / (1 + df(w))) + 1, and a text is
    the mean of its words' rows. Words are lower-cased runs of letters, marks and digits with at least one letter; those of fewer than two
    texts connect nothing and are left out, and a text with no other words gets the zero vector. The order of `texts` does not matter.

    Raises `ValueError` for `dim` < 1.
    """
    if dim < 1:
        raise ValueError(f"dim must be at least 1; found {dim}.")
    modules = needs("sentence_transformers.sentence_transformer.modules")
    from sentence_transformers import SentenceTransformer
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    splitter = pre_tokenizers.Split(Regex(r"[\p{L}\p{M}\p{N}]+"), behavior="removed", invert=True)
    frequency: Counter[str] = Counter()
    n_texts = 0
    for text in texts:
        n_texts += 1
        frequency.update({word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))})
    vocabulary = sorted(word for word, count in frequency.items() if count > 1 and any(c.isalpha() for c in word))
    idf = np.log((1 + n_texts) / (1 + np.array([frequency[word] for word in vocabulary], dtype=np.float64))) + 1  # [n_words]
    if len(vocabulary) <= dim:
        axes = np.eye(len(vocabulary), max(1, len(vocabulary)))
    else:
        axes = np.random.default_rng(seed).standard_normal((len(vocabulary), dim)) / np.sqrt(dim)
    axes *= idf[:, None]  # in place: gigabytes for a million items
    rows = np.concatenate([np.zeros((1, axes.shape[1])), axes], dtype=np.float32)  # [1 + n_words, d]; row 0, zero, is the unknown word

    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["[UNK]", *vocabulary])}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    return SentenceTransformer(modules=[modules.StaticEmbedding(tokenizer, rows)], device="cpu")


def load_embedder(name: str, dtype: str = "auto", max_tokens: int = 0, device: str | None = None) -> SentenceTransformer:
    """The sentence-transformers model of that name or folder, with its own padding side, pooling and prompts.

    Args:
        dtype: "auto" (the checkpoint's), "float32", "bfloat16" or "float16".
        max_tokens: longer texts are truncated to it; 0: the model's own limit.
        device: None: the first accelerator, else the CPU.

    Raises `ValueError` for an unreadable model, and for `max_tokens` with a model without a limit (a static one).
    """
    try:
        make = needs("sentence_transformers").SentenceTransformer
        model = make(name, device=device, model_kwargs={"dtype": dtype}, trust_remote_code=False)
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # of a library, about a broken file
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"The embedder {name!r} is neither a folder with a model nor a readable one on the Hub: {reason}") from error
    if max_tokens:
        try:
            model.max_seq_length = max_tokens
        except AttributeError as error:
            raise ValueError(f"The embedder {name!r} reads texts of any length: leave max_tokens at 0.") from error
    return model


def prompt_text(model: SentenceTransformer, prompt: str = "") -> str:
    """The text before every item's text. All items get the same one, since similarity between items is symmetric.

    Args:
        prompt: the name of one of the model's prompts, or an instruction. Empty: the model's prompt for documents; else its default
            prompt, unless that is for queries; else none. Qwen3-Embedding, whose only prompt is for queries, gets none.

    Raises `ValueError` for a single word that names no prompt of the model. An instruction has several words.
    """
    named = {name: text or "" for name, text in model.prompts.items()}  # a model without prompts has an empty "query" and "document"
    if not prompt:
        default = () if model.default_prompt_name in (None, "query") else (model.default_prompt_name,)
        return next((named[name] for name in (*_DOCUMENT_PROMPTS, *default) if named.get(name)), "")
    if prompt in named:
        return named[prompt]
    if re.fullmatch(r"[\w.-]+", prompt):
        raise ValueError(f"The embedder has no prompt {prompt!r}; it has {sorted(named)}. Name one of them, or write the instruction out.")
    return prompt


def fingerprint(model: SentenceTransformer) -> str:
    """sha256 of an embedder's parts, vocabulary and weights; independent of its name and device. Takes seconds per few GB of weights."""
    torch = needs("torch")
    digest = hashlib.sha256(f"{model}\n{model.max_seq_length}\n{model.truncate_dim}\n".encode())
    if hasattr(model.tokenizer, "get_vocab"):
        digest.update(json.dumps(model.tokenizer.get_vocab(), sort_keys=True).encode())
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


class Shards:
    """float32 `[n_items, d]` in memory-mapped files of equal length, except the last. An int array or a slice selects rows."""

    def __init__(self, parts: Sequence[np.ndarray]) -> None:
        self._parts, self._size = parts, len(parts[0])
        self.shape = (sum(map(len, parts)), parts[0].shape[1])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
        at = np.arange(len(self))[rows] if isinstance(rows, slice) else np.asarray(rows)
        found = np.empty((*at.shape, self.shape[1]), dtype=np.float32)
        part = at // self._size
        for number in np.unique(part):
            here = part == number
            found[here] = self._parts[number][at[here] - number * self._size]
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.concatenate(self._parts).astype(dtype or np.float32, copy=False)


def device_names(devices: str) -> list[str]:
    """The devices in a list such as "cuda:0,cuda:1". Raises `ValueError` for a device that this machine lacks."""
    torch = needs("torch")
    names = [device.strip() for device in devices.split(",") if device.strip()]
    for name in names:
        try:
            device = torch.device(name)
        except RuntimeError as error:
            raise ValueError(f"{name!r} is not a device; expected devices such as 'cuda:0,cuda:1' or 'cpu'.") from error
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise ValueError(
                f"There is no device {name!r} here; torch finds {torch.cuda.device_count()} CUDA devices. Name other devices, or none."
            )
    return names


def embed(
    items: Sequence[Item],
    embedder: SentenceTransformer | str | None = None,
    batch_size: int = 128,
    *,
    prompt: str = "",
    devices: str = "",
    shard_size: int = SHARD_SIZE,
    work: str | Path | None = None,
) -> np.ndarray | Shards:
    """float32 `[n_items, d]`: rows of length 1, or zero for a text that the embedder maps to zero, such as an empty one.

    Args:
        embedder: a `SentenceTransformer`, the name or folder of one, or None for `tfidf_embedder` fitted on these items.
        batch_size: texts encoded at once.
        prompt: as in `prompt_text`.
        devices: such as "cuda:0,cuda:1", with one process and one copy of the model per device, so a calling script needs
            ``if __name__ == "__main__":``. Empty: one device, by availability.
        shard_size: items encoded, checked and written together.
        work: a folder for the shards; the result is then `Shards` of these files. An interrupted call resumes after the last shard. When
            texts change or items are appended, only their shards are encoded again, if the embedder is the same (one fitted on the
            catalog is not). A file is reused only if its texts, embedder and prompt are the same.

    `work` and interruptions do not change the vectors; `batch_size`, `shard_size` and `devices` change them by rounding only.

    Raises `ValueError` for no items, an unknown prompt or device, and embeddings that are not finite, naming their items (earlier shards
    are kept); `ImportError` naming what to install.
    """
    if not items:
        raise ValueError("There are no items to embed; pass at least one.")
    if shard_size < 1:
        raise ValueError(f"shard_size must be at least 1; found {shard_size}.")
    several = device_names(devices)
    if embedder is None:
        embedder = tfidf_embedder(map(item_text, items))
    model = load_embedder(embedder, device="cpu" if several else None) if isinstance(embedder, str) else embedder
    before = prompt_text(model, prompt)
    folder = None if work is None else Path(work)
    owner = "" if folder is None else fingerprint(model)

    starts = range(0, len(items), shard_size)
    bar = progress(starts, desc="embedding", unit="shard", disable=len(starts) < 2 or len(items) <= _PROGRESS_FROM)
    with _encoder(model, several, before, batch_size, show=_PROGRESS_FROM < len(items) <= shard_size) as encode:
        parts: list[np.ndarray] = []
        for start in bar:
            some = items[start : start + shard_size]
            parts.append(encode(some) if folder is None else _shard(folder / _SHARD.format(len(parts)), [owner, before], some, encode))
    if folder is None:
        return np.concatenate(parts)
    for stale in set(folder.glob("vectors-*.safetensors")) - {folder / _SHARD.format(number) for number in range(len(parts))}:
        stale.unlink()  # left by a larger catalog or smaller shards
    return Shards(parts)


@contextmanager
def _encoder(model: SentenceTransformer, devices: list[str], prompt: str, batch_size: int, show: bool) -> Iterator[Any]:
    """A function from items to their vectors, float32 `[n, d]` of length 1, on one device or a pool of processes."""
    where: dict[str, Any] = {"device": devices[0]} if len(devices) == 1 else {}

    def encode(items: Sequence[Item]) -> np.ndarray:
        if len(devices) > 1 and not where:  # started only when there is something to encode
            where["pool"] = model.start_multi_process_pool(devices)
        # encode_document, since some models have a separate part for documents
        texts = list(map(item_text, items))
        found = model.encode_document(texts, prompt=prompt, batch_size=batch_size, show_progress_bar=show, **where)
        return _unit(np.asarray(found, dtype=np.float32), items, texts)

    try:
        yield encode
    finally:
        if "pool" in where:
            model.stop_multi_process_pool(where["pool"])


def _unit(vectors: np.ndarray, items: Sequence[Item], texts: Sequence[str]) -> np.ndarray:
    """The vectors scaled to length 1; zero for empty texts, for which a transformer returns a non-zero vector."""
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        named = ", ".join(repr(items[i].item_id) for i in bad[:10])
        raise ValueError(
            f"{len(bad)} of {len(items)} embeddings have NaN or infinity, for items {named}{', …' if len(bad) > 10 else ''}. "
            "Load the embedder with dtype float32, or choose another one."
        )
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    norms[[not text for text in texts]] = 0
    return np.where(norms > 0, vectors / np.where(norms > 0, norms, 1), 0).astype(np.float32)


def _shard(path: Path, how: list[str], items: Sequence[Item], encode: Callable[[Sequence[Item]], np.ndarray]) -> np.ndarray:
    """A memory-mapped shard: the file at `path` if it was written for these items and this encoder, else a new one."""
    from safetensors.numpy import save_file

    key = hashlib.sha256(json.dumps([*how, list(map(item_text, items))]).encode()).hexdigest()
    found = _read_shard(path, key, len(items))
    if found is None:
        vectors = encode(items)
        with replacing(path) as new:
            save_file({"vectors": vectors}, new, {"key": key, "rows": str(len(vectors)), "dim": str(vectors.shape[1])})
        found = _read_shard(path, key, len(items))
    assert found is not None
    return found


def _read_shard(path: Path, key: str, rows: int) -> np.ndarray | None:
    """A memory-mapped shard; None if it is missing, broken or has another key."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:  # torch maps the file; numpy would read it
            if (file.metadata() or {}).get("key") != key:
                return None
            vectors = file.get_tensor("vectors").numpy()
    except (SafetensorError, OSError):
        return None
    return vectors if len(vectors) == rows else None


def needs(module: str) -> ModuleType:
    """The module, or an ImportError naming what to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f'This needs {module.split(".")[0]}, which failed to import: pip install "grlm-hf[terms]"') from error
