-- same_roles
CREATE ROLE shared;
-- template1_changed
\c template1
CREATE TABLE in_template (a int);
\c postgres
-- other_encoding
CREATE DATABASE ascii TEMPLATE template0;
CREATE DATABASE shop TEMPLATE template0;
\c shop
-- target_not_empty
CREATE TABLE left_over (a int);
CREATE FUNCTION watch() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
-- target_event_triggers
CREATE EVENT TRIGGER target_watcher ON sql_drop EXECUTE FUNCTION watch();
-- target_timeouts
ALTER DATABASE shop SET lock_timeout = '3s';
-- read_only_target
ALTER DATABASE shop SET default_transaction_read_only = on;
