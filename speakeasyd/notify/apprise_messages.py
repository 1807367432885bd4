"""Sends messages through the services that apprise supports. The only importer of apprise."""

import logging

from speakeasyd.domain.notifications import DeliveryFailed, DeliverySucceeded, Outcome

_QUOTE_ADDRESSES = ("apprise", "urllib3", "requests")
"""Loggers of libraries whose lines quote addresses, which may hold secrets."""


def send_message(url: str, *, title: str, body: str) -> Outcome:
    """Send a message. Blocks until the service answers."""
    for name in _QUOTE_ADDRESSES:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    try:
        return _send_message(url, title, body)
    except Exception as error:  # noqa: BLE001 - the text may quote the address
        return DeliveryFailed(f"apprise failed: {type(error).__name__}")


def _send_message(url: str, title: str, body: str) -> Outcome:
    try:
        from apprise import Apprise  # noqa: PLC0415 - an extra, and slow to load
    except ImportError:
        return DeliveryFailed("apprise is not installed: pip install 'speakeasyd[notify]'")
    service = Apprise()
    if not service.add(url):
        return DeliveryFailed("apprise does not support this address")
    return (
        DeliverySucceeded()
        if service.notify(title=title, body=body)
        else DeliveryFailed("the service did not accept the message")
    )
