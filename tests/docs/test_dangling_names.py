"""What the repository's texts name is in it: documents, files, `make` targets, the places links lead to."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[2]
NOT_OURS = re.compile(r"\.git|\.venv|build|node_modules|__pycache__|\.\w+_cache|\.hypothesis|.*\.egg-info")
PICTURES = {".png", ".svg", ".gz", ".ico"}
ELSEWHERE = {
    "driftback_server/_assets": "only in the wheel",
    "deploy/config-rollback": "an object of Kubernetes, as kubectl names it",
    "grafana/grafana": "an image",
}
_FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


def _walk(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if NOT_OURS.fullmatch(path.name):
            continue
        yield path.relative_to(ROOT)
        if path.is_dir():
            yield from _walk(path)


PATHS = list(_walk(ROOT))
NAMES = {path.name for path in PATHS}
FOLDERS = [path.name for path in PATHS if len(path.parts) == 1 and (ROOT / path).is_dir()]
TEXTS = {
    path: (ROOT / path).read_text(encoding="utf-8")
    for path in PATHS
    if (ROOT / path).is_file() and path.suffix not in PICTURES
}
PAGES = [path for path in TEXTS if path.suffix == ".md"]
TARGETS = set(re.findall(r"^([\w-]+):", TEXTS[Path("Makefile")], re.MULTILINE))


@cache
def prose(path: Path) -> str:
    """The text of a file for readers: comments and docstrings of Python, everything of other files."""
    text = TEXTS[path]
    if path.suffix != ".py":
        return text
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    comments = [token.string for token in tokens if token.type == tokenize.COMMENT]
    lone = (node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Expr))
    docstrings = [
        value.value for value in lone if isinstance(value, ast.Constant) and isinstance(value.value, str)
    ]
    return "\n".join([*comments, *docstrings])


def _named(pattern: str, path: Path) -> list[str]:
    """What readers of the file find; most files are not parsed, because nowhere in them is such a name."""
    return re.findall(pattern, prose(path)) if re.search(pattern, TEXTS[path]) else []


def is_there(name: str, near: Path) -> bool:
    """Whether it is a path from the root, perhaps with `*`, or from the file that names it."""
    if any(name.startswith(known) for known in ELSEWHERE):
        return True
    return any(ROOT.glob(name.rstrip("/"))) or (ROOT / near.parent / name).exists()


def _documents(path: Path) -> list[str]:
    return [name for name in re.findall(r"[\w-]+\.md\b", TEXTS[path]) if name not in NAMES]


def _places(path: Path) -> list[str]:
    pattern = rf"(?<![\w/.:@$~<}}-])(?:{'|'.join(map(re.escape, FOLDERS))})/[\w./*-]*[\w*/]"
    return [name for name in _named(pattern, path) if not is_there(name, path)]


def _modules(path: Path) -> list[str]:
    return [name for name in _named(r"`(\w+\.py)`", path) if name not in NAMES]


def _targets(path: Path) -> list[str]:
    return [name for name in _named(r"`make ([\w-]+)`", path) if name not in TARGETS]


@pytest.mark.parametrize("dangling", [_documents, _places, _modules, _targets])
def test_what_a_text_names_is_there(dangling: Callable[[Path], list[str]]) -> None:
    found = {str(path): names for path in TEXTS if (names := dangling(path))}
    assert found == {}


def anchors(path: Path) -> set[str]:
    """What a link into a page may name: its headings, as GitHub spells them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.+?) *$", _FENCE.sub("", TEXTS[path]), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-")
        repeated = sum(
            slug == known or re.fullmatch(rf"{re.escape(slug)}-\d+", known) is not None for known in found
        )
        found.add(f"{slug}-{repeated}" if repeated else slug)
    return found


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_a_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    dangling = []
    for link in re.findall(r"\]\(([^)\s]+)\)", _FENCE.sub("", TEXTS[page])):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = unquote(link).partition("#")
        target = (ROOT / page.parent / name).resolve() if name else ROOT / page
        if not target.exists() or (anchor and anchor not in anchors(target.relative_to(ROOT))):
            dangling.append(link)
    assert dangling == []
