"""Which run writes a message: of two that want to, only one can."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the schema up to this version."""
    op.add_column("messages", sa.Column("run", sa.String(32)))


def downgrade() -> None:
    """Bring the schema back to the version before."""
    op.drop_column("messages", "run")
