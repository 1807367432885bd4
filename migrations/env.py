"""Runs the migrations on the connection that `speakeasyd.ledger.migrate` has opened, inside its transaction."""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    transactional_ddl=True,  # SQLite can, though Alembic does not count on it
)
with context.begin_transaction():
    context.run_migrations()
