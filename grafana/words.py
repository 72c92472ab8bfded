"""What limits, in words and colours; the same words as on the status page and in the runbook."""

from grafana.panels import AMBER, BLUE, GREEN, GREY, RED

FACTORS = {
    "kv": "KV cache full",
    "prefill": "prefill budget",
    "requests": "requests",
    "source_starved": "nothing to send",
    "sink_blocked": "sink blocked",
    "breaker": "no answer",
    "retry_budget": "retry budget",
    "draining": "draining",
}
COLOURS = {
    "kv": GREEN,
    "prefill": GREEN,
    "requests": GREEN,
    "source_starved": BLUE,
    "sink_blocked": RED,
    "breaker": RED,
    "retry_budget": AMBER,
    "draining": GREY,
}
NUMBERS = {factor: number for number, factor in enumerate(FACTORS, 1)}
"""A timeline shows numbers: each factor has its own."""

TEXTS = {str(number): (FACTORS[factor], COLOURS[factor]) for factor, number in NUMBERS.items()}
TEXTS["0"] = ("sending", GREEN)


def factor_query(metric: str, labels: str, by: str) -> str:
    """An expression: the number of the factor that holds for each of `by`, 0 where none does."""
    held = " or ".join(
        f'max by ({by}) ({metric}{{{labels}, factor="{factor}"}} == 1) * {number}'
        for factor, number in NUMBERS.items()
    )
    return f"{held} or max by ({by}) ({metric}{{{labels}}}) * 0"
