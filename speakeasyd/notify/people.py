"""Messages for people, through the many services that apprise knows. The only importer of apprise."""

from speakeasyd.domain.notices import Delivered, Failed, Outcome


def tell(url: str, *, title: str, body: str) -> Outcome:
    """Blocks as long as the service takes."""
    try:
        from apprise import Apprise  # noqa: PLC0415 - an extra, and slow to load
    except ImportError:
        return Failed("apprise is not installed: pip install 'speakeasyd[notify]'")
    service = Apprise()
    if not service.add(url):
        return Failed("apprise does not know such an address")
    return Delivered() if service.notify(title=title, body=body) else Failed("the service did not take it")
