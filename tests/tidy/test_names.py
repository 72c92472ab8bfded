"""Names are a vocabulary: one word per thing, in code, configuration, metrics and prose.

Words that have a right use beside the wrong one (`row`, `item`, `message`, `status`, `size`, …) are for reviewers.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from mira_stream.telemetry.registry import REGISTRY
from tests.tidy.tree import modules, page_name, pages

SAY_INSTEAD = {
    "ack": "receive",
    "blob": "object",
    "bookmark": "watermark",
    "cap": "limit",
    "common": "the noun it is about",
    "cursor": "watermark",
    "endpoint": "replica, or the server's address",
    "epoch": "generation",
    "gating": "admission",
    "graceful": "drain",
    "helper": "what it does",
    "job": "request",
    "lease": "permit",
    "lineno": "ordinal",
    "manager": "what it does",
    "misc": "the noun it is about",
    "offset": "ordinal, or where it starts",
    "overloaded": "saturated",
    "quota": "budget",
    "semaphore": "permit, or places",
    "throttle": "admission",
    "ttl": "deadline",
    "util": "the noun it is about",
    "validate": "check",
    "validation": "check",
    "validator": "check",
    "worker": "replica",
}
EXEMPT = {
    ("daemon/build.py", "worker"): "threads of an executor are no replicas",
    ("sim/driver.py", "epoch"): "the start of the modelled clock",
    ("source/remote_store.py", "endpoint"): "the stores' own word",
    ("source/store_settings.py", "endpoint"): "the stores' own word, which their users know",
}
PROSE = r"\b(?:blobs?|bookmarks?|offsets?|quotas?|throttl\w+|overloaded|at[- ]least[- ]once|validat\w+)\b"


def _names(tree: ast.Module) -> Iterator[str]:
    """Every name that a module itself gives, not those it uses; fields of the configuration are among them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


def _banned(name: str) -> set[str]:
    """The banned words in a name, in the singular."""
    words = (word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name))
    return {
        word if word in SAY_INSTEAD else word[:-1]
        for word in words
        if word in SAY_INSTEAD or (word.endswith("s") and word[:-1] in SAY_INSTEAD)
    }


def test_code_speaks_the_glossary() -> None:
    """One word per thing: no name of ours holds a word that the glossary replaces."""
    found = {
        (module.name, word): name
        for module in modules()
        for name in (*_names(module.tree), module.name)
        for word in _banned(name)
    }
    wrong = {
        f"{where}: {name}": f"say {SAY_INSTEAD[word]}"
        for (where, word), name in found.items()
        if (where, word) not in EXEMPT
    }
    assert not wrong
    assert set(EXEMPT) <= set(found), "an exemption is no longer needed"


def test_metrics_speak_the_glossary() -> None:
    """Dashboards and alarms use the words of the code."""
    assert not {name: words for name in REGISTRY if (words := _banned(name))}


@pytest.mark.parametrize("page", pages(), ids=page_name)
def test_prose_speaks_the_glossary(page: Path) -> None:
    """A reader of the docs meets the words of the code."""
    prose = re.sub(r"```.*?```|`[^`]*`", "", page.read_text("utf-8"), flags=re.DOTALL)
    assert not re.findall(PROSE, prose, re.IGNORECASE)


def test_seconds_bytes_and_tokens_stand_last() -> None:
    """Units end a name, before `_max`, `_min`, `_limit`, `_total`: `drain_seconds`, `line_bytes_max`."""
    short = re.compile(r"(?:^|_)(?:secs?|ms|msecs?|millis\w*|kb|mb|gb|mib|gib|kib)(?:_|$)")
    wrong = [
        f"{module.name}: {name}"
        for module in modules()
        for name in _names(module.tree)
        if short.search(name.lower())
    ]
    assert not wrong
