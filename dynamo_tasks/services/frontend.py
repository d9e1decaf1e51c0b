"""``Frontend``: the OpenAI-compatible HTTP API of a graph."""

from __future__ import annotations

import os
from typing import Any, ClassVar

from dynamo_tasks.files.library import Files
from dynamo_tasks.frontend.access.accounts import Accounts
from dynamo_tasks.frontend.access.admission import ApiKeys
from dynamo_tasks.frontend.access.configured import HOSTS, PAGES, keys_from, listed
from dynamo_tasks.frontend.access.known_keys import KnownKeys
from dynamo_tasks.frontend.access.usage_report import UsageReport
from dynamo_tasks.frontend.app import create_app
from dynamo_tasks.frontend.batches.api import BatchesAPI
from dynamo_tasks.frontend.files.api import FilesAPI
from dynamo_tasks.frontend.http.server import HttpServer
from dynamo_tasks.frontend.model_names import ModelNames
from dynamo_tasks.frontend.responses.turns import Turns
from dynamo_tasks.frontend.settings import FrontendSettings
from dynamo_tasks.frontend.usage.api import UsageAPI
from dynamo_tasks.runtime.routing.chooser import check_mode, kv_config
from dynamo_tasks.runtime.supervision.actor import Actors
from dynamo_tasks.sdk import async_on_start, depends, get_resolver, on_shutdown, service
from dynamo_tasks.services.background import BATCH_ENDPOINTS, Background
from dynamo_tasks.services.gateway import RuntimeGateway
from dynamo_tasks.services.http import KeyFollower, api_routes, gateway_of, warn_if_open
from dynamo_tasks.services.processor import Processor
from dynamo_tasks.services.upkeep import ConversationSweeper, FilesSweeper, files_of

__all__ = ["Frontend"]


@service()
class Frontend:
    """Serves HTTP.

    Attributes:
        host: Address to listen at.
        port: 0 = any free one.
        reuse_port: Share the port with other Frontend processes of this machine.
        api_keys: Accepted keys; those of ``DYNAMO_API_KEYS`` by default; none = open to everybody. One
            with limits of its own is ``{key, requests_per_minute, tokens_per_day, models, …}``. Those that
            ``dynamo-tasks keys`` makes are accepted besides.
        require_api_keys: Serve nobody without a key, also while none is configured.
        key_limits: The same limits, for keys that do not name theirs.
        models: Other names of models: ``{gpt-4o: llama}``, or ``{gpt-4o: [{name: llama, weight: 90}, …]}``.
        fallbacks: Models to try where one cannot take a request: ``{llama: [qwen]}``.
        usage_days: Days for which the usage of API keys is kept; 0 = none is.
        prices: Of models, for a million tokens: ``{llama: {input: 0.15, output: 0.6, cached: 0.05}}``; ``*`` = others.
        metric_tenants: Tenants with a label of their own in metrics, the configured ones first; all others are
            ``other``. 0 = none is counted.
        body_limit: Bytes of the largest request body.
        max_file_bytes: Bytes of the largest file that may be uploaded.
        keep_alive: Seconds of silence on a stream after which a comment is sent.
        max_retention: Most seconds of ``retention`` that a request may ask for.
        max_abandon_after: Most of ``abandon_after``.
        max_timeout: Most of ``timeout``.
        response_retention: Seconds for which a stored response is kept after its end.
        conversation_retention: Seconds for which a conversation is kept after it was used.
        cors_origins: Web pages that may use the server, ``https://app.example`` or ``*``; those of
            ``DYNAMO_CORS_ORIGINS`` by default.
        allowed_hosts: Names under which it is known, besides addresses and local names; those of
            ``DYNAMO_ALLOWED_HOSTS`` by default. Without keys, others are refused.
        router_mode: How it chooses the Worker instance of a request where no Router stands in between: ``random``,
            ``round_robin``, ``power_of_two``, ``least_loaded`` or ``kv``; by default idle ones take it.
        kv_router: Parameters of ``kv``: see :class:`~dynamo_tasks.router.costs.KvRouterConfig`.
    """

    __serves_http__ = True  # nobody else listens for it

    processor = depends(Processor)
    background = depends(Background)

    host: str = "127.0.0.1"
    port: int = 8000
    reuse_port: bool = False
    api_keys: ClassVar[list[str | dict[str, Any]]] = []
    require_api_keys: bool = False
    key_limits: ClassVar[dict[str, Any]] = {}
    models: ClassVar[dict[str, Any]] = {}
    fallbacks: ClassVar[dict[str, Any]] = {}
    usage_days: int = 90
    prices: ClassVar[dict[str, Any]] = {}
    metric_tenants: int = 50
    body_limit: int = 10 << 20
    max_file_bytes: int = 512 << 20
    keep_alive: float = 15.0
    max_retention: float = 86400.0
    max_abandon_after: float = 3600.0
    max_timeout: float = 86400.0
    response_retention: float = 86400.0
    conversation_retention: float = 30 * 86400.0
    cors_origins: ClassVar[list[str]] = []
    allowed_hosts: ClassVar[list[str]] = []
    router_mode: str | None = None
    kv_router: ClassVar[dict[str, Any]] = {}

    config_extras = None  # a key that is not known is a mistake

    def __init__(self) -> None:
        self._server: HttpServer | None = None
        self._sweepers = Actors()

    @classmethod
    def check_settings(cls) -> None:
        """Refuse what no frontend can serve with, before any process starts.

        Raises:
            ConfigError: says which setting, or which variable of the environment.
        """
        cls._settings()
        cls._mode()

    @classmethod
    def _mode(cls) -> str:
        return "" if cls.router_mode is None else check_mode(cls.router_mode, "Frontend.router_mode")

    @classmethod
    def _settings(cls) -> FrontendSettings:
        return FrontendSettings(
            api_keys=keys_from(cls.api_keys or None, os.environ, cls.key_limits),
            require_api_keys=bool(cls.require_api_keys),
            body_limit=cls.body_limit,
            max_file_bytes=cls.max_file_bytes,
            keep_alive=float(cls.keep_alive),
            cors_origins=listed(PAGES, cls.cors_origins),
            allowed_hosts=listed(HOSTS, cls.allowed_hosts),
            host=cls.host,
            max_retention=float(cls.max_retention),
            max_abandon_after=float(cls.max_abandon_after),
            max_timeout=float(cls.max_timeout),
            announces=cls._announces(),
            response_retention=float(cls.response_retention),
            conversation_retention=float(cls.conversation_retention),
            names=ModelNames.read(cls.models, cls.fallbacks),
            accounts=Accounts.read(cls.usage_days, cls.prices),
            metric_tenants=int(cls.metric_tenants),
            session_fields=kv_config(cls.kv_router, "Frontend.kv_router").router_session_affinity_fields,
        )

    @classmethod
    def _announces(cls) -> bool:
        background: Any = cls.background.service
        wanted = {event for target in background.inner.targets() for event in target.events}
        return any(event.startswith("response.") for event in wanted)

    @async_on_start
    async def serve(self) -> None:
        """Listen."""
        settings = self._settings()
        warn_if_open(settings)
        gateway = await gateway_of(
            get_resolver(), getattr(type(self), "router", None), settings.names, self._mode(),
            kv_config(self.kv_router, "Frontend.kv_router"),
        )  # fmt: skip
        files = files_of(gateway.objects)
        report = UsageReport(gateway.usage, gateway.api_keys, ApiKeys(settings.api_keys))
        files_api = FilesAPI(files, gateway, settings.max_file_bytes)
        wings = files_api, self._batches(gateway, files), UsageAPI(report)
        known = KnownKeys(gateway.api_keys)
        app = create_app(gateway, settings, api_routes(self), wings=wings, known=known)
        self._server = HttpServer(app, self.host, self.port, reuse_port=self.reuse_port)
        await self._server.start()
        turns = Turns(gateway, settings.conversation_retention)
        await self._sweepers.start(FilesSweeper(files), ConversationSweeper(turns), KeyFollower(known))

    def _batches(self, gateway: RuntimeGateway, files: Files) -> BatchesAPI:
        background: Any = type(self).background.service
        runner = background.endpoint_id("run_batch")
        most = int(background.inner.max_input_bytes)
        return BatchesAPI(gateway.objects, files, gateway, runner, BATCH_ENDPOINTS, most)

    @property
    def url(self) -> str:
        """The URL at which it listens."""
        return self._server.url if self._server is not None else ""

    @on_shutdown
    async def close(self) -> None:
        """Stop listening; open streams can be resumed elsewhere."""
        if self._server is not None:
            await self._server.stop()
        await self._sweepers.stop()
