"""Data to start with: about as many megabytes as asked for, the same at every run, of every kind that a migration meets."""
import argparse

import database

# Of each megabyte: 400 kB of chat, 250 kB of documents, 350 kB of files.
STATEMENTS = [
    """
    INSERT INTO "user" (email, is_admin)
    SELECT format('person%%s@example.com', i), i = 1 FROM generate_series(1, 20 + 10 * %(megabytes)s) AS i
    """,
    """
    INSERT INTO chat_session (user_id, title)
    SELECT u.id, format('Session %%s of %%s', n, u.email) FROM "user" AS u, generate_series(1, 3) AS n
    """,
    """
    INSERT INTO chat_message (chat_session_id, writer, role, body, meta)
    SELECT s.id, 'seed', (ARRAY['user', 'assistant']::message_role[])[1 + i %% 2],
           (SELECT string_agg(md5(i::text || j), ' ') FROM generate_series(1, 5 + i %% 20) AS j),
           jsonb_build_object('n', i, 'score', i / 7.0, 'sources', jsonb_build_array('Ä', '🐘', NULL, i))
    FROM generate_series(1, 600 * %(megabytes)s) AS i
    JOIN (SELECT id, row_number() OVER (ORDER BY id) - 1 AS n, count(*) OVER () AS all FROM chat_session) AS s ON s.n = i %% s.all
    """,
    """
    INSERT INTO search_settings (settings)
    VALUES ('{"model": "nomic", "dimensions": 768, "weights": [0.25, 0.75], "reranker": null}')
    """,
    """
    INSERT INTO connector (name, config)
    SELECT kind, jsonb_build_object('kind', kind) FROM unnest(ARRAY['wiki', 'mail', 'tickets']) AS kind
    """,
    """
    INSERT INTO credential (connector_id, secret)
    SELECT id, public.pgp_sym_encrypt('token of ' || name, 'demonstration') FROM connector
    """,
    """
    INSERT INTO tenant_acme.document (title, content, tags)
    SELECT format('Document %%s', i),
           (SELECT string_agg(md5(j::text || i), E'\\n') FROM generate_series(1, 150) AS j),
           ARRAY['red', 'tag with "quotes"', chr(97 + i %% 26)]
    FROM generate_series(1, 50 * %(megabytes)s) AS i
    """,
    """
    INSERT INTO user_file (user_id, name, content)
    SELECT u.id, format('file %%s.bin', i),
           (SELECT decode(string_agg(md5(i || '.' || j), ''), 'hex') FROM generate_series(1, 4000) AS j)
    FROM generate_series(1, 4 * %(megabytes)s) AS i, (SELECT min(id) AS id FROM "user") AS u
    """,
    """
    INSERT INTO user_file (user_id, name, blob)
    SELECT u.id, format('recording %%s.wav', i),
           lo_from_bytea(0, (SELECT decode(string_agg(md5(i || '/' || j), ''), 'hex') FROM generate_series(1, 6000) AS j))
    FROM generate_series(1, %(megabytes)s) AS i, (SELECT min(id) AS id FROM "user") AS u
    """,
]


def seed(arguments):
    """Fills a database that has no users yet, all or nothing; leaves any other one alone."""
    parser = argparse.ArgumentParser(prog="seed")
    parser.add_argument("--megabytes", type=int, default=8)
    megabytes = parser.parse_args(arguments).megabytes
    connection = database.connect("seed")
    with connection, connection.cursor() as cursor:
        cursor.execute("SET LOCAL statement_timeout = 0")
        cursor.execute('SELECT EXISTS (SELECT FROM "user")')
        if cursor.fetchone()[0]:
            print("there are users already: nothing seeded", flush=True)
            return
        for statement in STATEMENTS:
            cursor.execute(statement, {"megabytes": megabytes})
        cursor.execute("SELECT pg_size_pretty(pg_database_size(current_database()))")
        print(f"seeded; the database has {cursor.fetchone()[0]} now", flush=True)
