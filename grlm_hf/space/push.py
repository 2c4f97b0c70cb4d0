"""Publishes a Space: a repository with a card, an app of a few lines, its requirements and, if it is a local folder, the checkpoint."""

from __future__ import annotations

import json
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from grlm_hf.data.catalog import Catalog
from grlm_hf.files import write_text
from grlm_hf.hub import check_name, push_folder, visible_files
from grlm_hf.layout import CARD, CONFIG_FILE, TAGS
from grlm_hf.markdown import escaped
from grlm_hf.modeling.config import GRLMConfig
from grlm_hf.publishing.cards import template
from grlm_hf.publishing.licenses import license_card
from grlm_hf.publishing.publish import Published
from grlm_hf.version import __version__

GRADIO = "6.31.0"
"""The version that a published Space runs; the tests passed with it."""
INSIDE = "checkpoint"
_APP = '''"""The Space of {title}; written by grlm-hf {version}."""

from grlm_hf.space.app import launch

launch({arguments})
'''


def push_space(
    checkpoint: str,
    repo_id: str,
    *,
    compare: str = "",
    license: str | None = None,
    license_name: str = "",
    license_link: str = "",
    private: bool = True,
    dry_run: bool = False,
    requires: str = "",
    token: str | None = None,
) -> Published:
    """Publishes a Space of a checkpoint in one commit, private by default.

    Args:
        checkpoint: a folder, which is put inside the Space; or a Hub id, which the Space reads when it starts (a private one with the
            secret HF_TOKEN in the Space's settings).
        compare: another one, shown beside it.
        license: as in `grlm_hf.publishing.publish.publish`; by default that of the checkpoint's card.
        dry_run: upload nothing.
        requires: the line of requirements.txt, by default ``grlm-hf[space]`` of this version.

    Raises:
        ValueError: no checkpoint; no licence (a dry run only reports that), or one that the Hub does not know; an invalid repository name;
            and as `grlm_hf.hub.push_folder`.
    """
    check_name(repo_id)
    if "\n" in requires:
        raise ValueError(f"requires is {requires!r}; expected one line of a requirements.txt.")
    title = repo_id.split("/")[-1]
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / title
        folder.mkdir()
        placed = [(source, _place(source, folder / name)) for source, name in ((checkpoint, INSIDE), (compare, "compare")) if source]
        arguments = ", ".join(json.dumps(name, ensure_ascii=False) for _, name in placed)
        write_text(folder / "app.py", _APP.format(title=title, version=__version__, arguments=arguments))
        write_text(folder / "requirements.txt", (requires.strip() or f"grlm-hf[space]=={__version__}") + "\n")
        if not license and (folder / INSIDE / CARD).is_file():
            license, license_name, license_link = _license_of(folder / INSIDE / CARD)
        licensed = license_card(_card(title, repo_id, placed), license, license_name, license_link, folder=checkpoint, dry_run=dry_run)
        if licensed.file:
            shutil.copyfile(Path(checkpoint) / licensed.file, folder / licensed.file)
        write_text(folder / CARD, licensed.text)
        sizes = {p.relative_to(folder).as_posix(): p.stat().st_size for p in visible_files(folder)}
        url = None
        if not dry_run:
            url = push_folder(folder, repo_id, repo_type="space", private=private, token=token, message="Space by grlm-hf")
        return Published("space", repo_id, url, sizes, licensed.license, licensed.text)


def _place(checkpoint: str, target: Path) -> str:
    """What the app loads: the name of the checkpoint's copy at `target`, or its Hub id. Raises ``ValueError`` if it is no checkpoint."""
    source = Path(checkpoint)
    if not source.is_dir():
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", checkpoint):
            raise ValueError(f"{checkpoint!r} is neither a folder here nor a Hub id like ORG/NAME.")
        return checkpoint
    if not (source / CONFIG_FILE).is_file():
        raise ValueError(f"{source} holds no {CONFIG_FILE}: it is not a GRLM checkpoint. Train one with `grlm train`.")
    for path in visible_files(source):
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    return target.name


def _card(title: str, repo_id: str, placed: Sequence[tuple[str, str]]) -> str:
    """The card. `placed`: each checkpoint, and what the app loads. Raises ``ValueError`` for a checkpoint without a catalog."""
    header: dict[str, Any] = {"tags": TAGS}
    parts = []
    for source, name in placed:
        catalog = Catalog.from_pretrained(source)
        if Path(source).is_dir():
            where, config = f"the folder `{name}`", GRLMConfig.load(Path(source) / CONFIG_FILE)
            read = f", the last {config.max_history} of a history are read"
        else:
            where, read = f"[{name}](https://huggingface.co/{name})", ""
            header.setdefault("models", []).append(name)
        parts.append(f"Checkpoint: {where}; {len(catalog):,} items under {len(catalog.identifiers):,} Term IDs{read}.")
    return template("space").render(
        title=json.dumps(title), heading=escaped(title), gradio=GRADIO, python="{}.{}".format(*sys.version_info),
        header=yaml.safe_dump(header, sort_keys=False, allow_unicode=True).strip(), parts="\n".join(f"- {p}" for p in parts),
        repo=repo_id,
    )  # fmt: skip


def _license_of(card: Path) -> tuple[str | None, str, str]:
    from huggingface_hub import RepoCard

    try:
        data = RepoCard(card.read_text(encoding="utf-8")).data
    except (yaml.YAMLError, ValueError, TypeError):
        return None, "", ""
    return data.get("license"), data.get("license_name") or "", data.get("license_link") or ""
