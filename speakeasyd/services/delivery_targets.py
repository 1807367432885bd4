"""The delivery targets from the settings, and how each is called."""

import asyncio
import base64
import hashlib
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from speakeasyd.clock import Clock
from speakeasyd.config import NotifySettings, Settings, WebhookSettings
from speakeasyd.domain.notifications import (
    Delivery,
    DeliveryFailed,
    NotificationKind,
    Outcome,
    fill_command,
    word_message,
)
from speakeasyd.notify import apprise_messages, webhook
from speakeasyd.notify.hook import HookRun, select_environment
from speakeasyd.thread_group import ThreadGroup

WEBHOOK_S = 30.0  # seconds for a whole request: name resolution, connection, answer
APPRISE_S = 60.0  # seconds for a whole message: some services take several requests


@dataclass(frozen=True, slots=True)
class DeliveryTarget:
    """A delivery target.

    `name` is stored in the ledger: it is stable and contains no secret. `label` is what anybody may
    see: it does not say who receives.
    """

    name: str
    label: str
    kinds: frozenset[NotificationKind]
    deliver: Callable[[Delivery], Awaitable[Outcome]]


def build_targets(settings: Settings, clock: Clock) -> list[DeliveryTarget]:
    """Return the targets of the settings, without duplicates."""
    notify = settings.notify
    targets = [
        *(_create_webhook_target(webhook, clock) for webhook in notify.webhooks),
        *(_create_apprise_target(url.get_secret_value(), notify) for url in notify.apprise),
        *([_create_hook_target(settings)] if notify.hook else []),
    ]
    return list({target.name: target for target in targets}.values())


def _create_webhook_target(settings: WebhookSettings, clock: Clock) -> DeliveryTarget:
    label = _build_label(settings.url)
    name = f"webhook {urlsplit(settings.url).hostname} {label}"
    secret = settings.secret.get_secret_value() if settings.secret else None
    threads = ThreadGroup(name)

    async def deliver(delivery: Delivery) -> Outcome:
        return await _deliver_within(
            WEBHOOK_S,
            threads,
            webhook.post_message,
            settings.url,
            secret=secret,
            message_id=delivery.message_id,
            body=delivery.body,
            now=clock.utc(),
        )

    return DeliveryTarget(name, label, frozenset(settings.events), deliver)


def _create_apprise_target(url: str, settings: NotifySettings) -> DeliveryTarget:
    label = _build_label(url)
    name = f"apprise {urlsplit(url).scheme} {label}"
    threads = ThreadGroup(name)

    async def deliver(delivery: Delivery) -> Outcome:
        title, body = word_message(delivery.kind, json.loads(delivery.body)["data"])
        return await _deliver_within(
            APPRISE_S, threads, apprise_messages.send_message, url, title=title, body=body
        )

    return DeliveryTarget(name, label, frozenset(settings.events), deliver)


def _create_hook_target(settings: Settings) -> DeliveryTarget:
    notify = settings.notify
    roots = {inbox.name: inbox.path for inbox in settings.inboxes}
    inherited = select_environment(os.environ, more=notify.hook_environment)
    threads = ThreadGroup("hook")

    async def deliver(delivery: Delivery) -> Outcome:
        fields = _build_hook_fields(json.loads(delivery.body)["data"], roots)
        # Not SPEAKEASYD_...: any speakeasyd that the command runs would read it as a setting.
        environment = inherited | {
            f"TRANSCRIPT_{name.upper()}": text for name, text in fields.items()
        }
        command = fill_command(notify.hook, fields)
        run = HookRun(command, environment=environment, timeout_s=notify.hook_timeout_s)
        try:
            return await threads.run(run.wait)
        except asyncio.CancelledError:
            run.kill()
            raise

    return DeliveryTarget("hook", "hook", frozenset({NotificationKind.JOB_COMPLETED}), deliver)


async def _deliver_within(
    seconds: float,
    threads: ThreadGroup,
    send: Callable[..., Outcome],
    /,
    *args: object,
    **kwargs: object,
) -> Outcome:
    """Send in the target's own threads, so that a target that hangs delays no other."""
    try:
        return await threads.run_within(seconds, send, *args, **kwargs)
    except TimeoutError:
        return DeliveryFailed(f"it did not answer within {seconds:g} s")


def _build_hook_fields(data: Mapping[str, object], roots: Mapping[str, Path]) -> dict[str, str]:
    """Return the fields of a transcript as text, without NUL: arguments and variables forbid it."""
    artifacts = data.get("artifacts")
    if "path_base64" in data:
        data = {**data, "path": os.fsdecode(base64.b64decode(str(data["path_base64"])))}
    known = {name: value for name, value in data.items() if isinstance(value, str | int | float)}
    root = roots.get(str(data.get("inbox")))
    source = {"source": str(root / str(data["path"]))} if root and "path" in data else {}
    files = dict(artifacts) if isinstance(artifacts, Mapping) else {}
    return {
        str(name): str(value).replace("\0", "") for name, value in (known | source | files).items()
    }


def _build_label(url: str) -> str:
    """Return what tells two targets apart without their addresses."""
    return hashlib.sha256(url.encode()).hexdigest()[:8]
