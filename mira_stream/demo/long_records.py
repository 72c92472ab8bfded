"""The demo's sessions at the length that real ones have: a local file of records for a bench without a corpus."""

from pathlib import Path
from random import Random

import msgspec

from mira_stream.demo.lake import Story, load_stories, openai_session

_CHARS_MEAN, _CHARS_SPREAD = 11.0, 0.85
"""Of a log-normal distribution, natural logarithms: in the middle 60,000 characters. With their prompts cut to the
context, about 30,000 tokens on average, as real sessions of agents have."""
_CHARS_MAX = 600_000


def write_long_records(path: Path, records: int, random: Random) -> None:
    """Write so many sessions, each a chain of the demo's until it is as long as it was drawn to be."""
    stories = load_stories()
    with path.open("wb") as file:
        for number in range(records):
            chars = min(_CHARS_MAX, round(random.lognormvariate(_CHARS_MEAN, _CHARS_SPREAD)))
            file.write(
                msgspec.json.encode(openai_session(_long_story(stories, chars, random), number)) + b"\n"
            )


def _long_story(stories: tuple[Story, ...], chars: int, random: Random) -> Story:
    steps, length, first = [], 0, random.choice(stories)
    while length < chars:
        for step in random.choice(stories).step:
            steps.append(step)
            length += len(step.thought) + len(step.result) + len(repr(step.arguments))
    return msgspec.structs.replace(first, step=tuple(steps))
