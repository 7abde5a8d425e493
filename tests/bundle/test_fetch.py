"""Where a bundle can come from: a file, https (with redirects, limits and refusals), the Hub's stand-in."""

from __future__ import annotations

import io
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from speculators.bundle.archive import DamagedBundleError
from speculators.bundle.fetch import copy_limited, fetched, is_bundle, require_safe
from speculators.bundle.verify import verify
from speculators.cli.app import main
from speculators.errors import MachineError, RecipeError
from tests.bundle.hub import standing_in
from tests.engine.packages import AbsentError, program
from tests.needs import leave_out

CONTENT = b"the bundle's bytes"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.path.startswith("/moved"):
            self.send_response(302)
            self.send_header("Location", "/x.speculators.tar")
        elif self.path.startswith("/elsewhere"):
            self.send_response(302)
            self.send_header("Location", "http://example.org/x.speculators.tar")
        elif self.path.startswith("/x"):
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
        else:
            self.send_response(404)
        self.end_headers()
        if self.path.startswith("/x"):
            self.wfile.write(CONTENT)


@contextmanager
def serving(context: ssl.SSLContext | None = None) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"{'https' if context else 'http'}://localhost:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of this machine's own making, with its key, in one file."""
    try:
        program("openssl", "openssl")
    except AbsentError as error:
        leave_out(str(error))
    folder = tmp_path_factory.mktemp("tls")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += [
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=DNS:localhost",
        "-keyout",
        "key.pem",
        "-out",
        "cert.pem",
    ]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    (folder / "both.pem").write_text((folder / "key.pem").read_text() + (folder / "cert.pem").read_text())
    return folder


def test_a_bundle_comes_over_https(certificate: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "both.pem")
    with serving(context) as address, fetched(f"{address}/x.speculators.tar?a=b") as path:
        assert path.read_bytes() == CONTENT
        assert path.name == "x.speculators.tar"
    assert not path.exists()


def test_an_unknown_certificate_is_refused(certificate: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "both.pem")
    refused = pytest.raises(MachineError, match="certificate verify failed")
    with serving(context) as address, refused, fetched(f"{address}/x.speculators.tar"):
        pass


def test_a_redirect_is_followed_but_not_to_plain_http():
    with serving() as address:
        with fetched(f"{address}/moved") as path:
            assert path.read_bytes() == CONTENT
        with pytest.raises(RecipeError, match=r"http://example\.org"), fetched(f"{address}/elsewhere"):
            pass


def test_what_a_server_does_not_have_is_no_bundle():
    with serving() as address, pytest.raises(RecipeError, match="404"), fetched(f"{address}/none"):
        pass


def test_a_server_that_is_not_there_is_the_machines_matter():
    with pytest.raises(MachineError) as failed, fetched("http://127.0.0.1:9/x.speculators.tar"):
        pass
    assert failed.value.exit_code == 4


def test_a_download_has_a_limit():
    with pytest.raises(RecipeError, match="more than 10 bytes"):
        copy_limited(io.BytesIO(b"x" * 11), io.BytesIO(), "https://x", largest=10)
    out = io.BytesIO()
    copy_limited(io.BytesIO(b"x" * 10), out, "https://x", largest=10)
    assert out.getvalue() == b"x" * 10


@pytest.mark.parametrize(
    "address",
    ["http://example.org/x", "ftp://example.org/x", "file:///etc/passwd", "http://127.0.0.1.example.org/x"],
)
def test_other_ways_are_refused(address: str):
    with pytest.raises(RecipeError):
        require_safe(address)


def test_what_was_downloaded_is_verified_like_any_file():
    with (
        serving() as address,
        fetched(f"{address}/x.speculators.tar") as path,
        pytest.raises(DamagedBundleError),
    ):
        verify(path)


def test_a_missing_file_is_said_plainly(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["verify", str(tmp_path / "none.tar")]) == 2
    assert "there is no such file" in capsys.readouterr().err


@pytest.mark.parametrize("address", ["hf://owner", "hf://owner/name", "hf://owner/name@main"])
def test_an_address_on_the_hub_names_a_file(address: str):
    with pytest.raises(RecipeError, match="not a file on the Hub"), fetched(address):
        pass


def test_a_file_that_the_hub_does_not_have(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    with standing_in() as hub:
        hub.repositories["me/draft"] = {"there.tar": b"here"}
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        with fetched("hf://me/draft@v1/there.tar") as path:
            assert path.read_bytes() == b"here"
        assert ("HEAD", "/me/draft/resolve/v1/there.tar") in hub.requests
        with pytest.raises(RecipeError, match="not found"), fetched("hf://me/draft/none.tar"):
            pass


def test_what_the_hub_says_is_too_large_is_not_downloaded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("speculators.bundle.fetch.LARGEST_BYTES", 3)
    with standing_in() as hub:
        hub.repositories["me/draft"] = {"there.tar": b"here"}
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        with pytest.raises(RecipeError, match="4 bytes, more than 3"), fetched("hf://me/draft/there.tar"):
            pass
        assert {method for method, _ in hub.requests} == {"HEAD"}


def test_a_hub_that_cannot_be_reached_is_the_machines_matter(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(MachineError, match="cannot be reached"), fetched("hf://me/draft/there.tar"):
        pass


def test_what_is_a_bundle_and_what_a_recipe():
    assert is_bundle("x.speculators.tar")
    assert is_bundle("hf://me/draft/x.tar")
    assert is_bundle("https://example.org/x")
    assert not is_bundle("recipes/x.yaml")
