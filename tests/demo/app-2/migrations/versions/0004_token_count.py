"""How many tokens a message cost; only the second release of the application knows it"""
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade():
    op.execute("ALTER TABLE chat_message ADD COLUMN token_count integer")
    op.execute("CREATE INDEX chat_message_token_count ON chat_message (token_count) WHERE token_count IS NOT NULL")


def downgrade():
    op.execute("ALTER TABLE chat_message DROP COLUMN token_count")
