"""The tables, in words that SQLite and PostgreSQL both understand."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    false,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

conversations = Table(
    "conversations",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("tenant", String(255), nullable=False),
    Column("title", String(200), nullable=False),
    Column("model", String(255), nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("updated_ms", BigInteger, nullable=False),
    Column("deleted_ms", BigInteger, index=True),
    Column("title_by", String(16), nullable=False, server_default="first"),
    Column("pinned", Boolean, nullable=False, server_default=false()),
    # Not a foreign key: conversations and messages would each have to be written before the other.
    Column("leaf_id", String(32)),
    Column("system_prompt", Text, nullable=False, server_default=""),
    Column("temperature", Float),
    Column("top_p", Float),
    Column("max_tokens", Integer),
    # What a list shows, in its order, and whether it is pinned; counting needs nothing else.
    Index(
        None,
        "tenant",
        "updated_ms",
        "id",
        "pinned",
        sqlite_where=text("deleted_ms IS NULL"),
        postgresql_where=text("deleted_ms IS NULL"),
    ),
)

messages = Table(
    "messages",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("conversation_id", String(32), ForeignKey("conversations.id", ondelete="CASCADE"), nullable=False),
    Column("parent_id", String(32), ForeignKey("messages.id", ondelete="CASCADE"), index=True),
    Column("position", Integer, nullable=False),
    Column("role", String(16), nullable=False),
    Column("content", Text, nullable=False),
    Column("status", String(16), nullable=False, index=True),
    Column("created_ms", BigInteger, nullable=False),
    Column("model", String(255), nullable=False),
    Column("finish", String(16)),
    Column("error_code", String(64)),
    Column("error_message", Text),
    Column("prompt_tokens", Integer),
    Column("completion_tokens", Integer),
    Column("cached_tokens", Integer),
    Column("context_from", Integer, nullable=False),
    Column("ttft_ms", Integer),
    Column("decode_ms", Integer),
    Column("finished_ms", BigInteger),
    Column("run", String(32)),
    Index(None, "conversation_id", "position"),
)
