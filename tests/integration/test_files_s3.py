"""Files on S3: a local server of its protocol, through the storage alone and through the whole API."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from dynamo_tasks.errors import StorageUnavailableError
from dynamo_tasks.files.storage import Storage
from tests.support.batches import batch_place, chat_line
from tests.support.processes import until
from tests.support.server import RedisServer, free_port

pytestmark = pytest.mark.slow
moto_server = pytest.importorskip("moto.server")
boto3 = pytest.importorskip("boto3")


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    """The environment that leads to it."""
    port = free_port()
    server = moto_server.ThreadedMotoServer(port=port)
    server.start()
    env = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    }
    boto3.client(
        "s3", endpoint_url=env["AWS_ENDPOINT_URL"], region_name="us-east-1", aws_access_key_id="test",
        aws_secret_access_key="test",
    ).create_bucket(Bucket="files")  # fmt: skip
    yield env
    server.stop()


def keys(env: dict[str, str]) -> set[str]:
    client = boto3.client(
        "s3", endpoint_url=env["AWS_ENDPOINT_URL"], region_name="us-east-1", aws_access_key_id="test",
        aws_secret_access_key="test",
    )  # fmt: skip
    return {row["Key"] for row in client.list_objects_v2(Bucket="files").get("Contents", [])}


def test_the_storage(s3: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.items():
        monkeypatch.setenv(name, value)

    async def body() -> None:
        folder = uuid.uuid4().hex
        storage = Storage("s3://files/some/prefix")
        await storage.put(f"{folder}/0", b"hello world")
        await storage.put(f"{folder}/1", b"x" * 6_000_000)
        assert b"".join([piece async for piece in storage.read(f"{folder}/0", 6, 11)]) == b"world"
        assert (
            len(b"".join([piece async for piece in storage.read(f"{folder}/1", 0, 6_000_000)])) == 6_000_000
        )
        assert f"some/prefix/{folder}/0" in keys(s3)
        await storage.remove(folder)
        await storage.remove(folder)
        assert not {key for key in keys(s3) if folder in key}
        with pytest.raises(StorageUnavailableError, match="cannot read"):
            _ = [piece async for piece in storage.read(f"{folder}/0", 0, 1)]
        with pytest.raises(StorageUnavailableError, match="cannot write"):
            await Storage("s3://nobodys-bucket").put("x", b"1")

    asyncio.run(body())


def test_a_batch(redis_server: RedisServer, tmp_path: Path, s3: dict[str, str]) -> None:
    env = {**s3, "DYNAMO_FILES_URL": "s3://files/batches"}
    with batch_place(redis_server, tmp_path, "files-s3", env=env) as place:
        batch = place.ended(place.submit([chat_line(f"q{i}", "hi") for i in range(200)]).id)
        assert batch.status == "completed"
        assert len(place.rows(batch.output_file_id)) == 200
        input_text = place.client.files.content(batch.input_file_id).text
        assert json.loads(input_text.splitlines()[0])["custom_id"] == "q0"
        for file in place.client.files.list():
            place.client.files.delete(file.id)
        until(lambda: not {key for key in keys(s3) if key.startswith("batches/")}, 60)
