"""Runs the migrations in the transaction of the connection from `speakeasyd.ledger.migrate`."""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    transactional_ddl=True,  # SQLite supports it, though Alembic does not assume so
)
with context.begin_transaction():
    context.run_migrations()
