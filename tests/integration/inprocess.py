"""The server's application in the process of the test, with a real intake and ledger."""

from typing import Any, cast

import httpx

from speakeasyd.events import EventHub
from speakeasyd.server.app import create_application
from speakeasyd.server.broadcast import LiveBroadcast
from speakeasyd.server.context import ServerContext
from speakeasyd.services.failures import ServiceFailures
from speakeasyd.services.uploads_under_way import UploadsUnderWay
from tests.conftest import PATIENCE_S
from tests.integration.test_intake import Place


def create_context(place: Place, **more: Any) -> ServerContext:
    """`more`: components in place of the usual ones."""
    hub = EventHub()
    usual = {
        "current": lambda: place.settings,
        "ledger": place.ledger,
        "live": LiveBroadcast(hub),
        "pauses": place.pauses,
        "failures": ServiceFailures(ledger=place.ledger, hub=hub, clock=place.clock),
        "pool": cast(Any, None),
        "recorder": cast(Any, None),
        "admit": place.intake.admit_file,
        "is_present": place.intake.is_present,
        "under_way": UploadsUnderWay(),
    }
    return ServerContext(**(usual | more))


def create_client(parts: ServerContext) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(create_application(parts))
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=PATIENCE_S)
