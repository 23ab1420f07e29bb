"""What the dashboard shows: rows of panels, and the PromQL of each.

Derived values come from the recording rules in deploy/prometheus/rules.yml; docs/monitoring.md
explains the rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

HERE = '{run=~"$run"}'


@dataclass(frozen=True)
class Panel:
    """A chart over time, or its last value as a number: ``queries`` maps a legend to PromQL,
    ``unit`` is Grafana's name of one. A wide panel takes half of the page."""

    title: str
    unit: str
    about: str
    queries: dict[str, str]
    kind: Literal["curves", "stack", "number"] = "curves"
    wide: bool = False


def shares(role: str) -> dict[str, str]:
    """What a role's processes do, as shares that add up to 1: busy by phase, waiting by reason,
    and the rest. Where a process does things side by side, each counts in proportion."""
    here = f'{{run=~"$run", role="{role}"}}'
    counted = f"run_role:rho_counted:share1m{here}"
    whole = f"on (run, role) group_left clamp_min({counted}, 1) > 0"
    return {
        "{{run}} {{phase}}": f"run_role_phase:rho_busy:share1m{here} / {whole}",
        "{{run}} waiting for {{reason}}": f"run_role_reason:rho_wait:share1m{here} / {whole}",
        "{{run}} other": f"clamp_min(1 - {counted}, 0)",
    }


ROWS = {
    "At a glance": [
        Panel("Steps", "short", "Completed.", {"{{run}}": f"rho_last_step{HERE}"}, "number"),
        Panel(
            "Test accuracy",
            "percentunit",
            "At the last evaluation.",
            {"{{run}}": f"rho_test_accuracy{HERE}"},
            "number",
        ),
        Panel(
            "Steps per second",
            "short",
            "Optimizer steps.",
            {"{{run}}": f"run:rho_steps:rate1m{HERE}"},
            "number",
        ),
        Panel(
            "Candidates per second",
            "short",
            "Scored by all processes.",
            {"{{run}}": f"run:rho_scored_points:rate1m{HERE}"},
            "number",
        ),
        Panel(
            "Trainer waits",
            "percentunit",
            "Its share of time without scores: more scorers make it less (rhoctl plan).",
            {"{{run}}": f"run:rho_trainer_wait:share1m{HERE}"},
            "number",
        ),
        Panel(
            "Since the last step",
            "s",
            "A run that stands still, or one that takes long steps.",
            {"{{run}}": f"run:rho_last_step:age_seconds{HERE}"},
            "number",
        ),
    ],
    "Learning": [
        Panel(
            "Test accuracy",
            "percentunit",
            "At the last evaluation.",
            {"{{run}}": f"rho_test_accuracy{HERE}"},
        ),
        Panel(
            "Loss of the batch",
            "short",
            "In nats. Selected points are the hard ones: not comparable between methods.",
            {"{{run}}": f"rho_train_loss{HERE}"},
        ),
        Panel(
            "Age of the weights behind a selection",
            "short",
            "In steps, when the point is trained on, beside the bound that the configuration sets.",
            {
                "{{run}} mean": f"run:rho_selected_staleness_steps:mean5m{HERE}",
                "{{run}} p99": f"run:rho_selected_staleness_steps:p99_5m{HERE}",
                "{{run}} bound": f"rho_staleness_bound_steps{HERE}",
            },
        ),
    ],
    "Where the time goes": [
        Panel(
            "Trainer",
            "percentunit",
            "Its time by phase, in all 100%. Scoring here is done instead of waiting.",
            shares("trainer"),
            "stack",
            wide=True,
        ),
        Panel(
            "Scorers",
            "percentunit",
            "The mean scorer's time, in all 100%. Reading and pushing run beside forwards and count"
            " in proportion.",
            shares("scorer"),
            "stack",
            wide=True,
        ),
    ],
    "Health": [
        Panel(
            "Scorers by state",
            "short",
            "What rhoctl sees of its scorers. Silent: does not answer, or is being started again.",
            {
                "{{run}} {{rho_worker_state}}": (
                    f"sum by (run, rho_worker_state) (rho_worker_state{HERE}) > 0"
                ),
            },
            "stack",
        ),
        Panel(
            "Restarts of scorers",
            "short",
            "Since the run began.",
            {"{{run}}": f"sum by (run) (rho_worker_restarts_total{HERE})"},
        ),
        Panel(
            "Processes that answer",
            "short",
            "Endpoints that Prometheus reaches, by role.",
            {"{{run}} {{role}}": 'sum by (run, role) (up{job="rhoselect", run=~"$run"})'},
            "stack",
        ),
        Panel(
            "Since the last",
            "s",
            "Age of the last step, and of the checkpoint that a crash now would go back to.",
            {
                "{{run}} step": f"run:rho_last_step:age_seconds{HERE}",
                "{{run}} checkpoint": f"run:rho_last_checkpoint:age_seconds{HERE}",
            },
        ),
        Panel(
            "Scores rejected",
            "percentunit",
            "Share of scores that were NaN or infinite. Ought to be nothing.",
            {"{{run}}": f"run:rho_rejected_points:share5m{HERE}"},
        ),
        Panel(
            "Memory of the queue server",
            "bytes",
            "Used, and its limit (0: none), at which it refuses scores.",
            {
                "{{run}} used": f"rho_queue_server_bytes{HERE}",
                "{{run}} limit": f"rho_queue_server_limit_bytes{HERE}",
            },
        ),
    ],
    "Selection throughput": [
        Panel(
            "Candidates scored per second",
            "short",
            "By worker; the trainer scores, too, while it would wait.",
            {"{{run}} {{worker}}": f"run_worker:rho_scored_points:rate1m{HERE}"},
            "stack",
            wide=True,
        ),
        Panel(
            "Steps per second",
            "short",
            "Optimizer steps.",
            {"{{run}}": f"run:rho_steps:rate1m{HERE}"},
            wide=True,
        ),
        Panel(
            "Seconds a step",
            "s",
            "Waits included; median and 99th percentile over five minutes.",
            {
                "{{run}} median": f"run:rho_step_seconds:p50_5m{HERE}",
                "{{run}} p99": f"run:rho_step_seconds:p99_5m{HERE}",
            },
        ),
        Panel(
            "Trainer waiting for scores",
            "percentunit",
            "More scorers make this less; rhoctl plan says how many pay.",
            {"{{run}}": f"run:rho_trainer_wait:share1m{HERE}"},
        ),
        Panel(
            "Trained on per candidate",
            "percentunit",
            "The realised n_b / n_B.",
            {"{{run}}": f"rho_selection_ratio{HERE}"},
        ),
    ],
    "Queue and snapshots": [
        Panel(
            "Points held",
            "short",
            "Scored points of open windows.",
            {"{{run}}": f"rho_queue_points{HERE}"},
        ),
        Panel(
            "Tickets",
            "short",
            "Those that wait for a scorer, and those that are with one.",
            {"{{run}} {{state}}": f"rho_queue_tickets{HERE}"},
        ),
        Panel(
            "Chunks per second",
            "short",
            "Claims, pushes by outcome, and leases that ran out.",
            {
                "{{run}} pushes {{outcome}}": f"run_outcome:rho_pushes:rate1m{HERE}",
                "{{run}} claims": f"sum by (run) (rate(rho_claims_total{HERE}[1m]))",
                "{{run}} expired leases": (
                    f"sum by (run) (rate(rho_expired_leases_total{HERE}[1m]))"
                ),
            },
        ),
        Panel(
            "Oldest version",
            "short",
            "How many steps behind the trainer the oldest weights are that the queue still needs.",
            {"{{run}}": f"run:rho_queue_oldest_version:age_steps{HERE}"},
        ),
        Panel(
            "Seconds a snapshot",
            "s",
            "Publish: casting and writing. Fetch: waiting for bytes. Swap: copying into a replica.",
            {
                f"{{{{run}}}} {part}": f"run:rho_snapshot_{part}_seconds:mean1m{HERE}"
                for part in ("publish", "fetch", "swap")
            },
        ),
        Panel(
            "Snapshot bytes per second",
            "Bps",
            "Published once, fetched by every scorer.",
            {
                f"{{{{run}}}} {part}": f"run:rho_snapshot_{part}_bytes:rate1m{HERE}"
                for part in ("publish", "fetch")
            },
        ),
    ],
}

AUDITS = [
    Panel(
        "Stale against fresh scores",
        "percentunit",
        "By lag: Spearman's rank correlation, and share of the fresh top n_b found.",
        {
            "{{run}} rank agreement, lag {{lag}}": f"rho_audit_rank_agreement_ratio{HERE}",
            "{{run}} overlap, lag {{lag}}": f"rho_audit_topk_overlap_ratio{HERE}",
        },
        wide=True,
    ),
    Panel(
        "Gain kept by a stale choice",
        "percentunit",
        "1: as good as a fresh one; 0: no better than a uniform batch.",
        {"{{run}} lag {{lag}}": f"rho_audit_captured_ratio{HERE}"},
        wide=True,
    ),
]
"""Of runs with selection.audit_every; in a closed row, as other runs have no such data."""
