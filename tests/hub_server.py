"""A Hugging Face Hub on 127.0.0.1, in memory, for tests that push and load with the real clients.

It speaks the part of the protocol that `huggingface_hub`, `datasets` and `transformers` use to create, fill, read and delete
model, dataset and Space repos. Every commit is an immutable snapshot, so an older sha stays readable; a private repo answers only
to the bearer token. Not spoken: pull requests, Xet (set `HF_HUB_DISABLE_XET=1`), pages. What it does not know it answers
501, never a guess.
"""

import hashlib
import json
import re
import secrets
import threading
from base64 import b64decode
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

USER = "tester"  # the owner of the token: `create_repo("name")` makes "tester/name"
LFS_SUFFIXES = (".safetensors", ".parquet", ".bin", ".png")
LFS_SIZE = 10 * 2**20  # bytes: from this size on a file goes through LFS whatever its name
GIT_ATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES).encode()


@dataclass(frozen=True)
class Blob:
    data: bytes
    lfs: bool = False

    @cached_property
    def oid(self) -> str:
        """What a client compares its own file with: sha256 through LFS, else git's sha1."""
        return hashlib.sha256(self.data).hexdigest() if self.lfs else hashlib.sha1(b"blob %d\0" % len(self.data) + self.data).hexdigest()

    def entry(self, path: str) -> dict:
        """How a listing shows it."""
        lfs = {"oid": self.oid, "sha256": self.oid, "size": len(self.data), "pointerSize": 134} if self.lfs else None
        return {"type": "file", "path": path, "size": len(self.data), "oid": self.oid, "lfs": lfs}


@dataclass(frozen=True)
class Commit:
    sha: str
    parent: "Commit | None"
    message: str
    files: dict[str, Blob]


@dataclass
class Repo:
    id: str
    kind: str  # "models", "datasets" or "spaces"
    private: bool
    branches: dict[str, Commit] = field(default_factory=dict)
    tags: dict[str, Commit] = field(default_factory=dict)
    by_sha: dict[str, Commit] = field(default_factory=dict)
    lfs: dict[str, bytes] = field(default_factory=dict)  # sha256 -> content, uploaded but not always committed

    def at(self, revision: str) -> Commit:
        for names in (self.branches, self.tags, self.by_sha):
            if revision in names:
                return names[revision]
        raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def commit(self, branch: str, files: dict[str, Blob], message: str) -> Commit:
        commit = Commit(secrets.token_hex(20), self.branches.get(branch), message, files)
        self.by_sha[commit.sha] = self.branches[branch] = commit
        return commit


class HubError(Exception):
    """An answer whose headers tell `huggingface_hub` which exception to raise."""

    def __init__(self, status: int, message: str, code: str | None = None, **more: str):
        self.status, self.message = status, message
        self.headers = {"X-Error-Message": message.encode("ascii", "replace").decode(), **({"X-Error-Code": code} if code else {}), **more}


class Cut(Exception):
    """The connection breaks here."""


class HubServer:
    """`with HubServer() as hub:` serves until the block ends. The port is held from construction on.

    Attributes:
        url: what `HF_ENDPOINT` must be before `huggingface_hub` is imported.
        token: the one token that may write, and read private repos.
        fail_after: after this many more LFS uploads each further one is answered 500, until it is set back to None. The client
            retries a 500 five times over 23 s: replace `huggingface_hub.utils._http.time.sleep` in such a test.
        before, after: name of a route → what is called before the body of such a request is read, or once it is carried out but not
            answered. Raising `Cut` there closes the connection without an answer. Other requests are answered meanwhile.
        requests: "METHOD path status" of each request answered.
    """

    def __init__(self, port: int = 0):
        self.token = f"hf_{secrets.token_hex(16)}"
        self.fail_after: int | None = None
        self.before: dict[str, Callable[[], None]] = {}
        self.after: dict[str, Callable[[], None]] = {}
        self.requests: list[str] = []
        self.repos: dict[tuple[str, str], Repo] = {}  # (kind, id) -> repo
        self.uploads: dict[str, tuple[Repo, str]] = {}  # signature in an upload address -> whose object it may store
        self.lock = threading.Lock()  # requests are answered one at a time
        self._http = ThreadingHTTPServer(("127.0.0.1", port), _Handler, bind_and_activate=False)
        self._http.hub = self  # type: ignore[attr-defined]
        self._http.server_bind()  # not listening: before the block a client is refused, not kept waiting
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self):
        self._http.server_activate()
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def commits(self, repo_id: str, repo_type: str = "model") -> list[tuple[str, str]]:
        """(sha, message) of every commit on main, oldest first; the first of them created the repo."""
        found, commit = [], self.repos[f"{repo_type}s", repo_id].at("main")
        while commit:
            found.append((commit.sha, commit.message))
            commit = commit.parent
        return found[::-1]

    def files(self, repo_id: str, repo_type: str = "model", revision: str = "main") -> dict[str, bytes]:
        """Every file at a branch, tag or sha; `.gitattributes` is there from the first commit, as on the Hub."""
        return {path: blob.data for path, blob in self.repos[f"{repo_type}s", repo_id].at(revision).files.items()}

    def web(self, kind: str, repo_id: str) -> str:
        return f"{self.url}/{'' if kind == 'models' else kind + '/'}{repo_id}"


_ID = r"(?P<id>[^/]+(?:/[^/]+)?)"
_API = rf"/api/(?P<kind>models|datasets|spaces)/{_ID}"
_WEB = rf"/(?:(?P<kind>datasets|spaces)/)?{_ID}"
_REVISION = r"(?P<revision>[^/]+)"  # the client quotes it, slashes included
ROUTES = (  # method, whether it takes the token, address, what answers; the first that fits
    ("GET", True, "/api/whoami-v2", "whoami"),
    ("POST", False, "/api/validate-yaml", "validate_yaml"),
    ("POST", True, "/api/repos/create", "create"),
    ("DELETE", True, "/api/repos/delete", "delete"),
    ("GET", False, rf"{_API}/refs", "refs"),
    ("GET", False, rf"{_API}/tree/{_REVISION}(?:/(?P<path>.*))?", "tree"),
    ("POST", False, rf"{_API}/paths-info/{_REVISION}", "paths_info"),
    ("POST", True, rf"{_API}/tag/{_REVISION}", "tag"),
    ("POST", True, rf"{_API}/branch/(?P<name>[^/]+)", "branch"),
    ("POST", True, rf"{_API}/preupload/{_REVISION}", "preupload"),
    ("POST", True, rf"{_API}/commit/{_REVISION}", "commit"),
    ("GET", False, rf"{_API}(?:/revision/{_REVISION})?", "info"),
    ("POST", True, rf"{_WEB}\.git/info/lfs/objects/batch", "lfs_batch"),
    ("POST", True, rf"{_WEB}\.git/info/lfs/objects/verify", "lfs_verify"),
    ("PUT", False, r"/lfs-upload/(?P<signature>\w+)", "lfs_upload"),
    ("GET", False, rf"{_WEB}/resolve/{_REVISION}/(?P<path>.+)", "resolve"),
)


class _Handler(BaseHTTPRequestHandler):
    """One connection. A method named in ROUTES returns what is sent as JSON, or as it is if bytes; it may set `reply_status`
    and add to `reply_headers`, or raise HubError."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two writes: else each answer waits 40 ms

    def do_GET(self) -> None:
        self.hub: HubServer = self.server.hub  # type: ignore[attr-defined]
        try:
            answer = self.answered()
        except Cut:
            self.close_connection = True
            return
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        content_type = "application/octet-stream" if isinstance(answer, bytes) else "application/json"
        self.send_response(self.reply_status)
        for name, value in {"Content-Type": content_type, "Content-Length": str(len(content)), **self.reply_headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def answered(self) -> Any:
        address = urlsplit(self.path)
        self.query = parse_qs(address.query)
        name = next((name for method, _, pattern, name in ROUTES if self.fits(method, pattern, address.path)), "")
        self.hub.before.get(name, lambda: None)()
        self.body = self.read_body()
        self.authorized = self.headers.get("Authorization") == f"Bearer {self.hub.token}"
        self.reply_status, self.reply_headers = 200, {}
        with self.hub.lock:
            try:
                answer = self.route(address.path)
            except HubError as error:
                self.reply_status, self.reply_headers, answer = error.status, error.headers, {"error": error.message}
            self.hub.requests.append(f"{self.command} {self.path} {self.reply_status}")
        self.hub.after.get(name, lambda: None)()
        return answer

    def fits(self, method: str, pattern: str, path: str) -> re.Match | None:
        return re.fullmatch(pattern, path) if method == self.command.replace("HEAD", "GET") else None

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def handle(self) -> None:
        with suppress(ConnectionError):  # a streaming reader may leave early
            super().handle()

    def log_message(self, format: str, *args: object) -> None:
        """Silent: `HubServer.requests` has the lines."""

    def route(self, path: str) -> Any:
        for method, needs_token, pattern, name in ROUTES:
            if match := self.fits(method, pattern, path):
                found = {key: unquote(value) for key, value in match.groupdict().items() if value is not None}
                if "id" in found:
                    found["repo"] = self.find(found.pop("kind", "models"), found.pop("id"))
                if needs_token and not self.authorized:
                    raise HubError(401, "Invalid username or password.")
                return getattr(self, name)(**found)
        raise HubError(501, f"not spoken by the test hub: {self.command} {path}")

    def find(self, kind: str, repo_id: str) -> Repo:
        repo = self.hub.repos.get((kind, repo_id))
        if repo is None or (repo.private and not self.authorized):
            raise HubError(404 if self.authorized else 401, "Repository not found", "RepoNotFound")
        return repo

    def named(self) -> tuple[str, str]:
        """(kind, id) of the repo in a request to create or delete it."""
        wanted = json.loads(self.body)
        return f"{wanted.get('type') or 'model'}s", f"{wanted.get('organization') or USER}/{wanted['name']}"

    # ---- accounts, repos, names

    def whoami(self) -> dict:
        access = {"type": "access_token", "accessToken": {"displayName": "test", "role": "write"}}
        return {"type": "user", "id": USER, "name": USER, "fullname": USER, "orgs": [], "auth": access}

    def create(self) -> dict:
        (kind, repo_id), wanted = self.named(), json.loads(self.body)
        answer = {"name": repo_id, "url": self.hub.web(kind, repo_id)}
        if (kind, repo_id) in self.hub.repos:
            self.reply_status = 409
            return answer | {"error": f"You already created this {kind[:-1]} repo"}
        if (kind == "spaces") != ("sdk" in wanted):
            raise HubError(400, "A Space, and nothing else, needs an sdk: gradio, docker or static")
        repo = self.hub.repos[kind, repo_id] = Repo(repo_id, kind, private=wanted.get("visibility") == "private")
        repo.commit("main", {".gitattributes": Blob(GIT_ATTRIBUTES)}, "initial commit")
        return answer

    def delete(self) -> str:
        self.find(*self.named())
        del self.hub.repos[self.named()]
        return "OK"

    def refs(self, repo: Repo) -> dict:
        def listed(names: dict[str, Commit], folder: str) -> list[dict]:
            return [{"name": name, "ref": f"refs/{folder}/{name}", "targetCommit": commit.sha} for name, commit in names.items()]

        return {"branches": listed(repo.branches, "heads"), "tags": listed(repo.tags, "tags"), "converts": [], "pullRequests": []}

    def branch(self, repo: Repo, name: str) -> str:
        return self.name(repo.branches, name, repo.at(json.loads(self.body).get("startingPoint", "main")))

    def tag(self, repo: Repo, revision: str) -> str:
        return self.name(repo.tags, json.loads(self.body)["tag"], repo.at(revision))

    def name(self, names: dict[str, Commit], name: str, commit: Commit) -> str:
        if name in names:
            raise HubError(409, f"{name} already exists")
        names[name] = commit
        return "OK"

    # ---- reading

    def info(self, repo: Repo, revision: str = "main") -> dict:
        commit = repo.at(revision)
        entries = [commit.files[path].entry(path) for path in sorted(commit.files)]
        siblings = [{"rfilename": entry["path"], "blobId": entry["oid"], **entry} for entry in entries]
        card = card_data(commit.files.get("README.md", Blob(b"")).data.decode())
        known = {"id": repo.id, "author": repo.id.split("/")[0], "private": repo.private, "gated": False, "disabled": False, "tags": []}
        return {**known, "sha": commit.sha, "siblings": siblings, "cardData": card}

    def tree(self, repo: Repo, revision: str, path: str = "") -> list[dict]:
        prefix, entries = f"{path}/" if path else "", {}
        for name, blob in sorted(repo.at(revision).files.items()):
            if name.startswith(prefix):
                for slash in re.finditer("/", name[len(prefix) :]):
                    folder = name[: len(prefix) + slash.start()]
                    entries[folder] = folder_entry(folder)
                entries[name] = blob.entry(name)
        if path and not entries:
            raise HubError(404, f"{path} does not exist on {revision}", "EntryNotFound")
        recursive = self.query.get("recursive") == ["true"]
        return [entry for name, entry in entries.items() if recursive or "/" not in name[len(prefix) :]]

    def paths_info(self, repo: Repo, revision: str) -> list[dict]:
        files, entries = repo.at(revision).files, []
        for path in parse_qs(self.body.decode()).get("paths", []):
            if path in files:
                entries.append(files[path].entry(path))
            elif any(name.startswith(f"{path}/") for name in files):
                entries.append(folder_entry(path))
        return entries

    def resolve(self, repo: Repo, revision: str, path: str) -> bytes:
        commit = repo.at(revision)
        self.reply_headers = {"X-Repo-Commit": commit.sha, "Accept-Ranges": "bytes"}
        if path not in commit.files:
            raise HubError(404, "Entry not found", "EntryNotFound", **self.reply_headers)
        blob = commit.files[path]
        size = len(blob.data)
        self.reply_headers["ETag"] = f'"{blob.oid}"'
        if blob.lfs:
            self.reply_headers |= {"X-Linked-Etag": f'"{blob.oid}"', "X-Linked-Size": str(size)}
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            return blob.data
        start = int(asked[1]) if asked[1] else max(size - int(asked[2]), 0)  # "bytes=-n": the last n
        stop = min(int(asked[2]) + 1, size) if asked[1] and asked[2] else size
        self.reply_status = 206 if start < stop else 416
        self.reply_headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}" if start < stop else f"bytes */{size}"
        return blob.data[start:stop]

    # ---- writing

    def validate_yaml(self) -> dict:
        asked = json.loads(self.body)
        try:
            data = card_data(asked["content"])
            wrong = card_errors(data, asked["repoType"]) if data else []
        except yaml.YAMLError as error:
            wrong = [str(error)]
        if wrong:
            self.reply_status = 400
            return {"errors": [{"message": message} for message in wrong]}
        return {"errors": [], "warnings": [] if data else [{"message": "empty or missing yaml metadata in repo card"}]}

    def preupload(self, repo: Repo, revision: str) -> dict:
        stored, plans = repo.at(revision).files, []
        for file in json.loads(self.body)["files"]:
            mode = "lfs" if file["path"].endswith(LFS_SUFFIXES) or file["size"] >= LFS_SIZE else "regular"
            oid = stored[file["path"]].oid if file["path"] in stored else None
            plans.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return {"files": plans}

    def lfs_batch(self, repo: Repo) -> dict:
        objects = json.loads(self.body)["objects"]
        for wanted in objects:
            if wanted["oid"] not in repo.lfs:  # without actions: stored already, nothing to upload
                signature = secrets.token_hex(16)
                self.hub.uploads[signature] = (repo, wanted["oid"])
                verify = f"{self.hub.web(repo.kind, repo.id)}.git/info/lfs/objects/verify"
                wanted["actions"] = {"upload": {"href": f"{self.hub.url}/lfs-upload/{signature}"}, "verify": {"href": verify}}
        return {"transfer": "basic", "objects": objects}

    def lfs_upload(self, signature: str) -> bytes:
        """The address is signed, as on the Hub: whoever has it may store, without a token, exactly the content announced."""
        if self.hub.fail_after is not None:
            if self.hub.fail_after <= 0:
                raise HubError(500, "the storage is down (fail_after)")
            self.hub.fail_after -= 1
        repo, oid = self.hub.uploads.get(signature, (None, None))
        if repo is None or Blob(self.body, lfs=True).oid != oid:
            raise HubError(403, "not the content that this address was signed for")
        repo.lfs[oid] = self.body
        return b""

    def lfs_verify(self, repo: Repo) -> dict:
        wanted = json.loads(self.body)
        if len(repo.lfs.get(wanted["oid"], b"")) != wanted["size"]:
            raise HubError(404, f"LFS object {wanted['oid']} is not stored")
        return {}

    def commit(self, repo: Repo, revision: str) -> dict:
        if "create_pr" in self.query:
            raise HubError(501, "not spoken by the test hub: pull requests")
        if revision not in repo.branches:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        parent, message = repo.branches[revision], ""
        files = dict(parent.files)  # nothing is kept unless every line is good
        for line in self.body.splitlines():
            key, value = (operation := json.loads(line))["key"], operation["value"]
            match key:
                case "header":
                    message = value["summary"]
                    if not parent.sha.startswith(value.get("parentCommit", "")):
                        raise HubError(412, "A commit has happened since. Please refresh and try again.")
                case "file":
                    files[value["path"]] = Blob(b64decode(value["content"]))
                case "lfsFile":
                    if value["oid"] not in repo.lfs:
                        raise HubError(400, f"{value['path']} points to an LFS object that does not exist")
                    files[value["path"]] = Blob(repo.lfs[value["oid"]], lfs=True)
                case "deletedFile" | "deletedFolder":
                    folder = value["path"].rstrip("/") + "/" if key == "deletedFolder" else None
                    doomed = [path for path in files if (path.startswith(folder) if folder else path == value["path"])]
                    if not doomed:
                        raise HubError(404, f"A file with this name doesn't exist: {value['path']}", "EntryNotFound")
                    for path in doomed:
                        del files[path]
                case _:
                    raise HubError(501, f"not spoken by the test hub: {key} in a commit")
        commit = repo.commit(revision, files, message)
        return {"success": True, "commitOid": commit.sha, "commitUrl": f"{self.hub.web(repo.kind, repo.id)}/commit/{commit.sha}"}


def folder_entry(path: str) -> dict:
    return {"type": "directory", "path": path, "size": 0, "oid": hashlib.sha1(path.encode()).hexdigest()}


def card_data(card: str) -> Any:
    """The YAML between the `---` lines that open a card, None when there is none; raises yaml.YAMLError."""
    block = re.match(r"---\n(.*?)^---\s*$", card, re.DOTALL | re.MULTILINE)
    return yaml.safe_load(block[1]) if block else None


COLORS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")
REPO_ID = r"[\w-][\w.-]*/[\w-][\w.-]*|[\w-][\w.-]*"


def card_errors(data: Any, kind: str) -> list[str]:
    """What the metadata of a card may not be: all that `huggingface_hub` checks where it reads and writes cards, and the closed lists and
    types of the Hub's own documentation."""
    from huggingface_hub import DatasetCardData, ModelCardData, SpaceCardData  # not before HF_ENDPOINT is set

    if not isinstance(data, dict):
        return ["the metadata should be a mapping"]
    wrong = []
    try:
        known = {"model": ModelCardData, "dataset": DatasetCardData, "space": SpaceCardData}[kind](**data)
        again = known.to_dict()
        if again.get("model-index") != data.get("model-index"):
            wrong.append('"model-index" does not survive being read')
        for result in getattr(known, "eval_results", None) or []:
            value = result.metric_value
            if not isinstance(value, int | float | str) or value != value or value in (float("inf"), float("-inf")):
                wrong.append(f'"model-index" has the value {value!r}')
            texts = (result.metric_type, result.metric_name, result.dataset_name, result.dataset_type, result.task_type)
            if not all(isinstance(text, str) and text for text in texts):
                wrong.append('"model-index" has a name or type that is no text')
    except (ValueError, TypeError, KeyError) as error:
        return [str(error)]
    for name in ("tags", "language", "datasets", "base_model", "models"):
        given = data.get(name, [])
        some = given if isinstance(given, list) else [given]
        pattern = REPO_ID if name in ("datasets", "base_model", "models") else r"[^\n]+"
        wrong += [f'"{name}" has {entry!r}' for entry in some if not (isinstance(entry, str) and re.fullmatch(pattern, entry))]
    for name in ("license", "license_name", "license_link", "pretty_name", "library_name", "pipeline_tag", "title", "sdk", "sdk_version"):
        if name in data and not isinstance(data[name], str):
            wrong.append(f'"{name}" must be a string')
    if data.get("license") == "other" and kind != "space" and not data.get("license_name"):
        wrong.append('"license_name" is needed beside license: other')
    if kind == "space":
        wrong += [f'"{name}" must be one of {COLORS}' for name in ("colorFrom", "colorTo") if data.get(name, "red") not in COLORS]
        if data.get("sdk") not in ("gradio", "docker", "static"):
            wrong.append('"sdk" must be one of gradio, docker, static')
        if len(data.get("short_description", "")) > 60:
            wrong.append('"short_description" is longer than 60 characters')
    return wrong
