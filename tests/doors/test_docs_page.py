"""The page of the API in a real browser: it asks for the key, and tries the API out; nothing comes from elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.browser import CHROMIUM, browser
from tests.support.serve import Serve

pytestmark = [
    pytest.mark.slow,
    pytest.mark.doors,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]

TRY = """(async () => {
  const later = () => new Promise((resolve) => setTimeout(resolve, 100));
  const find = async (selector) => {
    for (let turn = 0; turn < 300; turn++, await later()) {
      const found = document.querySelector(selector);
      if (found) return found;
    }
    throw new Error(selector);
  };
  (await find("#operations-Models-models button.opblock-summary-control")).click();
  (await find("#operations-Models-models button.try-out__btn")).click();
  (await find("#operations-Models-models button.execute")).click();
  const row = await find("#operations-Models-models .live-responses-table .response");
  const hosts = performance.getEntriesByType("resource").map((entry) => new URL(entry.name).host);
  return {text: row.innerText, foreign: hosts.filter((host) => host && host !== location.host), violations};
})()"""


def test_it_asks_for_the_key_and_tries_a_request_out(tmp_path: Path) -> None:
    with (
        Serve(tmp_path / "home", "--Worker.engine=mocker", "--api-key", "page-key") as serve,
        browser(tmp_path / "profile") as page,
    ):
        page.visit(serve.base_url + "/docs/")
        page.until("document.getElementById('ask') && !document.getElementById('ask').hidden")
        assert page.run("location.pathname") == "/docs"
        enter = "document.getElementById('key').value = '%s'; document.querySelector('#ask button').click()"
        page.run(enter % "wrong")
        page.until("document.getElementById('problem').innerText.includes('wrong')")
        page.run(enter % "page-key")
        page.until("document.querySelectorAll('.opblock').length > 10")
        told = page.run(TRY)
        assert "mocker" in told["text"], told
        assert (told["foreign"], told["violations"]) == ([], []), told
        if where := os.environ.get("DOCS_PICTURE"):
            page.picture(Path(where))
        assert "page-key" not in page.run("JSON.stringify(localStorage) + document.cookie")
