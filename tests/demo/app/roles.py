"""What each of the application's writing roles does in one transaction, and the HTTP face of the api-server."""
import http.server
import json
import os
import random
import threading

from psycopg2.extras import Json

import database
import release


def ask(cursor, writer):
    """api-server: a user's question in one of the chat sessions, and the task to answer it."""
    cursor.execute("SELECT id FROM chat_session WHERE id >= %s ORDER BY id LIMIT 1", [random.randint(1, 200)])
    session = (cursor.fetchone() or [None])[0]
    id = insert_message(cursor, session, writer, "user", f"What about {random.randbytes(40).hex()}?")
    cursor.execute("INSERT INTO task (kind, message_id) VALUES ('answer', %s)", [id])
    return [id]


def work(cursor, writer):
    """celery-worker: takes the oldest task; an answer is one more message, a re-index updates some documents."""
    cursor.execute(
        """
        UPDATE task SET finished = now() WHERE id =
            (SELECT id FROM task WHERE finished IS NULL ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED)
        RETURNING kind, message_id
        """
    )
    kind, message = cursor.fetchone() or (None, None)
    if kind == "answer":
        cursor.execute("SELECT chat_session_id FROM chat_message WHERE id = %s", [message])
        [session] = cursor.fetchone()
        return [insert_message(cursor, session, writer, "assistant", f"As for {message}: {random.randbytes(80).hex()}.")]
    if kind == "reindex":
        cursor.execute(
            """
            UPDATE tenant_acme.document SET indexed = indexed + 1 WHERE number IN
                (SELECT number FROM tenant_acme.document ORDER BY indexed, number LIMIT 5)
            """
        )
        cursor.execute(
            "INSERT INTO tenant_acme.document (title, content, tags) VALUES ('run of the index', %s, '{index}')", [writer]
        )
    return []


def beat(cursor, writer):
    """celery-beat: a sign of life, and a task to index again."""
    cursor.execute(
        """
        INSERT INTO beat VALUES ('reindex', 1, now())
        ON CONFLICT (name) DO UPDATE SET runs = beat.runs + 1, last_run = now()
        """
    )
    cursor.execute("INSERT INTO task (kind) VALUES ('reindex')")
    return []


def intrude(cursor, writer):
    """superuser-writer: the forgotten script that nobody has on the list."""
    return [insert_message(cursor, None, writer, "system", random.randbytes(100).hex())]


def insert_message(cursor, session, writer, role, body):
    values = {"session": session, "writer": writer, "role": role, "body": body, "meta": Json({"release": release.RELEASE})}
    cursor.execute(release.INSERT_MESSAGE, values)
    return cursor.fetchone()[0]


def clean_up():
    """cleanup (a CronJob): forgets the finished tasks of more than a minute ago."""
    connection = database.connect("cleanup")
    with connection, connection.cursor() as cursor:
        cursor.execute("DELETE FROM task WHERE finished < now() - interval '1 minute'")
        print(f"forgot {cursor.rowcount} finished tasks", flush=True)


def serve_http(writer):
    """GET /healthz: 200 while rows are being committed, else 503; GET /: where the application is and how it fares."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            healthy = writer.is_writing()
            state = {
                "release": release.RELEASE,
                "database": "{POSTGRES_USER}@{POSTGRES_HOST}:{POSTGRES_PORT}/{POSTGRES_DB}".format_map(os.environ),
                "revision": database.required_revision(),
                "writing": healthy,
                "acknowledged": writer.acknowledged,
                "problem": writer.problem,
            }
            self.send_response(200 if healthy or self.path == "/" else 503)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(state).encode() + b"\n")

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("", int(os.environ.get("PORT", "8080"))), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
