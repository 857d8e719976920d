"""The loop that every writing role runs: work, COMMIT, then the ledger, and only then the next work."""
import os
import socket
import threading
import time

import psycopg2

import database
from ledger import Ledger


class Writer:
    """Runs one kind of work for ever, reconnecting as often as the database sends it away."""

    def __init__(self, role, ledger, per_second):
        """`role`: what is written as; `ledger`: the name of the ledger that records what was acknowledged."""
        self.stopping = threading.Event()
        self.name = f"{role}/{socket.gethostname()}"
        self.role = role
        self.ledger = Ledger(ledger, self.stopping)
        self.pause = 1 / float(os.environ.get("WRITES_PER_SECOND", per_second))
        self.acknowledged = 0
        self.last_commit = None
        self.problem = "not connected yet"

    def run(self, work):
        """Calls `work(cursor, name)` in a transaction each; it returns the ids of the chat messages that it inserted."""
        while not self.stopping.is_set():
            connection = None
            try:
                connection = database.connect(self.role)
                database.demand_revision(connection)
                self.note(None)
                self.work(connection, work)
            except (psycopg2.Error, database.WrongRevision) as error:
                self.note(str(error).strip() or type(error).__name__)
            finally:
                if connection is not None:
                    connection.close()
            self.stopping.wait(0.1)

    def work(self, connection, work):
        next_turn = time.monotonic()
        while not self.stopping.is_set():
            # A COMMIT that raises has an unknown outcome: such a row was not acknowledged and is not recorded.
            with connection, connection.cursor() as cursor:
                ids = work(cursor, self.name)
            self.last_commit = time.monotonic()
            if ids:
                self.ledger.append(self.name, ids)
                self.acknowledged += len(ids)
            next_turn = max(next_turn + self.pause, time.monotonic() - 1)
            self.stopping.wait(max(0, next_turn - time.monotonic()))

    def note(self, problem):
        """Logs a change between writing and being refused, not each of a thousand refusals."""
        if problem != self.problem:
            print(f"{self.name}: {problem}" if problem else f"{self.name}: writing", flush=True)
        self.problem = problem

    def is_writing(self):
        """A COMMIT returned within the last five seconds, and nothing went wrong since."""
        return self.problem is None and self.last_commit is not None and time.monotonic() - self.last_commit < 5
