"""Runs the server's application inside the test process, with a real intake and ledger."""

from typing import Any, cast

import httpx

from speakeasyd.events import EventHub
from speakeasyd.server.app import create_application
from speakeasyd.server.broadcast import LiveBroadcast
from speakeasyd.server.context import ServerContext
from speakeasyd.services.failures import ServiceFailures
from speakeasyd.services.uploads_under_way import UploadsUnderWay
from tests.conftest import PATIENCE_S
from tests.integration.test_intake import IntakeSetup


def create_context(setup: IntakeSetup, **more: Any) -> ServerContext:
    """Create the server's context. `more` replaces components."""
    hub = EventHub()
    defaults = {
        "current": lambda: setup.settings,
        "ledger": setup.ledger,
        "live": LiveBroadcast(hub),
        "pauses": setup.pauses,
        "failures": ServiceFailures(ledger=setup.ledger, hub=hub, clock=setup.clock),
        "pool": cast(Any, None),
        "recorder": cast(Any, None),
        "admit": setup.intake.admit_file,
        "is_present": setup.intake.is_present,
        "under_way": UploadsUnderWay(),
    }
    return ServerContext(**(defaults | more))


def create_client(parts: ServerContext) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(create_application(parts))
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=PATIENCE_S)
