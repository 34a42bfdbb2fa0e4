-- A database as it should be: what the hazardous one has in a harmful way is here in a harmless one.
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
CREATE EXTENSION tablefunc;
CREATE TYPE mood AS ENUM ('glad', 'sad');
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE SEQUENCE numbers;
CREATE TABLE customers (
    id int PRIMARY KEY DEFAULT nextval('numbers'),
    name text COLLATE "C" NOT NULL,
    mood mood,
    age positive,
    words tsvector,
    seen timestamptz DEFAULT now(),
    tags text[]
);
CREATE TABLE orders (id int PRIMARY KEY, customer int REFERENCES customers, note text, at date NOT NULL);
CREATE TABLE parent (id int NOT NULL);
CREATE TABLE parts (id int, name text) PARTITION BY HASH (id);
CREATE TABLE parts_0 PARTITION OF parts FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE ranges (at date, name text) PARTITION BY RANGE (at);
CREATE FUNCTION rate(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 * 2 -- FROM orders';
CREATE FUNCTION safe(int) RETURNS int LANGUAGE plpgsql IMMUTABLE SET search_path = public AS
    'BEGIN RETURN (SELECT count(*) FROM orders WHERE id = $1); END';
CREATE FUNCTION qualified(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
    'BEGIN /* FROM orders */ RETURN public.rate($1) + (SELECT count(*) FROM public.orders WHERE id = $1); END';
CREATE FUNCTION elsewhere(int) RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM orders WHERE id = $1';
CREATE INDEX ON customers (rate(id));
CREATE INDEX ON customers (safe(id));
CREATE INDEX ON customers (qualified(id));
CREATE INDEX ON customers USING gin (words);
ALTER TABLE orders ADD CHECK (rate(id) > 0);
CREATE VIEW activity AS SELECT datname, pid, state FROM pg_stat_activity;
CREATE VIEW writer AS SELECT buffers_alloc, maxwritten_clean, stats_reset FROM pg_stat_bgwriter;
CREATE VIEW prefixed AS SELECT @ id AS size FROM customers;
CREATE MATERIALIZED VIEW totals AS SELECT customer, count(*) FROM orders GROUP BY 1;
CREATE FUNCTION fire() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER fires BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION fire();
CREATE AGGREGATE total(int) (SFUNC = int4pl, STYPE = int, INITCOND = '0');
CREATE AGGREGATE gather(int) (SFUNC = array_append, STYPE = int[]);
CREATE OPERATOR === (LEFTARG = int, RIGHTARG = int, FUNCTION = int4eq);
CREATE OPERATOR ~~~ (RIGHTARG = int, FUNCTION = int4um);
CREATE TEXT SEARCH DICTIONARY plain (TEMPLATE = simple, STOPWORDS = english);
INSERT INTO customers (name, words) VALUES ('a', to_tsvector('simple', 'some words'));
INSERT INTO orders VALUES (1, 1, 'x', now());
CREATE ROLE reader;
CREATE ROLE app LOGIN PASSWORD 'SCRAM-SHA-256$4096:c2FsdHNhbHRzYWx0c2FsdA==$2W4BDh9ncOLzNMOrLi2VBhUGOHNLJuMBFYMvkvpKxPk=:hzWPgwJkFkBGNhVFZDVJqf7r4uwZ9g4qjxDbCRCxSjI=';
GRANT reader TO app;
GRANT SELECT ON customers TO reader;
ALTER ROLE app SET work_mem = '8MB';
ALTER DATABASE shop SET statement_timeout = 0;
ANALYZE;
