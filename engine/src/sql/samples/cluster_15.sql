--
-- PostgreSQL database cluster dump
--

\restrict JfkZDiugB7XnHeo9yliYMmxOKXQ7qe005Isbna3dUww3AgEO8JZI2LfaHGkbFma

SET default_transaction_read_only = off;

SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;

--
-- Roles
--

CREATE ROLE "Odd ""Role; --";
ALTER ROLE "Odd ""Role; --" WITH NOSUPERUSER INHERIT NOCREATEROLE NOCREATEDB NOLOGIN NOREPLICATION NOBYPASSRLS;
CREATE ROLE app;
ALTER ROLE app WITH NOSUPERUSER INHERIT NOCREATEROLE NOCREATEDB LOGIN NOREPLICATION NOBYPASSRLS PASSWORD 'SCRAM-SHA-256$4096:Py7DHYptL4Nc8yqfoi6tNQ==$mSH1Pk62YmSjzgcraQIwffObTqReIf8lVYG3Ki3WEZc=:LS7YJdyvsQm4ypdBq6rZ3UlXWbTmTE+wyvIA618Ryd8=';
COMMENT ON ROLE app IS 'the; app';
CREATE ROLE aptible;
ALTER ROLE aptible WITH SUPERUSER INHERIT CREATEROLE CREATEDB LOGIN REPLICATION BYPASSRLS PASSWORD 'SCRAM-SHA-256$4096:nNgahf4yK6e/NfzifPzSYg==$8QTYwVMxGkBkk9SVBPvi8nNSosiuUQawZWFhPdTUn4U=:k8YucLtHfMvhzzQiSD7zOPk1uDWAwBKKtIngEIul7Pk=';
CREATE ROLE postgres;
ALTER ROLE postgres WITH SUPERUSER INHERIT NOCREATEROLE NOCREATEDB NOLOGIN NOREPLICATION NOBYPASSRLS;
CREATE ROLE reader;
ALTER ROLE reader WITH NOSUPERUSER INHERIT NOCREATEROLE NOCREATEDB NOLOGIN NOREPLICATION NOBYPASSRLS;

--
-- User Configurations
--

--
-- User Config "app"
--

ALTER ROLE app SET statement_timeout TO '5s';
ALTER ROLE app SET search_path TO 'public', '$user';


--
-- Role memberships
--

GRANT postgres TO app GRANTED BY aptible;
GRANT reader TO app WITH ADMIN OPTION GRANTED BY aptible;






\unrestrict JfkZDiugB7XnHeo9yliYMmxOKXQ7qe005Isbna3dUww3AgEO8JZI2LfaHGkbFma

--
-- Databases
--

--
-- Database "template1" dump
--

\connect template1

--
-- PostgreSQL database dump
--

\restrict TTHnvqylBosEvFwE7wvZLsc4gHctd5fSxjK0obwIfyBgS7ehWV2Letob0jJufxc

-- Dumped from database version 15.18 (Debian 15.18-0+deb12u1)
-- Dumped by pg_dump version 15.18 (Debian 15.18-0+deb12u1)

SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;

--
-- PostgreSQL database dump complete
--

\unrestrict TTHnvqylBosEvFwE7wvZLsc4gHctd5fSxjK0obwIfyBgS7ehWV2Letob0jJufxc

--
-- Database "db" dump
--

--
-- PostgreSQL database dump
--

\restrict QiJT3Oo1aFumuaeallYm6LpwGA0ff374dMA3S3cavF6Z0jaYAKrLmJAR8QzNtxU

-- Dumped from database version 15.18 (Debian 15.18-0+deb12u1)
-- Dumped by pg_dump version 15.18 (Debian 15.18-0+deb12u1)

SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;

--
-- Name: db; Type: DATABASE; Schema: -; Owner: aptible
--

CREATE DATABASE db WITH TEMPLATE = template0 ENCODING = 'UTF8' LOCALE_PROVIDER = libc LOCALE = 'C';


ALTER DATABASE db OWNER TO aptible;

\unrestrict QiJT3Oo1aFumuaeallYm6LpwGA0ff374dMA3S3cavF6Z0jaYAKrLmJAR8QzNtxU
\connect db
\restrict QiJT3Oo1aFumuaeallYm6LpwGA0ff374dMA3S3cavF6Z0jaYAKrLmJAR8QzNtxU

SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;

--
-- Name: db; Type: DATABASE PROPERTIES; Schema: -; Owner: aptible
--

ALTER ROLE app IN DATABASE db SET work_mem TO '64MB';


\unrestrict QiJT3Oo1aFumuaeallYm6LpwGA0ff374dMA3S3cavF6Z0jaYAKrLmJAR8QzNtxU
\connect db
\restrict QiJT3Oo1aFumuaeallYm6LpwGA0ff374dMA3S3cavF6Z0jaYAKrLmJAR8QzNtxU

SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;

--
-- Name: s; Type: SCHEMA; Schema: -; Owner: app
--

CREATE SCHEMA s;


ALTER SCHEMA s OWNER TO app;

--
-- Name: postgres_fdw; Type: EXTENSION; Schema: -; Owner: -
--

CREATE EXTENSION IF NOT EXISTS postgres_fdw WITH SCHEMA public;


--
-- Name: EXTENSION postgres_fdw; Type: COMMENT; Schema: -; Owner: 
--

COMMENT ON EXTENSION postgres_fdw IS 'foreign-data wrapper for remote PostgreSQL servers';


--
-- Name: dom; Type: DOMAIN; Schema: s; Owner: aptible
--

CREATE DOMAIN s.dom AS text
	CONSTRAINT dom_check CHECK ((VALUE ~ '^\d{5}$'::text));


ALTER DOMAIN s.dom OWNER TO aptible;

--
-- Name: mood; Type: TYPE; Schema: s; Owner: aptible
--

CREATE TYPE s.mood AS ENUM (
    'a;',
    'b'''
);


ALTER TYPE s.mood OWNER TO aptible;

SET default_tablespace = '';

SET default_table_access_method = heap;

--
-- Name: orders; Type: TABLE; Schema: public; Owner: app
--

CREATE TABLE public.orders (
    id bigint NOT NULL,
    note text DEFAULT 'a;b''c'::text,
    total numeric(10,2),
    d date,
    CONSTRAINT orders_total_check CHECK ((total >= (0)::numeric))
);
ALTER TABLE ONLY public.orders ALTER COLUMN note SET (n_distinct=5);


ALTER TABLE public.orders OWNER TO app;

--
-- Name: TABLE orders; Type: COMMENT; Schema: public; Owner: app
--

COMMENT ON TABLE public.orders IS 'multi
line; -- not comment';


--
-- Name: f(integer, integer); Type: FUNCTION; Schema: s; Owner: aptible
--

CREATE FUNCTION s.f(a integer, b integer DEFAULT 1) RETURNS integer
    LANGUAGE sql
    BEGIN ATOMIC
 SELECT
         CASE
             WHEN (a > 1) THEN ( SELECT
                     CASE a
                         WHEN 2 THEN 3
                         ELSE 4
                     END AS "case")
             ELSE b
         END AS b;
 INSERT INTO public.orders (note)
   VALUES ('x;'::text);
 SELECT a AS "end";
END;


ALTER FUNCTION s.f(a integer, b integer) OWNER TO aptible;

--
-- Name: g(); Type: FUNCTION; Schema: s; Owner: aptible
--

CREATE FUNCTION s.g() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 's', 'public'
    AS $_$ BEGIN PERFORM $x$ a; $fnn $x$; RETURN NEW; END; $_$;


ALTER FUNCTION s.g() OWNER TO aptible;

--
-- Name: p(text); Type: PROCEDURE; Schema: s; Owner: aptible
--

CREATE PROCEDURE s.p(IN x text)
    LANGUAGE sql
    AS $_$SELECT 1; SELECT $$a$$;$_$;


ALTER PROCEDURE s.p(IN x text) OWNER TO aptible;

--
-- Name: mysum(integer); Type: AGGREGATE; Schema: s; Owner: aptible
--

CREATE AGGREGATE s.mysum(integer) (
    SFUNC = int4pl,
    STYPE = integer,
    INITCOND = '0'
);


ALTER AGGREGATE s.mysum(integer) OWNER TO aptible;

--
-- Name: srv; Type: SERVER; Schema: -; Owner: aptible
--

CREATE SERVER srv FOREIGN DATA WRAPPER postgres_fdw OPTIONS (
    dbname 'd',
    host 'h'
);


ALTER SERVER srv OWNER TO aptible;

--
-- Name: USER MAPPING app SERVER srv; Type: USER MAPPING; Schema: -; Owner: aptible
--

CREATE USER MAPPING FOR app SERVER srv OPTIONS (
    password 'sec''ret',
    "user" 'u'
);


--
-- Name: USER MAPPING postgres SERVER srv; Type: USER MAPPING; Schema: -; Owner: aptible
--

CREATE USER MAPPING FOR postgres SERVER srv OPTIONS (
    password 'sec',
    "user" 'u'
);


--
-- Name: orders_id_seq; Type: SEQUENCE; Schema: public; Owner: app
--

ALTER TABLE public.orders ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.orders_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);


--
-- Name: We;ird "T--; Type: TABLE; Schema: s; Owner: aptible
--

CREATE TABLE s."We;ird ""T--" (
    "end" integer,
    "case" text,
    "сol" text
);


ALTER TABLE s."We;ird ""T--" OWNER TO aptible;

--
-- Name: mv; Type: MATERIALIZED VIEW; Schema: s; Owner: aptible
--

CREATE MATERIALIZED VIEW s.mv AS
 SELECT count(*) AS c
   FROM public.orders
  WITH NO DATA;


ALTER TABLE s.mv OWNER TO aptible;

--
-- Name: v; Type: VIEW; Schema: s; Owner: aptible
--

CREATE VIEW s.v AS
 SELECT orders.id,
        CASE
            WHEN (orders.total > (1)::numeric) THEN 'a;'::text
            ELSE 'b'::text
        END AS begin
   FROM public.orders;


ALTER TABLE s.v OWNER TO aptible;

--
-- Name: 16446; Type: BLOB; Schema: -; Owner: aptible
--

SELECT pg_catalog.lo_create('16446');


ALTER LARGE OBJECT 16446 OWNER TO aptible;

--
-- Data for Name: orders; Type: TABLE DATA; Schema: public; Owner: app
--

COPY public.orders (id, note, total, d) FROM stdin;
1	row\t1 \\. ALTER ROLE aptible PASSWORD 'x';\n\\connect x	1.00	\N
2	row\t2 \\. ALTER ROLE aptible PASSWORD 'x';\n\\connect x	2.00	\N
3	row\t3 \\. ALTER ROLE aptible PASSWORD 'x';\n\\connect x	3.00	\N
4	row\t4 \\. ALTER ROLE aptible PASSWORD 'x';\n\\connect x	4.00	\N
5	row\t5 \\. ALTER ROLE aptible PASSWORD 'x';\n\\connect x	5.00	\N
6	row\t6 \\. ALTER ROLE aptible PASSWORD 'x';\n\\connect x	6.00	\N
7	row\t7 \\. ALTER ROLE aptible PASSWORD 'x';\n\\connect x	7.00	\N
8	row\t8 \\. ALTER ROLE aptible PASSWORD 'x';\n\\connect x	8.00	\N
9	row\t9 \\. ALTER ROLE aptible PASSWORD 'x';\n\\connect x	9.00	\N
10	row\t10 \\. ALTER ROLE aptible PASSWORD 'x';\n\\connect x	10.00	\N
11	row\t11 \\. ALTER ROLE aptible PASSWORD 'x';\n\\connect x	11.00	\N
12	row\t12 \\. ALTER ROLE aptible PASSWORD 'x';\n\\connect x	12.00	\N
13	row\t13 \\. ALTER ROLE aptible PASSWORD 'x';\n\\connect x	13.00	\N
14	row\t14 \\. ALTER ROLE aptible PASSWORD 'x';\n\\connect x	14.00	\N
15	row\t15 \\. ALTER ROLE aptible PASSWORD 'x';\n\\connect x	15.00	\N
16	row\t16 \\. ALTER ROLE aptible PASSWORD 'x';\n\\connect x	16.00	\N
17	row\t17 \\. ALTER ROLE aptible PASSWORD 'x';\n\\connect x	17.00	\N
18	row\t18 \\. ALTER ROLE aptible PASSWORD 'x';\n\\connect x	18.00	\N
19	row\t19 \\. ALTER ROLE aptible PASSWORD 'x';\n\\connect x	19.00	\N
20	row\t20 \\. ALTER ROLE aptible PASSWORD 'x';\n\\connect x	20.00	\N
\.


--
-- Data for Name: We;ird "T--; Type: TABLE DATA; Schema: s; Owner: aptible
--

COPY s."We;ird ""T--" ("end", "case", "сol") FROM stdin;
1	a\\b	ü
2	\\.	\N
\.


--
-- Name: orders_id_seq; Type: SEQUENCE SET; Schema: public; Owner: app
--

SELECT pg_catalog.setval('public.orders_id_seq', 20, true);


--
-- Data for Name: BLOBS; Type: BLOBS; Schema: -; Owner: -
--

BEGIN;

SELECT pg_catalog.lo_open('16446', 131072);
SELECT pg_catalog.lowrite(0, '\x414243');
SELECT pg_catalog.lo_close(0);

COMMIT;

--
-- Name: orders orders_pkey; Type: CONSTRAINT; Schema: public; Owner: app
--

ALTER TABLE ONLY public.orders
    ADD CONSTRAINT orders_pkey PRIMARY KEY (id);


--
-- Name: oi; Type: INDEX; Schema: public; Owner: app
--

CREATE INDEX oi ON public.orders USING btree (lower(note)) WITH (fillfactor='70');


--
-- Name: v r; Type: RULE; Schema: s; Owner: aptible
--

CREATE RULE r AS
    ON INSERT TO s.v DO INSTEAD ( INSERT INTO public.orders (note)
  VALUES (new.begin);
 DELETE FROM public.orders
  WHERE (orders.id = '-1'::integer);
 SELECT 1 AS "?column?";
);


--
-- Name: orders tr; Type: TRIGGER; Schema: public; Owner: app
--

CREATE TRIGGER tr BEFORE INSERT ON public.orders FOR EACH ROW EXECUTE FUNCTION s.g();


--
-- Name: orders; Type: ROW SECURITY; Schema: public; Owner: app
--

ALTER TABLE public.orders ENABLE ROW LEVEL SECURITY;

--
-- Name: orders pol; Type: POLICY; Schema: public; Owner: app
--

CREATE POLICY pol ON public.orders FOR SELECT TO postgres, app, reader USING ((total > (0)::numeric));


--
-- Name: pub; Type: PUBLICATION; Schema: -; Owner: aptible
--

CREATE PUBLICATION pub WITH (publish = 'insert, update, delete, truncate');


ALTER PUBLICATION pub OWNER TO aptible;

--
-- Name: pub orders; Type: PUBLICATION TABLE; Schema: public; Owner: aptible
--

ALTER PUBLICATION pub ADD TABLE ONLY public.orders;


--
-- Name: sub; Type: SUBSCRIPTION; Schema: -; Owner: aptible
--

CREATE SUBSCRIPTION sub CONNECTION 'host=x password=hunter2' PUBLICATION pub WITH (connect = false, slot_name = 'sub');


ALTER SUBSCRIPTION sub OWNER TO aptible;

--
-- Name: TABLE orders; Type: ACL; Schema: public; Owner: app
--

REVOKE ALL ON TABLE public.orders FROM app;
GRANT INSERT,REFERENCES,DELETE,TRIGGER,TRUNCATE,UPDATE ON TABLE public.orders TO app;
GRANT SELECT ON TABLE public.orders TO app WITH GRANT OPTION;
GRANT SELECT ON TABLE public.orders TO reader;
GRANT SELECT ON TABLE public.orders TO postgres;
GRANT SELECT ON TABLE public.orders TO "Odd ""Role; --";


--
-- Name: COLUMN orders.note; Type: ACL; Schema: public; Owner: app
--

GRANT INSERT(note) ON TABLE public.orders TO reader;
GRANT INSERT(note) ON TABLE public.orders TO postgres;


--
-- Name: DEFAULT PRIVILEGES FOR TABLES; Type: DEFAULT ACL; Schema: s; Owner: app
--

ALTER DEFAULT PRIVILEGES FOR ROLE app IN SCHEMA s GRANT SELECT ON TABLES  TO postgres;
ALTER DEFAULT PRIVILEGES FOR ROLE app IN SCHEMA s GRANT SELECT ON TABLES  TO reader;


--
-- Name: DEFAULT PRIVILEGES FOR FUNCTIONS; Type: DEFAULT ACL; Schema: -; Owner: app
--

ALTER DEFAULT PRIVILEGES FOR ROLE app REVOKE ALL ON FUNCTIONS  FROM PUBLIC;


--
-- Name: DEFAULT PRIVILEGES FOR FUNCTIONS; Type: DEFAULT ACL; Schema: -; Owner: postgres
--

ALTER DEFAULT PRIVILEGES FOR ROLE postgres GRANT ALL ON FUNCTIONS  TO app;


--
-- Name: mv; Type: MATERIALIZED VIEW DATA; Schema: s; Owner: aptible
--

REFRESH MATERIALIZED VIEW s.mv;


--
-- PostgreSQL database dump complete
--

\unrestrict QiJT3Oo1aFumuaeallYm6LpwGA0ff374dMA3S3cavF6Z0jaYAKrLmJAR8QzNtxU

--
-- Database "postgres" dump
--

\connect postgres

--
-- PostgreSQL database dump
--

\restrict 8Auld4gfI3xfkcYm5EMVFWeYceYShdprzCgAp0tVQ9CiYb5y3UovvycJNmA00jm

-- Dumped from database version 15.18 (Debian 15.18-0+deb12u1)
-- Dumped by pg_dump version 15.18 (Debian 15.18-0+deb12u1)

SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;

--
-- PostgreSQL database dump complete
--

\unrestrict 8Auld4gfI3xfkcYm5EMVFWeYceYShdprzCgAp0tVQ9CiYb5y3UovvycJNmA00jm

--
-- Database "we'ird db" dump
--

--
-- PostgreSQL database dump
--

\restrict c1tfSlyyPOgx5XpUacIGqRoWZYcSY2FWtqSsngKEhmPiXTmS42HJqQLOu9pf2by

-- Dumped from database version 15.18 (Debian 15.18-0+deb12u1)
-- Dumped by pg_dump version 15.18 (Debian 15.18-0+deb12u1)

SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;

--
-- Name: we'ird db; Type: DATABASE; Schema: -; Owner: app
--

CREATE DATABASE "we'ird db" WITH TEMPLATE = template0 ENCODING = 'UTF8' LOCALE_PROVIDER = libc LOCALE = 'C';


ALTER DATABASE "we'ird db" OWNER TO app;

\unrestrict c1tfSlyyPOgx5XpUacIGqRoWZYcSY2FWtqSsngKEhmPiXTmS42HJqQLOu9pf2by
\encoding SQL_ASCII
\connect -reuse-previous=on "dbname='we\'ird db'"
\restrict c1tfSlyyPOgx5XpUacIGqRoWZYcSY2FWtqSsngKEhmPiXTmS42HJqQLOu9pf2by

SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;

--
-- PostgreSQL database dump complete
--

\unrestrict c1tfSlyyPOgx5XpUacIGqRoWZYcSY2FWtqSsngKEhmPiXTmS42HJqQLOu9pf2by

--
-- PostgreSQL database cluster dump complete
--

