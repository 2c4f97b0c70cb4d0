"""Downloads raw files: resumes interrupted downloads, and gives a file its name only when it is complete.

Our own code, since kept libraries resume less: pooch always starts again, and `huggingface_hub.http_get` sends no ``If-Range``, so
it would join the halves of two versions of a file.
"""

from __future__ import annotations

import os
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path

from tqdm import tqdm

from grlm_hf.files import read_json, write_json

ATTEMPTS = 5
CHUNK = 1 << 20


def download(url: str, folder: Path, page: str, pause: float = 2.0) -> Path:
    """Downloads `url` into `folder` under its own name, unless the file exists.

    ``NAME.part`` has the bytes so far and ``NAME.part.json`` the version of the file. A later call resumes from them, or starts again if
    the file has changed. A broken connection is retried up to `ATTEMPTS` times in a row without progress.

    Args:
        page: the official page for a manual download, named by errors.
        pause: seconds before the first retry, doubled for each further one.

    Raises:
        ValueError: the host does not answer, or not with the file.
    """
    target = folder / url.rsplit("/", 1)[1]
    if target.is_file():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    failures, had, problem = 0, -1, ""
    while failures < ATTEMPTS:
        try:
            if _fetch(url, part):
                os.replace(part, target)
                _version_file(part).unlink(missing_ok=True)
                return target
            problem = "the connection was cut"
        except urllib.error.HTTPError as error:
            problem = f"{error.code} {error.reason}"
            if error.code == 416:  # the part is longer than the file
                part.unlink()
            elif error.code < 500 and error.code not in (408, 429):
                break
        except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
            problem = str(getattr(error, "reason", "") or error or type(error).__name__)
        have = part.stat().st_size if part.exists() else 0
        failures = 1 if have > had else failures + 1
        had = max(had, have)
        if failures < ATTEMPTS:
            time.sleep(pause * 2 ** (failures - 1))
    kept = f" {had:,} bytes are kept in {part}; the same call resumes." if had > 0 else ""
    raise ValueError(f"{url} could not be downloaded: {problem}.{kept} Or download {target.name} from {page} into {folder} and retry.")


def _fetch(url: str, part: Path) -> bool:
    """Appends the missing bytes to `part`; returns whether it is complete."""
    version_file = _version_file(part)
    known = read_json(version_file) if version_file.exists() and part.exists() else {}
    have = part.stat().st_size if known.get("url") == url and known.get("version") else 0
    request = urllib.request.Request(url, headers={"User-Agent": "grlm-hf dataset scripts"})
    if have:
        if have == known.get("size"):
            return True
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", known["version"])
    with urllib.request.urlopen(request, timeout=60) as response:
        resumed = response.status == 206
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            raise HTTPException(f"requested bytes from {have}, the server sent {response.headers.get('Content-Range')}")
        if not resumed:
            have = 0
        length = response.headers.get("Content-Length")
        size = have + int(length) if length else None
        version = response.headers.get("ETag", "")
        if not version or version.startswith("W/"):  # a weak tag does not identify the bytes
            version = response.headers.get("Last-Modified", "")
        with open(part, "ab" if resumed else "wb") as file:
            write_json(version_file, {"url": url, "version": version, "size": size})
            with tqdm(total=size, initial=have, unit="B", unit_scale=True, desc=part.stem, disable=None) as bar:
                while chunk := response.read(CHUNK):
                    file.write(chunk)
                    bar.update(len(chunk))
    return size is None or part.stat().st_size == size


def _version_file(part: Path) -> Path:
    return part.with_name(part.name + ".json")
