"""Incidents: stable values for actions, and the summary apart from the original message.

Revises: 0006
"""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

ACTIONS_BY_TEXT = {
    "the worker reloads the model with smaller settings and continues where it was": "reload_model",
    "the worker loads the model again with smaller settings, and goes on where it was": (
        "reload_model"
    ),
    "a new worker is started": "start_worker",
    "a fresh worker takes over": "start_worker",
    "a new worker tries the device again": "try_device",
    "a fresh worker tries the device again": "try_device",
    "the device gets no work until a probe succeeds": "probe_device",
    "the device gets no work until a probe of it comes through": "probe_device",
    "the CPU is used until a probe of the device succeeds": "use_cpu",
    "the CPU takes over until a probe of the device comes through": "use_cpu",
    "the device gets no more work": "give_up_device",
    "no workers are started until the daemon is restarted": "wait_for_restart",
    "no more workers are started until the daemon is started again": "wait_for_restart",
    "none: the daemon is stopping": "stop",
    "none: the daemon is leaving": "stop",
    "the job has failed": "fail_job",
    "the job continues from its committed chunks": "release_job",
    "the job begins again where it was": "release_job",
}
"""Earlier versions stored the wording."""

_CASES = " ".join(f"WHEN '{text}' THEN '{action}'" for text, action in ACTIONS_BY_TEXT.items())


def upgrade() -> None:
    for statement in (
        "ALTER TABLE incident_records ADD COLUMN summary TEXT DEFAULT '' NOT NULL",
        "UPDATE incident_records SET summary = error, error = '' WHERE instr(error, ': ') = 0",
        """
        UPDATE incident_records
        SET summary = substr(error, 1, instr(error, ': ') - 1),
            error = substr(error, instr(error, ': ') + 2)
        WHERE summary = '' AND error != ''
        """,
        f"UPDATE incident_records SET action = CASE action {_CASES} ELSE 'other' END",  # noqa: S608 - constants
        f"""
        UPDATE events SET data = json_set(
            data, '$.action_kind', CASE data ->> '$.action' {_CASES} ELSE 'other' END
        ) WHERE kind = 'incident.opened'
        """,  # noqa: S608 - constants
    ):
        op.execute(statement)
