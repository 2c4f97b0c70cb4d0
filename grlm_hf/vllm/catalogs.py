"""The catalogs of an engine: loaded once, shared by all requests, loaded again when their file has changed.

Once the engine runs, nothing here raises: a request without a valid constraint may only end its text. The log states the reason, without
item ids.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from grlm_hf.data.catalog import Catalog
from grlm_hf.decoding.index import SearchIndex
from grlm_hf.decoding.rules import Rules
from grlm_hf.layout import CATALOG_FILE, CONFIG_FILE, OBJECTIVES, TRIE_FILE
from grlm_hf.loading import load_tokenizer
from grlm_hf.modeling.config import GRLMConfig
from grlm_hf.tokens import tokenizer_hash
from grlm_hf.trie.arrays import Trie
from grlm_hf.vllm.arguments import DEFAULT, Arguments, always, named_catalogs

RULES_KEPT = 32
"""Compiled rules that a catalog keeps for later requests."""
_log = logging.getLogger("grlm_hf.vllm")


@lru_cache(maxsize=256)
def log_once(message: str) -> None:
    """Logs a warning once a process."""
    _log.warning(message)


@dataclass(frozen=True, eq=False)
class Loaded:
    """One version of a catalog. `objective`: what scores are normalised over (`grlm_hf.layout.OBJECTIVES`)."""

    name: str
    index: SearchIndex
    objective: str
    _compiled: dict[Rules, np.ndarray | None] = field(default_factory=dict, repr=False)

    @property
    def eos(self) -> int:
        return self.index.trie.eos_token_id  # type: ignore[return-value]  # `Catalogs` refuses a tokenizer without

    @cached_property
    def inner(self) -> np.ndarray | None:
        """Bool [vocab]: the tokens inside identifiers. The last other token of a prompt ends the line before the identifier that the prompt
        has begun. ``None`` where a token is both inside one identifier and the last of another."""
        trie = self.index.trie
        last = np.zeros(len(trie.tokens), bool)
        last[np.asarray(trie.start[1:], np.int64) - 1] = True
        inner = np.zeros(trie.vocab, bool)
        inner[trie.tokens[~last]] = True
        return None if inner[trie.tokens[last]].any() else inner

    def allowed(self, rules: Rules) -> np.ndarray | None:
        """Int32 [n + 1]: the number of allowed identifiers before each rank of the trie; ``None``: all are allowed. Unknown ids and terms
        leave out nothing; an unknown domain has no items."""
        if rules == Rules():
            return None
        if rules not in self._compiled:
            catalog = self.index.catalog
            exclude, domain = [i for i in rules.exclude if i in catalog], rules.domain
            allow = None if rules.allow is None else [i for i in rules.allow if i in catalog]
            if len(exclude) + len(allow or ()) < len(rules.exclude) + len(rules.allow or ()):
                log_once(f"A request names items that catalog {self.name!r} does not hold; they are ignored.")
            if domain is not None and domain not in catalog.domains:
                log_once(f"A request names a domain that catalog {self.name!r} does not hold; it may only end.")
                allow, domain = [], None
            added = self.index.adjustment(replace(rules, allow=allow, domain=domain, exclude=exclude)).by_rank
            while len(self._compiled) >= RULES_KEPT:
                self._compiled.pop(next(iter(self._compiled)))
            n = len(self.index.trie)
            self._compiled[rules] = None if added is None else np.concatenate(([0], np.cumsum(added.values[:n] > -np.inf))).astype(np.int32)
        return self._compiled[rules]


@dataclass(frozen=True, eq=False)
class Constraint:
    """The constraint of one request."""

    loaded: Loaded | None  # None: no such catalog; the text may only end
    allowed: np.ndarray | None  # `Loaded.allowed` of the request's rules
    eos: int  # the token that ends a text
    tail: bool = False  # the identifier has begun in the prompt, as in the steps of vLLM's own beam search


class Catalogs:
    """The catalogs by name. `Catalogs.of` makes them: the processors of one engine share theirs.

    Args:
        default: the checkpoint's folder, if it is a GRLM checkpoint.
        named: the folders of the further catalogs.
        tokenizer: folder or repository of the served model's tokenizer.
        vocabulary: number of scores that the model gives for each token.
        eos: the token that ends a text without a catalog.
        constrain_all: constrain requests without arguments too, to the default catalog.
    """

    def __init__(
        self,
        default: Path | None,
        named: Mapping[str, Path],
        tokenizer: str,
        vocabulary: int,
        eos: int = 0,
        constrain_all: bool = False,
        tokenizer_revision: str | None = None,
    ):
        self.folders = ({DEFAULT: default} if default else {}) | dict(named)
        self.vocabulary, self.eos, self.constrain_all = vocabulary, eos, constrain_all
        self._of_tokenizer = {"pretrained_model_name_or_path": tokenizer, "revision": tokenizer_revision}
        self._config = GRLMConfig.load(default / CONFIG_FILE) if default else GRLMConfig()
        if self._config.objective not in OBJECTIVES:
            raise ValueError(f"{default} states the objective {self._config.objective!r}; expected one of {OBJECTIVES}.")
        self._loaded: dict[str, Loaded] = {}
        self._tried: dict[str, tuple[int, ...]] = {}
        for name in self.folders:
            self.get(name)

    @classmethod
    def of(cls, vllm_config: Any) -> Catalogs:
        """The catalogs of an engine: that of its checkpoint, if it is a GRLM checkpoint, and those of the environment.

        Raises:
            ValueError: a setting that cannot be read, or "always" without a catalog of the checkpoint.
        """
        model = vllm_config.model_config
        named = named_catalogs()
        constrain_all = always(vllm_config.additional_config)
        default = _checkpoint(str(model.model), model.revision)
        if constrain_all and default is None:
            raise ValueError(
                f'additional_config["grlm"] constrains all requests, but {model.model} holds no catalog: it is no GRLM checkpoint.'
            )
        key = (str(default), tuple(named.items()), str(model.tokenizer), constrain_all)
        if (found := _shared.get(key)) is None:
            eos = getattr(model.hf_config, "eos_token_id", None)
            eos = eos[0] if isinstance(eos, list | tuple) and eos else eos
            found = _shared[key] = cls(
                default, named, str(model.tokenizer), model.get_vocab_size(), eos if isinstance(eos, int) else 0, constrain_all,
                getattr(model, "tokenizer_revision", None),
            )  # fmt: skip
        return found

    def constraint(self, params: Any) -> Constraint | None:
        """The constraint of a request with these ``SamplingParams``; ``None``: it has none. Never raises."""
        extra = params.extra_args
        if not extra and not self.constrain_all:
            return None
        closed = Constraint(None, None, self.eos)
        try:
            arguments = Arguments.of(extra)
            if not (self.constrain_all if arguments.constrain is None else arguments.constrain):
                return None
            if (loaded := self.get(arguments.catalog)) is None:
                log_once(f"A request names the catalog {arguments.catalog!r}, which is not loaded; it may only end.")
                return closed
            tail = arguments.constrain is None and params.max_tokens == 1
            if tail and loaded.inner is None:
                log_once(f"Catalog {loaded.name!r} has a token inside and at the end of identifiers: beams cannot be read from prompts.")
                return closed
            return Constraint(loaded, loaded.allowed(arguments.rules), loaded.eos, tail)
        except Exception:  # an error would end the engine, and all other requests
            _log.exception("A request's constraint could not be made; the request may only end.")
            return closed

    def get(self, name: str) -> Loaded | None:
        """The last version of a catalog that could be read; ``None`` if none could. A changed file is read again."""
        folder, before = self.folders.get(name), self._loaded.get(name)
        if folder is None:
            return None
        instead = "the version before stays in use" if before else "requests for it may only end"
        try:
            stat = (folder / CATALOG_FILE).stat()
            stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if stamp == self._tried.get(name):
                return before
            self._tried[name] = stamp
            self._loaded[name] = self._load(name, folder, before)
        except FileNotFoundError:
            log_once(f"Catalog {name!r} has no file {folder / CATALOG_FILE} (any more); {instead}.")
        except Exception as error:  # pyarrow, safetensors and numpy have many; none of them may end the engine
            _log.error("Catalog %r of %s cannot be loaded; %s. %s", name, folder, instead, error)
        return self._loaded.get(name)

    def _load(self, name: str, folder: Path, before: Loaded | None) -> Loaded:
        catalog, tokenizer, config = Catalog.from_pretrained(folder), self._tokenizer, self._config
        found = tokenizer_hash(tokenizer)
        if config.tokenizer_hash not in ("", found):
            raise ValueError("The tokenizer served is not the one that the checkpoint was trained with.")
        trie = Trie.load(folder / TRIE_FILE) if (folder / TRIE_FILE).is_file() else None
        if trie and (trie.of, trie.tokenizer_hash) != (catalog.identifiers_hash, found):
            trie = None  # of another catalog or model: a named catalog may belong to another checkpoint
        index = before.index.updated(catalog, tokenizer) if before and trie is None else SearchIndex.build(catalog, tokenizer, trie)
        if index.trie.eos_token_id is None:
            raise ValueError("The tokenizer has no EOS token.")
        if max(index.trie.vocab, index.trie.eos_token_id + 1) > self.vocabulary:
            raise ValueError(f"Its identifiers use token ids up to {index.trie.vocab - 1}; the model has {self.vocabulary}.")
        return Loaded(name, index, config.objective)

    @cached_property
    def _tokenizer(self) -> Any:
        given = {k: v for k, v in self._of_tokenizer.items() if v}
        return load_tokenizer(given.pop("pretrained_model_name_or_path"), **given)


_shared: WeakValueDictionary[tuple[Any, ...], Catalogs] = WeakValueDictionary()


def _checkpoint(model: str, revision: str | None) -> Path | None:
    """The folder of a GRLM checkpoint's catalog, ``None`` for any other model. A repository's weights are not fetched."""
    if Path(model).is_dir():
        return Path(model) if (Path(model) / CONFIG_FILE).is_file() else None
    from huggingface_hub import hf_hub_download, snapshot_download

    try:
        hf_hub_download(model, CONFIG_FILE, revision=revision)
        return Path(snapshot_download(model, revision=revision, allow_patterns=[CONFIG_FILE, CATALOG_FILE, TRIE_FILE]))
    except (OSError, ValueError):  # no such repository or file, none in reach, or no name of a repository at all
        return None
