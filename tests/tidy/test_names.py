"""Names are a vocabulary: one word per thing, in code, configuration, metrics and prose.

Words that have a right use beside the wrong one (`row`, `item`, `message`, `status`, `size`, …) are for reviewers.
"""

import ast
import re
from collections.abc import Iterator

import pytest

from mira_stream.telemetry.registry import REGISTRY
from tests.tidy.tree import functions, modules, page_name, pages

SAY_INSTEAD = {
    "ack": "receive",
    "blob": "object",
    "bookmark": "watermark",
    "busy": "saturated",
    "cap": "limit",
    "common": "the noun it is about",
    "cursor": "watermark",
    "endpoint": "replica",
    "epoch": "generation",
    "fewshot": "anchor",
    "gating": "admission",
    "graceful": "drain",
    "gracefully": "drain",
    "handler": "the verb it does",
    "helper": "the noun it is",
    "job": "request",
    "lease": "permit",
    "lineno": "ordinal",
    "manager": "the noun it is",
    "misc": "the noun it is about",
    "offset": "ordinal, byte_start",
    "overloaded": "saturated",
    "quota": "budget",
    "semaphore": "permit",
    "throttle": "admission",
    "ttl": "deadline",
    "util": "the noun it is about",
    "utils": "the noun it is about",
    "validate": "check",
    "validation": "check",
    "validator": "check",
    "worker": "replica",
}

EXEMPT = {
    "control/admission.py": {"lease": "…"},
}

FOREIGN = {
    ("daemon/lake.py", "handler"),
}


def _names(tree: ast.Module) -> Iterator[str]:
    """Every name that a module itself gives: not those it uses."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


def _words(name: str) -> set[str]:
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}
