"""Delivery targets: webhooks, apprise, a command of the user. The only importer of apprise."""
