-- What a target whose role is no superuser, or is built without ICU, cannot take; and what a poor role cannot read.
-- owners_not_settable
CREATE ROLE owner;
-- role_attributes
CREATE ROLE streamer REPLICATION;
-- superuser_settings
ALTER ROLE owner SET log_min_duration_statement = '1s';
-- extensions_need_superuser
CREATE EXTENSION postgres_fdw;
-- superuser_objects
CREATE FUNCTION watch() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
CREATE EVENT TRIGGER watcher ON sql_drop EXECUTE FUNCTION watch();
CREATE FUNCTION sum_of(int, int) RETURNS int LANGUAGE internal AS 'int4pl';
CREATE PUBLICATION everything FOR ALL TABLES;
CREATE TYPE grade AS ENUM ('a');
CREATE CAST (grade AS int) WITH INOUT;
CREATE DOMAIN id AS int;
CREATE FOREIGN DATA WRAPPER nothing;
CREATE TEXT SEARCH TEMPLATE own (LEXIZE = dsimple_lexize);
-- nulls_not_distinct_keys
CREATE TABLE keyed (a int);
CREATE UNIQUE INDEX keyed_pkey ON keyed (a) NULLS NOT DISTINCT;
ALTER TABLE keyed ADD PRIMARY KEY USING INDEX keyed_pkey;
ALTER TABLE keyed OWNER TO owner;
-- icu_missing, collations_missing
CREATE COLLATION german (PROVIDER = icu, LOCALE = 'de');
CREATE TABLE words (id int PRIMARY KEY, a text COLLATE german, b text COLLATE "de-x-icu", v tsvector);
CREATE INDEX words_v ON words USING gin (v);
-- row_security
CREATE TABLE guarded (id int PRIMARY KEY);
ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
-- database_collation_versions
UPDATE pg_database SET datcollversion = '1' WHERE datname = 'plain';
CREATE ROLE poor LOGIN;
GRANT SELECT ON guarded TO poor;
GRANT CONNECT ON DATABASE plain TO poor;
