"""Telling other programs what happened: webhooks, apprise, a command of the user. The only importer of apprise."""
