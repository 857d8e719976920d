"""The connection to the application's database, and what the application demands of it."""
import functools
import os
import pathlib

import psycopg2
from alembic.config import Config
from alembic.script import ScriptDirectory


def connect(application_name, database=None):
    """A connection to the database that the POSTGRES_* environment names (`database` overrides POSTGRES_DB).

    No call on it waits for a dead server longer than about ten seconds.
    """
    return psycopg2.connect(
        host=os.environ["POSTGRES_HOST"],
        port=os.environ["POSTGRES_PORT"],
        dbname=database or os.environ["POSTGRES_DB"],
        user=os.environ["POSTGRES_USER"],
        password=os.environ["POSTGRES_PASSWORD"],
        application_name=application_name,
        connect_timeout=5,
        tcp_user_timeout=10_000,
        options="-c statement_timeout=10000",
    )


class WrongRevision(Exception):
    """The schema is not the one that this release was built for."""


@functools.lru_cache
def required_revision():
    """The newest revision of this image's own alembic tree."""
    config = Config(str(pathlib.Path(__file__).with_name("alembic.ini")))
    return ScriptDirectory.from_config(config).get_current_head()


def demand_revision(connection):
    """Raises WrongRevision unless the schema is exactly at this image's newest revision."""
    required = required_revision()
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('alembic_version') IS NOT NULL")
        found = None
        if cursor.fetchone()[0]:
            cursor.execute("SELECT version_num FROM alembic_version")
            found = (cursor.fetchone() or [None])[0]
    if found != required:
        raise WrongRevision(f"the schema is at revision {found}, this release needs {required}")
