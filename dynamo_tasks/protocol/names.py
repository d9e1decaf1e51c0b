"""Names of namespaces, components and endpoints, and everything that is derived from them.

``dynamo.Processor.chat/completions`` = namespace ``dynamo``, component ``Processor``,
endpoint ``chat/completions``; the same as ``dyn://dynamo.Processor.chat/completions``.
"""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple

from dynamo_tasks.errors import InvalidNameError

__all__ = [
    "DEFAULT_NAMESPACE",
    "LATE",
    "RUN",
    "SESSION_HEADER",
    "EndpointId",
    "Subject",
    "check_component",
    "check_endpoint",
    "check_group",
    "check_namespace",
    "check_topic",
    "session_of",
]

DEFAULT_NAMESPACE = "default"
LATE = ".late"
"""End of the names of queues for late binding; no instance's own queue ends so (docs/routing.md)."""
RUN = "--"
"""Stands between the name of a component and the number of the job that it lives for."""
SESSION_HEADER = "x-dynamo-session-id"
"""Header of HTTP requests in which clients name a session, and of messages, which carry :func:`session_of`."""
_SCHEME = "dyn://"

_NAMESPACE = re.compile(r"[^a-z0-9_-]")
_COMPONENT = re.compile(r"[^A-Za-z0-9_-]")
_ENDPOINT = re.compile(r"[^A-Za-z0-9_/-]")


def _check(kind: str, name: object, forbidden: re.Pattern[str], allowed: str) -> str:
    if not isinstance(name, str):
        raise InvalidNameError(f"{kind} name must be a string, not {type(name).__name__}")
    if not name:
        raise InvalidNameError(f"{kind} name is empty; allowed: {allowed}")
    if bad := forbidden.search(name):
        raise InvalidNameError(
            f"{kind} name {name!r} has {bad.group()!r} at position {bad.start()}; allowed: {allowed}"
        )
    return name


def check_namespace(name: object) -> str:
    """Return ``name``, or raise :class:`InvalidNameError` that says which character is wrong."""
    return _check("namespace", name, _NAMESPACE, "a-z 0-9 _ -")


def check_component(name: object) -> str:
    """Return ``name``, or raise :class:`InvalidNameError` that says which character is wrong."""
    return _check("component", name, _COMPONENT, "A-Z a-z 0-9 _ -")


def check_endpoint(name: object) -> str:
    """Return ``name``, or raise :class:`InvalidNameError` that says which character is wrong."""
    return _check("endpoint", name, _ENDPOINT, "A-Z a-z 0-9 _ - /")


def check_group(name: object) -> str:
    """Return a valid name of a group of subscribers; raises :class:`InvalidNameError`."""
    return _check("group", name, _COMPONENT, "A-Z a-z 0-9 _ -")


def check_topic(name: object) -> str:
    """Return ``name``, or raise :class:`InvalidNameError` that says which character is wrong."""
    return _check("topic", name, _COMPONENT, "A-Z a-z 0-9 _ -")


class Subject(NamedTuple):
    """The subject that events are published on; ``str()`` gives ``namespace.<ns>.component.<c>.<topic>``.

    Without a component it is the namespace's own: ``namespace.<ns>.<topic>``.
    """

    namespace: str
    component: str
    topic: str

    @classmethod
    def make(cls, namespace: str, component: str, topic: str) -> Subject:
        """Check the topic and put them together.

        Raises:
            InvalidNameError: which character, what is allowed.
        """
        return cls(namespace, component, check_topic(topic))

    @classmethod
    def of(cls, namespace: str, component: str, topic: str) -> Subject:
        """The subject of a topic of one's own, or the one that is written out: somebody else's.

        Raises:
            InvalidNameError: which character, what is allowed.
        """
        first, _, rest = topic.partition(".") if isinstance(topic, str) else ("", "", "")
        if first != "namespace" or "." not in rest:
            return cls.make(namespace, component, topic)
        namespace, _, rest = rest.partition(".")
        kind, _, below = rest.partition(".")
        component, dot, topic = below.partition(".")
        if kind == "component" and dot:
            return cls.make(check_namespace(namespace), check_component(component), topic)
        return cls.make(check_namespace(namespace), "", rest)

    def __str__(self) -> str:
        owner = f"component.{self.component}." if self.component else ""
        return f"namespace.{self.namespace}.{owner}{self.topic}"


class EndpointId(NamedTuple):
    """The address of an endpoint; ``str()`` gives its Celery task name."""

    namespace: str
    component: str
    name: str

    @classmethod
    def make(cls, namespace: str, component: str, name: str) -> EndpointId:
        """Check the three names and put them together.

        Raises:
            InvalidNameError: which name, which character, what is allowed.
        """
        return cls(check_namespace(namespace), check_component(component), check_endpoint(name))

    @classmethod
    def parse(cls, text: str) -> EndpointId:
        """Parse ``ns.Component.endpoint`` or ``dyn://ns.Component.endpoint``.

        Raises:
            InvalidNameError: not three parts, or a bad name.
        """
        parts = text.removeprefix(_SCHEME).split(".")
        if len(parts) != 3:
            raise InvalidNameError(f"{text!r} is not an endpoint id; expected namespace.Component.endpoint")
        return cls.make(*parts)

    def __str__(self) -> str:
        return ".".join(self)

    @property
    def url(self) -> str:
        """``dyn://namespace.Component.endpoint``."""
        return _SCHEME + str(self)

    @property
    def label(self) -> str:
        """The label of its metrics: itself, without what follows ``--`` in the component's name.

        A component that lives as long as one job has the job's number there, and a new label for each would never end.
        """
        return ".".join(self._replace(component=self.component.partition(RUN)[0]))

    @property
    def queue(self) -> str:
        """The component's shared Celery queue, e.g. ``dynamo|Worker``."""
        return f"{self.namespace}|{self.component}"

    @property
    def late_queue(self) -> str:
        """The queue of what waits for late binding, e.g. ``dynamo|Worker.late``."""
        return f"{self.queue}{LATE}"

    def instance_queue(self, lease: int) -> str:
        """The queue of one instance, e.g. ``dynamo|Worker.generate-1a2b3c4d``."""
        return f"{self.queue}.{self.name}-{lease:x}"


def session_of(owner: str, name: str) -> str:
    """The name of a session inside: no client's own words, and none that two clients could share.

    Args:
        owner: Hash of the API key; empty = anybody.
        name: The client's.
    """
    return hashlib.blake2b(f"{owner}\0{name}".encode(), digest_size=16).hexdigest()
