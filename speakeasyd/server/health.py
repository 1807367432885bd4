"""Health probes and Prometheus metrics."""

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from speakeasyd.domain.device_health import ACCEPTING, DeviceState
from speakeasyd.domain.pausing import LEDGER_PAUSE, PauseKind
from speakeasyd.errors import LedgerError
from speakeasyd.ledger.job_lists import Totals, load_inbox_notes, load_totals
from speakeasyd.server.context import Lent
from speakeasyd.server.guard import TRUSTED
from speakeasyd.server.schemas import HealthAnswer
from speakeasyd.server.status import build_overview

router = APIRouter(tags=["health"])

PATIENCE_S = 5.0  # seconds for the ledger to answer a probe

_PUBLIC = frozenset({"ok", *DeviceState})
"""Values that a probe without the token gets unchanged."""
_FAILING: dict[int | str, dict[str, Any]] = {
    503: {"model": HealthAnswer, "description": "Failing."}
}


@router.get("/healthz", responses=_FAILING)
async def get_liveness(request: Request, parts: Lent, response: Response) -> HealthAnswer:
    """Liveness: the event loop runs, the ledger is readable, no service fails, no job stalls.

    Also reports how each inbox is watched.
    """
    try:
        async with asyncio.timeout(PATIENCE_S):
            inboxes = await parts.ledger.probes.read(load_inbox_notes)
    except (LedgerError, TimeoutError) as error:
        return _build_health(
            request,
            response,
            {"loop": "ok", "ledger": str(error) or "no answer"},
            well=False,
        )
    inboxes |= {
        cause.name: reason
        for cause, reason in parts.pauses.reasons.items()
        if cause.kind is PauseKind.INBOX
    }
    watchers = {f"inbox {name}": state for name, state in inboxes.items()}
    ledger = parts.pauses.reasons.get(LEDGER_PAUSE, "ok")  # it can be read, or we were not here
    checks = {"loop": "ok", "ledger": ledger} | watchers | dict(parts.failures.texts)
    return _build_health(request, response, checks, well=not parts.failures.texts)


@router.get("/readyz", responses=_FAILING)
async def get_readiness(request: Request, parts: Lent, response: Response) -> HealthAnswer:
    """Readiness: whether a worker can transcribe now."""
    workers = {worker.name: worker.state for worker in parts.pool.status()}
    checks = workers | {f"pause: {cause}": reason for cause, reason in parts.pauses.reasons.items()}
    ready = (
        any(state in ACCEPTING for state in workers.values()) and not parts.pauses.yields_machine
    )
    ready = ready and LEDGER_PAUSE not in parts.pauses
    return _build_health(request, response, checks, well=ready)


def _build_health(
    request: Request, response: Response, checks: Mapping[str, str], *, well: bool
) -> HealthAnswer:
    """Build the answer. Reasons may name folders, so they are shown only with the token."""
    response.status_code = 200 if well else 503
    shown = (
        checks
        if request.scope[TRUSTED]
        else {name: _find_kind(value) for name, value in checks.items()}
    )
    return HealthAnswer(status="ok" if well else "failing", checks=dict(shown))


def _find_kind(value: str) -> str:
    return value if value in _PUBLIC else "not ok"


@router.get("/metrics", response_class=Response)
async def get_metrics(parts: Lent) -> Response:
    """Return metrics in the text format of Prometheus."""
    seen = await build_overview(parts)
    totals = await parts.ledger.clients.read(load_totals)
    registry = CollectorRegistry()
    registry.register(_Scrape(seen, totals, parts.live.clients))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


class _Scrape(Collector):
    """Metrics from one snapshot of the ledger; the process keeps no counters."""

    def __init__(self, seen: Mapping[str, Any], totals: Totals, clients: int) -> None:
        self._seen, self._totals, self._clients = seen, totals, clients

    def collect(self) -> Iterator[Metric]:
        seen = self._seen
        yield _add_labelled(
            GaugeMetricFamily("speakeasyd_jobs", "Jobs by status.", labels=["status"]),
            seen["counts"],
        )
        yield CounterMetricFamily(
            "speakeasyd_audio_seconds", "Audio transcribed.", self._totals.audio_seconds
        )
        yield GaugeMetricFamily(
            "speakeasyd_speed", "Audio seconds per second, recently.", seen["speed"] or 0.0
        )
        yield GaugeMetricFamily(
            "speakeasyd_left_seconds",
            "Estimated seconds until the queue is empty.",
            seen["left_s"] or 0.0,
        )
        paused = dict.fromkeys(seen["pauses"], 1)
        yield _add_labelled(
            GaugeMetricFamily("speakeasyd_paused", "Causes of pauses.", labels=["cause"]),
            paused,
        )
        failing = dict.fromkeys(seen["failures"], 1)
        yield _add_labelled(
            GaugeMetricFamily("speakeasyd_failing", "Failing services.", labels=["name"]),
            failing,
        )
        workers = GaugeMetricFamily(
            "speakeasyd_workers", "Workers.", labels=["name", "device", "state"]
        )
        memory = GaugeMetricFamily(
            "speakeasyd_worker_resident_bytes", "Memory of workers.", labels=["name"]
        )
        for worker in seen["workers"]:
            workers.add_metric([worker["name"], worker["device"], worker["state"]], 1)
            memory.add_metric([worker["name"]], worker["rss"])
        yield from (workers, memory)
        incidents = CounterMetricFamily(
            "speakeasyd_incidents", "Incidents by kind.", labels=["kind"]
        )
        yield _add_labelled(incidents, self._totals.incidents)
        yield GaugeMetricFamily("speakeasyd_websocket_clients", "WebSocket clients.", self._clients)


def _add_labelled(
    family: GaugeMetricFamily | CounterMetricFamily, values: Mapping[str, float]
) -> Metric:
    for label, value in values.items():
        family.add_metric([label], value)
    return family
