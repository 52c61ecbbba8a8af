"""Files of other machines, by fsspec: whatever fails there is one error that names the URL.

A transfer that is cut off is told from the end of a file. Where an HTTP server gives parts of a file, each
is a request of its own, so that a reader may take its time over them; else it is one request from beginning
to end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ..errors import FileFormatError, InputError, MicrogptError, RunError, check_installed, missing
from .sources import CHUNK, CorpusFile, local_files

SILENCE = 60  # seconds without a byte until a transfer is given up; all of it may take as long as it takes
_GONE = (404, 410)
_PAGE = 1 << 24  # bytes of a page that lists files


@dataclass
class RemoteFile(CorpusFile):
    """A file of a file system of fsspec, and its bytes where that knows how many."""

    files: Any
    size: int | None

    def chunks(self) -> Iterator[bytes]:
        found = 0
        with self.opened() as file:
            while chunk := file.read(CHUNK):
                found += len(chunk)
                yield chunk
        if self.size is not None and found < self.size:
            raise RunError(
                f"{self.name}: the transfer was cut off: expected {self.size:,} bytes, found {found:,}"
            )

    @contextmanager
    def opened(self) -> Iterator[Any]:
        """What cannot be sought in has no size."""
        with _transfer(self.name), self.files.open(self.path, "rb", **self._how()) as file:
            yield file

    def _how(self) -> dict[str, Any]:
        if not _speaks(self.files, "http"):
            return {}
        return {"size": self.size} if self.size and self._gives_parts() else {"block_size": 0}

    def _gives_parts(self) -> bool:
        """Whether the server answers a request for one byte with one byte; many ignore what is asked for."""
        one_byte = {"block_size": 0, "size": 1, "headers": {"Range": "bytes=0-0"}}
        with self.files.open(self.path, "rb", **one_byte) as file:
            return bool(file.r.status == 206)


def remote_files(url: str) -> Sequence[CorpusFile]:
    """The file at this URL, or those that match a glob, sorted. A URL of this machine is a path.

    Raises InputError where a package is missing that opens it, and for a glob that nothing matches,
    FileFormatError where there is no such file, and RunError where that cannot be found out.
    """
    check_installed("fsspec", f"{url}: URLs need")
    with _transfer(url):
        files, path = _file_system(url)
        if _speaks(files, "file"):
            return local_files(path)
        magic = "*[" if _speaks(files, "http") else "*[?"
        if set(magic).isdisjoint(path) or files.exists(path):
            return [_checked(url, files, path, files.info(path))]
        found = files.glob(path, detail=True)
        matching = [
            _checked(files.unstrip_protocol(name), files, name, info)
            for name, info in sorted(found.items())
            if info["type"] != "directory"
        ]
    if not matching:
        raise InputError(f"{url}: no file matches")
    return matching


def _checked(name: str, files: Any, path: str, info: dict[str, Any]) -> RemoteFile:
    if info["type"] == "directory":
        raise FileFormatError(f"{name}: expected a file of documents, found a folder")
    return RemoteFile(name, path, files, info.get("size"))


def _speaks(files: Any, protocol: str) -> bool:
    known = files.protocol
    return protocol in ((known,) if isinstance(known, str) else known)


def _file_system(url: str) -> tuple[Any, str]:
    """Raises ImportError for a package that is missing, and InputError for what is no URL of a protocol that
    is known."""
    from fsspec.core import url_to_fs

    options = {p: _http_options() for p in ("http", "https") if f"{p}://" in url}
    try:
        files, path = url_to_fs(url, **options)
    except ValueError as error:
        raise InputError(f"{url}: expected a URL that fsspec opens ({error})") from error
    return files, path


def _http_options() -> dict[str, Any]:
    """The bytes as they lie there, by the proxy that the environment names."""
    import aiohttp

    class Response(aiohttp.ClientResponse):
        """Whose body is read as a whole: no more of it than was asked for."""

        async def read(self) -> bytes:
            first, _, last = self.request_info.headers.get("Range", "").removeprefix("bytes=").partition("-")
            most = int(last) - int(first) + 1 if first and last else _PAGE
            body = bytearray()
            while self._body is None and (part := await self.content.readany()):
                body += part
                if len(body) > most:
                    self.close()
                    raise aiohttp.ClientPayloadError(f"expected at most {most:,} bytes, found more")
            self._body = bytes(body) if self._body is None else self._body
            return self._body

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=SILENCE, sock_read=SILENCE)
    client: dict[str, Any] = {"timeout": timeout, "trust_env": True, "auto_decompress": False}
    client["response_class"] = Response
    return {"client_kwargs": client | {"headers": {"Accept-Encoding": "identity"}}}


@contextmanager
def _transfer(url: str) -> Iterator[None]:
    """Whatever a file system raises, which may be anything, as an error of ours."""
    try:
        yield
    except MicrogptError:
        raise
    except ImportError as error:
        package = getattr(error.__cause__, "name", None) or error.name or str(error)
        raise missing(package, f"{url}: it needs") from error
    except Exception as error:
        cause = error.__cause__ if isinstance(error, FileNotFoundError) and error.__cause__ else error
        if isinstance(cause, FileNotFoundError) or getattr(cause, "status", None) in _GONE:
            raise FileFormatError(f"{url}: no such file") from error
        raise RunError(f"{url}: the transfer failed ({_reason(cause)})") from error


def _reason(error: BaseException) -> str:
    if status := getattr(error, "status", None):
        return f"{status} {getattr(error, 'message', '')}".strip()
    if "Timeout" in type(error).__name__:
        return f"nothing came for {SILENCE} seconds"
    return str(error).partition("\n")[0] or type(error).__name__
