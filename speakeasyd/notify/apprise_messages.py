"""Sends messages through the services that apprise supports. The only importer of apprise."""

from speakeasyd.domain.notifications import DeliveryFailed, DeliverySucceeded, Outcome


def send_message(url: str, *, title: str, body: str) -> Outcome:
    """Send a message. Blocks until the service answers."""
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
