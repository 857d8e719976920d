"""Search settings, connectors, encrypted credentials, files"""
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade():
    op.execute("CREATE EXTENSION IF NOT EXISTS pgcrypto")
    op.execute("CREATE TABLE search_settings (id serial PRIMARY KEY, settings jsonb NOT NULL)")
    op.execute("CREATE TABLE connector (id serial PRIMARY KEY, name text NOT NULL UNIQUE, config jsonb NOT NULL)")
    op.execute(
        """
        CREATE TABLE credential (
            id           uuid PRIMARY KEY DEFAULT gen_random_uuid(),
            connector_id integer NOT NULL REFERENCES connector,
            secret       bytea NOT NULL
        )
        """
    )
    op.execute("COMMENT ON COLUMN credential.secret IS 'encrypted by pgp_sym_encrypt of pgcrypto'")
    op.execute(
        """
        CREATE TABLE user_file (
            id      bigserial PRIMARY KEY,
            user_id bigint NOT NULL REFERENCES "user",
            name    text NOT NULL,
            content bytea,
            blob    oid,
            CHECK ((content IS NULL) <> (blob IS NULL))
        )
        """
    )
    op.execute("COMMENT ON COLUMN user_file.blob IS 'a large object, for files that are read in pieces'")


def downgrade():
    op.execute("SELECT lo_unlink(blob) FROM user_file WHERE blob IS NOT NULL")
    op.execute("DROP TABLE user_file, credential, connector, search_settings")
    op.execute("DROP EXTENSION pgcrypto")
