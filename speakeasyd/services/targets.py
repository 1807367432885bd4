"""Whom to tell, as the settings have it, and how each is told."""

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from speakeasyd.clock import Clock
from speakeasyd.config import NotifySettings, Settings, WebhookSettings
from speakeasyd.domain.notices import Delivery, Outcome, fill, worded
from speakeasyd.notify import hook, people, webhook


@dataclass(frozen=True, slots=True)
class Target:
    """`name` stays the same over restarts and holds no secret: the ledger keeps it."""

    name: str
    kinds: frozenset[str]
    deliver: Callable[[Delivery], Awaitable[Outcome]]


def targets(settings: Settings, clock: Clock) -> list[Target]:
    found = [*_webhooks(settings.notify, clock), *_people(settings.notify), *_hook(settings)]
    return list({target.name: target for target in found}.values())


def _webhooks(settings: NotifySettings, clock: Clock) -> Iterator[Target]:
    for wanted in settings.webhooks:

        async def deliver(delivery: Delivery, to: WebhookSettings = wanted) -> Outcome:
            return await asyncio.to_thread(
                webhook.post,
                to.url,
                secret=to.secret.get_secret_value() if to.secret else None,
                message_id=delivery.message_id,
                body=delivery.body,
                now=clock.utc(),
            )

        yield Target(_name("webhook", wanted.url), frozenset(wanted.events), deliver)


def _people(settings: NotifySettings) -> Iterator[Target]:
    for wanted in settings.apprise:

        async def deliver(delivery: Delivery, url: str = wanted.get_secret_value()) -> Outcome:
            title, body = worded(delivery.kind, json.loads(delivery.body)["data"])
            return await asyncio.to_thread(people.tell, url, title=title, body=body)

        yield Target(_name("apprise", wanted.get_secret_value()), frozenset(settings.events), deliver)


def _hook(settings: Settings) -> Iterator[Target]:
    command, timeout_s = settings.notify.hook, settings.notify.hook_timeout_s
    roots = {inbox.name: inbox.path for inbox in settings.inboxes}

    async def deliver(delivery: Delivery) -> Outcome:
        fields = _fields(json.loads(delivery.body)["data"], roots)
        # Not SPEAKEASYD_...: that would be a key of the configuration for any speakeasyd that the command calls.
        environment = {f"TRANSCRIPT_{name.upper()}": text for name, text in fields.items()}
        return await hook.run(fill(command, fields), environment=environment, timeout_s=timeout_s)

    if command:
        yield Target("hook", frozenset({"job.completed"}), deliver)


def _fields(data: Mapping[str, object], roots: Mapping[str, Path]) -> dict[str, str]:
    """What is known of a transcript, as text; a NUL can be in no argument and no variable."""
    artifacts = data.get("artifacts")
    known = {name: value for name, value in data.items() if isinstance(value, str | int | float)}
    root = roots.get(str(data.get("inbox")))
    source = {"source": str(root / str(data["path"]))} if root and "path" in data else {}
    files = dict(artifacts) if isinstance(artifacts, Mapping) else {}
    return {str(name): str(value).replace("\0", "") for name, value in (known | source | files).items()}


def _name(how: str, url: str) -> str:
    address = urlsplit(url)
    where = address.hostname if how == "webhook" else address.scheme
    return f"{how} {where} {hashlib.sha256(url.encode()).hexdigest()[:8]}"
