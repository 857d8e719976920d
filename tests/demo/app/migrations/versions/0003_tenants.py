"""Background tasks, and a tenant with a schema of its own"""
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade():
    op.execute("CREATE TABLE beat (name text PRIMARY KEY, runs bigint NOT NULL, last_run timestamptz NOT NULL)")
    op.execute(
        """
        CREATE TABLE task (
            id         bigserial PRIMARY KEY,
            kind       text NOT NULL,
            message_id bigint REFERENCES chat_message,
            queued     timestamptz NOT NULL DEFAULT now(),
            finished   timestamptz
        )
        """
    )
    op.execute("CREATE INDEX task_queue ON task (id) WHERE finished IS NULL")
    op.execute("CREATE SCHEMA tenant_acme")
    op.execute("CREATE SEQUENCE tenant_acme.document_number START 1000 INCREMENT 10")
    op.execute(
        """
        CREATE TABLE tenant_acme.document (
            number  bigint PRIMARY KEY DEFAULT nextval('tenant_acme.document_number'),
            title   text NOT NULL,
            content text NOT NULL,
            tags    text[] NOT NULL DEFAULT '{}',
            indexed integer NOT NULL DEFAULT 0
        )
        """
    )
    op.execute("ALTER SEQUENCE tenant_acme.document_number OWNED BY tenant_acme.document.number")
    op.execute(
        """
        CREATE VIEW tenant_acme.popular_tag AS
        SELECT tag, count(*) AS documents FROM tenant_acme.document, unnest(tags) AS tag GROUP BY tag
        """
    )


def downgrade():
    op.execute("DROP SCHEMA tenant_acme CASCADE")
    op.execute("DROP TABLE task, beat")
