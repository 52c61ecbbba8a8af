"""Read files on other machines with fsspec. Any failure becomes an error that names the URL.

A transfer that is cut off raises an error, so that its end is not mistaken for the end of the file. If an
HTTP server serves byte ranges, each part of a file is requested separately, so that no connection stays open
while the reader works. Without byte ranges, one request reads the complete file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ..errors import FileFormatError, InputError, MicrogptError, RunError, check_installed, missing
from .sources import CHUNK, CorpusFile, local_files

SILENCE = 60  # a transfer fails after this many seconds without a byte; the total time has no limit
_GONE = (404, 410)  # HTTP status codes of a missing file
_PAGE = 1 << 24  # largest number of bytes of a page that lists files


@dataclass
class RemoteFile(CorpusFile):
    """A file in a file system of fsspec. `size` is in bytes, or None if fsspec does not report the size."""

    files: Any
    size: int | None

    def chunks(self) -> Iterator[bytes]:
        received = 0
        with self.opened() as file:
            while chunk := file.read(CHUNK):
                received += len(chunk)
                yield chunk
        if self.size is not None and received < self.size:
            raise RunError(
                f"{self.name}: the transfer was cut off: expected {self.size:,} bytes, found {received:,}"
            )

    @contextmanager
    def opened(self) -> Iterator[Any]:
        """Open the file. If the file cannot seek, the `size` of the file object is None."""
        with _transfer(self.name), self.files.open(self.path, "rb", **self._options()) as file:
            yield file

    def _options(self) -> dict[str, Any]:
        if not _has_protocol(self.files, "http"):
            return {}
        return {"size": self.size} if self.size and self._serves_ranges() else {"block_size": 0}

    def _serves_ranges(self) -> bool:
        """Request one byte, and return True if the server sends no more. Many servers send the whole file."""
        one_byte = {"block_size": 0, "size": 1, "headers": {"Range": "bytes=0-0"}}
        with self.files.open(self.path, "rb", **one_byte) as file:
            return bool(file.r.status == 206)


def remote_files(url: str) -> Sequence[CorpusFile]:
    """Return the file at a URL, or the files that match a glob, sorted. A URL that begins with file:// is
    treated as a path. Raises InputError if a package is missing or no file matches the glob, FileFormatError
    if the file does not exist, and RunError if the transfer fails."""
    check_installed("fsspec", f"{url}: URLs need")
    with _transfer(url):
        from fsspec.core import url_to_fs

        options = {p: _http_options() for p in ("http", "https") if f"{p}://" in url}
        try:
            files, path = url_to_fs(url, **options)
        except ValueError as error:
            raise InputError(f"{url}: expected a URL that fsspec opens ({error})") from error
        if _has_protocol(files, "file"):
            return local_files(path)
        magic = "*[" if _has_protocol(files, "http") else "*[?"
        if set(magic).isdisjoint(path) or files.exists(path):
            info = files.info(path)
            if info["type"] == "directory":
                raise FileFormatError(f"{url}: expected a file of documents, found a folder")
            return [RemoteFile(url, path, files, info.get("size"))]
        matches = [
            RemoteFile(files.unstrip_protocol(name), name, files, info.get("size"))
            for name, info in sorted(files.glob(path, detail=True).items())
            if info["type"] != "directory"
        ]
    if not matches:
        raise InputError(f"{url}: no file matches")
    return matches


def _has_protocol(files: Any, protocol: str) -> bool:
    names = files.protocol
    return protocol in ((names,) if isinstance(names, str) else names)


def _http_options() -> dict[str, Any]:
    """Return options to request the stored bytes unchanged and to use the proxy of the environment."""
    import aiohttp

    class Response(aiohttp.ClientResponse):
        """A response that fails if its body is longer than the requested range."""

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
    """Turn any exception of a file system into a MicrogptError."""
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
        return f"no data arrived for {SILENCE} seconds"
    return str(error).partition("\n")[0] or type(error).__name__
