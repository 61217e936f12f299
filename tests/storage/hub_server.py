"""A stand-in for the Hugging Face Hub: the part of its HTTP interface that huggingface_hub speaks, in memory.

Small files are kept as git blobs, large ones as LFS objects by SHA-256. Faults can be put on the wire: connections that
drop, that are slow, and bytes that are wrong. Every request is noted with the bytes of content that it was sent.

It is also a stand-in for S3, for reading: with `datasets` as the bucket, objects lie where files are under plain HTTP.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


def git_digest(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class File:
    """A file of a commit."""

    content: bytes
    lfs: bool

    def facts(self, path: str) -> dict[str, Any]:
        told = {"type": "file", "path": path, "size": len(self.content), "oid": git_digest(self.content)}
        if self.lfs:
            oid = hashlib.sha256(self.content).hexdigest()
            told["lfs"] = {"oid": oid, "size": len(self.content), "pointerSize": 130}
        return told


@dataclass
class Repository:
    """Commits, the newest last, and tags."""

    commits: dict[str, dict[str, File]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def head(self) -> str:
        return list(self.commits)[-1]

    def commit(self, files: dict[str, File]) -> str:
        text = repr(sorted((path, git_digest(file.content)) for path, file in files.items())) + str(len(self.commits))
        name = hashlib.sha1(text.encode()).hexdigest()
        self.commits[name] = files
        return name

    def resolve(self, revision: str) -> str | None:
        if revision == "main":
            return self.head
        found = self.tags.get(revision, revision)
        return found if found in self.commits else None


@dataclass
class Fault:
    """What goes wrong with replies of files whose path fits: drop after so many bytes, wait, or flip a byte.

    Attributes:
        path: pattern of the path.
        times: how often.
        drop_after: close the connection after so many bytes of content.
        slow_s: wait so long after each 16 KB.
        flip: change the byte at this offset of the file, where it is part of the reply.
        status: answer with this status instead.
        of_upload: of files that are sent to the server, not of replies.
    """

    path: str
    times: int = 1
    drop_after: int | None = None
    slow_s: float = 0.0
    flip: int | None = None
    status: int | None = None
    of_upload: bool = False


class HubServer(ThreadingHTTPServer):
    """The server; `address` is what HF_ENDPOINT takes."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str, int]] = []
        self.uploads: list[str] = []
        self.ranges = True
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def fault(self, path: str, upload: bool) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and fault.of_upload == upload and re.search(fault.path, path):
                    fault.times -= 1
                    return fault
        return None

    def sent(self, path: str) -> int:
        """Bytes of content sent of files whose path fits."""
        return sum(size for _, where, size in self.requests if re.search(path, where))

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections that clients close are nothing to tell."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, *args: Any) -> None:
        """Nothing."""

    def body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def reply(self, content: Any, status: int = 200, **headers: str) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def missing(self, what: str) -> None:
        if "AWS4" in self.headers.get("Authorization", ""):
            return self.reply(b"<Error><Code>NoSuchKey</Code><Message>no such key</Message></Error>", 404)
        return self.reply({"error": f"{what} not found"}, 404, X_Error_Code=f"{what}NotFound", X_Error_Message=what)

    def split(self) -> tuple[str, dict[str, list[str]]]:
        parts = urlsplit(self.path)
        return unquote(parts.path), parse_qs(parts.query)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path, _ = self.split()
        if match := re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self.file(*match.groups())
        if not (
            match := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(?:/(revision|tree|refs)(?:/([^/]+))?(/.*)?)?", path)
        ):
            return self.missing("Entry")
        name, verb, revision, folder = match.groups()
        repository = self.server.repositories.get(name)
        if repository is None:
            return self.missing("Repo")
        if verb == "refs":
            tags = [{"name": tag, "ref": f"refs/tags/{tag}", "targetCommit": to} for tag, to in repository.tags.items()]
            main = {"name": "main", "ref": "refs/heads/main", "targetCommit": repository.head}
            return self.reply({"branches": [main], "tags": tags, "converts": []})
        commit = repository.resolve(revision or "main")
        if commit is None:
            return self.missing("Revision")
        files = repository.commits[commit]
        if verb == "tree":
            inside = (folder or "/").strip("/")
            recursive = "recursive=True" in self.path or "recursive=true" in self.path
            return self.reply(list(self.tree(files, inside, recursive)))
        told = {"id": name, "sha": commit, "private": False, "disabled": False, "gated": False, "downloads": 0,
                "likes": 0, "tags": [], "siblings": [{"rfilename": path} for path in files]}  # fmt: skip
        return self.reply(told)

    def tree(self, files: dict[str, File], inside: str, recursive: bool) -> Any:
        folders = set()
        for path, file in files.items():
            if inside and not path.startswith(inside + "/"):
                continue
            rest = path[len(inside) + 1 :] if inside else path
            if "/" in rest and not recursive:
                folders.add((inside + "/" if inside else "") + rest.split("/")[0])
            else:
                yield file.facts(path)
        for folder in sorted(folders):
            yield {"type": "directory", "path": folder, "oid": "0" * 40, "size": 0}

    def file(self, name: str, revision: str, path: str) -> None:
        repository = self.server.repositories.get(name)
        commit = repository.resolve(revision) if repository else None
        if repository is None or commit is None:
            return self.missing("Repo" if repository is None else "Revision")
        file = repository.commits[commit].get(path)
        if file is None:
            return self.missing("Entry")
        fault = self.server.fault(path, False) if self.command == "GET" else None
        if fault and fault.status:
            return self.reply({"error": "out of order"}, fault.status)
        content = bytearray(file.content)
        if fault and fault.flip is not None:
            content[fault.flip] ^= 1
        start, end, status = 0, len(content), 200
        if (asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))) and self.server.ranges:
            start, status = int(asked[1]), 206
            end = min(int(asked[2]) + 1, end) if asked[2] else end
        data = bytes(content[start:end])
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Accept-Ranges", "bytes" if self.server.ranges else "none")
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
        self.send_header("X-Repo-Commit", commit)
        digest = hashlib.sha256(file.content).hexdigest() if file.lfs else git_digest(file.content)
        self.send_header("ETag", f'"{digest}"')
        self.end_headers()
        if self.command == "HEAD":
            return None
        sent = 0
        with suppress(OSError):
            for at in range(0, len(data), 16_384):
                piece = data[at : at + 16_384]
                if fault and fault.drop_after is not None and sent + len(piece) > fault.drop_after:
                    self.close_connection = True
                    break
                self.wfile.write(piece)
                sent += len(piece)
                if fault and fault.slow_s:
                    time.sleep(fault.slow_s)
        with self.server.lock:
            self.server.requests.append((self.command, path, sent))
        return None

    def do_POST(self) -> None:
        path, _ = self.split()
        body = self.body()
        if path == "/api/validate-yaml":
            return self.reply({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            told = json.loads(body)
            name = f"{told.get('organization') or 'me'}/{told['name']}"
            repository = self.server.repositories.setdefault(name, Repository())
            if not repository.commits:
                repository.commit({".gitattributes": File(b"*.h5 filter=lfs\n", False)})
            return self.reply({"url": f"{self.server.address}/datasets/{name}", "name": name})
        if match := re.fullmatch(r"/datasets/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            return self.reply(
                {"transfer": "basic", "objects": [self.object(item) for item in json.loads(body)["objects"]]}
            )
        match = re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/(preupload|commit|tag)/([^/]+)", path)
        repository = self.server.repositories.get(match[1]) if match else None
        if match is None or repository is None:
            return self.missing("Repo")
        if match[2] == "preupload":
            files = [
                {"path": file["path"], "shouldIgnore": False,
                 "uploadMode": "lfs" if re.search(r"\.(h5|safetensors|parquet)$", file["path"]) else "regular"}
                for file in json.loads(body)["files"]
            ]  # fmt: skip
            return self.reply({"files": files})
        if match[2] == "tag":
            tag = json.loads(body)["tag"]
            if tag in repository.tags:
                return self.reply({"error": "tag exists"}, 409)
            repository.tags[tag] = repository.resolve(match[3]) or repository.head
            return self.reply({})
        return self.commit(match[1], repository, [json.loads(line) for line in body.splitlines() if line.strip()])

    def object(self, item: dict[str, Any]) -> dict[str, Any]:
        told = {"oid": item["oid"], "size": item["size"]}
        if item["oid"] not in self.server.objects:
            told["actions"] = {"upload": {"href": f"{self.server.address}/lfs/{item['oid']}", "header": {}}}
        return told

    def commit(self, name: str, repository: Repository, lines: list[dict[str, Any]]) -> None:
        files = dict(repository.commits[repository.head])
        for line in lines:
            told = line["value"]
            if line["key"] == "header" and told.get("parentCommit") not in (None, repository.head):
                return self.reply({"error": "the repository has changed"}, 412)
            if line["key"] == "file":
                content = base64.b64decode(told["content"])
                files[told["path"]] = File(content, False)
                self.server.uploads.append(told["path"])
            elif line["key"] == "lfsFile":
                if told["oid"] not in self.server.objects:
                    return self.reply({"error": f"no object {told['oid']}"}, 400)
                files[told["path"]] = File(self.server.objects[told["oid"]], True)
            elif line["key"] == "deletedFile":
                del files[told["path"]]
        commit = repository.commit(files)
        url = f"{self.server.address}/datasets/{name}/commit/{commit}"
        return self.reply({"success": True, "commitOid": commit, "commitUrl": url, "hookOutput": ""})

    def do_PUT(self) -> None:
        path, _ = self.split()
        content, oid = self.body(), path.removeprefix("/lfs/")
        fault = self.server.fault(path, True)
        if fault and fault.status:
            return self.reply({"error": "out of order"}, fault.status)
        if hashlib.sha256(content).hexdigest() != oid:
            return self.reply({"error": "another SHA-256"}, 400)
        self.server.objects[oid] = content
        self.server.uploads.append(oid)
        return self.reply(b"", ETag='"x"')
