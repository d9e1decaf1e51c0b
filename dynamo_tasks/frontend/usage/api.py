"""``/v1/usage``: what API keys have used, by day and model."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dynamo_tasks.errors import InvalidRequestError
from dynamo_tasks.frontend.access.usage_report import MOST_ROWS, UsageQuery, UsageReport, as_csv
from dynamo_tasks.frontend.http.errors import json_response
from dynamo_tasks.frontend.http.query import listed, page_query
from dynamo_tasks.frontend.http_call import call_of

__all__ = ["MOST_DAYS", "UsageAPI"]

MOST_DAYS = 400
_USUAL_DAYS, _USUAL_ROWS = 30, 100
_FILTERS = {"key": 64, "tenant": 64, "model": 256}
_PARAMETERS = {*_FILTERS, "start_date", "end_date", "limit", "order", "after", "format"}


class UsageAPI:
    """The handler of ``/v1/usage``.

    Args:
        report: Reads the ledger.
    """

    def __init__(self, report: UsageReport):
        self._report = report

    def routes(self) -> list[Route]:
        """Its path."""
        return [Route("/v1/usage", self.show, name="usage")]

    async def show(self, request: Request) -> Response:
        """``GET /v1/usage``: a key sees its own, an admin's sees all."""
        viewer = call_of(request).viewer
        tabular = _is_csv(request)
        query = _query(request, viewer, MOST_ROWS if tabular else _USUAL_ROWS)
        rows, more = await self._report.page(query)
        if not tabular:
            return json_response(listed(rows, more=more))
        headers = {"content-disposition": 'attachment; filename="usage.csv"', "vary": "Accept"}
        if more:
            url = request.url.include_query_params(after=rows[-1]["id"])
            headers["link"] = f'<{url.path}?{url.query}>; rel="next"'
        return Response(as_csv(rows), headers=headers, media_type="text/csv; charset=utf-8")


def _is_csv(request: Request) -> bool:
    asked = request.query_params.get("format")
    if asked not in (None, "csv", "json"):
        raise InvalidRequestError(f"format must be csv or json, not {asked!r:.60}", param="format")
    return asked == "csv" or (asked is None and "text/csv" in request.headers.get("accept", ""))


def _query(request: Request, viewer: str | None, usual: int) -> UsageQuery:
    given = request.query_params
    for name in given:
        if name not in _PARAMETERS:
            known = ", ".join(sorted(_PARAMETERS))
            raise InvalidRequestError(f"{name!r:.60} is no parameter; there are {known}", param=name[:60])
    page = page_query(request, usual=usual, most=MOST_ROWS)
    today = datetime.now(UTC).date()
    end = _day(given.get("end_date"), "end_date", today)
    start = _day(
        given.get("start_date"), "start_date", max(end - timedelta(days=_USUAL_DAYS - 1), date(1970, 1, 1))
    )
    if not 0 <= (end - start).days < MOST_DAYS:
        raise InvalidRequestError(
            f"start_date must be up to {MOST_DAYS} days before end_date, and not after it", param="start_date"
        )
    return UsageQuery(
        start,
        end,
        viewer,
        newest_first=page.order == "desc",
        limit=page.limit,
        after=page.after,
        **_filters(given),
    )


def _filters(given: Any) -> dict[str, str]:
    found = {name: given.get(name, "") for name in _FILTERS}
    for name, text in found.items():
        if len(text) > _FILTERS[name]:
            raise InvalidRequestError(f"{name} has at most {_FILTERS[name]} characters", param=name)
    return found


def _day(text: str | None, name: str, usual: date) -> date:
    if text is None:
        return usual
    try:
        found = datetime.strptime(text, "%Y-%m-%d").date()
    except ValueError:
        found = date.min
    if len(text) != len("2026-12-01") or not 1970 <= found.year <= 2999:
        raise InvalidRequestError(f"{name} must be a day as 2026-12-01, not {text!r:.60}", param=name)
    return found
