"""Closed sets in the ledger are those of the enums: in the constraints, and in every statement."""

import ast
import re
import sqlite3
from contextlib import closing
from enum import StrEnum
from pathlib import Path

import pytest

from speakeasyd.domain.job import TERMINAL, AttemptOutcome, Status
from speakeasyd.domain.notifications import DeliveryStatus
from speakeasyd.ledger.tables import IN_JOB_STATUS, jobs
from speakeasyd.ledger.views import VIEWS
from tests.conftest import REPOSITORY
from tests.ledgers import create_ledger

_COMPARED = re.compile(r"\b(status|outcome)\s*(?:=|!=|<>|(?:NOT\s+)?IN\s*\()\s*((?:'\w+'[,\s]*)+)")


@pytest.mark.parametrize(
    ("table", "column", "allowed"),
    [
        ("jobs", "status", Status),
        ("attempts", "outcome", AttemptOutcome),
        ("deliveries", "status", DeliveryStatus),
    ],
)
def test_a_constraint_of_the_newest_ledger_has_the_values_of_its_enum(
    tmp_path: Path, table: str, column: str, allowed: type[StrEnum]
) -> None:
    create_ledger(tmp_path / "ledger.db")
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as connection:
        [[definition]] = connection.execute(
            "SELECT sql FROM sqlite_master WHERE name = ?", (table,)
        )
    legal = re.search(rf"{column}_is_legal\W+CHECK\s*\(\s*{column} IN \(([^)]*)\)", definition)
    assert legal
    assert re.findall(r"'(\w+)'", legal[1]) == list(allowed)
    if finished := re.search(r"\(finished_at IS NOT NULL\) = \(status IN \(([^)]*)\)", definition):
        assert set(re.findall(r"'(\w+)'", finished[1])) == TERMINAL


def test_statements_compare_with_members_of_the_enums_only() -> None:
    known = {*Status, *AttemptOutcome, *DeliveryStatus}
    compared = {
        (file.name, value)
        for file in sorted((REPOSITORY / "speakeasyd" / "ledger").glob("*.py"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        for _, values in _COMPARED.findall(node.value)
        for value in re.findall(r"'(\w+)'", values)
    }
    assert len(compared) > 10
    assert not [(name, value) for name, value in compared if value not in known]


def test_a_marked_column_is_the_end_of_the_view_of_jobs() -> None:
    [*_, last] = (column.name for column in jobs.c if column.info == IN_JOB_STATUS)
    assert " ".join(VIEWS["job_status"].split()).endswith(f"{last} FROM jobs")
