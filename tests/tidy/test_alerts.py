"""Alerts lead a person to the page that helps: each has a section of the runbook, a test, and words of its own."""

import re

import yaml

from tests.tidy.tree import ROOT

PROMETHEUS = ROOT / "ops" / "prometheus"
SECTIONS_WITHOUT_ALERT = {
    "Nothing is being sent": "what a person asks; the alerts name its causes",
    "The ledger cannot be opened": "the daemon does not start, so it says nothing to Prometheus",
    "The sink has lost a segment": "the same",
}


def _alerts() -> dict[str, dict[str, object]]:
    groups = yaml.safe_load((PROMETHEUS / "alerts.rules.yml").read_text("utf-8"))["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def _alarm_sections() -> list[str]:
    alarms = (ROOT / "ops" / "runbook.md").read_text("utf-8").split("\n## Alarms\n")[1]
    return re.findall(r"^### (.+)$", alarms, flags=re.MULTILINE)


def _anchor(title: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


def test_each_alert_leads_to_a_section_of_the_runbook_and_each_section_has_one() -> None:
    """A link to nowhere, at night, is worse than none."""
    linked = set()
    for name, rule in _alerts().items():
        annotations = rule["annotations"]
        assert isinstance(annotations, dict)
        assert {"summary", "description", "runbook"} == set(annotations), name
        linked.add(annotations["runbook"])
    sections = {f"ops/runbook.md#{_anchor(title)}": title for title in _alarm_sections()}
    assert linked <= set(sections)
    assert {sections[link] for link in set(sections) - linked} == set(SECTIONS_WITHOUT_ALERT)


def test_each_alert_is_shown_to_fire_and_each_case_has_one_that_is_well() -> None:
    """`make test-system` has promtool run the cases; here it is seen that none is missing."""
    cases = yaml.safe_load((PROMETHEUS / "alerts.test.yml").read_text("utf-8"))["tests"]
    fired = re.findall(r'alertname="(\w+)"', (PROMETHEUS / "alerts.test.yml").read_text("utf-8"))
    assert set(fired) == set(_alerts())
    well = [case for case in cases if not case["promql_expr_test"][0]["exp_samples"]]
    assert len(well) >= len(_alerts())


def test_severities_are_of_two_kinds() -> None:
    """One wakes somebody, the other waits for the morning."""
    labels = [rule["labels"] for rule in _alerts().values()]
    assert {"page", "ticket"} == {label["severity"] for label in labels if isinstance(label, dict)}
