"""The judge: is every row that the ledger calls acknowledged in the database?"""
import argparse
import collections
import os
import sys
import urllib.request

import psycopg2

import database

BATCH = 10_000


def check(arguments):
    """Prints counts for each writer; returns 0 when nothing is missing, 1 when a row is, 2 when that could not be found out.

    Reads only. Several databases are asked together when a ledger spans them; a row may then be in any of them.
    """
    parser = argparse.ArgumentParser(prog="check")
    parser.add_argument("ledger", help="name of a ledger of this side, or - for lines on standard input")
    parser.add_argument("--database", action="append", help="instead of POSTGRES_DB; may be repeated")
    parser.add_argument("--since", type=int, default=0, help="judge only the lines after this many")
    options = parser.parse_args(arguments)
    try:
        return judge(options)
    except (OSError, psycopg2.Error) as error:
        print(f"could not be checked: {error}")
        return 2


def judge(options):
    rows = read_ledger(options.ledger)[options.since :]
    acknowledged = collections.defaultdict(set)
    for row in rows:
        writer, id = row.split(" ")
        acknowledged[writer].add(int(id))
    if not acknowledged:
        print("the ledger holds no acknowledged row: nothing was checked")
        return 2

    databases = options.database or [os.environ["POSTGRES_DB"]]
    connections = [database.connect("check", name) for name in databases]
    for connection in connections:
        connection.set_session(readonly=True, autocommit=True)
    missing_total = 0
    for writer, ids in sorted(acknowledged.items()):
        missing, places = set(ids), []
        for name, connection in zip(databases, connections):
            found = present(connection, writer, missing)
            missing -= found
            if found:
                places.append(f"{len(found)} in {name}")
        missing_total += len(missing)
        line = f"{writer}: {len(ids)} acknowledged, {', '.join(places) or 'none found'}, {len(missing)} missing"
        print(line + (f", such as {sorted(missing)[:5]}" if missing else ""))
    total = sum(map(len, acknowledged.values()))
    print(f"in all {total} acknowledged rows of {len(acknowledged)} writers, {missing_total} missing")
    return 1 if missing_total else 0


def read_ledger(name):
    if name == "-":
        return sys.stdin.read().splitlines()
    with urllib.request.urlopen(f"{os.environ['LEDGER_URL']}/{name}", timeout=30) as answer:
        return answer.read().decode().splitlines()


def present(connection, writer, ids):
    """Those of `ids` that the writer's messages in this database have."""
    found, wanted = set(), sorted(ids)
    with connection.cursor() as cursor:
        for start in range(0, len(wanted), BATCH):
            cursor.execute(
                "SELECT id FROM chat_message WHERE writer = %s AND id = ANY (%s)", [writer, wanted[start : start + BATCH]]
            )
            found.update(id for [id] in cursor)
    return found
