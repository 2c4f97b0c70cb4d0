"""The licence of a published card, in the form that the Hub reads."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from grlm_hf.files import did_you_mean

_COMMON_LICENSES = (
    "apache-2.0", "mit", "bsd-3-clause", "gpl-3.0", "cc0-1.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-4.0", "odc-by", "odbl", "pddl", "cdla-permissive-2.0", "cdla-sharing-1.0",
    "openrail", "unknown", "other",
)  # fmt: skip


def license_fields(license: str, name: str = "", link: str = "") -> dict[str, str]:
    """The YAML fields of a licence: an id of the Hub's list (https://huggingface.co/docs/hub/repositories-licenses), or ``other`` with a
    `name` (an id of your own, like ``shop-data-1.0``) and a `link` (a URL, or ``LICENSE``, a file in the repository).

    Only the form of an id is checked, because the list grows; the Hub refuses unknown ids before an upload.

    Raises `ValueError` for an id of another form; ``other`` without a name or link; or a name or link with another licence.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", license):
        like = re.sub(r"[\s_]+", "-", license.strip().lower())
        hint = did_you_mean(like, _COMMON_LICENSES, "Expected an id such as 'cc-by-4.0', 'mit' or 'other'.")
        raise ValueError(f"The licence {license!r} is no id of the Hub's list, which are lower case without spaces. {hint}")
    if license != "other":
        if name or link:
            raise ValueError(f"A licence name and link go with licence 'other' only; found licence {license!r}.")
        return {"license": license}
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", name):
        raise ValueError(f"Licence 'other' needs a license_name in lower case without spaces, such as 'shop-data-1.0'; found {name!r}.")
    if not re.fullmatch(r"https?://[^\s<>\"]+|LICENSE(\.md|\.txt)?", link):
        raise ValueError(f"Licence 'other' needs a license_link: a URL, or LICENSE, a file in the folder; found {link!r}.")
    return {"license": license, "license_name": name, "license_link": link}


@dataclass(frozen=True)
class LicensedCard:
    """A card with a licence in its YAML."""

    text: str
    license: str  # its id; in a dry run possibly the reason why the card has none
    file: str  # the linked licence file in the repository; "" for none


def license_card(card: str, license: str | None, name: str, link: str, *, folder: str | Path, dry_run: bool = False) -> LicensedCard:
    """The card with a licence, by default its own (`licensed`).

    `folder` holds the linked licence file, if there is one. In a dry run a missing licence is no error. Raises `ValueError` as `licensed`
    does, and if `folder` does not hold the licence file.
    """
    try:
        card, stated = licensed(card, license, name, link)
    except ValueError as error:
        if license or not dry_run:
            raise
        stated = f"none yet. {error}"
    linked = re.search(r"^license_link: (LICENSE\S*)$", card, re.MULTILINE)
    if linked and not (Path(folder) / linked[1]).is_file():
        raise ValueError(f"The licence links to {linked[1]}, a file that {folder} does not hold. Put it there, or give a URL.")
    return LicensedCard(card, stated, linked[1] if linked else "")


def licensed(card: str, license: str | None = None, name: str = "", link: str = "") -> tuple[str, str]:
    """The card with this licence in its YAML, by default its own; and the licence's id. Raises `ValueError` if no licence is given or
    stated, or an illegal one (see `license_fields`); or the card's YAML is broken."""
    import yaml
    from huggingface_hub import RepoCard

    if not card.startswith("---"):
        card = f"---\n{{}}\n---\n{card}"
    try:
        parsed = RepoCard(card)
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise ValueError(f"The YAML at the head of README.md is broken: {error}") from error
    if license:
        fields = license_fields(license, name, link)
    elif name or link:
        raise ValueError("A licence name and link need licence 'other' with them.")
    else:
        given = parsed.data.get("license")
        if not given:
            raise ValueError(
                "What is published needs a licence; none was given, and the card names none. Give the id of one that your data's source "
                "allows, such as cc-by-4.0 (--license cc-by-4.0), or other with a license_name and a license_link."
            )
        own = str(given[0] if isinstance(given, list) and len(given) == 1 else given)
        fields = license_fields(own, str(parsed.data.get("license_name") or ""), str(parsed.data.get("license_link") or ""))
    for field in ("license", "license_name", "license_link"):
        parsed.data.pop(field)
    for field, value in fields.items():
        parsed.data[field] = value
    return str(parsed), fields["license"]
