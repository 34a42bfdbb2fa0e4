-- A cluster as people have it: everything that a dump can carry and a careless tool can lose.
-- Loaded by psql as the superuser `aptible`, which owns the database `db` beside the role `postgres`.
\set ON_ERROR_STOP on
\set QUIET on
SET client_min_messages = warning;

-- Roles ------------------------------------------------------------------------------------------------------------
SET password_encryption = 'scram-sha-256';
CREATE ROLE shop_owner NOLOGIN;
CREATE ROLE shop_reader NOLOGIN;
CREATE ROLE shop_writer NOLOGIN IN ROLE shop_reader;
CREATE ROLE app LOGIN PASSWORD 'app-secret' CONNECTION LIMIT 50;
CREATE ROLE analyst LOGIN PASSWORD 'analyst-secret' VALID UNTIL '2031-01-01' NOINHERIT;
CREATE ROLE app_lead LOGIN PASSWORD 'it''s "quoted"' CREATEROLE CREATEDB;
CREATE ROLE "Ünïcode Rôle" LOGIN;
CREATE ROLE "quo""ted; role -- x" LOGIN;
CREATE ROLE replicator LOGIN REPLICATION PASSWORD 'replicator-secret';
GRANT shop_writer TO app;
GRANT shop_reader TO app_lead WITH ADMIN OPTION;
SET ROLE app_lead;
GRANT shop_reader TO "quo""ted; role -- x";    -- granted by app_lead, not by the superuser
RESET ROLE;
GRANT shop_reader TO analyst GRANTED BY aptible;
GRANT pg_monitor TO analyst;
ALTER ROLE analyst SET default_transaction_read_only = on;
ALTER ROLE app SET search_path = shop, public;
COMMENT ON ROLE app IS 'what the application connects as; it''s not a person';

-- Databases --------------------------------------------------------------------------------------------------------
\set weird 'We"ird \'db'
CREATE DATABASE analytics OWNER shop_owner;
CREATE DATABASE :"weird";
ALTER DATABASE db SET timezone = 'Europe/Vienna';
ALTER DATABASE db SET search_path = '$user', public, extensions;
ALTER ROLE app IN DATABASE db SET statement_timeout = '30s';
ALTER ROLE app IN DATABASE analytics SET work_mem = '12MB';
REVOKE CONNECT ON DATABASE analytics FROM PUBLIC;
GRANT CONNECT ON DATABASE analytics TO analyst, shop_writer;
COMMENT ON DATABASE db IS 'orders, since 2019';
COMMENT ON DATABASE :"weird" IS E'a name with both quotes\nand a comment of two lines';

\connect db
SET client_min_messages = warning;
CREATE SCHEMA extensions;
CREATE EXTENSION pgcrypto SCHEMA extensions;
CREATE EXTENSION hstore SCHEMA extensions;
CREATE EXTENSION citext SCHEMA extensions;
CREATE EXTENSION pg_trgm SCHEMA extensions;
CREATE EXTENSION btree_gist SCHEMA extensions;
CREATE EXTENSION "uuid-ossp" SCHEMA extensions;
CREATE EXTENSION ltree SCHEMA extensions;
SET search_path = '$user', public, extensions;

CREATE SCHEMA shop AUTHORIZATION shop_owner;
CREATE SCHEMA "Sch;ema ""two""";
GRANT USAGE ON SCHEMA shop TO shop_reader;
GRANT USAGE ON SCHEMA extensions TO PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE shop_owner IN SCHEMA shop GRANT SELECT ON TABLES TO shop_reader;
ALTER DEFAULT PRIVILEGES FOR ROLE shop_owner IN SCHEMA shop GRANT INSERT, UPDATE, DELETE ON TABLES TO shop_writer;
ALTER DEFAULT PRIVILEGES FOR ROLE shop_owner GRANT USAGE ON SEQUENCES TO shop_writer;
ALTER DEFAULT PRIVILEGES FOR ROLE shop_owner REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;

SET ROLE shop_owner;
SET search_path = shop, extensions;

-- Types
CREATE TYPE order_state AS ENUM ('new', 'paid', 'it''s shipped', 'storniert');
CREATE DOMAIN email AS citext CHECK (VALUE ~ '^[^@\s]+@[^@\s]+$');
CREATE DOMAIN cents AS bigint DEFAULT 0 NOT NULL CHECK (VALUE >= 0);
CREATE TYPE address AS (street text, zip text, city text);
CREATE TYPE price_span AS RANGE (subtype = numeric, multirange_type_name = price_spans);
CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false);

-- Tables
CREATE TABLE customer (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    email email UNIQUE,
    name text NOT NULL COLLATE "C",
    nick text COLLATE ci,
    home address,
    others address[],
    tags hstore,
    born date,
    parent bigint REFERENCES customer DEFERRABLE INITIALLY DEFERRED,
    active boolean DEFAULT true,
    CONSTRAINT grown CHECK (born < '2020-01-01') NOT VALID
);
COMMENT ON TABLE customer IS E'people; a comment with \\connect postgres\n\\connect postgres\non a line of its own';
COMMENT ON COLUMN customer.email IS 'checked by the domain';
ALTER TABLE customer ALTER COLUMN name SET STATISTICS 500, ALTER COLUMN name SET (n_distinct = -0.9);
ALTER TABLE customer ALTER COLUMN home SET STORAGE MAIN;

CREATE SEQUENCE invoice_number START 1000 INCREMENT 5 CACHE 10 MAXVALUE 900000 CYCLE;
CREATE TABLE orders (
    id serial PRIMARY KEY,
    customer bigint NOT NULL REFERENCES customer ON DELETE CASCADE,
    state order_state NOT NULL DEFAULT 'new',
    placed timestamptz NOT NULL,
    invoice bigint DEFAULT nextval('shop.invoice_number'),
    net cents, tax cents,
    gross bigint GENERATED ALWAYS AS (net + tax) STORED,
    note text,
    UNIQUE NULLS NOT DISTINCT (customer, placed, note)
) WITH (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.05);
CREATE TABLE item (
    "order" integer REFERENCES orders, line smallint, sku text, "Quantity of ""things""" integer, price numeric(12, 4), extra jsonb,
    PRIMARY KEY ("order", line) INCLUDE (sku)
);
CREATE INDEX item_extra ON item USING gin (extra jsonb_path_ops);
CREATE INDEX orders_open ON orders (placed DESC NULLS LAST) WHERE state <> 'storniert';
CREATE INDEX customer_name_trgm ON customer USING gin (name gin_trgm_ops);
CREATE INDEX customer_lower ON customer ((lower(name)), (born IS NULL));
CREATE INDEX orders_placed ON orders (placed);
ALTER TABLE orders CLUSTER ON orders_placed;
CREATE STATISTICS orders_linked (ndistinct, dependencies, mcv) ON customer, state FROM orders;
CREATE STATISTICS orders_day ON date_trunc('day', placed AT TIME ZONE 'UTC') FROM orders;

CREATE TABLE event (at timestamptz NOT NULL, kind text NOT NULL, who bigint, body jsonb) PARTITION BY RANGE (at);
CREATE TABLE event_2023 PARTITION OF event FOR VALUES FROM (MINVALUE) TO ('2024-01-01 00:00+00');
CREATE TABLE event_2024 PARTITION OF event FOR VALUES FROM ('2024-01-01 00:00+00') TO ('2025-01-01 00:00+00') PARTITION BY LIST (kind);
CREATE TABLE event_2024_click PARTITION OF event_2024 FOR VALUES IN ('click', 'tap');
CREATE TABLE event_2024_rest PARTITION OF event_2024 DEFAULT;
CREATE TABLE event_later PARTITION OF event DEFAULT;
CREATE INDEX event_who ON event (who);
CREATE TABLE measure (sensor integer, at timestamp, value double precision, PRIMARY KEY (sensor, at)) PARTITION BY HASH (sensor);
CREATE TABLE measure_0 PARTITION OF measure FOR VALUES WITH (MODULUS 3, REMAINDER 0);
CREATE TABLE measure_1 PARTITION OF measure FOR VALUES WITH (MODULUS 3, REMAINDER 1);
CREATE TABLE measure_2 PARTITION OF measure FOR VALUES WITH (MODULUS 3, REMAINDER 2);
CREATE TABLE booking (room integer, during tstzrange, EXCLUDE USING gist (room WITH =, during WITH &&));
CREATE TABLE vehicle (plate text, wheels integer);
CREATE TABLE truck (load numeric) INHERITS (vehicle);
CREATE UNLOGGED TABLE session (token uuid DEFAULT uuid_generate_v4(), data hstore);
CREATE TABLE no_columns ();
CREATE TABLE place (path ltree PRIMARY KEY, spans price_spans, hue bit varying(12), mac macaddr, net inet);

-- Functions, with the semicolons and quotes that break simple readers
CREATE FUNCTION vat(net bigint) RETURNS bigint LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
    SELECT CASE WHEN net > 0 THEN (net * 20) / 100 ELSE 0 END;
    SELECT (net * 20) / 100;
END;
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $body$
BEGIN
    -- ALTER ROLE aptible PASSWORD 'this line is a comment in a function'; $$ and $x$ are no ends
    IF NEW.note = E'it\'s; /* no comment */' THEN RAISE NOTICE '%', $$;$$; END IF;
    NEW.note := coalesce(NEW.note, '');
    RETURN NEW;
END;
$body$;
CREATE PROCEDURE close_old(before timestamptz) LANGUAGE sql AS 'UPDATE shop.orders SET state = ''storniert'' WHERE placed < before; /* a; /* nested; */ b; */';
CREATE FUNCTION add_up(numeric, numeric) RETURNS numeric LANGUAGE sql IMMUTABLE RETURN coalesce($1, 0) + coalesce($2, 0);
CREATE AGGREGATE total(numeric) (SFUNC = shop.add_up, STYPE = numeric, INITCOND = '0');
CREATE OPERATOR +? (FUNCTION = shop.add_up, LEFTARG = numeric, RIGHTARG = numeric, COMMUTATOR = OPERATOR(shop.+?));
GRANT EXECUTE ON FUNCTION vat(bigint) TO shop_reader;

-- Views
CREATE VIEW open_order WITH (security_barrier) AS
    SELECT o.id, c.name, o.gross FROM shop.orders o JOIN shop.customer c ON c.id = o.customer WHERE o.state = 'new';
CREATE VIEW paid AS SELECT id, note FROM shop.orders WHERE state = 'paid' WITH CASCADED CHECK OPTION;
CREATE RECURSIVE VIEW ancestor (id, root) AS
    SELECT id, id FROM shop.customer WHERE parent IS NULL UNION ALL SELECT c.id, a.root FROM shop.customer c JOIN ancestor a ON c.parent = a.id;
CREATE RULE paid_delete AS ON DELETE TO paid DO INSTEAD (UPDATE shop.orders SET state = 'storniert' WHERE id = OLD.id; SELECT 1;);

-- Rows ---------------------------------------------------------------------------------------------------------------
INSERT INTO customer (email, name, nick, home, others, tags, born, parent)
SELECT 'user' || n || '@Example.org', (ARRAY['Zoë', 'Łukasz', 'O''Brien', '李雷', 'Renée 🚀', 'back\slash'])[1 + n % 6] || ' ' || n,
       CASE WHEN n % 5 = 0 THEN NULL ELSE 'Nick' || n END, ROW('Main "St" ' || n, lpad(n::text, 5, '0'), E'Tab\there')::address,
       CASE WHEN n % 9 = 0 THEN ARRAY[ROW('a,b', NULL, '(x)')::address, NULL] END, hstore('n', n::text) || hstore('null', NULL),
       date '1950-01-01' + n % 20000, CASE WHEN n % 4 = 0 THEN n / 4 END
FROM generate_series(1, 20000) n;
INSERT INTO orders (customer, state, placed, net, tax, note)
SELECT 1 + n % 20000, (ARRAY['new', 'paid', 'it''s shipped', 'storniert']::order_state[])[1 + n % 4],
       timestamptz '2022-06-01 00:00+00' + n * interval '17 minutes', n * 37 % 90000, vat(n * 37 % 90000),
       CASE WHEN n % 3 = 0 THEN NULL WHEN n % 7 = 0 THEN E'line one\nline two\\.\n\\.' ELSE repeat('n', n % 40) END
FROM generate_series(1, 60000) n;
INSERT INTO item SELECT o, line, 'sku-' || (o * 7 + line) % 500, line, (o % 9973) / 7.0, jsonb_build_object('size', line, 'ö"k', NULL, 'list', jsonb_build_array(o, 'x'))
FROM generate_series(1, 60000) o, generate_series(1, 2) line;
INSERT INTO event SELECT timestamptz '2023-09-01 00:00+00' + n * interval '5 minutes', (ARRAY['click', 'tap', 'view', 'buy'])[1 + n % 4], n % 20000,
       CASE WHEN n % 10 = 0 THEN NULL ELSE jsonb_build_object('n', n, 'path', '/p/' || n % 99) END
FROM generate_series(1, 120000) n;
INSERT INTO measure SELECT n % 97, timestamp '2024-01-01' + n * interval '1 minute', sin(n) * 1e5 FROM generate_series(1, 40000) n;
INSERT INTO measure VALUES (1, 'infinity', 'NaN'), (2, '-infinity', '-Infinity'), (3, '0044-03-15 BC', 1e-300), (4, '2024-02-29', -0.0);
INSERT INTO booking SELECT n % 10, tstzrange(t, t + interval '1 hour') FROM generate_series(1, 500) n, LATERAL (SELECT timestamptz '2024-01-01 00:00+00' + n * interval '2 hours') x (t);
INSERT INTO vehicle VALUES ('W-1', 2); INSERT INTO truck VALUES ('W-2', 6, 7.5);
INSERT INTO session (data) SELECT hstore('n', n::text) FROM generate_series(1, 100) n;
INSERT INTO no_columns DEFAULT VALUES;
INSERT INTO no_columns DEFAULT VALUES;
INSERT INTO place VALUES ('top.europe.vienna', '{[1,2),[5,)}', B'10101', '08:00:2b:01:02:03', '10.0.0.0/8'), ('top', NULL, NULL, NULL, '::1');
CREATE TRIGGER touched BEFORE INSERT OR UPDATE OF note ON orders FOR EACH ROW WHEN (NEW.state = 'new') EXECUTE FUNCTION touch();
CREATE TRIGGER touched_off BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION touch();
ALTER TABLE orders DISABLE TRIGGER touched_off;
CREATE MATERIALIZED VIEW sales AS SELECT date_trunc('month', placed AT TIME ZONE 'UTC') AS month, count(*), sum(gross) FROM shop.orders GROUP BY 1;
CREATE UNIQUE INDEX sales_month ON sales (month);
CREATE MATERIALIZED VIEW sales_later AS SELECT * FROM shop.sales WITH NO DATA;

ALTER TABLE customer ENABLE ROW LEVEL SECURITY;
CREATE POLICY see_active ON customer FOR SELECT TO shop_reader USING (active AND name <> 'x; y');
CREATE POLICY write_own ON customer AS RESTRICTIVE FOR UPDATE TO shop_writer USING (id > 0) WITH CHECK (email IS NOT NULL);
GRANT SELECT (id, name) ON customer TO analyst WITH GRANT OPTION;
RESET ROLE;

-- Text that looks like statements, in rows: a filter that reads lines loses them.
SET search_path = public, extensions;
CREATE TABLE note (id integer PRIMARY KEY, body text, blob bytea, list text[], at timestamptz);
INSERT INTO note VALUES
    (1, 'ALTER ROLE aptible PASSWORD ''x''', '\x00ff5c2e0a', '{a,"b,c",NULL,"\"q\"","\\"}', 'infinity'),
    (2, E'first line\nALTER ROLE aptible WITH SUPERUSER PASSWORD \'y\';\n\\.\nCREATE ROLE postgres;', '\x', '{}', '-infinity'),
    (3, E'\\connect template1', NULL, '{{1,2},{3,4}}', '2024-03-31 02:30+01'),
    (4, '', decode(repeat('5c', 4096), 'hex'), NULL, NULL),
    (5, E'tab\tcr\rbell\b form\f \u00a0 nbsp \U0001F600 ﷽ \\N', '\x5c4e', '[0:1]={x,y}', 'epoch'),
    (6, NULL, NULL, NULL, NULL);
CREATE TABLE "ALTER ROLE aptible PASSWORD" ("; DROP TABLE note; --" integer, "a
b" text);
INSERT INTO "ALTER ROLE aptible PASSWORD" VALUES (1, 'kept');
CREATE TABLE "Sch;ema ""two"""."T'able" (id integer GENERATED BY DEFAULT AS IDENTITY (START 7 INCREMENT -3 MINVALUE -100 MAXVALUE 100), secret text);
INSERT INTO "Sch;ema ""two"""."T'able" (secret) SELECT crypt('pw' || n, gen_salt('md5')) FROM generate_series(1, 5) n;
ALTER TABLE note REPLICA IDENTITY FULL;

SELECT max(made.oid) AS oid FROM (SELECT lo_from_bytea(0, convert_to(repeat('large object ' || n || E'\n', 20000), 'UTF8')) AS oid FROM generate_series(1, 3) n) made \gset lo_
COMMENT ON LARGE OBJECT :lo_oid IS 'the last of three';
ALTER LARGE OBJECT :lo_oid OWNER TO shop_owner;
GRANT SELECT ON LARGE OBJECT :lo_oid TO shop_reader;

CREATE PUBLICATION orders_out FOR TABLE shop.orders WHERE (id > 0), shop.item WITH (publish = 'insert, update');
CREATE TABLE ddl_log (at timestamptz DEFAULT now(), tag text);
CREATE FUNCTION log_ddl() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.ddl_log (tag) VALUES (tg_tag); END';
CREATE EVENT TRIGGER log_ddl ON ddl_command_end WHEN TAG IN ('CREATE TABLE', 'DROP TABLE') EXECUTE FUNCTION log_ddl();
CREATE TEXT SEARCH CONFIGURATION plain (COPY = simple);
SELECT setval('shop.invoice_number', 500000, false);

\connect analytics
SET client_min_messages = warning;
CREATE TABLE daily (day date PRIMARY KEY, visits bigint, share real, best numeric, tz interval);
INSERT INTO daily SELECT date '2000-01-01' + n, n * n, n / 3.0::real, CASE WHEN n % 50 = 0 THEN 'NaN' ELSE n / 7.0 END, n * interval '1 day 2 hours'
FROM generate_series(1, 8000) n;
ALTER TABLE daily OWNER TO shop_owner;
GRANT SELECT ON daily TO analyst;

\connect :"weird"
SET client_min_messages = warning;
CREATE TABLE "t""a'b" (k text PRIMARY KEY, v integer[]);
INSERT INTO "t""a'b" SELECT 'k' || n, ARRAY[n, NULL] FROM generate_series(1, 2000) n;
