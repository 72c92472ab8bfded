"""Where a secret is named: what is no name is refused, and never repeated."""

import pytest

from mira_stream.core.errors import Refusal
from mira_stream.daemon.secrets import read_secret


@pytest.mark.parametrize(
    "name",
    [
        "sk-proj-9f8e7d6c5b4a",
        "hf_0123456789abcdef",
        "a b",
        "../key",
        "/etc/key",
        "",
        "x" * 65,
        "k=y",
        "schlüssel",
    ],
)
def test_what_is_no_name_is_not_repeated(name: str) -> None:
    """It may be the secret itself, or lead to another file."""
    with pytest.raises(Refusal, match=r"\[http\] token_env does not hold the name of a secret") as refused:
        read_secret(name, "[http] token_env")
    assert not name or name not in str(refused.value) + refused.value.hint


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\0b", "a\tb", "kéy"])
def test_a_secret_that_is_no_header_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a request would carry it."""
    monkeypatch.setattr("os.environ", {"THE_KEY": value})
    with pytest.raises(Refusal, match="the secret THE_KEY holds a line break") as refused:
        read_secret("THE_KEY")
    assert value not in str(refused.value)
