"""``Background``: work of HTTP's clients that outlives their connections: batches, and the news of ends."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, ClassVar

from msgspec import Struct

from dynamo_tasks.config import DefaultName
from dynamo_tasks.errors import ConfigError, ObjectNotFoundError
from dynamo_tasks.frontend.access.accounts import Accounts
from dynamo_tasks.frontend.access.admission import ApiKeys
from dynamo_tasks.frontend.access.configured import keys_from
from dynamo_tasks.frontend.app import api_table
from dynamo_tasks.frontend.generation import Generation
from dynamo_tasks.frontend.model_names import ModelNames
from dynamo_tasks.frontend.settings import FrontendSettings
from dynamo_tasks.observe.log import event
from dynamo_tasks.protocol.http.limits import KeyLimits
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.runtime.supervision.actor import Actors
from dynamo_tasks.sdk import (
    ServiceConfig,
    async_on_start,
    depends,
    dynamo_endpoint,
    get_resolver,
    on_shutdown,
    service,
)
from dynamo_tasks.sdk.services.own_class import owner_of
from dynamo_tasks.services.batches.run import BatchRun
from dynamo_tasks.services.batches.shop import BatchShop
from dynamo_tasks.services.batches.supervisor import BatchSupervisor
from dynamo_tasks.services.batches.validation import BatchLimits
from dynamo_tasks.services.gateway import RuntimeGateway
from dynamo_tasks.services.http import gateway_of
from dynamo_tasks.services.processor import Processor
from dynamo_tasks.services.upkeep import FilesSweeper, files_of
from dynamo_tasks.services.webhooks.announcer import Announcer
from dynamo_tasks.services.webhooks.delivery import Delivery, send
from dynamo_tasks.services.webhooks.targets import WebhookTarget, targets_from

__all__ = ["BATCH_ENDPOINTS", "Background", "RunBatch"]

BATCH_ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
"""APIs that batches can be for, where they are served."""
_SLOTS = 256
_SAY_EVERY = 5.0


class RunBatch(Struct):
    """The request of a run.

    Attributes:
        batch: Its id.
    """

    batch: str


@service(dynamo={"namespace": DefaultName("dynamo")})
class Background:
    """Runs batches, and tells about their ends. It needs no GPU: lines are requests like others, behind all others.

    Attributes:
        max_lines: Lines of one batch.
        max_input_bytes: Bytes of its input file.
        in_flight: Lines of all batches of one process that wait or run at a time.
        webhooks: Addresses that are told about ends, ``{url, secret, events}`` each; and that of
            ``DYNAMO_WEBHOOK_URL``, with ``DYNAMO_WEBHOOK_SECRET``.
    """

    __beside__: ClassVar[bool] = True  # chats are served without it

    processor = depends(Processor)

    max_lines: int = 50_000
    max_input_bytes: int = 200_000_000
    in_flight: int = 512
    webhooks: ClassVar[list[dict[str, Any]]] = []
    config_extras = None  # a key that is not known is a mistake

    def __init__(self) -> None:
        self._actors = Actors()
        self._shop: BatchShop | None = None
        self._announcer: Announcer | None = None

    @classmethod
    def check_settings(cls) -> None:
        """Refuse limits that leave nothing.

        Raises:
            ConfigError: names the setting.
        """
        for name in ("max_lines", "max_input_bytes", "in_flight"):
            if getattr(cls, name) < 1:
                raise ConfigError(f"Background.{name} must be at least 1, not {getattr(cls, name)}")
        cls.targets()

    @classmethod
    def targets(cls) -> tuple[WebhookTarget, ...]:
        """The addresses that are told about ends.

        Raises:
            ConfigError: one of them is not valid.
        """
        return targets_from(cls.webhooks)

    @classmethod
    def slots(cls) -> int:
        """Batches that one process runs at a time."""
        return _SLOTS

    @async_on_start
    async def begin(self) -> None:
        """Look after batches, and after files that nobody needs any more."""
        resolver: Any = get_resolver()
        settings = _settings()
        gateway = await gateway_of(resolver, getattr(type(self), "router", None), settings.names)
        table = api_table(gateway, settings, stores=False)  # answers of lines are in the output alone
        apis = {path: api for path, api in table.items() if path in BATCH_ENDPOINTS}
        limits = BatchLimits(lines=self.max_lines, in_flight=self.in_flight)
        files = files_of(gateway.objects)
        shop = BatchShop(
            resolver.runtime.client,
            files,
            gateway,
            Generation(gateway, settings),
            apis,
            limits,
            _limits_of(gateway, settings),
        )
        client, deliver = resolver.runtime.client, self._endpoint("deliver")
        announcer = Announcer(client, gateway.objects, gateway, deliver, self.targets())
        supervisor = BatchSupervisor(shop, self._endpoint("run_batch"), announcer)
        await self._actors.start(FilesSweeper(files), supervisor, announcer)
        self._shop, self._supervisor, self._announcer = shop, supervisor, announcer

    def _endpoint(self, name: str) -> EndpointId:
        own = owner_of(type(self))  # a subclass may be a service of its own
        assert own is not None
        return own.endpoint_id(name)

    @on_shutdown
    async def end(self) -> None:
        """Look after nothing any more."""
        await self._actors.stop()

    @dynamo_endpoint(policy="continue")
    async def run_batch(self, request: RunBatch) -> AsyncIterator[dict[str, Any]]:
        """Run a batch to its end; gives its progress."""
        assert self._shop is not None
        said, said_at = None, 0.0
        try:
            async for progress in BatchRun(self._shop, request.batch, secrets.token_hex(4)).run():
                ended = progress.pop("ended", False)
                if ended:
                    event("batch.ended", batch=request.batch, **progress)
                if progress != said and (ended or time.monotonic() - said_at > _SAY_EVERY):
                    said, said_at = progress, time.monotonic()
                    yield progress
            await self._supervisor.look_after(request.batch)
        except ObjectNotFoundError:
            return  # it is so old that nobody knows it any more

    @dynamo_endpoint()
    async def deliver(self, request: Delivery) -> dict[str, Any]:
        """Tell one address about one event; where it does not take it, another try is queued for later."""
        assert self._announcer is not None
        target = self._announcer.target(request.url)
        if target is None:
            return {"delivered": False, "why": "the address is not configured any more"}
        why = await send(target, request)
        if why and not await self._announcer.again(request):
            event("webhook.given_up", host=target.host, event=request.event_id, error=why)
        elif why:
            event(
                "webhook.refused",
                host=target.host,
                event=request.event_id,
                tries=request.number + 1,
                error=why,
            )
        return {"delivered": not why, "why": why}


def _settings() -> FrontendSettings:
    """Settings that lines of batches have in common with the Frontend's requests: names of models, API keys, prices."""
    section = ServiceConfig.get_instance().get("Frontend", {})
    usual = Accounts()
    return FrontendSettings(
        names=ModelNames.read(section.get("models"), section.get("fallbacks")),
        api_keys=keys_from(section.get("api_keys") or None, defaults=section.get("key_limits")),
        accounts=Accounts.read(section.get("usage_days", usual.days), section.get("prices")),
    )


def _limits_of(gateway: RuntimeGateway, settings: FrontendSettings) -> Callable[[str], Awaitable[KeyLimits]]:
    """The limits of the key of a batch: lines are charged to it, and ask for its models alone."""
    configured = ApiKeys(settings.api_keys)

    async def limits_of(owner: str) -> KeyLimits:
        key = await gateway.api_keys.by_owner(owner) if owner else None
        return configured.limits(owner) if key is None or key.owner != owner else key.limits

    return limits_of
