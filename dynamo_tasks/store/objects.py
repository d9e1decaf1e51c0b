"""Objects of HTTP APIs: conversations, files' metadata, batches. Small documents with an owner, kept in Redis.

An object is a hash: ``owner``, ``data`` (msgpack), ``revision``, ``order`` (its place by creation, microseconds),
``ends`` (milliseconds, 0 = never). It is changed by compare-and-set of its revision, so that two processes never
overwrite each other; every change is one script. An owner's objects of one kind
have an index by creation, which goes with the last of them.

What an object has elsewhere (the contents of a file) is deleted with it, whatever dies when: the ids stand in a sorted
set by the time at which that falls due, see :meth:`Objects.reserve` and :meth:`Objects.sweep`.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from dynamo_tasks.errors import (
    InvalidRequestError,
    ObjectConflictError,
    ObjectNotFoundError,
    PayloadTooLargeError,
    ProtocolError,
)
from dynamo_tasks.store.ledger.scripts import script
from dynamo_tasks.store.redis.containment import MALFORMED, contained
from dynamo_tasks.store.redis.server import Store

__all__ = ["ANYBODY", "MOST_BYTES", "ObjectKind", "Objects", "Page", "StoredObject"]

T = TypeVar("T")

MOST_BYTES = 1 << 20
"""Of the data of one object."""
ANYBODY = None
"""As an owner: who asks is the system itself, and may see the objects of all."""
_PAGE_BYTES = 4 << 20
_TRIES = 20
_NAME = re.compile(r"[a-z][A-Za-z0-9_.-]{0,127}")
_ID = re.compile(r"[A-Za-z0-9_.-]{1,128}")


class ObjectKind(Generic[T]):
    """A kind of objects, e.g. ``ObjectKind("conversation", Conversation)``.

    Args:
        name: In keys. What belongs to one other object may be a kind of its own: ``ObjectKind(f"item.{id}", Item)``.
        data: The type of their data, any that msgspec can encode.
        noun: In messages to clients; the name by default.
        most: Objects of the kind that one owner may have.
        swept: Whether they have contents elsewhere, which are deleted with them.
    """

    def __init__(self, name: str, data: type[T], *, noun: str = "", most: int = 100_000, swept: bool = False):
        if not _NAME.fullmatch(name):
            raise ValueError(f"the kind {name!r} must match {_NAME.pattern}")
        self.name = name
        self.noun = noun or name
        self.most = most
        self.swept = swept
        self._decoder = msgspec.msgpack.Decoder(data)

    def encode(self, data: T) -> bytes:
        """Encode data.

        Raises:
            PayloadTooLargeError: it has more than :data:`MOST_BYTES`.
        """
        raw = msgspec.msgpack.encode(data)
        if len(raw) > MOST_BYTES:
            raise PayloadTooLargeError(
                f"the {self.noun} takes {len(raw)} bytes; at most {MOST_BYTES} are kept"
            )
        return raw

    def decode(self, raw: bytes) -> T:
        """Decode data.

        Raises:
            ProtocolError: it is none of this kind.
        """
        try:
            return self._decoder.decode(raw)
        except MALFORMED as exc:
            raise ProtocolError(f"a {self.noun} in Redis cannot be read: {exc}") from exc

    def unknown(self, object_id: str) -> ObjectNotFoundError:
        """Make the error for an id that nobody knows, or another owner's."""
        return ObjectNotFoundError(f"no {self.noun} {object_id!r:.150} is known", param="id")


class StoredObject(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """An object as it was read.

    Attributes:
        id: Its id.
        owner: Hash of the API key that it belongs to; empty where there are no keys.
        revision: Grows by one with each change.
        created: Unix seconds.
        ends: Unix seconds at which it goes; ``None`` = never.
        data: The document.
    """

    id: str
    owner: str
    revision: int
    created: float
    ends: float | None
    data: T


class Page(msgspec.Struct, Generic[T], frozen=True):
    """Some objects of a list.

    Attributes:
        objects: In the order that was asked for.
        more: Whether others follow.
    """

    objects: list[StoredObject[T]]
    more: bool


class Objects:
    """The objects of one namespace.

    Args:
        store: Redis.
        namespace: Where they live.
    """

    def __init__(self, store: Store, namespace: str):
        self._store = store
        self._keys = store.keys(namespace)
        self.namespace = namespace

    async def create(
        self, kind: ObjectKind[T], object_id: str, owner: str, data: T, *, ttl: float | None = None,
        reserved: bool = False,
    ) -> StoredObject[T]:  # fmt: skip
        """Create an object.

        Args:
            kind: Its kind.
            object_id: A new id.
            owner: Hash of the API key.
            data: The document.
            ttl: Seconds after which it goes by itself; ``None`` = never.
            reserved: Whether its contents elsewhere must still be reserved.

        Raises:
            ObjectConflictError: another object has the id, or the reservation has ended.
            InvalidRequestError: the owner has as many as may be.
            PayloadTooLargeError: the data is too large.
        """
        code, *more = await script("object_create").run(
            self._store.commands, [self._key(kind, object_id)], base=self._keys.base,
            namespaces=self._store.keys.namespaces, namespace=self.namespace, kind=kind.name, id=object_id,
            owner=owner, data=kind.encode(data), ttl=_ms(ttl), most=kind.most, swept=_flag(kind.swept),
            reserved=_flag(reserved),
        )  # fmt: skip
        if code == b"OK":
            created = int(more[0]) / 1e6
            ends = None if ttl is None else created + ttl
            return StoredObject(id=object_id, owner=owner, revision=1, created=created, ends=ends, data=data)
        if code == b"FULL":
            raise InvalidRequestError(
                f"there are {int(more[0])} objects of the kind {kind.noun}, as many as may be; delete some"
            )
        text = "took longer than it may" if code == b"GONE" else "exists"
        raise ObjectConflictError(f"the {kind.noun} {object_id} {text}")

    async def get(self, kind: ObjectKind[T], object_id: str, owner: str | None) -> StoredObject[T]:
        """Read an object.

        Raises:
            ObjectNotFoundError: there is none, or it is another owner's.
            ProtocolError: what stands there is none of the kind.
        """
        names = ("owner", "revision", "order", "ends", "data")
        if not _ID.fullmatch(object_id):
            raise kind.unknown(object_id)
        row = await self._store.commands.execute("HMGET", self._key(kind, object_id), *names)
        # Another owner's is answered like none at all: nobody learns which ids there are.
        if row[-1] is None or (owner is not ANYBODY and row[0] != owner.encode()):
            raise kind.unknown(object_id)
        return _stored(kind, object_id, row)

    async def page(
        self, kind: ObjectKind[T], owner: str, *, order: str = "desc", after: str = "", limit: int = 20
    ) -> Page[T]:
        """Read a page of an owner's objects, by their creation.

        Args:
            kind: Which.
            owner: Whose.
            order: ``desc`` (newest first) or ``asc``.
            after: Id of the last object of the page before; it may have been deleted in the last ten minutes.
            limit: Most objects; fewer come where they are large.

        Raises:
            InvalidRequestError: nothing is known of ``after``.
        """
        code, *more = await script("object_list").run(
            self._store.commands, [], base=self._keys.base, kind=kind.name, owner=owner, order=order, after=after,
            limit=limit, most_bytes=_PAGE_BYTES,
        )  # fmt: skip
        if code != b"OK":
            raise InvalidRequestError(f"no {kind.noun} {after!r:.150} is known to go on after", param="after")
        found = []
        for name, *row in more[1:]:
            with contained("objects", f"{kind.name} {name!r}"):
                found.append(_stored(kind, name.decode(), row))
        return Page(found, more[0] == 1)

    async def replace(
        self, kind: ObjectKind[T], known: StoredObject[T], data: T, *,
        ttl: float | msgspec.UnsetType | None = msgspec.UNSET, nonce: str = "",
    ) -> StoredObject[T]:  # fmt: skip
        """Give an object other data, if nobody has changed it since it was read.

        Args:
            kind: Its kind.
            known: As it was read.
            data: The new document.
            ttl: Seconds from now after which it goes; ``None`` = never; as it was by default.
            nonce: Names this change: with the same one it is safe to repeat after a lost reply.

        Raises:
            ObjectConflictError: somebody has changed it.
            ObjectNotFoundError: it is gone.
        """
        code, *more = await script("object_replace").run(
            self._store.commands, [self._key(kind, known.id)], base=self._keys.base, kind=kind.name, id=known.id,
            revision=known.revision, nonce=nonce or secrets.token_hex(8), data=kind.encode(data),
            ttl="" if ttl is msgspec.UNSET else _ms(ttl), swept=_flag(kind.swept),
        )  # fmt: skip
        if code == b"GONE":
            raise kind.unknown(known.id)
        if code == b"CONFLICT":
            raise ObjectConflictError(f"the {kind.noun} {known.id} was changed by somebody else")
        return msgspec.structs.replace(
            known, data=data, revision=int(more[0]), ends=_seconds(int(more[1]) * 1000)
        )

    async def change(
        self, kind: ObjectKind[T], object_id: str, owner: str | None, change: Callable[[T], T | None]
    ) -> StoredObject[T]:
        """Read an object, change its data, and write it if nobody else has; else from the start.

        Args:
            kind: Its kind.
            object_id: Its id.
            owner: Whose it must be, or :data:`ANYBODY`.
            change: Makes the new document of the one that is there, ``None`` = it may stay; may be called again.

        Raises:
            ObjectNotFoundError: there is none, or it is another owner's.
            ObjectConflictError: others are faster again and again.
        """
        for _ in range(_TRIES):
            known = await self.get(kind, object_id, owner)
            data = change(known.data)
            if data is None:
                return known
            try:
                return await self.replace(kind, known, data)
            except ObjectConflictError:
                pass
        raise ObjectConflictError(f"the {kind.noun} {object_id} is changed by others again and again")

    async def delete(self, kind: ObjectKind[Any], object_id: str, owner: str | None) -> None:
        """Delete an object.

        Raises:
            ObjectNotFoundError: there is none, or it is another owner's.
        """
        code = await script("object_delete").run(
            self._store.commands, [self._key(kind, object_id)], base=self._keys.base, kind=kind.name, id=object_id,
            owner=owner or "", any=_flag(owner is ANYBODY), swept=_flag(kind.swept),
        )  # fmt: skip
        if code != b"OK":
            raise kind.unknown(object_id)

    async def reserve(
        self, kind: ObjectKind[Any], object_id: str, seconds: float, *, renew: bool = False
    ) -> None:
        """Keep the contents of an object that is not there yet; 0 seconds = they are to be deleted.

        Raises:
            ObjectConflictError: it was to be renewed, and has ended.
        """
        code = await script("object_reserve").run(
            self._store.commands, [], base=self._keys.base, kind=kind.name, id=object_id, ms=_ms(seconds),
            renew=_flag(renew),
        )  # fmt: skip
        if code != b"OK":
            raise ObjectConflictError(f"the {kind.noun} {object_id} took longer than it may")

    async def sweep(
        self, kind: ObjectKind[Any], swept: Sequence[str] = (), *, limit: int = 100, lease: float = 30.0
    ) -> list[str]:
        """Take objects whose contents are to be deleted: of deleted, ended and never finished ones.

        Args:
            kind: Which.
            swept: Those whose contents are gone.
            limit: Most ids.
            lease: Seconds after which they are given out again, until they were swept.
        """
        found = await script("object_sweep").run(
            self._store.commands, [], *swept, base=self._keys.base, kind=kind.name, limit=limit, ms=_ms(lease)
        )
        return [one.decode() for one in found]

    def _key(self, kind: ObjectKind[Any], object_id: str) -> str:
        return self._keys.object(kind.name, object_id)


def _ms(seconds: float | None) -> int:
    return 0 if seconds is None else max(0, round(seconds * 1000))


def _flag(on: bool) -> str:
    return "1" if on else ""


def _seconds(micros: int) -> float | None:
    return micros / 1e6 if micros else None


def _stored(kind: ObjectKind[T], object_id: str, row: Sequence[bytes]) -> StoredObject[T]:
    owner, revision, order, ends, data = row
    try:
        return StoredObject(
            id=object_id, owner=owner.decode(), revision=int(revision), created=int(order) / 1e6,
            ends=_seconds(int(ends) * 1000), data=kind.decode(data),
        )  # fmt: skip
    except MALFORMED as exc:
        raise ProtocolError(f"the {kind.noun} {object_id} in Redis cannot be read: {exc}") from exc
