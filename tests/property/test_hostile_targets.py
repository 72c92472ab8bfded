"""The promises that are fuzzed, kept in every run of the tests: on the seeds, on seeds that were damaged, on findings."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mira_stream.source import codec
from tests.fuzz.seeds import seeds
from tests.fuzz.targets import KEY, TARGETS

FINDINGS: dict[str, tuple[bytes, ...]] = {
    "configurations": (b"a = " + b"[" * 5000, b"a = " + b"7" * 5000),
    "error_bodies": (
        b"\x32" + b" " * 1590 + KEY.encode(),
        b'\x32{"detail":"\\u001b]8;;http://x\\u0007\\u009b2J"}',
    ),
    "names": (b"\0" + b"a/" * 20_000 + b"\nk",),
    "trailers": (b'{"x":' + b"[" * 5000, b"source=a/shard=00/" + b"7" * 5000 + b".jsonl.zst"),
}


@pytest.fixture(autouse=True, scope="module")
def _bombs_are_small() -> None:
    """Found at a few megabytes just as well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codec, "RATIO_FLOOR_BYTES", 4 << 20)
        yield


@pytest.mark.parametrize("name", TARGETS)
def test_what_was_found_stays_mended(name: str) -> None:
    """Each input that broke a promise once, and each seed."""
    for data in (*FINDINGS.get(name, ()), *seeds(name)):
        TARGETS[name](data)


@pytest.mark.parametrize("name", TARGETS)
def test_any_bytes_keep_the_promise(name: str) -> None:
    """Bytes of no form, and of the right form with a few places changed, cut out or doubled."""
    bases = seeds(name)

    @settings(max_examples=60, deadline=None)
    @given(st.binary(max_size=300) | st.builds(damaged, st.sampled_from(bases), st.integers(0, 1 << 32)))
    def keeps(data: bytes) -> None:
        TARGETS[name](data)

    keeps()


def damaged(data: bytes, seed: int) -> bytes:
    """`data` with up to four changes that `seed` chooses."""
    dice = random.Random(seed)
    copy = bytearray(data)
    for _ in range(dice.randrange(1, 5)):
        at = dice.randrange(len(copy) + 1)
        length = dice.choice((1, 1, 2, 8, 64))
        piece = copy[at : at + length]
        copy[at : at + length] = dice.choice((
            b"", piece * 2, piece * 40, bytes([dice.randrange(256)]), dice.randbytes(length), b'"', b"\0", b"\xed\xa0\x80",
        ))  # fmt: skip
    return bytes(copy)
