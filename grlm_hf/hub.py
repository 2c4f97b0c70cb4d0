"""To and from the Hugging Face Hub. Every push is one atomic commit; readers never see half of one."""

from __future__ import annotations

import hashlib
import tempfile
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from grlm_hf.catalog import CATALOG_FILE, TRIE_FILE, Catalog
from grlm_hf.files import read_json, replacing, write_json, write_parquet, write_text

if TYPE_CHECKING:
    from datasets import Dataset

CARD = "README.md"
_OVER = {"vocabulary": "the full vocabulary", "trie": "the legal tokens of the current trie node"}
DATASET_FACTS = "grlm_dataset.json"
# nothing that would be unpickled or run
_CHECKPOINT_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", CATALOG_FILE, TRIE_FILE]


def fetch_checkpoint(repo_id: str, *, revision: str | None = None, token: str | None = None) -> Path:
    """Downloads a model repository's checkpoint files (weights as safetensors only) and returns the local folder.

    Raises:
        ValueError: neither a folder nor a repository that can be read.
    """
    from huggingface_hub import snapshot_download

    with _explained(repo_id):
        return Path(snapshot_download(repo_id, revision=revision, token=token, allow_patterns=_CHECKPOINT_FILES))


def fetch_catalog(repo_id: str, *, revision: str | None = None, token: str | None = None) -> Path:
    """Downloads ``catalog.parquet`` of a dataset repository or else of a model repository, and returns the local file."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError

    with _explained(repo_id):
        try:
            return Path(hf_hub_download(repo_id, CATALOG_FILE, repo_type="dataset", revision=revision, token=token))
        except (RepositoryNotFoundError, EntryNotFoundError):
            return Path(hf_hub_download(repo_id, CATALOG_FILE, revision=revision, token=token))


def push_folder(
    folder: str | Path, repo_id: str, *, repo_type: str = "model", private: bool = True, token: str | None = None, message: str = ""
) -> str:
    """Uploads a folder in one commit, creating the repository (private unless said otherwise) if need be; returns its URL.

    In a repository that grlm-hf wrote before, data files that the folder no longer holds are removed in the same commit; its card stays.

    Raises:
        ValueError: no files; or the repository exists and is public where a private one was asked for.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    folder = Path(folder)
    paths = _visible_files(folder)
    if not paths:
        raise ValueError(f"{folder} holds no files to push.")
    api = HfApi(token=token)
    with _explained(repo_id):
        url = api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True)
        if private and not api.repo_info(repo_id, repo_type=repo_type).private:
            raise ValueError(f"{repo_id} exists and is public. Say that it may be (--public), or name another repository.")
        names = [p.relative_to(folder).as_posix() for p in paths]
        there = set(api.list_repo_files(repo_id, repo_type=repo_type))
        gone = there - set(names) - {".gitattributes", CARD} if there & {CATALOG_FILE, DATASET_FACTS} else set()
        operations: list[Any] = [CommitOperationDelete(name) for name in sorted(gone)]
        operations += [CommitOperationAdd(name, path) for name, path in zip(names, paths, strict=True)]
        api.create_commit(repo_id, operations, repo_type=repo_type, commit_message=message or f"Upload {folder.name} with grlm-hf")
    return str(url)


def publish(folder: str | Path, repo_id: str, *, private: bool = True, dry_run: bool = False, token: str | None = None) -> str:
    """Pushes what a folder holds: a checkpoint as a model repository, a dataset or catalog folder as a dataset repository.

    Returns the URL, or with `dry_run` the list of files.

    Raises:
        ValueError: the folder holds none of these.
    """
    folder = Path(folder)
    if (folder / "grlm_config.json").is_file():
        repo_type = "model"
    elif (folder / CATALOG_FILE).is_file():
        repo_type = "dataset"
    else:
        raise ValueError(f"{folder} holds neither a checkpoint (grlm_config.json) nor a dataset or catalog ({CATALOG_FILE}).")
    Catalog.from_pretrained(folder)  # a broken one is not published
    if dry_run:
        sizes = (f"  {p.relative_to(folder).as_posix()}  {p.stat().st_size:,} bytes" for p in _visible_files(folder))
        return "\n".join([f"{repo_type} {repo_id}:", *sizes])
    if repo_type == "dataset" and not (folder / CARD).is_file():
        return push_catalog(Catalog.from_pretrained(folder), repo_id, private=private, token=token)
    return push_folder(folder, repo_id, repo_type=repo_type, private=private, token=token)


def _visible_files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and not any(part.startswith(".") for part in p.relative_to(folder).parts))


def push_catalog(catalog: Catalog, repo_id: str, *, private: bool = True, token: str | None = None) -> str:
    """Publishes a catalog as a dataset repository that ``load_dataset`` and ``Catalog.from_pretrained`` both read."""
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / "catalog"
        catalog.save_pretrained(folder)
        card = f"---\nconfigs:\n- config_name: default\n  data_files: {CATALOG_FILE}\n---\n\n# {repo_id}\n\n{catalog!r}\n"
        (folder / CARD).write_text(card, encoding="utf-8")
        return push_folder(folder, repo_id, repo_type="dataset", private=private, token=token)


def save_datasets(tables: dict[str, dict[str, Dataset]], catalog: Catalog, folder: str | Path, facts: dict[str, Any]) -> None:
    """Writes tables (config → split → rows) as a dataset repository: parquet files, a card whose YAML names the configs, the catalog,
    and `facts` (at least `schema`, `title`, `notice`, `split`, `max_history`) as ``grlm_dataset.json``.

    ``load_dataset(folder, config)`` reads it here as well as from the Hub. Replaces `folder` as a whole, or not at all.
    """
    with replacing(folder) as new:
        new.mkdir()
        lines = []
        for n, (config, splits) in enumerate(tables.items()):
            digest, data_files = hashlib.sha256(), []
            for split, rows in splits.items():
                (new / config).mkdir(exist_ok=True)
                path = new / config / f"{split}-00000-of-00001.parquet"
                write_parquet(rows, path)
                digest.update(path.read_bytes())
                data_files += [f"  - split: {split}", f"    path: {config}/{split}-*.parquet"]
            # load_dataset caches a local folder by its name and its card's YAML alone: without the digest it would serve an older
            # folder of this name, or what this folder held before.
            about = [f"  description: content {digest.hexdigest()[:16]}", *(["  default: true"] if n == 0 else [])]
            lines += [f"- config_name: {config}", *about, "  data_files:", *data_files]
        counts = [f"| `{c}` | {', '.join(f'{s}: {len(rows):,}' for s, rows in splits.items())} |" for c, splits in tables.items()]
        catalog.save_pretrained(new)
        card = card_template("dataset").substitute(
            title=facts["title"], notice=facts["notice"], configs="\n".join(lines), counts="\n".join(counts), catalog=repr(catalog),
            first=next(iter(tables)),
        )  # fmt: skip
        (new / CARD).write_text(card, encoding="utf-8")
        write_json(new / DATASET_FACTS, facts)


def load_table(path_or_repo: str | Path, config: str, split: str) -> Dataset:
    """One split of a table of a dataset folder or repository. Raises ``ValueError`` if there is no such table."""
    from datasets import load_dataset

    try:
        return load_dataset(str(path_or_repo), config, split=split)
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(f"{path_or_repo} holds no table {config!r} with a split {split!r}: {error}") from error


def dataset_facts(path_or_repo: str | Path) -> dict[str, Any]:
    """``grlm_dataset.json`` of a dataset folder or repository. Raises ``ValueError`` if there is none, or of a newer schema."""
    path = Path(path_or_repo) / DATASET_FACTS
    if not path.is_file():
        if Path(path_or_repo).exists():
            raise ValueError(f"{path_or_repo} holds no {DATASET_FACTS}: it is no dataset folder of `grlm dataset`.")
        from huggingface_hub import hf_hub_download

        with _explained(str(path_or_repo), DATASET_FACTS):
            path = Path(hf_hub_download(str(path_or_repo), DATASET_FACTS, repo_type="dataset"))
    facts = read_json(path)
    if not isinstance(facts, dict) or facts.get("schema") != 1:
        raise ValueError(
            f"{path} has schema {facts.get('schema') if isinstance(facts, dict) else None}; this grlm-hf reads 1. pip install -U grlm-hf"
        )
    return facts


def write_model_card(checkpoint: str | Path, report: dict[str, Any], title: str, notice: str) -> None:
    """Writes ``README.md`` into a checkpoint, with the figures of an evaluation report (`grlm_hf.evaluation.report`)."""
    from grlm_hf.evaluation.report import markdown_table

    catalog = Catalog.from_pretrained(checkpoint)
    example = ", ".join(repr(i.item_id) for i in catalog.items[:2])
    config = read_json(Path(checkpoint) / "grlm_config.json")
    protocol = "; ".join(f"{k}: {v}" for k, v in report["protocol"].items())
    text = card_template("model").substitute(
        title=title, notice=notice, table=markdown_table(report), protocol=protocol, catalog=repr(catalog), history=example,
        max_history=config["max_history"], over=_OVER[config["objective"]],
    )  # fmt: skip
    write_text(Path(checkpoint) / CARD, text)


def card_template(kind: str) -> Template:
    """The card template ``model_cards/{kind}.md``: shipped inside the wheel, beside the package in a checkout."""
    inside = files("grlm_hf") / "model_cards" / f"{kind}.md"
    source = inside if inside.is_file() else Path(__file__).parent.parent / "model_cards" / f"{kind}.md"
    return Template(source.read_text(encoding="utf-8"))


class _explained:
    """Turns the Hub's errors about a repository into a ``ValueError`` that says what to do."""

    def __init__(self, repo_id: str, wanted: str = CATALOG_FILE):
        self.repo_id, self.wanted = repo_id, wanted

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        from huggingface_hub.errors import (
            EntryNotFoundError,
            HFValidationError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        what = None
        if isinstance(error, HFValidationError):
            what = "is neither a folder here nor a Hub id like ORG/NAME"
        elif isinstance(error, LocalEntryNotFoundError):
            what = "is no folder here, and the Hub could not be reached"
        elif isinstance(error, RevisionNotFoundError):
            what = "has no such revision"
        elif isinstance(error, RepositoryNotFoundError):
            what = "is no folder here, and no repository on the Hub that you may read (private? run `hf auth login`)"
        elif isinstance(error, EntryNotFoundError):
            what = f"holds no {self.wanted}: it was not published by grlm-hf"
        if what:
            raise ValueError(f"{self.repo_id!r} {what}.") from error
