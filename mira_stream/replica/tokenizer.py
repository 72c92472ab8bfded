"""A model's own tokenizer, from its files: `gigatoken` where it agrees with `tokenizers` on a sample, else `tokenizers`.

Text is encoded with special tokens off: what spells one is text. Runs in a process of its own, see `counting.py`.
"""

import random
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from mira_stream.core.errors import Refusal

Encode = Callable[[bytes], Sequence[int]]
"""From UTF-8 to ids, as a list or as numpy's array."""

NEEDED = ("tokenizers", "gigatoken", "jinja2")
_INSTALL = "install them: pip install 'mira_stream[tokens]'"


class AddedToken(msgspec.Struct, frozen=True):
    """A token that tokenizer.json lists beside the vocabulary; `special` ones are no text."""

    id: int
    content: str
    special: bool = False


class _TokenizerJson(msgspec.Struct):
    added_tokens: list[AddedToken] = []


def tokenizer_file(path: str) -> Path:
    """The tokenizer.json at `path`, which may be its folder. Raises Refusal."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise Refusal(f"counting with a tokenizer needs {', '.join(missing)}", _INSTALL)
    found = Path(path) / "tokenizer.json" if Path(path).is_dir() else Path(path)
    if not found.is_file():
        hint = "give the folder of the model's tokenizer.json, or leave `tokenizer` out: counts are estimated then"
        raise Refusal(f"there is no tokenizer at {path}", hint)
    return found


def special_tokens(file: Path) -> dict[str, int]:
    """The special tokens of a tokenizer.json, and their ids. Raises Refusal."""
    try:
        added = msgspec.json.decode(file.read_bytes(), type=_TokenizerJson).added_tokens
    except (OSError, msgspec.DecodeError) as error:
        raise Refusal(f"cannot read the tokenizer {file}: {error}", "give a tokenizer.json") from error
    return {token.content: token.id for token in added if token.special}


class Tokenizer:
    """The tokenizer at `file`, by the library that is quick and right.

    Args:
        library: `gigatoken` or `tokenizers` to take that one unchecked; None finds out.

    A file that neither can read ends in the library's own exception.
    """

    def __init__(self, file: Path, *, library: str | None = None) -> None:
        self._file = file
        self._reference: Any = None
        self.remark = ""
        self.encode: Encode = self.encode_slowly
        self.library = library or self._best()
        if self.library == "gigatoken":
            self.encode = _gigatoken(file)

    def encode_slowly(self, text: bytes) -> Sequence[int]:
        """The ids of `text` as `tokenizers` finds them."""
        reference = self._loaded()
        reference.encode_special_tokens = True
        return _ids(reference, text)

    def encode_prompt(self, text: bytes) -> Sequence[int]:
        """The ids of a whole prompt as the server finds them: what spells a special token is one."""
        reference = self._loaded()
        reference.encode_special_tokens = False
        return _ids(reference, text)

    def _loaded(self) -> Any:
        if self._reference is None:
            from tokenizers import Tokenizer as Reference

            self._reference = Reference.from_file(str(self._file))
        return self._reference

    def _best(self) -> str:
        """Which library to count with; `remark` says why it is not gigatoken."""
        try:
            quick = _gigatoken(self._file)
        except (ValueError, TypeError, RuntimeError, OSError, NotImplementedError) as error:
            self.remark = f"gigatoken cannot read it: {error}"
            return "tokenizers"
        for text in map(str.encode, sample()):
            if list(quick(text)) != list(self.encode_slowly(text)):
                self.remark = f"gigatoken and tokenizers differ on {text[:40].decode(errors='replace')!r}"
                return "tokenizers"
        return "gigatoken"


def _gigatoken(file: Path) -> Encode:
    from gigatoken.gigatoken_rs import PadTruncate, load_hf_json

    whole = msgspec.json.decode(file.read_bytes())
    # Those that are no text are left out, so that what spells one is text.
    whole["added_tokens"] = [token for token in whole.get("added_tokens", ()) if not token.get("special")]
    backend = load_hf_json(msgspec.json.encode(whole))
    plain = PadTruncate(0)

    def encode(text: bytes) -> Sequence[int]:
        # Not `encode`, which has a cache of its own and holds the interpreter.
        ids, _ = backend.encode_batch_padded([text], plain, parallel=False)
        return ids[0]  # type: ignore[no-any-return]

    return encode


def _ids(reference: Any, text: bytes) -> Sequence[int]:
    # Of all its calls this one gives the interpreter to others meanwhile.
    return reference.encode_batch_fast([text.decode()], add_special_tokens=False)[0].ids  # type: ignore[no-any-return]


def sample() -> list[str]:
    """Texts of every kind that the two libraries have to agree on; about 60 KB, the same at every call."""
    chance = random.Random(20_26)  # noqa: S311 - noise, not a secret
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+/"
    noise = "".join(chance.choices(letters, k=3000))
    ideographs = "".join(map(chr, chance.choices(range(0x4E00, 0x9FA5), k=1500)))
    anything = "".join(
        chr(point) for point in (chance.randrange(0x20, 0x2FFFF) for _ in range(3000)) if _is_text(point)
    )
    spaces = "".join(chance.choices([" ", "  ", "\n", "\n\n", "\t", "\r\n", "\u3000", "\u00a0", "x"], k=2000))
    return [
        _ENGLISH * 6,
        _CODE * 6,
        "".join(_CODE.split()) * 4,
        _OTHERS * 4,
        noise,
        noise.encode().hex(),
        ideographs,
        anything,
        spaces,
        _SPECIAL * 4,
        "".join(f"{chance.randrange(10**9)} {chance.random()}\n" for _ in range(200)),
        *("", " ", "\n", "\n ", " \n x", "a", "é", "e\u0301", "\u200b", "\ufeffx", "x" * 4000, " " * 4000),
    ]


def _is_text(point: int) -> bool:
    return not 0xD800 <= point <= 0xDFFF


_ENGLISH = (
    "The build didn't fail because of the cache; it's the linker that couldn't find what we'd moved, they'll say. "
    "RÉSUMÉ, naïve, O'Brien's \u201cquoted\u201d text \u2014 it cost $1,234.56 (about 12%) on 2026-03-04 at 10:15:59.\n\n"
)
_CODE = """\
def total(rows: list[dict[str, float]], *, key: str = "cost") -> float:
\t'''Sum of `key`; 0.0 for none.'''
    return sum(row.get(key, 0.0) for row in rows if row[key] != -1e-9)  # no NaN

{"name":"x","args":{"path":"/tmp/a_b-c.json","flags":["--all","-n=3"],"ok":true,"none":null,"n":-0.5e10}}
for(;;){if(a&&!b||c<=d){x[i++]^=0xFF;}else{return(function(){})()}}   // done
$ grep -rn 'error\\|warning' src/ | awk -F: '{print $1":"$2}' >> out.log 2>&1;\r\n
"""
_OTHERS = (
    "\u7528\u6237\u8981\u6c42\u4fee\u590d\u8fd9\u4e2a\u9519\u8bef\u3002\u3053\u308c\u306f\u30c6\u30b9\u30c8\u3067\u3059\uff01"
    "\uc548\ub155\ud558\uc138\uc694 \u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440! \u0645\u0631\u062d\u0628\u0627 "
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35 \U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467"
    "\U0001f1e9\U0001f1ea \u0065\u0301\u0061\u0308\u1e69 \ufb01 \u00bd\u00b2 \u2211\u222b\u2260 \u2028\u2029\u0085 \x00\x07\x1b[31m\n"
)
_SPECIAL = (
    "<|im_start|>system\nyou<|im_end|>\n<|endoftext|><think>\nwell\n</think><tool_call>{}</tool_call></s><s>[INST]"
    "<bos><|vision_start|><|extra_0|><tts_pad> <|im_end|><|not_one|> <||> <|im_end |>\n"
)
