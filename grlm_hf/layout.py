"""Names and schema numbers of every file that the package writes, and the values that settings choose from."""

from __future__ import annotations

from typing import Literal, get_args

CATALOG_FILE = "catalog.parquet"
TRIE_FILE = "catalog.trie"  # safetensors inside; under that name other tools would take it for weights
VECTORS_FILE = "catalog.vectors"  # the items' vectors, the same
CODEBOOK_FILE = "catalog.codes"  # what the codes of Semantic IDs mean, the same
EVIDENCE_FILE = "evidence.prior"  # of a checkpoint: the counts that evidence in prompts comes from, the same
CATALOG_SCHEMA = 1
DOMAINS_FILE = "domains.json"
DOMAINS_SCHEMA = 1
CONFIG_FILE = "grlm_config.json"
CUSTOM_GENERATE = {  # makes ``generate(custom_generate=repo, trust_remote_code=True)`` call `grlm_hf.generation.generate`
    "custom_generate/generate.py": "# The search of grlm-hf over the catalog of this repository.\n"
    "from grlm_hf.generation import generate  # noqa: F401\n",
    "custom_generate/requirements.txt": "grlm-hf\n",
}
CONFIG_SCHEMA = 5
DATASET_FACTS = "grlm_dataset.json"
DATASET_SCHEMA = 1
SCHEMA_KEY = b"grlm_dataset_schema"
PLOT = "dataset.png"
CARD = "README.md"
PLACE = "PATH-OR-REPO"  # in a card: replaced by the repository's name when it is published
HERE = 'repo = "."  # this folder'  # the same of a checkpoint's card, whose code also runs inside its folder
TAGS = ["grlm", "recommendation", "generative-recommendation", "term-ids"]
CARD_FOLDER = "card"
COUNTING_FOLDER = "counting"  # of a run: a recommender without a language model
PRIOR_FOLDER = "prior"  # of a checkpoint
NEIGHBORS_FILE = "neighbors.parquet"
TERMS_FACTS = "terms.json"
QUALITY_FILE = "quality.json"
RECIPE_FILE = "recipe.yaml"  # of `grlm import`, in the data folder
STATISTICS_FILE = "statistics.json"  # of `grlm import` and dataset_scripts, in the data folder
RANKINGS_SUFFIX = ".rankings.parquet"  # in place of the .json of a report
RANKINGS_SCHEMA = 1
RANKINGS_KEY = b"grlm_rankings"
SEEDS_FILE = "seeds.json"  # of a run with several seeds
SCALING_FILE = "scaling.json"  # of a run with several sizes
LABELS_FILE = "labels.teacher"  # of a run: a teacher's answers. safetensors inside; under that name other tools would take it for weights

Backend = Literal["transformers", "vllm"]
"""The library that runs a language model."""
Candidates = Literal["all", "domain"]
"""What an evaluation ranks: the whole catalog, or the items of the target's domain, which then is known in advance."""
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
"""Number format of a pretrained model's weights; "auto": as in its checkpoint."""
JoinOrder = Literal["auto", "time", "concatenate"]
"""Order of a history across domains: by time if all times are known, else concatenated; by time; domain after domain."""
KeepUsers = Literal["all", "shared"]
"""Users of joined domains that are kept: all, or those with events in at least two domains."""
HistoryForm = Literal["term_ids", "both", "titles"]
"""What a history shows of each item: its Term ID; its Term ID and its title; its title."""
MissingTitle = Literal["error", "fill"]
"""What happens to an item without a title: an error, or a title from its brand and category."""
Objective = Literal["vocabulary", "trie"]
"""What a token's probability is normalised over: the full vocabulary, or the legal children of the current trie node."""
ShortUsers = Literal["error", "drop", "keep"]
"""What happens to users with fewer than three items: an error, left out, or kept for training only."""
SplitName = Literal["leave-one-out", "leave-one-out-per-domain", "time", "unseen-items", "given"]
UnknownItems = Literal["error", "drop"]
"""What happens to events on items missing from the catalog: an error, or left out."""

BACKENDS: tuple[Backend, ...] = get_args(Backend)
CANDIDATES: tuple[Candidates, ...] = get_args(Candidates)
HISTORIES: tuple[HistoryForm, ...] = get_args(HistoryForm)
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
SPLITS: tuple[SplitName, ...] = get_args(SplitName)
