"""What alembic runs: the migrations, on the connection that `database.upgrade` hands over."""

from alembic import context

from wherry_controller.store.tables import Row

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Row.metadata,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
