-- A seeded database of about :megabytes MB: wide rows, jsonb, TOAST, large objects, sequences, two schemas.
-- Every value is computed from its row's number, so that each run makes the same data. Half of the bytes compress well.
\set QUIET on
\set ON_ERROR_STOP on
SET client_min_messages = warning;
CREATE SCHEMA app;
CREATE SCHEMA archive;
CREATE EXTENSION pgcrypto;
CREATE TABLE app.account (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, email text NOT NULL UNIQUE, created timestamptz NOT NULL,
  balance numeric(14,2) NOT NULL, active boolean NOT NULL, c1 int, c2 int, c3 text, c4 text, c5 uuid, c6 date, c7 float8, c8 inet, c9 interval);
INSERT INTO app.account (email, created, balance, active, c1, c2, c3, c4, c5, c6, c7, c8, c9)
SELECT 'user' || i || '@example.com', timestamptz '2020-01-01 00:00Z' + i * interval '7 min', (i::int8 * 7919 % 1000003) / 100.0, i % 3 = 0, i, i % 97,
  md5(i::text), repeat('text ', i % 20), md5(i || 'u')::uuid, date '2020-01-01' + i % 2000, i * 0.1::float8, ('10.0.0.' || i % 255)::inet, i * interval '1 s'
FROM generate_series(1, :megabytes * 700) AS i;
CREATE TABLE app.event (id bigserial PRIMARY KEY, account bigint NOT NULL REFERENCES app.account, kind text NOT NULL, body jsonb NOT NULL);
INSERT INTO app.event (account, kind, body)
SELECT 1 + i % (:megabytes * 700), (ARRAY['open','close','pay','note'])[1 + i % 4],
  jsonb_build_object('n', i, 'hash', md5(i::text), 'tags', jsonb_build_array('a' || i % 10, 'b' || i % 100), 'text', repeat(md5(i::text), 3))
FROM generate_series(1, :megabytes * 900) AS i;
CREATE INDEX ON app.event (account);
CREATE INDEX ON app.event USING gin (body jsonb_path_ops);
CREATE TABLE archive.document (id bigserial PRIMARY KEY, title text, content text, raw bytea);
INSERT INTO archive.document (title, content, raw)
SELECT 'document ' || i, (SELECT string_agg(md5(i || ':' || j), ' ') FROM generate_series(1, 120) AS j),
  (SELECT decode(string_agg(md5(i || '/' || j), ''), 'hex') FROM generate_series(1, 300) AS j)
FROM generate_series(1, :megabytes * 20) AS i;
SELECT count(lo_from_bytea(0, decode(repeat(md5(i::text), 2000), 'hex'))) FROM generate_series(1, :megabytes) AS i;
CREATE TABLE app.alembic_version (version_num varchar(32) PRIMARY KEY);
INSERT INTO app.alembic_version VALUES ('0001');
ANALYZE;
CHECKPOINT;
