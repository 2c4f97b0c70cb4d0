"""The catalogs that an engine's processors constrain to: loaded once, shared by all requests, loaded again when their file has changed.

Nothing here raises once the engine runs: a request that cannot be held to what it asks for is held to nothing at all, that is, it may
only end. What happened is logged, without ids of items.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from grlm_hf.data.catalog import Catalog
from grlm_hf.decoding.index import SearchIndex
from grlm_hf.decoding.rules import Rules
from grlm_hf.files import read_json
from grlm_hf.layout import CATALOG_FILE, OBJECTIVES, TRIE_FILE
from grlm_hf.trie.arrays import Trie
from grlm_hf.trie.ranges import RangeMax
from grlm_hf.vllm.arguments import DEFAULT, Arguments, always, named_catalogs

RULES_KEPT = 32
"""Masks that a catalog keeps for requests to come."""
NO_BEAM = -1e9
"""The score of EOS where a prompt's tail is the beginning of no identifier: a beam that goes on so is to be dropped."""
_log = logging.getLogger("grlm_hf.vllm")


@lru_cache(maxsize=256)
def log_once(message: str) -> None:
    """A warning, once a process."""
    _log.warning(message)


@dataclass(frozen=True, eq=False)
class Loaded:
    """One version of a catalog.

    Attributes:
        objective: what scores are normalised over (`grlm_hf.layout.OBJECTIVES`).
        stamp: of the file that it was read from.
    """

    name: str
    index: SearchIndex
    objective: str
    stamp: tuple[int, ...] = ()
    _masks: dict[Rules, RangeMax | None] = field(default_factory=dict, repr=False)

    @property
    def eos(self) -> int:
        return self.index.trie.eos_token_id  # type: ignore[return-value]  # `Catalogs` refuses a tokenizer without

    @cached_property
    def inner(self) -> np.ndarray | None:
        """Bool [vocab]: the tokens inside identifiers. What is none of them ends the line before: so the written part of an identifier is
        found at the end of a prompt. ``None`` where a token stands both inside one identifier and at the end of another."""
        trie = self.index.trie
        last = np.zeros(len(trie.tokens), bool)
        last[np.asarray(trie.start[1:], np.int64) - 1] = True
        inner = np.zeros(trie.vocab, bool)
        inner[trie.tokens[~last]] = True
        return None if inner[trie.tokens[last]].any() else inner

    def mask(self, rules: Rules) -> RangeMax | None:
        """By rank: ``-inf`` where the rules leave an identifier out; ``None``: they leave out none. Ids that the catalog has not, and
        banned terms, leave out nothing; an unknown domain has no items."""
        if rules == Rules():
            return None
        if rules not in self._masks:
            catalog = self.index.catalog
            allow, exclude, domain = rules.allow, [i for i in rules.exclude if i in catalog], rules.domain
            missing = len(rules.exclude) - len(exclude)
            if allow is not None:
                known = [i for i in allow if i in catalog]
                missing, allow = missing + len(allow) - len(known), tuple(known)
            if missing:
                log_once(f"A request names items that catalog {self.name!r} does not hold; they are passed over.")
            if domain is not None and domain not in catalog.domains:
                log_once(f"A request asks for a domain that catalog {self.name!r} does not hold; it may only end.")
                allow, domain = (), None
            known_rules = Rules(allow=allow, domain=domain, exclude=exclude, banned_terms=rules.banned_terms)
            while len(self._masks) >= RULES_KEPT:
                self._masks.pop(next(iter(self._masks)))
            self._masks[rules] = self.index.adjustment(known_rules).by_rank
        return self._masks[rules]


@dataclass(frozen=True, eq=False)
class Constraint:
    """What one request is held to.

    Attributes:
        loaded: ``None``: to nothing that there is; it may only end.
        mask: by rank of the trie, ``-inf`` where an identifier is left out; ``None``: none is.
        eos: what ends a text.
        tail: the identifier has begun in the prompt, as in the steps of vLLM's own beam search.
    """

    loaded: Loaded | None
    mask: RangeMax | None
    eos: int
    tail: bool = False


class Catalogs:
    """Use `Catalogs.of`: processors of one engine share theirs.

    Args:
        default: the checkpoint's folder, if it is a GRLM checkpoint.
        named: the folders of the further catalogs.
        tokenizer: of the model served: a folder or repository.
        vocabulary: of the model: scores a token.
        eos: ends a text where no catalog says so.
        constrain_all: hold those requests to the default catalog too that say nothing of it.
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
        self._config = _grlm_config(default) if default else {}
        self._loaded: dict[str, Loaded] = {}
        self._tried: dict[str, tuple[int, ...]] = {}
        for name in self.folders:
            self.get(name)

    @classmethod
    def of(cls, vllm_config: Any) -> Catalogs:
        """Those of an engine: of the checkpoint that it serves, if that is one of ours, and of the environment.

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
            eos = eos if isinstance(eos, int) else 0
            found = cls(
                default, named, str(model.tokenizer), model.get_vocab_size(), eos, constrain_all, getattr(model, "tokenizer_revision", None)
            )
            _shared[key] = found
        return found

    def constraint(self, params: Any) -> Constraint | None:
        """What a request with these ``SamplingParams`` is held to, ``None`` if nothing. Never raises."""
        extra = params.extra_args
        if not extra and not self.constrain_all:
            return None
        closed = Constraint(None, None, self.eos)
        try:
            asked = Arguments.of(extra)
            if not (self.constrain_all if asked.constrain is None else asked.constrain):
                return None
            if (loaded := self.get(asked.catalog)) is None:
                log_once(f"A request asks for catalog {asked.catalog!r}, of which there is none here; it may only end.")
                return closed
            tail = asked.constrain is None and params.max_tokens == 1
            if tail and loaded.inner is None:
                log_once(f"Catalog {loaded.name!r} has identifiers that end as others go on: no beams can be read from prompts.")
                return closed
            return Constraint(loaded, loaded.mask(asked.rules), loaded.eos, tail)
        except Exception:  # whatever it is, the engine serves others too
            _log.exception("A request's constraint could not be made; the request may only end.")
            return closed

    def get(self, name: str) -> Loaded | None:
        """A catalog as its file is now, or as it was when it could last be read; ``None`` if it never could."""
        folder = self.folders.get(name)
        before = self._loaded.get(name)
        if folder is None:
            return None
        try:
            stat = (folder / CATALOG_FILE).stat()
            stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if stamp == self._tried.get(name):
                return before
            self._tried[name] = stamp
            self._loaded[name] = self._load(name, folder, stamp, before)
        except FileNotFoundError:
            log_once(f"Catalog {name!r} has no file {folder / CATALOG_FILE} (any more); {_instead(before)}.")
        except Exception as error:  # pyarrow, safetensors and numpy have many; the engine must outlive them all
            _log.error("Catalog %r of %s cannot be loaded; %s. %s", name, folder, _instead(before), error)
        return self._loaded.get(name)

    def _load(self, name: str, folder: Path, stamp: tuple[int, ...], before: Loaded | None) -> Loaded:
        from grlm_hf.tokens import tokenizer_hash

        catalog = Catalog.from_pretrained(folder)
        tokenizer = self._tokenizer
        if (trained := self._config.get("tokenizer_hash")) and trained != tokenizer_hash(tokenizer):
            raise ValueError("The tokenizer served is not the one that the checkpoint was trained with.")
        trie = None
        if (folder / TRIE_FILE).is_file():
            trie = Trie.load(folder / TRIE_FILE)
            if trie.of != catalog.identifiers_hash or trie.tokenizer_hash != tokenizer_hash(tokenizer):
                trie = None  # of another catalog or model: a named catalog may be another checkpoint's
        index = before.index.updated(catalog, tokenizer) if before and trie is None else SearchIndex.build(catalog, tokenizer, trie)
        if index.trie.eos_token_id is None:
            raise ValueError("The tokenizer has no EOS token.")
        if max(index.trie.vocab, index.trie.eos_token_id + 1) > self.vocabulary:
            raise ValueError(f"Its identifiers use token ids up to {index.trie.vocab - 1}; the model has {self.vocabulary}.")
        return Loaded(name, index, self._config.get("objective", OBJECTIVES[0]), stamp)

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(**{k: v for k, v in self._of_tokenizer.items() if v})


_shared: WeakValueDictionary[tuple[Any, ...], Catalogs] = WeakValueDictionary()


def _instead(before: Loaded | None) -> str:
    return "the one before stays in use" if before else "requests for it may only end"


def _grlm_config(folder: Path) -> dict[str, Any]:
    from grlm_hf.layout import CONFIG_FILE

    values = read_json(folder / CONFIG_FILE)
    if not isinstance(values, dict) or values.get("objective") not in OBJECTIVES:
        raise ValueError(f"{folder / CONFIG_FILE} states no objective out of {OBJECTIVES}: it is no config of a GRLM checkpoint.")
    return values


def _checkpoint(model: str, revision: str | None) -> Path | None:
    """The folder of a GRLM checkpoint's catalog, ``None`` if the model served is none. Of a repository, only what is not weights."""
    from grlm_hf.layout import CONFIG_FILE

    if Path(model).is_dir():
        return Path(model) if (Path(model) / CONFIG_FILE).is_file() else None
    from huggingface_hub import hf_hub_download, snapshot_download

    try:
        hf_hub_download(model, CONFIG_FILE, revision=revision)
        return Path(snapshot_download(model, revision=revision, allow_patterns=[CONFIG_FILE, CATALOG_FILE, TRIE_FILE]))
    except (OSError, ValueError):  # no such repository or file, none in reach, or no name of a repository at all
        return None
