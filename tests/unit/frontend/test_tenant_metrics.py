"""Labels of tenants are few, whoever makes keys; what is counted is counted once."""

from __future__ import annotations

from dynamo_tasks.errors import InsufficientQuotaError, InvalidRequestError, RateLimitError
from dynamo_tasks.frontend.access.configured import ApiKey
from dynamo_tasks.frontend.access.tenant_metrics import OTHER, TenantMetrics
from dynamo_tasks.observe.metrics import INSTRUMENTS
from dynamo_tasks.protocol.http.limits import KeyLimits

OWNER = "ab" * 32


def of(tenant: str) -> KeyLimits:
    return KeyLimits(tenant=tenant)


def counted(name: str, **labels: str) -> float:
    samples = (s for family in INSTRUMENTS.family(name) for s in family.samples)
    return sum(s.value for s in samples if s.name.endswith("_total") and s.labels == labels)


def test_configured_tenants_come_first_then_who_asks_first() -> None:
    tenants = TenantMetrics(3, [ApiKey("a", of("t-one")), "plain", ApiKey("b", of("t-two"))])
    seen = [tenants.label(OWNER, of(name)) for name in ("t-new", "t-late", "t-two", "t-one", "t-new")]
    assert seen == ["t-new", OTHER, "t-two", "t-one", "t-new"]


def test_however_many_keys_there_are_labels_are_few() -> None:
    tenants = TenantMetrics(5, [ApiKey(str(n), of(f"t-{n}")) for n in range(4)])
    labels = {tenants.label(f"{n:064x}"[::-1], KeyLimits()) for n in range(1000)}
    assert len(labels) == 2  # one place was left
    assert OTHER in labels


def test_more_configured_ones_than_labels() -> None:
    tenants = TenantMetrics(2, [ApiKey(str(n), of(f"t-{n}")) for n in range(4)])
    assert [tenants.label(OWNER, of(f"t-{n}")) for n in range(4)] == ["t-0", "t-1", OTHER, OTHER]


def test_a_key_without_a_tenant_is_one_of_its_own_and_nobody_is_none() -> None:
    assert TenantMetrics(5).label(OWNER, KeyLimits()) == "key:" + OWNER[:12]
    assert TenantMetrics(5).label("", KeyLimits()) == ""
    assert TenantMetrics(0).label(OWNER, of("x")) == ""


def test_requests_tokens_and_refusals_are_counted() -> None:
    tenants = TenantMetrics(5)
    tenants.answered(OWNER, of("t-counted"), 7, {"prompt_tokens": 3, "cached_tokens": 2})
    tenants.answered(OWNER, of("t-counted"), 0)
    for why in (RateLimitError("x"), InsufficientQuotaError("x"), InvalidRequestError("x")):
        tenants.refused(OWNER, of("t-counted"), why)
    kinds = {
        kind: counted("tenant_tokens_total", tenant="t-counted", kind=kind)
        for kind in ("prompt", "cached", "completion")
    }
    assert kinds == {"prompt": 3, "cached": 2, "completion": 7}
    assert counted("tenant_requests_total", tenant="t-counted") == 2
    for code in ("rate_limit_exceeded", "insufficient_quota"):
        assert counted("tenant_refused_total", tenant="t-counted", code=code) == 1
