"""The shape of the house: how many files a folder has, and which way the arrows between files go."""

import ast
import re
from collections import Counter, defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from dynamo_tasks.protocol.options import RequestOptions
from tests.support.source import parsed

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "dynamo_tasks"
FILES = sorted(PACKAGE.rglob("*.py"))
MOST_FILES = 14
"""Of a folder: what a person can look at and know where to go on."""
MOST_OPTIONS = 3
"""Options of a request in one class, signature or table: that many are a second list of them."""
MOST_INSIDE = 17
"""Places where tests reach for private attributes: of ours, of Celery's, of Python's."""
SHARED = {
    "Background", "Frontend",  # of the graphs `agg` and `routed`: their names are those of components
    "Record",  # of a pipeline, as its users call it, and of the ledger
}  # fmt: skip
"""Names that two classes have."""
PUBLIC = {"_exit", "_replace", "_request_id"}
"""Names that begin like private ones and are none: of `os`, of named tuples, of Anthropic's client."""


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {dotted(path) for path in FILES}


def only_for_types(tree: ast.AST) -> set[ast.AST]:
    guarded = (
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    )
    return {below for node in guarded for below in ast.walk(node)}


def named_in(node: ast.AST) -> list[str]:
    """Modules that an import, or a string that could be imported, names."""
    match node:
        case ast.ImportFrom(module=str(module)):
            return [module, *(f"{module}.{alias.name}" for alias in node.names)]
        case ast.Import():
            return [alias.name for alias in node.names]
        case ast.Constant(value=str(text)) if "." in text:
            return [text]
    return []


def arrows() -> dict[str, set[str]]:
    """File → the files it imports when it runs, wherever in it the import stands."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in FILES:
        tree = parsed(path)
        hidden = only_for_types(tree)
        for node in ast.walk(tree):
            if node not in hidden:
                found[dotted(path)] |= {name for name in named_in(node) if name in MODULES}
        found[dotted(path)].discard(dotted(path))
    return found


def circle(edges: dict[str, set[str]]) -> list[str]:
    """Files of which each reaches the next one, and the last one the first."""
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_folder_is_more_than_a_page() -> None:
    sizes = Counter(path.parent.relative_to(ROOT) for path in FILES)
    assert {str(folder): size for folder, size in sizes.items() if size > MOST_FILES} == {}


def test_no_file_reaches_itself() -> None:
    assert circle(arrows()) == []


def test_no_module_of_ours_is_imported_by_its_name() -> None:
    """A string hides an arrow from the linter: what is above is called through a port of ``dynamo_tasks.wiring``."""
    hits = []
    for path in FILES:
        for node in ast.walk(parsed(path)):
            by_name = isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
                ("import_module", "__import__")
            )
            if by_name and any(re.search(r"['\"]dynamo_tasks", ast.unparse(value)) for value in node.args):
                hits.append(f"{dotted(path)}:{node.lineno}")
    assert hits == []


def test_no_two_classes_share_a_name() -> None:
    found = Counter(
        node.name
        for path in FILES
        for node in parsed(path).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert {name for name, count in found.items() if count > 1} <= SHARED


def test_nobody_draws_from_the_programs_random_numbers() -> None:
    """``random.uniform()`` and its like share a state that a program may have seeded."""
    hits = []
    for path in FILES:
        for node in ast.walk(parsed(path)):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name(id="random"), attr=name)) if name[
                    0
                ].islower():
                    hits.append(f"{dotted(path)}:{node.lineno}")
    assert hits == []


def test_docstrings_begin_with_a_noun_or_a_verb() -> None:
    vague = re.compile(r"(What|Whether|Who|Whoever|Where|How|That)\b")
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    hits = []
    for path in FILES:
        for node in ast.walk(parsed(path)):
            text = ast.get_docstring(node) if isinstance(node, kinds) else None
            if text and vague.match(text):
                hits.append(f"{dotted(path)}: {text.splitlines()[0]}")
    assert hits == []


def test_tests_go_through_public_ways() -> None:
    """What a user, another module, the logs, the metrics or Redis can see holds longer than what is inside."""
    hits = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(parsed(path)):
            match node:
                case ast.Attribute(value=ast.Name(id="self" | "cls")):
                    pass
                case ast.Attribute(attr=name) if re.match(r"_[a-z]", name) and name not in PUBLIC:
                    hits.append(f"{path.relative_to(ROOT)}:{node.lineno} {name}")
    assert len(hits) <= MOST_INSIDE, "\n".join(hits)


def spelt_by(node: ast.AST) -> set[str]:
    """Names of the fields of a class, the parameters of a function, the strings of a table."""
    match node:
        case ast.ClassDef(body=body):
            return {
                one.target.id
                for one in body
                if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)
            }
        case ast.FunctionDef(args=args) | ast.AsyncFunctionDef(args=args):
            return {one.arg for one in (*args.posonlyargs, *args.args, *args.kwonlyargs)}
        case ast.Dict(keys=items) | ast.Set(elts=items) | ast.List(elts=items) | ast.Tuple(elts=items):
            return {
                one.value for one in items if isinstance(one, ast.Constant) and isinstance(one.value, str)
            }
    return set()


def test_one_struct_spells_the_options_of_a_request() -> None:
    """All others hand it on. Names that Celery has as well are found in many places for its sake: they do not count."""
    options = set(RequestOptions.__struct_fields__) - {"priority", "expires", "ignore_result"}
    found = {
        f"{dotted(path)}.{getattr(node, 'name', 'a table')}"
        for path in FILES
        for node in ast.walk(parsed(path))
        if len(spelt_by(node) & options) >= MOST_OPTIONS
    }
    assert (
        found
        == {
            "dynamo_tasks.protocol.options.RequestOptions",
            "dynamo_tasks.protocol.http.openai.GenerationRequest",  # a body's JSON is flat, and its defaults are null
        }
    )


def test_abandon_after_is_spelt_in_few_files() -> None:
    """The struct, what the ledger makes of it, the bodies and bounds of HTTP, the calls of a request that runs."""
    files = {dotted(path) for path in FILES if "abandon_after" in path.read_text()}
    assert files == {
        "dynamo_tasks.frontend.settings",
        "dynamo_tasks.protocol.http.openai",
        "dynamo_tasks.protocol.options",
        "dynamo_tasks.runtime.components.remote_call",
        "dynamo_tasks.services.frontend",
        "dynamo_tasks.store.ledger.submission",
    }
