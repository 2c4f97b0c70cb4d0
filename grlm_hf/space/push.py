"""Publishing a Space: a repository with a card, an app of a few lines, its requirements and, where it is a folder here, the checkpoint."""

from __future__ import annotations

import json
import re
import shutil
import sys
import tempfile
from pathlib import Path

import yaml

import grlm_hf
from grlm_hf.data.catalog import Catalog
from grlm_hf.files import read_json, write_text
from grlm_hf.hub import check_name, push_folder, visible_files
from grlm_hf.layout import CARD, TAGS
from grlm_hf.markdown import escaped
from grlm_hf.publishing.cards import template
from grlm_hf.publishing.licenses import license_card
from grlm_hf.publishing.publish import Published

GRADIO = "6.31.0"
"""The version that a Space runs, which the tests passed with."""
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
    """Publishes a Space of a checkpoint in one commit; private unless said otherwise.

    Args:
        checkpoint: a folder, which is put inside the Space; or a Hub id, which the Space reads when it starts (a private one with the
            secret HF_TOKEN in the Space's settings).
        compare: another one, shown beside it.
        license: as in `grlm_hf.publishing.publish.publish`; by default what the checkpoint's card states.
        dry_run: upload nothing.
        requires: the line of requirements.txt, by default ``grlm-hf[space]`` of this version.

    Raises:
        ValueError: no checkpoint; no licence, or none that the Hub would read (a dry run tells of a missing one instead); a name that no
            repository can have; and as `grlm_hf.hub.push_folder`.
    """
    check_name(repo_id)
    if "\n" in requires:
        raise ValueError(f"requires is {requires!r}; expected one line of a requirements.txt.")
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / repo_id.split("/")[-1]
        folder.mkdir()
        names = [name for name in (checkpoint, compare) if name]
        placed = [_place(name, folder, INSIDE if n == 0 else "compare") for n, name in enumerate(names)]
        arguments = ", ".join(json.dumps(name, ensure_ascii=False) for name in placed)
        title = repo_id.split("/")[-1]
        write_text(folder / "app.py", _APP.format(title=title, version=grlm_hf.__version__, arguments=arguments))
        write_text(folder / "requirements.txt", (requires.strip() or f"grlm-hf[space]=={grlm_hf.__version__}") + "\n")
        card = _card(title, repo_id, folder, placed)
        if not license and (folder / INSIDE / CARD).is_file():
            license, license_name, license_link = _license_of(folder / INSIDE / CARD)
        licensed = license_card(card, license, license_name, license_link, folder=checkpoint, dry_run=dry_run)
        if licensed.file:
            shutil.copyfile(Path(checkpoint) / licensed.file, folder / licensed.file)
        write_text(folder / CARD, licensed.text)
        sizes = {p.relative_to(folder).as_posix(): p.stat().st_size for p in visible_files(folder)}
        url = None
        if not dry_run:
            url = push_folder(folder, repo_id, repo_type="space", private=private, token=token, message="Space by grlm-hf")
        return Published("space", repo_id, url, sizes, licensed.license, licensed.text)


def _place(checkpoint: str, folder: Path, name: str) -> str:
    """What the app is to load: the checkpoint's copy in `folder`, or its Hub id. Raises ``ValueError`` where it is none."""
    source = Path(checkpoint)
    if not source.is_dir():
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", checkpoint):
            raise ValueError(f"{checkpoint!r} is neither a folder here nor a Hub id like ORG/NAME.")
        Catalog.from_pretrained(checkpoint)  # said now, not by a Space that does not start
        return checkpoint
    if not (source / "grlm_config.json").is_file():
        raise ValueError(f"{source} holds no grlm_config.json: it is not a GRLM checkpoint. Train one with `grlm train`.")
    Catalog.from_pretrained(source)
    for path in visible_files(source):
        target = folder / name / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return name


def _card(title: str, repo_id: str, folder: Path, placed: list[str]) -> str:
    header: dict[str, object] = {"tags": TAGS}
    parts = []
    for name in placed:
        inside = (folder / name).is_dir()
        catalog = Catalog.from_pretrained(folder / name if inside else name)
        read = f", the last {read_json(folder / name / 'grlm_config.json')['max_history']} of a history are read" if inside else ""
        where = f"the folder `{name}`" if inside else f"[{name}](https://huggingface.co/{name})"
        parts.append(f"Checkpoint: {where}; {len(catalog):,} items under {len(catalog.identifiers):,} Term IDs{read}.")
    if models := [name for name in placed if not (folder / name).is_dir()]:
        header["models"] = models
    return template("space").substitute(
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
