-- Each statement makes a hazard for 18; the line before it names the rules that must find it.
-- public_may_create
GRANT CREATE ON SCHEMA public TO PUBLIC;
-- postfix_operators
CREATE OPERATOR !!! (LEFTARG = int, FUNCTION = int4um);
-- factorial_operators
CREATE VIEW factorials AS SELECT id ! AS f FROM customers;
ALTER TABLE customers ADD CONSTRAINT small CHECK (!! 3 > id);
ALTER TABLE orders ADD COLUMN f numeric DEFAULT 3 !;
CREATE INDEX orders_factorial ON orders ((!! id));
-- polymorphic_array_functions
CREATE AGGREGATE collect(anyelement) (SFUNC = array_append, STYPE = anyarray, INITCOND = '{}');
CREATE OPERATOR !@# (FUNCTION = array_append, LEFTARG = anyarray, RIGHTARG = anyelement);
-- c_functions, conversion_functions, user_conversions
CREATE FUNCTION to_latin1(int, int, cstring, internal, int) RETURNS void LANGUAGE c STRICT
    AS '$libdir/utf8_and_iso8859_1', 'utf8_to_iso8859_1';
CREATE CONVERSION own_latin1 FOR 'UTF8' TO 'LATIN1' FROM to_latin1;
-- user_conversions
CREATE CONVERSION same_latin1 FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8;
-- unqualified_names
CREATE FUNCTION looks_up(int) RETURNS bigint LANGUAGE sql IMMUTABLE AS 'SELECT count(*) FROM orders WHERE id = $1';
CREATE INDEX customers_looks_up ON customers (looks_up(id));
CREATE TABLE "Mixed" (id int PRIMARY KEY);
CREATE FUNCTION mixes(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN (SELECT count(*) + $1 FROM "Mixed"); END';
CREATE INDEX mixed_by ON "Mixed" (mixes(id));
CREATE FUNCTION calls(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN rate($1); END';
ALTER TABLE orders ADD CONSTRAINT called CHECK (calls(id) > 0);
CREATE FUNCTION casts(int) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT ($1::positive)::text';
ALTER TABLE parent ADD COLUMN made text GENERATED ALWAYS AS (casts(id)) STORED;
CREATE FUNCTION in_matview() RETURNS bigint LANGUAGE sql STABLE AS 'SELECT count(*) FROM customers';
CREATE MATERIALIZED VIEW counted AS SELECT in_matview();
-- extract_in_functions
CREATE FUNCTION year_of(date) RETURNS double precision LANGUAGE sql AS 'SELECT EXTRACT(year FROM $1)';
-- lc_collate_in_functions
CREATE FUNCTION sorted_by() RETURNS text LANGUAGE sql AS 'SELECT current_setting(''lc_collate'')';
-- after_upgrade
CREATE STATISTICS orders_stats ON customer, at FROM orders;
-- deferred_triggers
CREATE CONSTRAINT TRIGGER later AFTER INSERT ON orders DEFERRABLE FOR EACH ROW EXECUTE FUNCTION fire();
-- legacy_plpgsql_handler, c_functions, removed_languages
CREATE FUNCTION public.plpgsql_call_handler() RETURNS language_handler LANGUAGE c AS '$libdir/plpgsql';
CREATE LANGUAGE plpythonu HANDLER public.plpgsql_call_handler;
-- catalog_columns_in_views
CREATE VIEW checkpoints AS SELECT checkpoints_timed + checkpoints_req AS n FROM pg_stat_bgwriter;
-- catalog_columns_in_functions
CREATE FUNCTION backend_buffers() RETURNS bigint LANGUAGE plpgsql AS
    'BEGIN RETURN (SELECT buffers_backend FROM pg_stat_bgwriter); END';
-- objects_in_pg_catalog
CREATE FUNCTION pg_catalog.mine() RETURNS int LANGUAGE sql AS 'SELECT 1';
-- parent_not_null, inheritance_parents
CREATE TABLE child () INHERITS (parent);
ALTER TABLE ONLY parent ALTER COLUMN id DROP NOT NULL;
ALTER TABLE child ALTER COLUMN id DROP NOT NULL;
ALTER TABLE ONLY parent ALTER COLUMN id SET NOT NULL;
-- foreign_key_collations
CREATE COLLATION blind (PROVIDER = icu, LOCALE = 'und', DETERMINISTIC = false);
CREATE TABLE blind_keys (t text COLLATE blind PRIMARY KEY);
CREATE TABLE blind_users (t text COLLATE "C" CONSTRAINT blind_users_fk REFERENCES blind_keys);
-- unlogged_partitioned_tables
CREATE UNLOGGED TABLE unlogged_parts (a int) PARTITION BY RANGE (a);
-- unlogged_tables
CREATE UNLOGGED TABLE unlogged (a int PRIMARY KEY);
-- hash_partitions
CREATE TABLE mood_parts (m mood) PARTITION BY HASH (m);
CREATE TABLE blind_parts (n text COLLATE blind) PARTITION BY HASH (n);
CREATE TABLE calm_parts (n text COLLATE "en-x-icu") PARTITION BY HASH (n);
-- collated_ranges
CREATE TABLE name_ranges (n text COLLATE "en-x-icu") PARTITION BY RANGE (n);
-- wide_tables
DO $$ BEGIN EXECUTE 'CREATE TABLE wide (' || (SELECT string_agg('c' || n || ' int', ', ') FROM generate_series(1, 1001) n) || ')'; END $$;
-- collation_versions
CREATE COLLATION moved FROM "en-x-icu";
CREATE TABLE moved_names (n text COLLATE moved);
UPDATE pg_collation SET collversion = '1' WHERE collname = 'moved';
-- extensions_missing
CREATE EXTENSION adminpack;
-- extension_versions, extensions_outdated
CREATE EXTENSION pg_stat_statements VERSION '1.4';
-- inet_gist_indexes
CREATE EXTENSION btree_gist;
CREATE TABLE nets (n inet);
CREATE INDEX nets_gist ON nets USING gist (n gist_inet_ops);
-- large_objects
SELECT lo_create(4242);
-- event_triggers
CREATE FUNCTION watch() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
CREATE EVENT TRIGGER watcher ON ddl_command_end EXECUTE FUNCTION watch();
ALTER EVENT TRIGGER watcher DISABLE;
-- user_mappings
CREATE FOREIGN DATA WRAPPER nothing;
CREATE SERVER far FOREIGN DATA WRAPPER nothing;
CREATE USER MAPPING FOR app SERVER far OPTIONS (secret 'x');
-- subscriptions
CREATE SUBSCRIPTION news CONNECTION 'host=nowhere' PUBLICATION p WITH (connect = false, slot_name = NONE);
-- text_search_files
CREATE TEXT SEARCH DICTIONARY synonyms (TEMPLATE = synonym, SYNONYMS = synonym_sample);
-- invalid_indexes
CREATE INDEX orders_broken ON orders (note);
UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'orders_broken'::regclass;
-- not_valid_constraints
ALTER TABLE orders ADD CONSTRAINT unproven CHECK (note <> '') NOT VALID;
-- unpopulated_matviews
CREATE MATERIALIZED VIEW unfilled AS SELECT 1 AS a WITH NO DATA;
-- clustered_tables
ALTER TABLE orders CLUSTER ON orders_pkey;
-- disabled_triggers
ALTER TABLE orders DISABLE TRIGGER fires;
-- always_triggers
CREATE TRIGGER always BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION fire();
ALTER TABLE orders ENABLE ALWAYS TRIGGER always;
-- empty_lexemes
CREATE TABLE lexemes (v tsvector);
INSERT INTO lexemes SELECT array_to_tsvector(ARRAY['', 'x']) FROM generate_series(1, 50);
ANALYZE lexemes;
-- row_security_replicated
ALTER TABLE customers ENABLE ROW LEVEL SECURITY;
-- full_identity_types
CREATE TABLE points (p point);
ALTER TABLE points REPLICA IDENTITY FULL;
-- reg_columns, aclitem_columns
CREATE TYPE pair AS (f regprocedure, n int);
CREATE DOMAIN pairs AS pair[];
CREATE TABLE holds (p pairs, a aclitem);
-- oid_columns
CREATE TABLE pictures (id int PRIMARY KEY, data oid);
-- unknown_settings
ALTER ROLE app SET operator_precedence_warning = on;
ALTER DATABASE shop SET vacuum_cleanup_index_scale_factor = 0.2;
ALTER ROLE ALL SET operator_precedence_warning = off;
-- settings_of_all_roles
ALTER ROLE ALL SET work_mem = '5MB';
-- unknown_function_settings
CREATE FUNCTION warns() RETURNS int LANGUAGE sql SET operator_precedence_warning = on AS 'SELECT 1';
-- invalid_setting_values
ALTER ROLE reader SET password_encryption = 'on';
-- stored_timeouts
ALTER ROLE app SET lock_timeout = '5s';
-- escape_strings
ALTER ROLE app SET standard_conforming_strings = off;
-- role_attributes
CREATE ROLE "boss
man" SUPERUSER;
CREATE ROLE streamer REPLICATION;
-- md5_passwords
CREATE ROLE old LOGIN PASSWORD 'md5a3556571e93b0d20722ba62be61e8c2d';
-- createrole_roles
CREATE ROLE maker CREATEROLE;
-- noinherit_members
CREATE ROLE distant NOINHERIT;
GRANT reader TO distant;
-- lost_grantors
CREATE ROLE granter SUPERUSER;
SET ROLE granter;
GRANT reader TO maker;
RESET ROLE;
DROP ROLE granter;
-- dangling_roles
CREATE ROLE gone;
CREATE TABLE orphan (a int PRIMARY KEY);
ALTER TABLE orphan OWNER TO gone;
GRANT SELECT ON parts TO gone;
DELETE FROM pg_authid WHERE rolname = 'gone';
-- same_roles (the target has it, too)
CREATE ROLE shared;
-- closed_databases
CREATE DATABASE closed TEMPLATE template0 ALLOW_CONNECTIONS false;
-- invalid_databases
CREATE DATABASE cut TEMPLATE template0;
UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'cut';
-- sql_ascii
CREATE DATABASE ascii ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0;
-- mule_internal
CREATE DATABASE mule ENCODING 'MULE_INTERNAL' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0;
-- locales_missing
CREATE DATABASE abroad TEMPLATE template0;
UPDATE pg_database SET datcollate = 'xx_YY.UTF-8' WHERE datname = 'abroad';
-- replication_slots
SELECT pg_create_physical_replication_slot('standby');
-- tablespaces_missing
CREATE TABLESPACE elsewhere LOCATION :'tablespace';
-- prepared_transactions
BEGIN;
INSERT INTO parent VALUES (1);
PREPARE TRANSACTION 'half done';
