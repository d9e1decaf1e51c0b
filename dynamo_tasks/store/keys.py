"""Every key and channel name of a namespace, as pure functions; those of queues are in ``store/queue_keys.py``.

Nothing else in the project puts key strings together.

All keys of a namespace start with ``dt:<namespace>:`` (behind the application's ``global_keyprefix``, if
it has one). Channel names carry the number of the database, since pub/sub ignores it.

=============================  ======  ==================================================================
key                            type    content
=============================  ======  ==================================================================
``dt:@namespaces``             set     names of all namespaces
``dt:<ns>:req:<id>``           hash    ledger record of a request (see ``store/ledger/ledger.py``)
``dt:<ns>:log:<id>``           stream  its events
``dt:<ns>:doc:<id>``           hash    what an API keeps beside a record: ``given`` with it, ``made`` of it
``dt:<ns>:queued``             zset    ids of QUEUED requests by time of queueing, ms
``dt:<ns>:timers``             zset    what falls due: ``m:<id>`` message, ``a:<id>`` abandon, ``d:<id>`` deadline; ms
``dt:<ns>:owned:<lease>``      set     ids that an instance runs
``dt:<ns>:lease:<lease>``      string  counter of an instance's lease, with TTL
``dt:<ns>:leases``             set     lease ids of all instances that may own requests
``dt:<ns>:running:<c>``        set     ids of a component's RUNNING requests
``dt:<ns>:waiting:<c>``        set     ids of its QUEUED requests whose time has come
``dt:<ns>:lines``              set     ``<component>:<list>`` of all wait queues that are not empty
``dt:<ns>:line:<c>:<list>``    zset    wait queue behind a list of a queue, by virtual time (``docs/overload.md``)
``dt:<ns>:tags:<c>:<list>``    hash    the virtual time that is now, and the last one of each tenant
``dt:<ns>:pace:<c>``           hash    ``mean`` and ``least`` ms of its runs
``dt:<ns>:traffic``            hash    ``<c>:concurrency``, ``<c>:max_queue``: limits of components as a whole
``dt:<ns>:rate:<tenant>``      string  when a tenant's requests are whole again, ms; ``tokens``: those of a minute
``dt:<ns>:open:<tenant>``      zset    ids of a tenant's requests that have not ended, as far as they are counted; ms
``dt:<ns>:held:<owner>``       hash    what is reserved for its requests: ``tokens``, ``cost``, ``n``
``dt:<ns>:usage:<day>:<own>``  hash    model → what it used (``lua/lib/account.lua``); without ``<own>``: set of owners
``dt:<ns>:keys``               hash    API keys that were made at run time (see ``store/accounts/api_keys.py``)
``dt:<ns>:erase``              list    purged requests' messages that lie in queues yet; ``erasing``: how far it came
``dt:<ns>:dead``               zset    ids of requests that used up their attempts, by time, ms
``dt:<ns>:recover:<lease>``    string  who requeues what a dead instance held, for 5 s
``dt:<ns>:queues:<lease>``     set     ``<component>:<endpoint>`` of its own queues, as long as it may own requests
``dt:<ns>:load:<lease>``       string  JSON of its load, with TTL
``dt:<ns>:instances``          set     ``<component>:<endpoint>:<lease>`` of all registrations
``dt:<ns>:inst:<c>:<e>:<l>``   string  JSON of a registration, with TTL
``dt:<ns>:scale``              hash    ``<c>:wanted`` instances, by whom, bounds, fleets (see ``store/scales.py``)
``dt:<ns>:cards``              hash    ``<c>:<e>`` of models that may have no instance: JSON of a registration
``dt:<ns>:reads:<client>``     set     ids that a client process reads
``dt:<ns>:clients``            set     channels of client processes
``dt:<ns>:events:<subject>``   stream  events of a component or namespace (see ``store/topics/topic.py``)
``dt:<ns>:idem:<tenant>:<k>``  string  ``<id> <digest>`` of an idempotency key
``dt:<ns>:session:<hash>``     string  lease of the instance that served a session's last request, with TTL
``dt:<ns>:jobs``               zset    ids of pipelines' jobs by start, ms
``dt:<ns>:job:<id>``           hash    a job (see ``store/jobs.py``)
``dt:<ns>:job:<id>:at:<task>`` hash    checkpoint and counters of a task of an operator
``dt:<ns>:job:<id>:in:<task>`` stream  chunks of records that wait for it
``dt:<ns>:job:<id>:results``   list    records that ``collect`` keeps, msgpack; ``:dead``: its dead letters
``dt:<ns>:object:<kind>:<id>`` hash    an object of an API: a file, a batch … (see ``store/objects.py``)
``dt:<ns>:objects:<k>:<own>``  zset    ids of an owner's objects of a kind by creation, µs; ``object-ends``: by end
``dt:<ns>:object-remains:<k>`` zset    ids whose contents elsewhere go then, ms; ``object-waste``: by the next try
``dt:<ns>:conv:<id>``          hash    a conversation; ``conv-order``: ids of its items, ``conv-items``: the items
``dt:<ns>:conv-open``          zset    ``<conversation> <request>`` of responses that go on in one; ms
=============================  ======  ==================================================================
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from dynamo_tasks.protocol.names import check_namespace

__all__ = ["Keys", "Keyspace", "client_channel", "namespaces_key"]

_TOKEN = re.compile(r"[0-9A-Za-z_-]{1,64}")


def namespaces_key(prefix: str = "") -> str:
    """The set of all namespaces."""
    return f"{prefix}dt:@namespaces"


def client_channel(client: str, *, db: int = 0, prefix: str = "") -> str:
    """The channel on which a client process receives the events of all requests that it reads."""
    return f"{prefix}dt:@client:{db}:{client}"


def _is_token(name: str, before: str) -> bool:
    return name.startswith(before) and _TOKEN.fullmatch(name, len(before)) is not None


@dataclass(frozen=True)
class Keys:
    """Names of all keys of one namespace."""

    namespace: str
    db: int = 0
    prefix: str = ""

    @cached_property
    def base(self) -> str:
        """The prefix of all keys of the namespace."""
        return f"{self.prefix}dt:{self.namespace}:"

    def record(self, request_id: str) -> str:
        """The ledger record of a request."""
        return f"{self.base}req:{request_id}"

    def stream(self, request_id: str) -> str:
        """The stream of a request."""
        return f"{self.base}log:{request_id}"

    def document(self, request_id: str) -> str:
        """The bytes that an API keeps beside the record of a request."""
        return f"{self.base}doc:{request_id}"

    @property
    def queued(self) -> str:
        """Ids of QUEUED requests."""
        return f"{self.base}queued"

    @property
    def timers(self) -> str:
        """The sorted set of timers, by due time."""
        return f"{self.base}timers"

    def owned(self, lease: int) -> str:
        """Ids that an instance runs."""
        return f"{self.base}owned:{lease:x}"

    def lease(self, lease: int) -> str:
        """The lease of an instance."""
        return f"{self.base}lease:{lease:x}"

    def own_queues(self, lease: int) -> str:
        """Endpoints with a queue of this instance's own; without a TTL, unlike its registrations."""
        return f"{self.base}queues:{lease:x}"

    @property
    def leases(self) -> str:
        """Lease ids (hex) of all instances that may own requests."""
        return f"{self.base}leases"

    @property
    def traffic(self) -> str:
        """Limits of components as a whole."""
        return f"{self.base}traffic"

    def running(self, component: str) -> str:
        """Ids of a component's RUNNING requests."""
        return f"{self.base}running:{component}"

    def waiting(self, component: str) -> str:
        """Ids of a component's QUEUED requests whose time has come."""
        return f"{self.base}waiting:{component}"

    def rate(self, tenant: str) -> str:
        """Time at which a tenant's allowance of requests is whole again."""
        return f"{self.base}rate:{tenant}"

    def open(self, tenant: str) -> str:
        """Ids of a tenant's requests that have not ended."""
        return f"{self.base}open:{tenant}"

    def usage(self, day: int, owner: str) -> str:
        """The usage of an owner in a day, counted from 1970."""
        return f"{self.base}usage:{day}:{owner}"

    def usage_owners(self, day: int) -> str:
        """The owners who used something in a day."""
        return f"{self.base}usage:{day}"

    @property
    def api_keys(self) -> str:
        """API keys that were made at run time."""
        return f"{self.base}keys"

    @property
    def dead(self) -> str:
        """Ids of requests that used up their attempts."""
        return f"{self.base}dead"

    @property
    def erase(self) -> str:
        """Purged requests whose messages may still be in a queue."""
        return f"{self.base}erase"

    @property
    def erasing(self) -> str:
        """Progress of the search through queues for messages of purged requests."""
        return f"{self.base}erasing"

    def load(self, lease: int) -> str:
        """The load of an instance."""
        return f"{self.base}load:{lease:x}"

    @property
    def instances(self) -> str:
        """The index of registrations."""
        return f"{self.base}instances"

    def registration(self, member: str) -> str:
        """A registration; ``member`` as in the index."""
        return f"{self.base}inst:{member}"

    @property
    def scale(self) -> str:
        """Numbers of instances that are wanted."""
        return f"{self.base}scale"

    @property
    def cards(self) -> str:
        """Models that stay while no instance serves them."""
        return f"{self.base}cards"

    @property
    def clients(self) -> str:
        """Channels of client processes that read here."""
        return f"{self.base}clients"

    def reads(self, channel: str) -> str:
        """Ids that the client process with this channel reads."""
        return f"{self.base}reads:{channel}"

    def idempotency(self, tenant: str, key: str) -> str:
        """An idempotency key."""
        return f"{self.base}idem:{tenant}:{key}"

    def session(self, session: str) -> str:
        """The instance that served the last request of a session."""
        return f"{self.base}session:{session}"

    def alive_channel(self, lease: int) -> str:
        """The channel to which an instance stays subscribed, as its presence; commands to it are sent there."""
        return f"{self.base}alive:{self.db}:{lease:x}"

    def control_channel(self, lease: int) -> str:
        """The channel of commands to sleep and to wake: separate, so that an ACL can deny it to frontends."""
        return f"{self.base}control:{self.db}:{lease:x}"

    @property
    def registry_channel(self) -> str:
        """The channel on which joins and leaves of instances are announced."""
        return f"{self.base}registry:{self.db}"

    def events(self, subject: str) -> str:
        """The Redis Stream of a subject's events."""
        return f"{self.base}events:{subject}"

    def events_channel(self, subject: str) -> str:
        """The channel on which a subject's subscribers are woken up."""
        return f"{self.base}news:{self.db}:{subject}"

    @property
    def jobs(self) -> str:
        """Ids of jobs of pipelines."""
        return f"{self.base}jobs"

    def job(self, job_id: str) -> str:
        """A job."""
        return f"{self.base}job:{job_id}"

    def job_task(self, job_id: str, task: str) -> str:
        """Checkpoint and counters of a task of an operator."""
        return f"{self.base}job:{job_id}:at:{task}"

    def job_input(self, job_id: str, task: str) -> str:
        """Chunks of records that wait for a task of an operator."""
        return f"{self.base}job:{job_id}:in:{task}"

    def job_results(self, job_id: str) -> str:
        """The records that a job has collected."""
        return f"{self.base}job:{job_id}:results"

    def job_dead(self, job_id: str) -> str:
        """A job's dead letters."""
        return f"{self.base}job:{job_id}:dead"

    def object(self, kind: str, object_id: str) -> str:
        """An object of an API."""
        return f"{self.base}object:{kind}:{object_id}"

    def conversation(self, conversation_id: str) -> str:
        """The state of a conversation's items."""
        return f"{self.base}conv:{conversation_id}"

    def conversation_order(self, conversation_id: str) -> str:
        """Ids of a conversation's items, in order."""
        return f"{self.base}conv-order:{conversation_id}"

    def conversation_items(self, conversation_id: str) -> str:
        """The items of a conversation."""
        return f"{self.base}conv-items:{conversation_id}"

    @property
    def open_conversations(self) -> str:
        """Responses that will add their items to conversations, by when somebody looked for their ends."""
        return f"{self.base}conv-open"

    def job_channel(self, job_id: str) -> str:
        """The channel on which the tasks of a job wake each other up."""
        return f"{self.base}jobnews:{self.db}:{job_id}"

    def answers_channel(self, nonce: str) -> str:
        """The channel on which instances answer one question of one client."""
        return f"{self.base}answers:{self.db}:{nonce}"

    def is_answers_channel(self, channel: str) -> bool:
        """Return whether a channel is one for answers of this namespace: instances answer on no other."""
        return _is_token(channel, self.answers_channel(""))

    def readers(self, text: str) -> list[str]:
        """The channels of client processes in a text that names readers: events are pushed nowhere else."""
        before = client_channel("", db=self.db, prefix=self.prefix)
        return [channel for channel in text.split() if _is_token(channel, before)]


class Keyspace:
    """Names of all keys on one server: called with a namespace, gives its :class:`Keys`; each is made once.

    Args:
        db: Number of the database.
        prefix: What all keys and channels start with.
    """

    def __init__(self, db: int = 0, prefix: str = ""):
        self.namespaces = namespaces_key(prefix)
        """The set of all namespaces."""
        self._db, self._prefix = db, prefix
        self._known: dict[str, Keys] = {}

    def __call__(self, namespace: str) -> Keys:
        """Names of the keys of a namespace.

        Raises:
            InvalidNameError: it cannot be the name of one.
        """
        keys = self._known.get(namespace)
        if keys is None:
            keys = self._known[namespace] = Keys(check_namespace(namespace), self._db, self._prefix)
        return keys
