"""What the model says: by slot and source, now and against the week before."""

from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana.panels import (
    AMBER,
    GREEN,
    HEIGHT,
    RED,
    Panels,
    Query,
    bars,
    colours,
    dashboard_of,
    figure,
    heat,
    lines,
)

_I = 'instance=~"$instance"'
_S = f'{_I}, group=~"$group", source=~"$source"'
_SLOT = f'{_S}, slot=~"$slot"'
_RULES = 'group=~"$group", source=~"$source", slot=~"$slot"'


def scores() -> Dashboard:
    """Distributions, recommendations, drift and malformed replies."""
    return dashboard_of(
        "mira-stream-scores",
        "mira-stream: scores",
        "Is what comes out still what it was? A change is of the data, of the model, or of the settings.",
        ("instance", "group", "source", "slot"),
        (
            ("At a glance", _glance()),
            ("Grades and recommendations", _grades()),
            ("Slots", _slots()),
            ("Replies", _replies()),
        ),
    )


def _share(recommendation: str) -> str:
    return (
        f'sum(increase(mira_stream_reply_recommendations_total{{{_S}, recommendation="{recommendation}"}}[1h]))'
        f" / sum(increase(mira_stream_reply_recommendations_total{{{_S}}}[1h]))"
    )


def _glance() -> Panels:
    return [
        figure(
            "Records scored in an hour",
            Query(f"sum(increase(mira_stream_reply_overall_points_count{{{_S}}}[1h]))"),
            "Complete replies.",
        ),
        figure(
            "Mean grade",
            Query(
                f"sum(increase(mira_stream_reply_overall_points_sum{{{_S}}}[1h])) / sum(increase(mira_stream_reply_overall_points_count{{{_S}}}[1h]))"
            ),
            "Overall, 0 to 100, over an hour.",
            unit="none",
        ),
        figure("Keep", Query(_share("keep")), "Share of the recommendations in an hour.", unit="percentunit"),
        figure(
            "Downsample",
            Query(f"({_share('downsample')}) or vector(0)"),
            "Share of the recommendations in an hour.",
            unit="percentunit",
        ),
        figure(
            "Drop",
            Query(f"({_share('drop')}) or vector(0)"),
            "Share of the recommendations in an hour.",
            unit="percentunit",
        ),
        figure(
            "Malformed replies",
            Query(f"max(mira_stream:pool_reasks:ratio15m{{{_I}}}) or vector(0)"),
            "Share of the answers in 15 minutes that lacked a field. Runbook: Many replies are malformed.",
            unit="percentunit",
            steps=((None, GREEN), (0.01, AMBER), (0.05, RED)),
        ),
    ]


def _grades() -> Panels:
    return [
        lines(
            "Recommendations",
            [
                Query(
                    f"sum by (recommendation) (rate(mira_stream_reply_recommendations_total{{{_S}}}[$__rate_interval])) / ignoring (recommendation) group_left sum(rate(mira_stream_reply_recommendations_total{{{_S}}}[$__rate_interval]))",
                    "{{recommendation}}",
                )
            ],
            "The mix over time.",
            unit="percentunit",
            stacked=True,
        ).max(1),
        lines(
            "Mean grade by source",
            [
                Query(
                    f"sum by (source) (rate(mira_stream_reply_overall_points_sum{{{_S}}}[$__rate_interval])) / sum by (source) (rate(mira_stream_reply_overall_points_count{{{_S}}}[$__rate_interval]))",
                    "{{source}}",
                )
            ],
            "Overall, 0 to 100.",
        ).max(100),
        heat(
            "Grades",
            Query(f"sum by (le) (rate(mira_stream_reply_overall_points_bucket{{{_S}}}[$__rate_interval]))"),
            "How they are spread, over time.",
        ),
    ]


def _slots() -> Panels:
    return [
        bars(
            "Mean by slot",
            Query(
                f"sort_desc(sum by (slot) (increase(mira_stream_reply_score_points_sum{{{_SLOT}}}[1h])) / sum by (slot) (increase(mira_stream_reply_score_points_count{{{_SLOT}}}[1h])))",
                "{{slot}}",
            ),
            "0 to 10, over an hour.",
        )
        .max(10)
        .height(2 * HEIGHT),
        bars(
            "Drift by slot",
            Query(
                f"sort_desc(avg by (slot) (mira_stream:reply_score:mean1h{{{_RULES}}} - mira_stream:reply_score:mean1w{{{_RULES}}}))",
                "{{slot}}",
            ),
            "Mean of the last hour less that of the week before it, in points. Runbook: Scores drift.",
        )
        .min(-3)
        .max(3)
        .height(2 * HEIGHT)
        .thresholds(colours(((None, RED), (-1.5, AMBER), (-0.5, GREEN), (0.5, AMBER), (1.5, RED)))),
        heat(
            "Scores of the slots that are chosen",
            Query(f"sum by (le) (rate(mira_stream_reply_score_points_bucket{{{_SLOT}}}[$__rate_interval]))"),
            "Choose one slot above to see it alone.",
        ),
        lines(
            "Mean by source",
            [
                Query(
                    f"sum by (source) (rate(mira_stream_reply_score_points_sum{{{_SLOT}}}[$__rate_interval])) / sum by (source) (rate(mira_stream_reply_score_points_count{{{_SLOT}}}[$__rate_interval]))",
                    "{{source}}",
                )
            ],
            "Of the slots that are chosen, 0 to 10.",
        ).max(10),
    ]


def _replies() -> Panels:
    return [
        lines(
            "Asked again",
            [
                Query(
                    f"sum(rate(mira_stream_pool_reasks_total{{{_I}}}[$__rate_interval])) / sum(rate(mira_stream_replica_answers_total{{{_I}}}[$__rate_interval]))",
                    "replies that lacked a field",
                )
            ],
            "Share of the answers.",
            unit="percentunit",
        ),
        lines(
            "Given up",
            [
                Query(
                    f'sum by (reason) (increase(mira_stream_records_ended_total{{{_I}, reason=~"malformed_reply|cut_reply|refused"}}[$__rate_interval]))',
                    "{{reason}}",
                )
            ],
            "Dead letters that a replica's reply is the reason of.",
            stacked=True,
        ),
        lines(
            "Tokens of a reply",
            [
                Query(
                    f"sum(rate(mira_stream_replica_completion_tokens_total{{{_I}}}[$__rate_interval])) / sum(rate(mira_stream_replica_answers_total{{{_I}}}[$__rate_interval]))",
                    "mean",
                )
            ],
            "Longer replies without better scores are money.",
        ),
    ]
