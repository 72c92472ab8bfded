"""The estimator: how near it is to Qwen's own counts, what it learns, and that it is bounded."""

import base64
import random
import time

import pytest

from mira_stream.core.tokens import Estimator, raw_tokens

PROSE = (
    "The build failed because the linker could not find the library. I looked at the log, saw that the path was "
    "wrong in two places, and changed both; after that the tests passed on the second run.\n"
)
CODE = (
    "def read_lines(path: str, *, limit: int = 100) -> list[str]:\n    with open(path) as handle:\n"
    "        return [line.rstrip() for line in handle][:limit]\n\n\n"
)
CHINESE = "请先检查配置文件是否存在，然后重新运行测试，并把结果写入日志。\n"
JSON_LINE = '{"id": 4711, "name": "alpha", "ok": true, "tags": ["a", "b"], "value": 0.25}\n'


def noise(kind: str) -> str:
    """32,000 or more characters of base64 or hex, always the same."""
    data = random.Random(7).randbytes(24_000)
    return base64.b64encode(data).decode() if kind == "base64" else data.hex()


@pytest.mark.parametrize(
    ("text", "counted"),
    [
        (PROSE * 100, 4_300),
        (CODE * 100, 4_500),
        (CHINESE * 100, 1_600),
        (JSON_LINE * 100, 3_900),
        (noise("base64"), 23_481),
        (noise("hex"), 42_325),
    ],
    ids=["prose", "code", "chinese", "json", "base64", "hex"],
)
def test_estimates_are_near_the_real_vocabulary(text: str, counted: int) -> None:
    """Within 15 % of the counts that Qwen3.5's tokenizer gives, also where a token is little more than a byte."""
    assert abs(raw_tokens(text) / counted - 1) < 0.15


def test_nothing_counts_nothing() -> None:
    """The empty text has no tokens, any other has at least one."""
    assert raw_tokens("") == raw_tokens(b"") == 0
    assert raw_tokens("a") >= 1


def test_bytes_and_text_count_the_same() -> None:
    """A text and its UTF-8 are one thing; a lone surrogate is no error."""
    assert raw_tokens(CHINESE) == raw_tokens(CHINESE.encode())
    assert raw_tokens("\ud800") >= 1


def test_a_source_is_corrected_by_its_own_usage() -> None:
    """After some replies the estimate is near what the replica counted, and its bounds are narrow."""
    estimator = Estimator()
    before = estimator.scaled(20_000, "dense")
    for _ in range(30):
        estimator.observe("dense", 20_000, 26_000)
    after = estimator.scaled(20_000, "dense")
    assert abs(after.tokens - 26_000) < 400
    assert after.low <= 26_000 <= after.high
    assert after.high - after.low < before.high - before.low


def test_sources_are_learned_apart() -> None:
    """What one source teaches moves another that has its own history only a little."""
    estimator = Estimator()
    for _ in range(50):
        estimator.observe("a", 20_000, 30_000)
        estimator.observe("b", 20_000, 16_000)
    assert estimator.scaled(10_000, "a").tokens > 14_500
    assert estimator.scaled(10_000, "b").tokens < 8_500


def test_an_unknown_source_is_taken_to_be_like_the_others() -> None:
    """A new source starts from what all sources have taught, with bounds as wide as their differences."""
    estimator = Estimator()
    for _ in range(50):
        estimator.observe("a", 20_000, 24_000)
        estimator.observe("b", 20_000, 20_000)
    new = estimator.scaled(20_000, "new")
    assert 20_500 < new.tokens < 23_500
    assert new.low < 20_000
    assert new.high > 24_000


def test_a_mixed_source_keeps_wide_bounds() -> None:
    """Records that differ keep the zone in which they are counted exactly."""
    estimator = Estimator()
    for ratio in (0.8, 1.2) * 50:
        estimator.observe("mixed", 20_000, int(20_000 * ratio))
    estimate = estimator.scaled(20_000, "mixed")
    assert estimate.low < 16_500
    assert estimate.high > 23_500


def test_one_absurd_count_does_not_spoil_a_source() -> None:
    """A wrong `usage` is limited in what it can move, and is forgotten."""
    estimator = Estimator()
    for _ in range(200):
        estimator.observe("s", 20_000, 20_000)
    estimator.observe("s", 20_000, 10**12)
    assert estimator.scaled(20_000, "s").tokens < 22_000
    estimator.observe("s", 0, 5)
    estimator.observe("s", 5, 0)
    for _ in range(400):
        estimator.observe("s", 20_000, 20_000)
    assert abs(estimator.scaled(20_000, "s").tokens - 20_000) < 100


def test_the_number_of_sources_is_bounded() -> None:
    """Of more than 1,024 sources the ones heard of longest ago are forgotten; those in use stay."""
    estimator = Estimator()
    for number in range(3000):
        estimator.observe("kept", 20_000, 30_000)
        estimator.observe(f"source-{number}", 20_000, 20_000)
    assert estimator.scaled(10_000, "kept").tokens > 14_500
    assert len(estimator._sources) == 1024  # the bound itself is the promise


def test_overhead_is_part_of_the_estimate() -> None:
    """What comes with every record is counted, and can be told from the record."""
    estimator = Estimator()
    estimate = estimator.estimate(PROSE, "s", overhead=1000)
    assert estimate.raw == raw_tokens(PROSE) + 1000
    assert estimate.overhead == 1000


def test_counting_is_quick() -> None:
    """A megabyte takes well under 25 ms of CPU, so a 300 KB record cannot stall a loop (about 4 ms on one core)."""
    data = (CODE + PROSE + JSON_LINE).encode() * 3000
    began = time.thread_time()
    raw_tokens(data)
    assert (time.thread_time() - began) / (len(data) / 1e6) < 0.025
