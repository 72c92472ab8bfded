"""Real traces, where they are at hand: every one renders, in its shape, with what matters in it."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import zstandard

from mira_stream.core.decode import decode
from mira_stream.core.trace import Rendered, Shape, render

CORPUS = Path(__file__).parents[4] / "shared" / "data" / "traces"
SHAPES = {
    "claude_cli": Shape.CLAUDE_CODE,
    "gemini_cli": Shape.GEMINI_CLI,
    "inspect_ai": Shape.INSPECT,
    "pi_cli": Shape.PI,
    "reason_tool_use": Shape.CONTENT_BLOCKS,
    "sharegpt_toolcall": Shape.SHAREGPT,
    "swe_agent": Shape.SWE_AGENT,
    "taubench": Shape.OPENAI_MESSAGES,
    "toolbench": Shape.TOOLBENCH,
}
# The least share of a record's characters that its text holds, in the middle of its source. What is missing was
# checked by eye: events, signatures, the same content told again, and the measurements of a benchmark.
SHARES = {
    "claude_cli": 0.2,
    "gemini_cli": 0.4,
    "inspect_ai": 0.03,
    "nemo_gym_long_zh": 0.2,
    "nemo_gym_openclaw": 0.2,
    "nemo_gym_pi": 0.15,
    "nemo_gym_tau2": 0.3,
    "nemo_gym_terminal": 0.25,
    "nemo_gym_claude_code": 0.4,
    "nemo_gym_opencode": 0.4,
    "swe_agent": 0.45,
}

pytestmark = pytest.mark.skipif(
    not CORPUS.is_dir(), reason=f"REAL TRACES ARE ABSENT ({CORPUS}): nothing real was rendered"
)


def lines(source: str) -> Iterator[bytes]:
    """The lines of all objects of one source."""
    for path in sorted((CORPUS / source).glob("*.jsonl.zst")):
        yield from zstandard.ZstdDecompressor().decompressobj().decompress(path.read_bytes()).splitlines()


@cache
def texts(source: str) -> list[tuple[int, Rendered]]:
    """For each record of a source: the characters of its line, and its rendering."""
    found = []
    for line in lines(source):
        record = decode(line, first=False)
        assert isinstance(record, dict)
        result = render(record)
        assert isinstance(result, Rendered), source
        found.append((len(line.decode()), result))
    return found


def sources() -> list[str]:
    """The folders of the corpus; one stand-in where it is absent, so that the skip is seen."""
    if not CORPUS.is_dir():
        return ["absent"]
    return sorted(path.name for path in CORPUS.iterdir() if any(path.glob("*.jsonl.zst")))


@pytest.mark.parametrize("source", sources())
def test_every_real_trace_is_of_its_known_shape(source: str) -> None:
    """None falls back to JSON."""
    told = texts(source)
    assert told
    assert {result.shape for _, result in told} == {SHAPES.get(source, Shape.RESPONSES)}


@pytest.mark.parametrize("source", sources())
def test_a_real_trace_keeps_most_of_what_was_said(source: str) -> None:
    """The text is not shorter than a reasonable share of the record, and never longer than the record."""
    shares = sorted(len(result.text) / size for size, result in texts(source))
    assert shares[len(shares) // 2] >= SHARES.get(source, 0.5)
    assert shares[-1] <= 1


@pytest.mark.parametrize("source", sources())
def test_turns_of_a_real_trace_begin_at_headers(source: str) -> None:
    """In order, the first at the start, each at a header; and there is more than one."""
    for _, result in texts(source):
        assert result.turns[0] == 0
        assert list(result.turns) == sorted(set(result.turns))
        assert all(result.text.startswith("=== ", turn) for turn in result.turns)
        assert len(result.turns) > 1


@pytest.mark.parametrize("source", ["claude_cli", "nemo_gym_tau2", "pi_cli", "taubench"])
def test_results_of_a_real_trace_name_their_calls(source: str) -> None:
    """Numbers of results are numbers of calls that stand before them."""
    for _, result in texts(source):
        called: set[str] = set()
        for part in result.text.split("\n"):
            if part.startswith("[tool call #"):
                called.add(part.removeprefix("[tool call ").split(" ")[0].rstrip("]"))
            elif part.startswith("=== tool result #"):
                assert part.removeprefix("=== tool result ").split(" ")[0] in called
