"""Names and schema numbers of every file that the package writes, and the values that settings choose from."""

CATALOG_FILE = "catalog.parquet"
TRIE_FILE = "catalog.trie"  # beside it in a checkpoint; safetensors inside, but not called so, or other tools would take it for weights
CATALOG_SCHEMA = 1
DOMAINS_FILE = "domains.json"
DOMAINS_SCHEMA = 1
CONFIG_FILE = "grlm_config.json"
CUSTOM_GENERATE = {  # what makes ``generate(custom_generate=repo, trust_remote_code=True)`` call `grlm_hf.generation.generate`
    "custom_generate/generate.py": "# The search of grlm-hf over the catalog of this repository.\n"
    "from grlm_hf.generation import generate  # noqa: F401\n",
    "custom_generate/requirements.txt": "grlm-hf\n",
}
CONFIG_SCHEMA = 2
BACKENDS = ("transformers", "vllm")
DATASET_FACTS = "grlm_dataset.json"
DATASET_SCHEMA = 1
SCHEMA_KEY = b"grlm_dataset_schema"
PLOT = "dataset.png"
CARD = "README.md"
PLACE = "PATH-OR-REPO"  # in a card: where it stands, known when it is published
TAGS = ["grlm", "recommendation", "generative-recommendation", "term-ids"]
CARD_FOLDER = "card"
PRIOR_FOLDER = "prior"  # of a checkpoint
HISTORIES = ("term_ids", "both", "titles")
"""What a history shows of each item: its Term ID; its Term ID and its title; its title."""
OBJECTIVES = ("vocabulary", "trie")
"""What a token's probability is normalised over: the full vocabulary, or the legal children of the current trie node."""
