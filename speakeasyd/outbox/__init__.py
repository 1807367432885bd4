"""Durable files: artifacts in the outbox, finished and failed sources in their folders."""
