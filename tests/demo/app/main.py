#!/usr/bin/python3
"""The demonstration application: a small chat service in the shape of the ones that people migrate.

main.py api-server | celery-worker | celery-beat   the application's deployments
main.py superuser-writer                           a writer that nobody put on the list
main.py cleanup                                    the application's cron job
main.py wait | seed [--megabytes N]                waits for the database server; fills a fresh schema with data
main.py ledger                                     the outside ledger of what was acknowledged to the writers
main.py check LEDGER [--database NAME]...          is everything acknowledged in the database?

The database is named by POSTGRES_HOST, _PORT, _DB, _USER and _PASSWORD, the ledger by LEDGER_URL.
"""
import signal
import sys
import threading

import psycopg2

import check
import database
import ledger
import roles
import seed
from writer import Writer


def write(role, work, ledger_name, per_second, face=None):
    """Runs a writer until the process is told to end."""
    writer = Writer(role, ledger_name, per_second)
    signal.signal(signal.SIGTERM, lambda *_: writer.stopping.set())
    if face:
        face(writer)
    writer.run(work)


def wait():
    """Returns when the database takes a login."""
    problem = None
    while True:
        try:
            return database.connect("wait").close()
        except psycopg2.Error as error:
            if str(error) != problem:
                problem = str(error)
                print(problem.strip(), flush=True)
            threading.Event().wait(0.5)


def main(role, *arguments):
    """Runs one role; returns the exit status."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    match role:
        case "api-server":
            write(role, roles.ask, "application", 20, roles.serve_http)
        case "celery-worker":
            write(role, roles.work, "application", 40)
        case "celery-beat":
            write(role, roles.beat, "application", 1)
        case "superuser-writer":
            write(role, roles.intrude, "superuser", 50)
        case "cleanup":
            roles.clean_up()
        case "wait":
            wait()
        case "seed":
            seed.seed(arguments)
        case "ledger":
            ledger.serve()
        case "check":
            return check.check(arguments)
        case _:
            print(__doc__, file=sys.stderr)
            return 64
    return 0


if __name__ == "__main__":
    sys.exit(main(*(sys.argv[1:] or [""])))
