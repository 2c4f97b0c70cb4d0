"""Item texts → unit vectors, by any sentence-transformers model, in shards that outlive a kill.

The paper embeds title, description and categories with Qwen3-Embedding-8B (GRLM, arXiv 2601.06798, section 3.1). Here any
sentence-transformers model does; without one, a TF-IDF model fitted on the catalog itself is used, which needs no download.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from grlm_hf.data.items import Item
from grlm_hf.files import replacing

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

SHARD_SIZE = 10_000  # items; a killed run repeats at most so many, and 100 files hold a million
_PROGRESS_FROM = 5_000  # items; below that, embedding is over before a bar is read
_DOCUMENT_PROMPTS = ("document", "passage", "corpus")  # the names models give it
_SHARD = "vectors-{:05d}.safetensors"


def item_text(item: Item) -> str:
    """The text that is embedded: title, brand, categories (root to leaf) and description, one a line, empty ones left out."""
    parts = (item.title, item.brand, " > ".join(item.categories), item.description)
    return "\n".join(part.strip() for part in parts if part.strip())


def tfidf_embedder(texts: Iterable[str], dim: int = 256, seed: int = 0) -> SentenceTransformer:
    """A `SentenceTransformer` fitted on `texts`, read once: TF-IDF in `dim` dimensions, with no download.

    With at most `dim` words, cosines are those of TF-IDF; with more, a Gaussian random projection estimates them without bias, with a
    standard error of about dim ** -.5 (Johnson and Lindenstrauss, 1984). On product titles that finds better neighbours than as many
    dimensions of a truncated SVD, which flattens the items of one category into near ties.

    The model's one module is a `StaticEmbedding`: word w has the row idf(w) · R[w], and a text is the mean of its words' rows, which
    points in the direction of its TF-IDF vector times R. So it encodes tens of thousands of texts a second and is saved and loaded like
    any other. Words are runs of letters, marks and digits, lower-cased, with at least one letter; those in fewer than two texts link
    nothing and are left out (a text without any other gets the zero vector). idf(w) = ln((1 + n) / (1 + df(w))) + 1, as in
    scikit-learn. The order of `texts` does not matter. Raises `ValueError` for `dim` < 1.
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
    axes *= idf[:, None]  # in place: with a million items, it is of gigabytes
    rows = np.concatenate([np.zeros((1, axes.shape[1])), axes], dtype=np.float32)  # [1 + n_words, d]; the unknown word counts for nothing

    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["[UNK]", *vocabulary])}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    return SentenceTransformer(modules=[modules.StaticEmbedding(tokenizer, rows)], device="cpu")


def load_embedder(name: str, dtype: str = "auto", max_tokens: int = 0, device: str | None = None) -> SentenceTransformer:
    """The sentence-transformers model of that name or folder; padding side, pooling and prompts are its own.

    Args:
        dtype: "auto" (the checkpoint's), "float32", "bfloat16" or "float16".
        max_tokens: longer texts are cut there; 0: where the model's own configuration says.
        device: where it is put; None: the first accelerator there is, else the CPU.

    Raises `ValueError` for a model that cannot be read, and for `max_tokens` where it has no limit (a static one).
    """
    try:
        model = needs("sentence_transformers").SentenceTransformer(name, device=device, model_kwargs={"dtype": dtype})
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"The embedder {name!r} is neither a folder with a model nor one on the Hub that can be read: {reason}") from error
    if max_tokens:
        try:
            model.max_seq_length = max_tokens
        except AttributeError as error:
            raise ValueError(f"The embedder {name!r} reads texts of any length: leave max_tokens at 0.") from error
    return model


def prompt_text(model: SentenceTransformer, prompt: str = "") -> str:
    """What the model reads before each text. Similarity between items is symmetric, so all texts get the same.

    Args:
        prompt: the name of one of the model's prompts, or an instruction itself. Empty: the model's prompt for documents, else its
            default prompt, unless that is the one for queries; else none (so for Qwen3-Embedding, which has one for queries only).

    Raises `ValueError` for one word that names no prompt of the model: an instruction has several.
    """
    named = {name: text or "" for name, text in model.prompts.items()}  # with an empty "query" and "document" where it has none
    if not prompt:
        default = () if model.default_prompt_name in (None, "query") else (model.default_prompt_name,)
        return next((named[name] for name in (*_DOCUMENT_PROMPTS, *default) if named.get(name)), "")
    if prompt in named:
        return named[prompt]
    if re.fullmatch(r"[\w.-]+", prompt):
        raise ValueError(f"The embedder has no prompt {prompt!r}; it has {sorted(named)}. Name one of them, or write the instruction out.")
    return prompt


def fingerprint(model: SentenceTransformer) -> str:
    """sha256 over an embedder's parts, vocabulary and weights: the same for the same embedder, whatever its name and device.

    It reads every weight: seconds for each few GB.
    """
    torch = needs("torch")
    digest = hashlib.sha256(f"{model}\n{model.max_seq_length}\n{model.truncate_dim}\n".encode())
    if hasattr(model.tokenizer, "get_vocab"):
        digest.update(json.dumps(model.tokenizer.get_vocab(), sort_keys=True).encode())
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


class Shards:
    """float32 `[n_items, d]` in files, memory-mapped: rows are read when they are asked for, ``shards[int array]`` or ``shards[slice]``.

    All parts but the last have the same length. `np.asarray` reads the whole.
    """

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
    """The devices of a list such as "cuda:0,cuda:1". Raises `ValueError` for one that this machine lacks, before any is waited for."""
    torch = needs("torch")
    names = [device.strip() for device in devices.split(",") if device.strip()]
    for name in names:
        try:
            device = torch.device(name)
        except RuntimeError as error:
            raise ValueError(f"{name!r} is no device; expected devices such as 'cuda:0,cuda:1' or 'cpu'.") from error
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise ValueError(
                f"There is no device {name!r} here; torch finds {torch.cuda.device_count()} CUDA devices. Name others, or none."
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
    """float32 `[n_items, d]`, each row of length 1, or all zero for a text in which the embedder finds nothing (an empty one).

    Args:
        items: at least one.
        embedder: a `SentenceTransformer`, the name or folder of one, or None for `tfidf_embedder` fitted on these items.
        batch_size: texts encoded at once.
        prompt: as in `prompt_text`.
        devices: such as "cuda:0,cuda:1", each with a process and a copy of the model of its own (so a script that calls this needs
            ``if __name__ == "__main__":``); empty: one device, by availability.
        shard_size: items encoded, checked and written together.
        work: a folder for the shards. The result is then `Shards` of these files; a call that was killed goes on behind the last one,
            and of a catalog with more items behind the old ones, or some other texts, only their shards are encoded (by the same
            embedder: one fitted on the catalog changes with it). A file is used only where texts, embedder and prompt are its own.

    The vectors do not depend on `work`, nor on where a run was killed; on `batch_size`, `shard_size` and `devices` by rounding at most.

    Raises `ValueError` when there are no items, for an unknown prompt or device, or naming the items whose embedding is not finite (the
    shards before them stay); `ImportError` naming what to install.
    """
    if not items:
        raise ValueError("There are no items to embed; pass at least one.")
    if shard_size < 1:
        raise ValueError(f"shard_size must be at least 1; found {shard_size}.")
    several = device_names(devices)
    if embedder is None:
        model = tfidf_embedder(map(item_text, items))
    elif isinstance(embedder, str):
        model = load_embedder(embedder, device="cpu" if several else None)
    else:
        model = embedder
    before = prompt_text(model, prompt)
    folder = None if work is None else Path(work)
    owner = "" if folder is None else fingerprint(model)

    starts = range(0, len(items), shard_size)
    with _encoder(model, several, before, batch_size, show=_PROGRESS_FROM < len(items) <= shard_size) as encode:
        parts = []
        for number, start in enumerate(_bar(starts, shown=len(starts) > 1 and len(items) > _PROGRESS_FROM)):
            some = items[start : start + shard_size]
            texts = [item_text(item) for item in some]
            path = None if folder is None else folder / _SHARD.format(number)
            key = "" if folder is None else _key(owner, before, texts)
            part = None if path is None else _read_shard(path, key, len(texts))
            if part is None:
                part = _unit(np.asarray(encode(texts), dtype=np.float32), some, texts)
                if path is not None:
                    _write_shard(path, key, part)
                    part = _read_shard(path, key, len(texts))
            assert part is not None
            parts.append(part)
    if folder is None:
        return np.concatenate(parts)
    for stale in set(folder.glob("vectors-*.safetensors")) - {folder / _SHARD.format(number) for number in range(len(parts))}:
        stale.unlink()  # of a larger catalog, or of smaller shards
    return Shards(parts)


@contextmanager
def _encoder(model: SentenceTransformer, devices: list[str], prompt: str, batch_size: int, show: bool) -> Iterator[Any]:
    """A function from texts to their vectors, on one device or a pool of processes."""
    where: dict[str, Any] = {"device": devices[0]} if len(devices) == 1 else {}

    def encode(texts: list[str]) -> Any:
        if len(devices) > 1 and not where:  # not before there is something to encode
            where["pool"] = model.start_multi_process_pool(devices)
        # encode_document, since some models have a part of their own for documents
        return model.encode_document(texts, prompt=prompt, batch_size=batch_size, show_progress_bar=show, **where)

    try:
        yield encode
    finally:
        if "pool" in where:
            model.stop_multi_process_pool(where["pool"])


def _bar(starts: range, shown: bool) -> Iterable[int]:
    from tqdm import tqdm

    return tqdm(starts, desc="embedding", unit="shard", disable=not shown)


def _unit(vectors: np.ndarray, items: Sequence[Item], texts: Sequence[str]) -> np.ndarray:
    """The vectors at length 1; of an empty text, of which a transformer makes something all the same, at 0."""
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        named = ", ".join(repr(items[i].item_id) for i in bad[:10])
        raise ValueError(
            f"{len(bad)} of {len(items)} embeddings hold NaN or infinity, of items {named}{', …' if len(bad) > 10 else ''}. "
            "Load the embedder with dtype float32, or take another one."
        )
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    norms[[not text for text in texts]] = 0
    return np.where(norms > 0, vectors / np.where(norms > 0, norms, 1), 0).astype(np.float32)


def _key(owner: str, prompt: str, texts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps([owner, prompt, texts]).encode()).hexdigest()


def _write_shard(path: Path, key: str, vectors: np.ndarray) -> None:
    from safetensors.numpy import save_file

    with replacing(path) as new:
        save_file({"vectors": vectors}, new, {"key": key, "rows": str(len(vectors)), "dim": str(vectors.shape[1])})


def _read_shard(path: Path, key: str, rows: int) -> np.ndarray | None:
    """A shard, memory-mapped; None where there is none, a broken one or another one."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:  # by way of torch, which maps the file; by way of numpy it would be read
            if (file.metadata() or {}).get("key") != key:
                return None
            vectors = file.get_tensor("vectors").numpy()
    except (SafetensorError, OSError):
        return None
    return vectors if len(vectors) == rows else None


def needs(module: str) -> ModuleType:
    """The module, or an ImportError that says what to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f'Neighbours need {module.split(".")[0]}, which failed to import: pip install "grlm-hf[terms]"') from error
