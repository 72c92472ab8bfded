"""The trial of the gates: sound settings pass, and a gate that is stuck is named."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mira_stream.control import selftest
from mira_stream.control.lane import Lane
from mira_stream.control.permits import Holdings
from mira_stream.control.selftest import self_test
from mira_stream.control.settings import AdmissionSettings


def test_the_defaults_pass() -> None:
    """Every gate closes and opens."""
    assert self_test(AdmissionSettings()) == []


@settings(deadline=None, max_examples=40)
@given(
    st.builds(
        AdmissionSettings,
        kv_tokens=st.none() | st.integers(1024, 10_000_000),
        batched_tokens_max=st.integers(1024, 1_000_000),
        requests_max=st.integers(1, 300),
        output_tokens=st.integers(1, 2048),
        prefill_tokens_per_second=st.floats(100, 1e6),
        breaker_failures=st.integers(1, 10),
        retry_budget_tokens=st.integers(1, 10_000_000),
        retry_budget_ratio=st.floats(0, 1),
    )
)
def test_whatever_the_configuration_allows_passes(chosen: AdmissionSettings) -> None:
    """The bounds of the settings leave no gate stuck."""
    assert self_test(chosen) == []


def test_a_gate_that_never_opens_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A budget that evidence never frees would stop a pool for ever."""
    monkeypatch.setattr(Holdings, "looked", lambda *_, **__: None)
    assert self_test(AdmissionSettings()) == ["the gate `prefill` does not open again: prefill stays shut"]


def test_a_gate_that_never_closes_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit that is not looked at guards nothing."""
    monkeypatch.setattr(Lane, "room_tokens", lambda *_: 1 << 50)
    monkeypatch.setattr(selftest, "_SENT_MAX", 400)
    assert self_test(AdmissionSettings(kv_tokens=100_000)) == [
        "the gate `kv` does not close: nothing does instead"
    ]
