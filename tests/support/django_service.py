"""A service of a Django project."""

__all__ = ["SERVICE"]

SERVICE = """
from collections.abc import AsyncIterator
from dynamo_tasks import dynamo_endpoint, service

@service(dynamo={"namespace": "site"})
class W:
    @dynamo_endpoint
    async def users(self, request: dict) -> int:
        from django.contrib.auth.models import User
        return await User.objects.acount() + request["add"]

    @dynamo_endpoint
    def blocking(self, request: dict) -> int:
        from django.contrib.auth.models import User
        return User.objects.count() + request["add"]

    @dynamo_endpoint
    async def tell(self, count: int) -> AsyncIterator[str]:
        for number in range(count):
            yield f"w{number}"

    @dynamo_endpoint
    async def fails(self, request: dict) -> int:
        raise ValueError("no")

    @dynamo_endpoint(autoretry_for=(ValueError,), max_retries=2, default_retry_delay=0)
    async def flaky(self, request: dict) -> int:
        from dynamo_tasks import current_context
        if current_context().retries < 2:
            raise ValueError("not yet")
        return current_context().retries
"""
