"""A registry on this machine's loopback address, so that tests pull by name@sha256 as users do."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.engine.archive import Built
from tests.engine.daemon import client, end_with_parent, own_folder
from tests.engine.packages import AbsentError, program

START_SECONDS = 20.0
PUSH_SECONDS = 600.0
MANIFESTS = (
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
)
#: The name of the image's own tag in the registry.
TAG = "pushed"


class Registry:
    """A running registry at ``address`` (host:port); its blobs lie in files below ``folder``."""

    def __init__(self, address: str, folder: Path) -> None:
        self.address = address
        self.folder = folder

    def push(self, base_url: str, built: Built) -> str:
        """Push an image that the engine has; its name@digest.

        The digest is the registry's: it depends on how the engine compresses, so none can be predicted.
        """
        repository = f"{self.address}/{built.reference.partition(':')[0]}"
        engine = client(base_url, PUSH_SECONDS)
        try:
            engine.images.get(built.reference).tag(repository, TAG)
            for line in engine.images.push(repository, TAG, stream=True, decode=True):
                if "error" in line:
                    raise RuntimeError(f"{repository}: {line['error']}")
            # The engine would have no reason to pull what it still has by this name.
            engine.images.remove(f"{repository}:{TAG}")
        finally:
            engine.close()
        return f"{repository}@{self.digest(repository, TAG)}"

    def digest(self, repository: str, tag: str) -> str:
        """What the registry calls the manifest behind ``tag``."""
        name = repository.removeprefix(f"{self.address}/")
        request = urllib.request.Request(f"http://{self.address}/v2/{name}/manifests/{tag}", method="HEAD")
        request.add_header("Accept", ", ".join(MANIFESTS))
        with _direct.open(request, timeout=10) as answer:
            return str(answer.headers["Docker-Content-Digest"])

    def blob(self, digest: str) -> Path:
        """The file that holds ``digest``; for tests that damage it."""
        kind, _, value = digest.partition(":")
        blobs = self.folder / "data" / "docker" / "registry" / "v2" / "blobs"
        return blobs / kind / value[:2] / value / "data"


@contextmanager
def running_registry() -> Iterator[Registry]:
    """A registry for the time of the block.

    Raises:
        AbsentError: it cannot be installed, or does not start.
    """
    command = program("docker-registry", "docker-registry")
    folder = own_folder()
    address = f"127.0.0.1:{_free_port()}"
    (folder / "config.yml").write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {folder / 'data'}}}}}\n"
        f"http: {{addr: '{address}'}}\nlog: {{level: warn}}\n"
    )
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            [command, "serve", str(folder / "config.yml")],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=end_with_parent,
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _answers(address):
            if process.poll() is not None or time.monotonic() > deadline:
                raise AbsentError(
                    f"docker-registry did not start:\n{(folder / 'log.txt').read_text()[-1500:]}"
                )
            time.sleep(0.05)
        yield Registry(address, folder)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


#: Whatever proxy the machine has is not asked for an address of its own.
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _answers(address: str) -> bool:
    try:
        with _direct.open(f"http://{address}/v2/", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return int(place.getsockname()[1])
