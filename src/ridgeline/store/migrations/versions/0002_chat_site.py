"""Pinned conversations, who made a title, the branch shown, settings per conversation."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_COLUMNS = ("title_by", "pinned", "leaf_id", "system_prompt", "temperature", "top_p", "max_tokens")
_LIST_INDEX = "ix_conversations_tenant_updated_ms_id_pinned"


def upgrade() -> None:
    """Bring the schema up to this version."""
    for column in (
        sa.Column("title_by", sa.String(16), nullable=False, server_default="first"),
        sa.Column("pinned", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("leaf_id", sa.String(32)),
        sa.Column("system_prompt", sa.Text, nullable=False, server_default=""),
        sa.Column("temperature", sa.Float),
        sa.Column("top_p", sa.Float),
        sa.Column("max_tokens", sa.Integer),
    ):
        op.add_column("conversations", column)
    op.drop_index("ix_conversations_tenant_updated_ms", "conversations")
    there = sa.text("deleted_ms IS NULL")
    op.create_index(
        _LIST_INDEX,
        "conversations",
        ["tenant", "updated_ms", "id", "pinned"],
        sqlite_where=there,
        postgresql_where=there,
    )


def downgrade() -> None:
    """Bring the schema back to the version before."""
    op.drop_index(_LIST_INDEX, "conversations")
    for name in _COLUMNS:
        op.drop_column("conversations", name)
    op.create_index("ix_conversations_tenant_updated_ms", "conversations", ["tenant", "updated_ms"])
