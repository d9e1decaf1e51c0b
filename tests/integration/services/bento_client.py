"""Calls the methods of ``dual.py`` with BentoML's own client and prints the answers."""

import asyncio
import json
import sys
import tempfile
from pathlib import Path

import bentoml


def main(url: str, token: str) -> dict:
    with (
        tempfile.TemporaryDirectory() as folder,
        bentoml.SyncHTTPClient(url, token=token or None, server_ready_timeout=30) as client,
    ):
        path = Path(folder) / "file"
        path.write_bytes(b"12345")
        answers = {
            "greet": client.greet(name="Ada"),
            "order": client.order(order={"item": "tea", "count": 2}),
            "size": client.size(file=path),
            "twice": client.twice(number=4),
            "letters": list(client.letters(text="abc")),
            "batch": client.batch(texts=["0", "1", "2", "3"]),
        }
        try:
            client.fail()
        except bentoml.exceptions.BentoMLException as error:
            answers["fail"] = int(error.error_code)
        answers["async"] = asyncio.run(later(url, token))
        return answers


async def later(url: str, token: str) -> str:
    async with bentoml.AsyncHTTPClient(url, token=token or None) as client:
        return await client.greet(name="Bob")


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:3])))
