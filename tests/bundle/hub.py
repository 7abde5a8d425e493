"""A stand-in for the Hugging Face Hub: what of its HTTP API the Hub's own client calls here.

Enough of it to see what arrives: creating a repository, checking the card, choosing how each file is
uploaded, large files by the Git LFS batch protocol, one commit, and downloading.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "c" * 40
REFUSED = "refused"


class Hub:
    """The state: repositories with their files, stored large objects, and every request's path and token."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.visibility: dict[str, Any] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.tokens: set[str] = set()
        self.refuses: set[str] = set()  # tokens without the right to write
        self.address = ""


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def answer(self, document: Any, status: int = 200) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            content = b""
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return content
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def book(self) -> str:
        path = self.path.partition("?")[0]
        self.hub.requests.append((self.command, path))
        self.hub.tokens.add(self.headers.get("Authorization", ""))
        return path

    def do_POST(self) -> None:
        path, content = self.book(), self.body()
        if self.headers.get("Authorization", "") in self.hub.refuses:
            return self.answer({"error": "You don't have the rights"}, 403)
        if path == "/api/repos/create":
            asked = json.loads(content)
            name = f"{asked['organization']}/{asked['name']}"
            self.hub.visibility[name] = asked.get("visibility") or asked.get("private")
            self.hub.repositories.setdefault(name, {})
            return self.answer({"url": f"{self.hub.address}/{name}"})
        if path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if "/preupload/" in path:
            files = [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if one["path"].endswith((".safetensors", ".tar")) else "regular",
                    "shouldIgnore": False,
                }
                for one in json.loads(content)["files"]
            ]
            return self.answer({"files": files})
        if path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**one, "actions": {"upload": {"href": f"{self.hub.address}/store/{one['oid']}"}}}
                for one in json.loads(content)["objects"]
            ]
            return self.answer({"transfer": "basic", "objects": objects})
        if "/commit/" in path:
            self.commit("/".join(path.split("/")[3:5]), content)
            name = path.split("/commit/")[0].removeprefix("/api/models/")
            return self.answer(
                {"commitUrl": f"{self.hub.address}/{name}/commit/{COMMIT}", "commitOid": COMMIT}
            )
        return self.answer({"error": "unknown"}, 404)

    def commit(self, name: str, content: bytes) -> None:
        for line in content.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "file":
                self.hub.repositories[name][value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                self.hub.repositories[name][value["path"]] = self.hub.objects[value["oid"]]

    def do_PUT(self) -> None:
        path, content = self.book(), self.body()
        assert hashlib.sha256(content).hexdigest() == path.rpartition("/")[2]
        self.hub.objects[path.rpartition("/")[2]] = content
        self.answer({})

    def listing(self, name: str, kind: str) -> None:
        files = self.hub.repositories.get(name, {})
        if kind == "tree":
            listed = ({"path": path, "size": len(content)} for path, content in files.items())
            return self.answer([{**one, "type": "file", "oid": COMMIT} for one in listed])
        return self.answer({"id": name, "sha": COMMIT, "siblings": [{"rfilename": path} for path in files]})

    def do_HEAD(self) -> None:
        self.serve(with_body=False)

    def do_GET(self) -> None:
        self.serve(with_body=True)

    def serve(self, *, with_body: bool) -> None:
        """``/<owner>/<name>/resolve/<revision>/<file>``, or what files there are"""
        path = self.book()
        if path.startswith("/api/models/"):
            owner, name, kind, *_ = path.removeprefix("/api/models/").split("/")
            return self.listing(f"{owner}/{name}", kind)
        owner, name, _, _, *rest = path.strip("/").split("/")
        content = self.hub.repositories.get(f"{owner}/{name}", {}).get("/".join(rest))
        if content is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_body:
            self.wfile.write(content)


@contextmanager
def standing_in() -> Iterator[Hub]:
    """A hub on this machine, for the block."""
    hub = Hub()
    handler = type("Bound", (Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
