"""The words of the code: those of its own stand in the glossary, those that nobody else uses do not come back."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "dynamo_tasks").rglob("*.py"))
SCRIPTS = sorted((ROOT / "dynamo_tasks").rglob("*.lua"))
PROSE = sorted((ROOT / "docs").glob("*.md"))
ROW = re.compile(r"^\| (?!word \|)(?P<terms>[^|]+?) \|")

FORMER = {
    "behind the end": "after the end",
    "whoever": "any client, any worker",
    "barren": "idle",
    "bury": "reap",
    "give_back": "requeue, release",
    "hand_on": "forward",
    "hand_over": "requeue",
    "Celery's tail": "completion",
    "intake": "consumer gate",
    "tell_": "report_, notify_",
    "OpenLog": "OpenStream",
    "the_line": "wait_queue",
    "steps up": "is promoted",
}


def terms() -> list[str]:
    """Terms of the glossary, one by one."""
    rows = filter(None, map(ROW.match, (ROOT / "docs" / "glossary.md").read_text().splitlines()))
    return [term.strip("` ") for row in rows for term in row["terms"].split(",") if set(term) - set("-")]


def test_terms_of_the_glossary_are_words_of_the_code() -> None:
    text = "\n".join(path.read_text() for path in (*SOURCES, ROOT / "pyproject.toml"))
    assert len(terms()) > 40
    missing = [
        term
        for term in terms()
        if not re.search(rf"(?<![a-z]){re.sub('[ _]', '[ _]?', term)}s?(?![a-z])", text, re.IGNORECASE)
    ]
    assert missing == []


def test_former_words_do_not_come_back() -> None:
    hits = [
        f"{path.relative_to(ROOT)}: {word!r} is now {now!r}"
        for path in (*SOURCES, *SCRIPTS, *PROSE)
        for text in [path.read_text()]
        for word, now in FORMER.items()
        if re.search(rf"\b{re.escape(word)}", text)
    ]
    assert hits == []
