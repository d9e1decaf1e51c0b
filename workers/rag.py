"""Questions about your documents, as two pipelines: documents → chunks → embeddings → index, questions → LLM.

``python -m workers.rag --documents docs "What happens when a worker dies?"``

By default everything runs in this process: the embedding is one of hashed words, the LLM is the ``echo`` engine, which
repeats its prompt (so you see what a model would be asked). ``--model PATH`` answers with vLLM, ``--llm`` and
``--embedder`` call what other workers serve, ``--backend celery`` or ``ray`` moves the whole to workers.
"""

from __future__ import annotations

import json
import math
import re
import sqlite3
import tempfile
import zlib
from array import array
from collections import Counter
from collections.abc import Iterator
from operator import mul
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from dynamo_tasks.engines import create_engine
from dynamo_tasks.errors import DynamoError
from dynamo_tasks.pipelines import (
    BaseEnvironment,
    BaseService,
    Job,
    LocalEnvironment,
    MapFunction,
    RemoteEnvironment,
    SinkFunction,
)
from dynamo_tasks.store.bridge import bridge

__all__ = ["Answer", "Embed", "Embedder", "Index", "Model", "Retrieve", "Store", "ask", "ingest", "main"]

DIMENSIONS = 512
_WORD = re.compile(r"\w{4,}")  # shorter ones say little about what a text is about
_EMBED_TIMEOUT, _ANSWER_TIMEOUT = 60.0, 600.0


# -- services ----------------------------------------------------------------------------------------


class Embedder(BaseService):
    """Embeds without a model: hashed words, so texts that share rare words are near each other."""

    parallelism = 2

    def process(self, request: dict[str, Any]) -> dict[str, Any]:
        """``{"input": texts}`` → ``{"embeddings": unit vectors}``, as ``dynamo.Worker.embed`` has it."""
        return {"embeddings": [hashed_words(text) for text in request["input"]]}


def hashed_words(text: str) -> list[float]:
    """A unit vector of :data:`DIMENSIONS` (signed feature hashing, Weinberger et al. 2009)."""
    vector = [0.0] * DIMENSIONS
    for word, count in Counter(_WORD.findall(text.lower())).items():
        code = zlib.crc32(word.encode())
        vector[code % DIMENSIONS] += (1 if code & 1 << 31 else -1) * (1 + math.log(count))
    length = math.sqrt(sum(map(mul, vector, vector))) or 1.0
    return [value / length for value in vector]


class Index(BaseService):
    """Chunks and their vectors in a file; written under their id, so that a chunk may come twice.

    Args:
        path: Of the file; workers on several machines need it on a disk that they share.
    """

    def __init__(self, path: str):
        self.path = path

    def setup(self) -> None:
        """Open the file."""
        self._table = sqlite3.connect(self.path, timeout=30, isolation_level=None, check_same_thread=False)
        self._table.execute(
            "CREATE TABLE IF NOT EXISTS chunks (id TEXT PRIMARY KEY, document TEXT, text TEXT, vector BLOB)"
        )

    def add(self, chunk: dict[str, Any]) -> None:
        """Keep a chunk: ``{"id", "document", "text", "vector"}``."""
        vector = array("f", chunk["vector"]).tobytes()
        row = (chunk["id"], chunk["document"], chunk["text"], vector)
        self._table.execute("INSERT OR REPLACE INTO chunks VALUES (?, ?, ?, ?)", row)

    def process(self, vector: list[float], count: int = 3) -> list[dict[str, Any]]:
        """The nearest chunks, best first: ``{"document", "text", "score"}``."""
        found = [
            {"document": document, "text": text, "score": sum(map(mul, vector, array("f", known)))}
            for document, text, known in self._table.execute("SELECT document, text, vector FROM chunks")
        ]
        return sorted(found, key=lambda row: -row["score"])[:count]

    def close(self) -> None:
        """Close the file."""
        self._table.close()


class Model(BaseService):
    """An engine of this project, in the process of the service.

    Args:
        engine: ``echo``, ``mocker`` or ``vllm``.
        **arguments: Of the engine, such as ``model``.
    """

    parallelism = 8

    def __init__(self, engine: str = "echo", **arguments: Any):
        self._engine = create_engine(engine, **arguments)

    def setup(self) -> None:
        """Load the model."""
        bridge().call(self._engine.start())

    def process(self, prompt: str, max_tokens: int) -> Iterator[dict[str, Any]]:
        """Yield chunks with ``text``, as ``dynamo.Worker.generate`` does."""
        for delta in bridge().iterate(self._engine.generate({"prompt": prompt, "max_tokens": max_tokens})):
            yield {"text": delta.text}

    def close(self) -> None:
        """Free the model."""
        bridge().call(self._engine.stop())


# -- documents → index -------------------------------------------------------------------------------


def read_documents(folder: str) -> Iterator[dict[str, str]]:
    """The texts (``*.md``, ``*.txt``) below a folder, in the order of their names."""
    for path in documents_in(folder):
        yield {"document": path.relative_to(folder).as_posix(), "text": path.read_text(errors="replace")}


def documents_in(folder: str) -> list[Path]:
    """Paths of the documents below a folder."""
    return sorted(path for path in Path(folder).rglob("*") if path.suffix in (".md", ".txt"))


def split(record: dict[str, str], size: int = 800) -> Iterator[dict[str, str]]:
    """Chunks of whole paragraphs of about ``size`` characters; a longer one stays whole, a heading with its text."""
    parts: list[str] = [""]
    for paragraph in re.split(r"\n\s*\n", record["text"]):
        full = len(parts[-1]) + len(paragraph) > size
        if parts[-1] and full and not parts[-1].splitlines()[-1].startswith("#"):
            parts.append("")
        parts[-1] += ("\n\n" if parts[-1] else "") + paragraph.strip()
    for number, text in enumerate(filter(None, parts)):
        yield {"id": f"{record['document']}#{number}", "document": record["document"], "text": text}


class Embed(MapFunction):
    """Adds the vector of a chunk."""

    def execute(self, record: dict[str, Any]) -> dict[str, Any]:
        """``{"text", …}`` → the same and ``vector``."""
        return {**record, "vector": embedding(self, record["text"])}


class Store(SinkFunction):
    """Puts chunks into the index."""

    def execute(self, record: dict[str, Any]) -> None:
        """Hand a chunk to the index."""
        self.call_service("index", record, method="add", timeout=_EMBED_TIMEOUT)


def embedding(caller: MapFunction, text: str) -> list[float]:
    """The vector of a text; of a service here or of an endpoint of workers, which yields its one answer."""
    answer = caller.call_service("embedder", {"input": [text]}, timeout=_EMBED_TIMEOUT)
    [vector] = (answer if isinstance(answer, dict) else next(iter(answer)))["embeddings"]
    return list(vector)


def ingest(env: BaseEnvironment, folder: str) -> Job:
    """Begin to put a folder's documents into the index."""
    stream = env.from_batch(read_documents, folder).flatmap(split, name="chunks")
    stream.map(Embed, parallelism=2, name="embedded").sink(Store, name="stored")
    return env.submit()


# -- questions → answers -----------------------------------------------------------------------------


class Retrieve(MapFunction):
    """Finds what the index has about a question."""

    def execute(self, record: str) -> dict[str, Any]:
        """A question → ``{"question", "found"}``."""
        vector = embedding(self, record)
        return {"question": record, "found": self.call_service("index", vector, timeout=_EMBED_TIMEOUT)}


class Answer(MapFunction):
    """Asks the LLM, with what was found in front of the question.

    Args:
        max_tokens: Of the answer.
    """

    def __init__(self, max_tokens: int):
        self.max_tokens = max_tokens

    def execute(self, record: dict[str, Any]) -> dict[str, Any]:
        """``{"question", "found"}`` → the same, ``prompt`` and ``answer``."""
        context = "\n\n".join(f"[{one['document']}]\n{one['text']}" for one in record["found"])
        prompt = f"Question: {record['question']}\nAnswer from these texts:\n\n{context}\n\nAnswer:"
        chunks = self.call_service("llm", prompt, max_tokens=self.max_tokens, timeout=_ANSWER_TIMEOUT)
        return {**record, "prompt": prompt, "answer": "".join(chunk["text"] for chunk in chunks)}


def ask(env: BaseEnvironment, questions: list[str], max_tokens: int = 512) -> Job:
    """Begin to answer questions: ``{"question", "found", "prompt", "answer"}`` each, in ``job.results()``."""
    found = env.from_batch(questions).map(Retrieve, name="retrieved")
    found.map(Answer, max_tokens, name="answered").collect()
    return env.submit()


# -- the command -------------------------------------------------------------------------------------


def environment(name: str, backend: str, index: str, embedder: str | None) -> BaseEnvironment:
    """An environment with an embedder and an index.

    Args:
        name: Of the environment.
        backend: ``local``, ``celery`` or ``ray``.
        index: Path of the index.
        embedder: Address of an endpoint; none = hashed words.
    """
    env = LocalEnvironment(name) if backend == "local" else RemoteEnvironment(name, backend=backend)
    env.register_service("index", Index, index)
    env.register_service("embedder", embedder or Embedder)
    return env


def watch(job: Job, console: Console, labels: dict[str, str]) -> None:
    """Show operators of a job as bars until it is over; ``labels`` by their names."""
    columns = (TextColumn("{task.description:>10}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bars:
        shown = {name: bars.add_task(label, total=None) for name, label in labels.items()}
        over = False
        while not over:
            over = _waited(job)
            for one in job.status().operators:
                if one.name in shown:
                    done = one.records_in or one.records_out
                    total = done + one.lag if over or done + one.lag else None
                    bars.update(shown[one.name], completed=done, total=total)


def _waited(job: Job) -> bool:
    try:
        job.wait(0.1)
    except TimeoutError:
        return False
    return True


@click.command()
@click.argument("questions", nargs=-1)
@click.option("--documents", default="docs", show_default=True, help="Folder with *.md and *.txt.")
@click.option(
    "--index", type=click.Path(dir_okay=False), help="File of the index; kept. [default: a temporary one]"
)
@click.option("--engine", help="echo, mocker or vllm.  [default: echo; vllm with --model]")
@click.option("--model", help="Model for vllm: a path or a name.")
@click.option("--engine-args", default="{}", help='More for the engine, as JSON: {"max_model_len": 4096}')
@click.option("--llm", help="Endpoint to ask instead: dyn://dynamo.Worker.generate")
@click.option("--embedder", help="Endpoint that embeds: dyn://dynamo.Worker.embed")
@click.option("--backend", type=click.Choice(["local", "celery", "ray"]), default="local", show_default=True)
@click.option("--max-tokens", type=click.IntRange(1), default=512, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per answer on stdout.")
def main(questions: tuple[str, ...], documents: str, index: str | None, **options: Any) -> None:
    """Answer QUESTIONS from documents."""
    if not documents_in(documents):
        raise click.UsageError(f"--documents: no *.md or *.txt below {documents!r}")
    with tempfile.TemporaryDirectory(prefix="rag-") as folder:
        try:
            _run(list(questions) or ["What happens when a worker dies?"], documents,
                 index or str(Path(folder) / "index.sqlite"), **options)  # fmt: skip
        except DynamoError as exc:
            raise click.ClickException(str(exc)) from exc


def _run(
    questions: list[str], documents: str, index: str, *, engine: str | None, model: str | None, engine_args: str,
    llm: str | None, embedder: str | None, backend: str, max_tokens: int, as_json: bool,
) -> None:  # fmt: skip
    console = Console(stderr=True)
    where = (backend, str(Path(index).resolve()), embedder)
    arguments = {**_object(engine_args), **({"model": model} if model else {})}
    with environment("rag-ingest", *where) as env:
        job = ingest(env, str(Path(documents).resolve()))
        watch(
            job,
            console,
            {"batch-1": "documents", **{name: name for name in ("chunks", "embedded", "stored")}},
        )
    with environment("rag-ask", *where) as env:
        if llm:
            env.register_service("llm", llm)
        else:
            env.register_service("llm", Model, engine or ("vllm" if model else "echo"), **arguments)
        job = ask(env, questions, max_tokens)
        watch(job, console, {"batch-1": "questions", "retrieved": "retrieved", "answered": "answered"})
        for result in job.results():
            click.echo(json.dumps(result) if as_json else _shown(result))


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as exc:
        raise click.UsageError(f"--engine-args must be JSON: {exc}") from exc
    if not isinstance(found, dict):
        raise click.UsageError(f"--engine-args must be an object of names and values, not {text}")
    return found


def _shown(result: dict[str, Any]) -> str:
    found = "\n".join(f"  {one['score']:.2f}  {one['document']}" for one in result["found"])
    return f"{result['question']}\n{found}\n\n{result['answer'].strip()}\n"


if __name__ == "__main__":
    # Classes of `__main__` cannot travel to workers: run those of the module.
    from workers.rag import main as command

    command()
