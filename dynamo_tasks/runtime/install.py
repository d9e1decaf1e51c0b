"""``install``: endpoints in a Celery application that is not ours."""

from __future__ import annotations

from functools import partial
from typing import Any

from dynamo_tasks.queue.installed import InstalledApp, convert
from dynamo_tasks.runtime.celeryapp import give_services, make_host
from dynamo_tasks.runtime.graphs import configure_alone
from dynamo_tasks.runtime.resolver import RuntimeResolver
from dynamo_tasks.sdk import DynamoService, load_service, set_resolver
from dynamo_tasks.wiring import default_app

__all__ = ["install"]


def install(app: Any, *services: DynamoService[Any] | str) -> InstalledApp:
    """Add endpoints, their routes and their results to a Celery application.

    Its broker must be Redis or Valkey; keys and channels live in its database, under its ``global_keyprefix``. Its own
    tasks, routes and workers stay as they are. From then on ``Worker.generate.delay()`` in this process uses it;
    where several applications have it, the last one.

    Args:
        app: A ``celery.Celery``.
        *services: Services, or ``"module:Class"`` of them, whose endpoints it shall know as tasks from the start;
            those of others are known from their first call on.

    Returns:
        The same application.

    Raises:
        ConfigError: its broker is none that can hold streams. Told here where its settings are known by now, else at
            the first call, or when the worker starts.

    Example:
        ::

            app = Celery("shop", broker="redis://localhost:6379/3")
            dynamo_tasks.install(app, "shop.llm:Worker")
            # celery -A shop worker                               prefork, as ever
            # celery -A shop worker --service shop.llm:Worker     serves the endpoints
    """
    installed = convert(app, make_host)
    give_services(installed, graph=False)
    resolver = RuntimeResolver(installed)
    default_app.fill(lambda: installed)
    set_resolver(resolver)
    for service in services:
        found = load_service(service) if isinstance(service, str) else service
        configure_alone(found)
        for endpoint in found.get_dynamo_endpoints().values():
            installed.add_later(partial(resolver.task, endpoint.id, endpoint))
    return installed
