"""Wording, signature and command-line fields of notifications."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speakeasyd.config import NotifySettings
from speakeasyd.domain.notifications import (
    Delivery,
    NotificationKind,
    check_command,
    compute_next_try,
    fill_command,
    word_message,
)
from speakeasyd.notify.webhook import sign_message

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_the_signature_follows_the_standard() -> None:
    """The example is from the libraries of Standard Webhooks."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # noqa: S105 - a published example
    payload = b'{"test": 2432232314}'
    signed = sign_message(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", payload)
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_any_word_can_be_a_secret() -> None:
    assert sign_message("hush", "a", "1", b"x") != sign_message("whsec_?", "a", "1", b"x")


@pytest.mark.parametrize(
    ("kind", "data", "words"),
    [
        (
            "job.completed",
            {"path": "a.wav", "job_id": 3, "artifacts": {"txt": "/o/a.txt"}},
            ["a.wav", "/o/a.txt"],
        ),
        (
            "job.failed",
            {"path": "a.wav", "job_id": 3, "error_code": "poison", "error": "x"},
            ["a.wav", "poison", "x"],
        ),
        (
            "batch.completed",
            {"batch": "talks", "total": 3, "completed": 2, "failed": 1},
            ["talks", "2 comp", "1 fai"],
        ),
        (
            "device.open",
            {"device": "cuda:0", "error": "Xid 79", "action": "waits"},
            ["cuda:0", "Xid 79", "waits"],
        ),
    ],
)
def test_wording_of_notifications(kind: str, data: dict[str, object], words: list[str]) -> None:
    message = " ".join(word_message(NotificationKind(kind), data))
    assert [word for word in words if word not in message] == []


@given(st.dictionaries(st.sampled_from(["txt", "source"]), st.text(max_size=20)))
def test_a_field_is_always_one_argument(fields: dict[str, str]) -> None:
    filled = fill_command(["mail", "--file={txt}", "{source}", "{}"], fields)
    assert filled == ["mail", f"--file={fields.get('txt', '')}", fields.get("source", ""), "{}"]


def test_an_unknown_field_is_refused() -> None:
    assert check_command(["x", "{txt}{job_id}", "{}"])
    with pytest.raises(ValueError, match=r"unknown field \{nope\}"):
        check_command(["x", "{nope}"])


@given(st.integers(0, 100), st.floats(0, 100))
def test_no_attempt_is_after_the_last_time(attempts: int, hours_old: float) -> None:
    created = NOW - timedelta(hours=hours_old)
    delivery = Delivery(
        id=1,
        kind=NotificationKind.JOB_FAILED,
        body="",
        attempts=attempts,
        created_at=created,
        available_at=created,
    )
    again = compute_next_try(
        delivery, now=NOW, give_up=timedelta(hours=48), backoff_settings=NotifySettings()
    )
    if again is None:
        assert hours_old > 46
    else:
        assert NOW <= again <= created + timedelta(hours=48)
