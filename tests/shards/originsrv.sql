-- A database like Chef Habitat Builder's builder_originsrv before its shards were merged: schemas shard_0 … with the same 17
-- tables each and an empty `public`. Run with psql -v shards=128 -v rows=1000 (about how many rows a full shard gets).
--
-- Shards are uneven: every eighth is empty, shard_3 holds ten times as much. Rows have unicode, bytea, arrays, infinities,
-- and tables without a key hold exact duplicates. Ids are made as Habitat makes them: milliseconds, counter, shard.
\set ON_ERROR_STOP on
SET client_min_messages = warning;

CREATE FUNCTION pg_temp.make_tables(s text, shard int) RETURNS void LANGUAGE plpgsql AS $make$
DECLARE
  statement text;
BEGIN
  EXECUTE format('CREATE SCHEMA IF NOT EXISTS %I', s);
  EXECUTE format('SET search_path = %I', s);
  EXECUTE 'CREATE TYPE integration_kind AS ENUM (''docker'', ''bintray'', ''webhook'')';
  FOREACH statement IN ARRAY ARRAY['origin', 'origin_key', 'origin_project', 'origin_package', 'origin_channel', 'origin_invitation', 'origin_integration'] LOOP
    EXECUTE format('CREATE SEQUENCE %I', statement || '_id_seq');
  END LOOP;
  EXECUTE format($f$CREATE FUNCTION next_id_v1(sequence_id regclass, OUT result bigint) LANGUAGE plpgsql AS $$
    BEGIN
      SELECT ((floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint - 1409266191000) << 23)
             | ((nextval(sequence_id) %% 1024) << 13) | %s INTO result;
    END $$$f$, shard);
  CREATE TABLE origins (
    id bigint PRIMARY KEY DEFAULT next_id_v1('origin_id_seq'), name text UNIQUE, owner_id bigint, session_sync boolean DEFAULT false,
    default_package_visibility text NOT NULL DEFAULT 'public', created_at timestamptz DEFAULT now(), updated_at timestamptz);
  CREATE TABLE origin_secrets (
    id bigint PRIMARY KEY DEFAULT next_id_v1('origin_key_id_seq'), origin_id bigint REFERENCES origins (id), name text, value text,
    UNIQUE (origin_id, name));
  CREATE TABLE origin_secret_keys (
    id bigint PRIMARY KEY DEFAULT next_id_v1('origin_key_id_seq'), origin_id bigint REFERENCES origins (id), owner_id bigint, name text,
    revision text, full_name text UNIQUE, body bytea);
  CREATE TABLE origin_public_keys (
    id bigint PRIMARY KEY DEFAULT next_id_v1('origin_key_id_seq'), origin_id bigint REFERENCES origins (id), owner_id bigint, name text,
    revision text, full_name text UNIQUE, body bytea);
  CREATE TABLE origin_public_encryption_keys (
    id bigint PRIMARY KEY DEFAULT next_id_v1('origin_key_id_seq'), origin_id bigint REFERENCES origins (id), owner_id bigint, name text,
    revision text, full_name text UNIQUE, body bytea);
  CREATE TABLE origin_private_encryption_keys (
    id bigint PRIMARY KEY DEFAULT next_id_v1('origin_key_id_seq'), origin_id bigint REFERENCES origins (id), owner_id bigint, name text,
    revision text, full_name text UNIQUE, body bytea);
  CREATE TABLE origin_projects (
    id bigint PRIMARY KEY DEFAULT next_id_v1('origin_project_id_seq'), origin_id bigint REFERENCES origins (id), origin_name text,
    package_name text, name text UNIQUE, plan_path text, owner_id bigint, vcs_type text, vcs_arguments text[], visibility text NOT NULL DEFAULT 'public');
  CREATE TABLE origin_integrations (
    id bigint PRIMARY KEY DEFAULT next_id_v1('origin_integration_id_seq'), origin text, integration integration_kind, name text, body text,
    UNIQUE (origin, integration, name));
  CREATE TABLE origin_project_integrations (
    id bigint PRIMARY KEY DEFAULT next_id_v1('origin_integration_id_seq'), origin text, body text, integration_id bigint REFERENCES origin_integrations (id),
    project_id bigint REFERENCES origin_projects (id), UNIQUE (project_id, integration_id));
  CREATE TABLE origin_packages (
    id bigint PRIMARY KEY DEFAULT next_id_v1('origin_package_id_seq'), origin_id bigint REFERENCES origins (id), owner_id bigint, name text,
    ident text UNIQUE, checksum text, manifest text, config text, target text, deps text[], tdeps text[], exposes int[],
    visibility text NOT NULL DEFAULT 'public', created_at timestamptz DEFAULT now());
  CREATE INDEX ON origin_packages (origin_id);
  CREATE TABLE origin_members (
    origin_id bigint REFERENCES origins (id), origin_name text, account_id bigint, account_name text, created_at timestamptz DEFAULT now(),
    PRIMARY KEY (origin_id, account_id));
  CREATE TABLE origin_invitations (
    id bigint PRIMARY KEY DEFAULT next_id_v1('origin_invitation_id_seq'), origin_id bigint REFERENCES origins (id), origin_name text, account_id bigint,
    account_name text, owner_id bigint, ignored boolean DEFAULT false, UNIQUE (origin_id, account_id));
  CREATE TABLE origin_channels (
    id bigint PRIMARY KEY DEFAULT next_id_v1('origin_channel_id_seq'), origin_id bigint REFERENCES origins (id), owner_id bigint, name text,
    created_at timestamptz DEFAULT now(), UNIQUE (origin_id, name));
  CREATE TABLE origin_channel_packages (
    channel_id bigint REFERENCES origin_channels (id), package_id bigint REFERENCES origin_packages (id), created_at timestamptz DEFAULT now(),
    PRIMARY KEY (channel_id, package_id));
  CREATE TABLE audit_package_group (
    origin_id bigint, channel_id bigint, package_ids bigint[], operation smallint, trigger smallint, requester_id bigint, requester_name text,
    created_at timestamptz);
  CREATE TABLE audit_package (
    origin_id bigint, package_id bigint, channel_id bigint, operation smallint, trigger smallint, requester_id bigint, requester_name text,
    weight double precision, created_at timestamptz);
  CREATE TABLE audit (origin_id bigint, operation smallint, requester_name text, details jsonb, created_at timestamptz);
  CREATE VIEW origin_with_packages AS SELECT o.name, count(p.id) AS packages FROM origins o LEFT JOIN origin_packages p ON p.origin_id = o.id GROUP BY 1;
  CREATE TABLE __diesel_schema_migrations (version text PRIMARY KEY, run_on timestamp NOT NULL DEFAULT now());
  INSERT INTO __diesel_schema_migrations SELECT '2018010100000' || n FROM generate_series(1, 5) n;
  RESET search_path;
END $make$;

-- Fills one shard: `n` packages, and what goes with them.
CREATE FUNCTION pg_temp.fill(s text, shard int, n int) RETURNS void LANGUAGE plpgsql AS $fill$
DECLARE
  o int := greatest(1, n / 20);
BEGIN
  IF n = 0 THEN RETURN; END IF;
  EXECUTE format('SET search_path = %I, pg_temp', s);
  CREATE TEMP TABLE IF NOT EXISTS ids (k int PRIMARY KEY, id bigint);
  TRUNCATE ids;
  INSERT INTO ids SELECT i, (i::bigint << 23) | ((i::bigint % 1024) << 13) | shard FROM generate_series(1, greatest(n, o)) i;
  INSERT INTO origins SELECT id, format('origin-%s-%s-größe', shard, n_), id % 1000, n_ % 2 = 0, 'public', '2018-08-17 00:00:00+00'::timestamptz + n_ * interval '1 hour',
    CASE WHEN n_ % 7 = 0 THEN 'infinity'::timestamptz WHEN n_ % 11 = 0 THEN '-infinity' END FROM (SELECT ids.k AS n_, id FROM ids WHERE ids.k <= o) x;
  INSERT INTO origin_secrets SELECT id, id, 'token', 'wert ✓ ' || x FROM (SELECT ids.k AS x, id FROM ids WHERE ids.k <= o) i;
  INSERT INTO origin_secret_keys SELECT id, id, 1, 'key', x::text, format('key-%s-%s', shard, x), decode(md5(id::text), 'hex') FROM (SELECT ids.k AS x, id FROM ids WHERE ids.k <= o) i;
  INSERT INTO origin_public_keys SELECT id, id, 1, 'key', x::text, format('pub-%s-%s', shard, x), decode(md5(id::text), 'hex') FROM (SELECT ids.k AS x, id FROM ids WHERE ids.k <= o) i;
  INSERT INTO origin_public_encryption_keys SELECT id, id, 1, 'key', x::text, format('penc-%s-%s', shard, x), '\x00ff5c0a'::bytea FROM (SELECT ids.k AS x, id FROM ids WHERE ids.k <= o) i;
  INSERT INTO origin_private_encryption_keys SELECT id, id, 1, 'key', x::text, format('enc-%s-%s', shard, x), '\x'::bytea FROM (SELECT ids.k AS x, id FROM ids WHERE ids.k <= o) i;
  INSERT INTO origin_projects SELECT id, id, 'origin', 'package', format('project-%s-%s', shard, x), '.', 1, 'git', ARRAY['https://example.com', NULL, 'tab	and "quote"', '{}'], 'public'
    FROM (SELECT ids.k AS x, id FROM ids WHERE ids.k <= o) i;
  INSERT INTO origin_integrations SELECT id, format('origin-%s-%s', shard, x), 'docker', 'hub', '{"a": "b\n"}' FROM (SELECT ids.k AS x, id FROM ids WHERE ids.k <= o) i;
  INSERT INTO origin_project_integrations SELECT id, 'origin', NULL, id, id FROM (SELECT id FROM ids WHERE ids.k <= o) i;
  INSERT INTO origin_packages SELECT id, (((x % o) + 1)::bigint << 23) | ((((x % o) + 1)::bigint % 1024) << 13) | shard, 1, 'pkg', format('o%s/pkg/%s/2018', shard, x), md5(x::text),
    E'# manifest\n\\.\nline\t' || x, NULL, 'x86_64-linux', ARRAY['core/glibc/2.27', 'core/größe'], '{}', ARRAY[80, 443], 'public', '2018-08-17 12:00:00+02'::timestamptz + x * interval '1 second'
    FROM (SELECT ids.k AS x, id FROM ids WHERE ids.k <= n) i;
  INSERT INTO origin_members SELECT id, 'origin', x % 50, 'account', '2018-08-17' FROM (SELECT ids.k AS x, id FROM ids WHERE ids.k <= o) i;
  INSERT INTO origin_invitations SELECT id, id, 'origin', x, 'account', 1, false FROM (SELECT ids.k AS x, id FROM ids WHERE ids.k <= o) i;
  INSERT INTO origin_channels SELECT id, id, 1, 'stable', '2018-08-17' FROM (SELECT id FROM ids WHERE ids.k <= o) i;
  INSERT INTO origin_channel_packages SELECT (((x % o) + 1)::bigint << 23) | ((((x % o) + 1)::bigint % 1024) << 13) | shard, id, '2018-08-17' FROM (SELECT ids.k AS x, id FROM ids WHERE ids.k <= n) i;
  -- Without a key: exact duplicates stay what they are.
  INSERT INTO audit_package_group SELECT 1, 2, ARRAY[x % 3, NULL], 1, 1, 1, 'who', 'infinity' FROM generate_series(1, n) x;
  INSERT INTO audit_package SELECT 1, x % 5, NULL, 1, 1, 1, 'who', CASE x % 3 WHEN 0 THEN 'infinity'::float8 WHEN 1 THEN 'NaN' ELSE -0.1 END, '-infinity' FROM generate_series(1, n) x;
  INSERT INTO audit SELECT 1, 1, 'who', jsonb_build_object('n', x % 4, 'text', E'"\\ ü'), '2018-08-17' FROM generate_series(1, n) x;
  PERFORM setval('origin_id_seq', o), setval('origin_package_id_seq', n);
  RESET search_path;
END $fill$;

SELECT pg_temp.make_tables('public', 0);
CREATE TABLE public.flags (shard_migration_complete boolean DEFAULT false, created_at timestamptz DEFAULT now());
SELECT count(*) FROM (SELECT pg_temp.make_tables('shard_' || n, n) FROM generate_series(0, :shards - 1) n) x;
SELECT count(*) FROM (SELECT pg_temp.fill('shard_' || n, n, CASE WHEN n % 8 = 7 THEN 0 WHEN n = 3 THEN 10 * :rows ELSE :rows END)
                      FROM generate_series(0, :shards - 1) n) x;
