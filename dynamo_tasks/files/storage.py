"""Object storage: a folder, S3, GCS or Azure, by its URL. The only importer of ``obstore``.

Nothing is written over, and nothing is half there: an object appears as a whole, or not at all.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from dynamo_tasks.config.host.given import variable
from dynamo_tasks.config.host.home import Home, private_dir
from dynamo_tasks.errors import StorageUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["URL_VARIABLE", "Storage", "storage_url"]

URL_VARIABLE = "DYNAMO_FILES_URL"
_CHUNK = 256 << 10
"""Least bytes of a piece that is read."""
_RETRY: Any = {"max_retries": 5, "retry_timeout": timedelta(seconds=30)}


def storage_url(environ: Mapping[str, str] | None = None) -> str:
    """The URL of this installation's storage: ``DYNAMO_FILES_URL``, else ``files`` in ``DYNAMO_HOME``.

    Raises:
        ConfigError: it is of another form.
    """
    url = variable(URL_VARIABLE, environ)
    return url or (Home.from_environ(environ).path / "files").as_uri()


class Storage:
    """One place for objects, by their paths; opened when it is first used, since most processes never do.

    Args:
        url: ``file:///folder``, ``s3://bucket/prefix``, ``gs://…``, ``az://…`` or ``memory:///``. Credentials come from
            the environment, under the names of each cloud's own tools (``AWS_ACCESS_KEY_ID``, …).
    """

    def __init__(self, url: str):
        self.url = url
        self._folder = Path(unquote(urlsplit(url).path)) if url.startswith("file:") else None

    @cached_property
    def _api(self) -> Any:
        import obstore

        return obstore

    @cached_property
    def _store(self) -> Any:
        from obstore.store import from_url

        with self._told("be opened"):
            if self._folder is not None:
                return from_url(private_dir(self._folder).as_uri())
            return from_url(self.url, **({} if self.url.startswith("memory") else {"retry_config": _RETRY}))

    async def put(self, path: str, data: bytes) -> None:
        """Write an object, as a whole; over one that is there.

        Raises:
            StorageUnavailableError: It could not be written.
        """
        with self._told(f"write {path}"):
            await self._api.put_async(self._store, path, data, use_multipart=False)

    async def read(self, path: str, start: int, end: int) -> AsyncIterator[bytes]:
        """Read bytes ``start`` up to ``end`` of an object, in pieces.

        Raises:
            StorageUnavailableError: It could not be read, or is shorter.
        """
        left = end - start
        if not left:
            return
        with self._told(f"read {path}"):
            found = await self._api.get_async(self._store, path, options={"range": (start, end)})
            async for piece in found.stream(min_chunk_size=_CHUNK):
                left -= len(piece)
                yield bytes(piece)
        if left:
            raise StorageUnavailableError(f"the storage of files has too little of {path}")

    async def remove(self, folder: str) -> None:
        """Delete all objects of a folder, and what was left half-way of one that was being written.

        Raises:
            StorageUnavailableError: Not all could be deleted.
        """
        with self._told(f"delete {folder}"):
            if self._folder is not None:
                with suppress(FileNotFoundError):
                    await asyncio.to_thread(shutil.rmtree, self._folder / folder)
                return
            async for rows in self._api.list(self._store, prefix=f"{folder}/"):
                paths = [row["path"] for row in rows]
                if paths:
                    await self._api.delete_async(self._store, paths)

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            yield
        except (self._api.exceptions.BaseError, OSError, ValueError) as exc:
            raise StorageUnavailableError(
                f"the storage of files cannot {what}: {_brief(exc)}", retry_after=1.0
            ) from exc


def _brief(exc: Exception) -> str:
    """The first line of an error: what follows is for those who debug the library."""
    return str(exc).partition("\n")[0][:300]
