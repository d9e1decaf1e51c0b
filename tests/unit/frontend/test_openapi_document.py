"""The shipped OpenAPI document: current and complete."""

from __future__ import annotations

import json
from typing import Any

from dynamo_tasks.frontend.access.admission import OPEN_PATHS
from dynamo_tasks.frontend.app import create_app
from dynamo_tasks.frontend.batches.api import BatchesAPI
from dynamo_tasks.frontend.files.api import FilesAPI
from dynamo_tasks.frontend.openapi.document import document
from dynamo_tasks.frontend.usage.api import UsageAPI
from tests.support.frontend_fakes import FakeGateway
from tests.support.processes import ROOT


def test_the_committed_document_is_current() -> None:
    committed = json.loads((ROOT / "docs" / "openapi.json").read_text())
    assert committed == json.loads(json.dumps(document())), (
        "run: python -m dynamo_tasks.frontend.openapi > docs/openapi.json"
    )


def test_every_route_is_in_it() -> None:
    none: Any = None
    gateway = FakeGateway()
    wings = [FilesAPI(none, gateway, 1), BatchesAPI(none, none, gateway, none, (), 1), UsageAPI(none)]
    app = create_app(gateway, wings=wings)
    routes = {path.replace(":path", "") for _, path in app.paths()} | OPEN_PATHS
    routes = {path for path in routes if not path.startswith(("/docs/", "/page/"))} - {"/"}
    assert routes - {"/v1/responses/compact"} == set(document()["paths"])  # which says that there is none
