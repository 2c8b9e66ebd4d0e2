"""Alembic's entry: runs migrations on the connection that `store.database` hands over.

Without a connection they are written down as SQL for a dialect.
"""

from alembic import context

from ridgeline.store.tables import metadata

attributes = context.config.attributes
if context.is_offline_mode():
    context.configure(dialect_name=attributes["dialect"], target_metadata=metadata)
else:
    context.configure(connection=attributes["connection"], target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
