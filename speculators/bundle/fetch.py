"""A bundle from where it lies: a file, a web server, the Hugging Face Hub.

A download goes into a temporary folder, has a time limit for silence and one for size, and is looked at only
by ``verify``.  Plain http is refused but for this machine itself.

From the Hub its own client downloads: the limit of silence is the client's (``HF_HUB_DOWNLOAD_TIMEOUT``), and
so are the redirects that it follows; the size is the one that the Hub says before the download.
"""

from __future__ import annotations

import os
import re
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any

from speculators.bundle.archive import SUFFIX
from speculators.documents import CHUNK_BYTES
from speculators.errors import MachineError, RecipeError

SILENCE_SECONDS = 60.0
#: The way out where nobody answers.
OFFLINE = "check the address and the network; a downloaded file can be given by its path"
LARGEST_BYTES = 16 << 30
LOOPBACK = ("localhost", "127.0.0.1", "::1")
ENDPOINT = "HF_ENDPOINT"  # the Hub's own variable
HUB = re.compile(r"hf://(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^/]+))?/(?P<file>.+)")


def is_bundle(source: str) -> bool:
    """Whether what stands where a recipe may stand is a bundle."""
    return "://" in source or source.endswith(SUFFIX)


@contextmanager
def fetched(source: str) -> Iterator[Path]:
    """The bundle ``source`` as a file; a downloaded one is there for the block only.

    Raises:
        RecipeError: there is none, or the address is of no known kind.
        MachineError: the server cannot be reached.
    """
    if "://" not in source:
        if not Path(source).is_file():
            is_folder = Path(source).is_dir()
            raise RecipeError(
                f"{source}: {'a folder, not a bundle' if is_folder else 'there is no such file'}",
                hint="`speculators bundle RUN` packs a run's folder into a file" if is_folder else "",
                rule="no-bundle",
            )
        yield Path(source)
        return
    with tempfile.TemporaryDirectory(prefix="speculators-") as folder:
        if source.startswith("hf://"):
            yield from_hub(source, Path(folder))
        else:
            yield from_web(source, Path(folder))


def from_web(url: str, folder: Path) -> Path:
    """Download ``url`` into ``folder``."""
    require_safe(url)
    name = Path(urllib.parse.unquote(urllib.parse.urlsplit(url).path)).name or f"bundle{SUFFIX}"
    target = folder / name
    try:
        with _opener().open(url, timeout=SILENCE_SECONDS) as answer, target.open("wb") as out:
            copy_limited(answer, out, url)
    except urllib.error.HTTPError as error:
        hint = "check the address; what needs a log-in is downloaded by hand and given by its path"
        said = f"{url}: the server answers {error.code} {error.reason}"
        raise RecipeError(said, hint=hint, rule="no-bundle") from error
    except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise MachineError(f"{url}: {reason}", hint=OFFLINE, rule="unreachable") from error
    return target


def copy_limited(answer: IO[bytes], out: IO[bytes], url: str, largest: int = LARGEST_BYTES) -> None:
    """Copy an answer that is not larger than ``largest``.

    Raises:
        RecipeError: it is.
    """
    copied = 0
    while chunk := answer.read(CHUNK_BYTES):
        copied += len(chunk)
        if copied > largest:
            hint = "download it yourself and give the file's path"
            raise RecipeError(f"{url}: more than {largest} bytes", hint=hint, rule="bundle-size")
        out.write(chunk)


def require_safe(url: str) -> None:
    """Refuse what can be read or changed on its way.

    Raises:
        RecipeError: neither https nor this very machine.
    """
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError as error:
        raise RecipeError(f"{url}: no address: {error}", rule="bundle-address") from error
    if parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK):
        return
    raise RecipeError(
        f"{url}: a bundle comes from a file, https:// or hf://owner/repository[@revision]/file",
        rule="bundle-address",
    )


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows to safe places only."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        require_safe(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_SafeRedirects())


def from_hub(address: str, folder: Path) -> Path:
    """Download a file of a Hub repository, of any kind of repository that is named like a model."""
    match = HUB.fullmatch(address)
    if match is None:
        hint = "as in hf://owner/repository@revision/file.speculators.tar"
        raise RecipeError(f"{address}: not a file on the Hub", hint=hint, rule="bundle-address")
    try:
        from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
        from huggingface_hub.errors import (
            EntryNotFoundError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
        )
    except ModuleNotFoundError as error:
        hint = "install it: pip install huggingface-hub"
        raise MachineError(f"{address}: needs huggingface_hub", hint=hint, rule="package") from error
    endpoint = os.environ.get(ENDPOINT) or None
    try:
        url = hf_hub_url(match["repo"], match["file"], revision=match["revision"], endpoint=endpoint)
        require_size(get_hf_file_metadata(url, timeout=SILENCE_SECONDS).size or 0, address)
        path = hf_hub_download(
            match["repo"],
            match["file"],
            revision=match["revision"],
            local_dir=folder,
            endpoint=endpoint,
            etag_timeout=SILENCE_SECONDS,
        )
    except LocalEntryNotFoundError as error:  # neither in a cache nor to be had: the Hub did not answer
        raise MachineError(
            f"{address}: the Hub cannot be reached", hint=OFFLINE, rule="unreachable"
        ) from error
    except (EntryNotFoundError, RepositoryNotFoundError) as error:
        hint = "is it private? HF_TOKEN names a token to the Hub's own client"
        raise RecipeError(f"{address}: not found", hint=hint, rule="no-bundle") from error
    except Exception as error:
        if not is_failed_request(error):
            raise
        answered = getattr(error, "response", None) is not None
        said = first_line(error) if answered else f"the Hub cannot be reached: {first_line(error)}"
        raise MachineError(f"{address}: {said}", hint=OFFLINE, rule="unreachable") from error
    return Path(path)


def require_size(size: int, address: str) -> None:
    """Refuse a file that is too large to be a bundle.

    Raises:
        RecipeError: it is.
    """
    if size > LARGEST_BYTES:
        hint = "download it yourself and give the file's path"
        message = f"{address}: {size} bytes, more than {LARGEST_BYTES}"
        raise RecipeError(message, hint=hint, rule="bundle-size")


def is_failed_request(error: Exception) -> bool:
    """Whether the Hub's client failed for what it met on the way, not for a bug.

    Its versions speak through different libraries, whose errors have no base in common.
    """
    libraries = {base.__module__.partition(".")[0] for base in type(error).__mro__}
    return isinstance(error, OSError) or bool(libraries & {"httpx", "httpx2", "huggingface_hub"})


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
