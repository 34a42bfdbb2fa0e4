--
-- PostgreSQL database dump
--

\restrict 298nWRistgmlgRX593lCxKK5PmZlqc5AgquZ0kNyVcTajyJHQIE7eRbafj5Eu4S

-- Dumped from database version 15.18 (Debian 15.18-0+deb12u1)
-- Dumped by pg_dump version 15.18 (Debian 15.18-0+deb12u1)

-- Started on 2026-11-21 09:20:38 UTC

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

SET SESSION AUTHORIZATION 'aptible';

DROP DATABASE IF EXISTS db;
--
-- TOC entry 3399 (class 1262 OID 16388)
-- Name: db; Type: DATABASE; Schema: -; Owner: aptible
--

CREATE DATABASE db WITH TEMPLATE = template0 ENCODING = 'UTF8' LOCALE_PROVIDER = libc LOCALE = 'C';


\unrestrict 298nWRistgmlgRX593lCxKK5PmZlqc5AgquZ0kNyVcTajyJHQIE7eRbafj5Eu4S
\connect db
\restrict 298nWRistgmlgRX593lCxKK5PmZlqc5AgquZ0kNyVcTajyJHQIE7eRbafj5Eu4S

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

SET SESSION AUTHORIZATION 'aptible';

--
-- TOC entry 3400 (class 0 OID 0)
-- Name: db; Type: DATABASE PROPERTIES; Schema: -; Owner: aptible
--

ALTER ROLE app IN DATABASE db SET work_mem TO '64MB';


\unrestrict 298nWRistgmlgRX593lCxKK5PmZlqc5AgquZ0kNyVcTajyJHQIE7eRbafj5Eu4S
\connect db
\restrict 298nWRistgmlgRX593lCxKK5PmZlqc5AgquZ0kNyVcTajyJHQIE7eRbafj5Eu4S

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

SET SESSION AUTHORIZATION 'app';

--
-- TOC entry 7 (class 2615 OID 16390)
-- Name: s; Type: SCHEMA; Schema: -; Owner: app
--

CREATE SCHEMA s;


SET SESSION AUTHORIZATION DEFAULT;

--
-- TOC entry 2 (class 3079 OID 16433)
-- Name: postgres_fdw; Type: EXTENSION; Schema: -; Owner: -
--

CREATE EXTENSION IF NOT EXISTS postgres_fdw WITH SCHEMA public;


--
-- TOC entry 3401 (class 0 OID 0)
-- Dependencies: 2
-- Name: EXTENSION postgres_fdw; Type: COMMENT; Schema: -; Owner: 
--

COMMENT ON EXTENSION postgres_fdw IS 'foreign-data wrapper for remote PostgreSQL servers';


SET SESSION AUTHORIZATION 'aptible';

--
-- TOC entry 866 (class 1247 OID 16430)
-- Name: dom; Type: DOMAIN; Schema: s; Owner: aptible
--

CREATE DOMAIN s.dom AS text
	CONSTRAINT dom_check CHECK ((VALUE ~ '^\d{5}$'::text));


--
-- TOC entry 863 (class 1247 OID 16425)
-- Name: mood; Type: TYPE; Schema: s; Owner: aptible
--

CREATE TYPE s.mood AS ENUM (
    'a;',
    'b'''
);


SET SESSION AUTHORIZATION 'app';

SET default_tablespace = '';

SET default_table_access_method = heap;

--
-- TOC entry 217 (class 1259 OID 16392)
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


--
-- TOC entry 3402 (class 0 OID 0)
-- Dependencies: 217
-- Name: TABLE orders; Type: COMMENT; Schema: public; Owner: app
--

COMMENT ON TABLE public.orders IS 'multi
line; -- not comment';


SET SESSION AUTHORIZATION 'aptible';

--
-- TOC entry 232 (class 1255 OID 16406)
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


--
-- TOC entry 233 (class 1255 OID 16407)
-- Name: g(); Type: FUNCTION; Schema: s; Owner: aptible
--

CREATE FUNCTION s.g() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 's', 'public'
    AS $_$ BEGIN PERFORM $x$ a; $fnn $x$; RETURN NEW; END; $_$;


--
-- TOC entry 234 (class 1255 OID 16408)
-- Name: p(text); Type: PROCEDURE; Schema: s; Owner: aptible
--

CREATE PROCEDURE s.p(IN x text)
    LANGUAGE sql
    AS $_$SELECT 1; SELECT $$a$$;$_$;


--
-- TOC entry 871 (class 1255 OID 16432)
-- Name: mysum(integer); Type: AGGREGATE; Schema: s; Owner: aptible
--

CREATE AGGREGATE s.mysum(integer) (
    SFUNC = int4pl,
    STYPE = integer,
    INITCOND = '0'
);


--
-- TOC entry 2066 (class 1417 OID 16440)
-- Name: srv; Type: SERVER; Schema: -; Owner: aptible
--

CREATE SERVER srv FOREIGN DATA WRAPPER postgres_fdw OPTIONS (
    dbname 'd',
    host 'h'
);


--
-- TOC entry 3405 (class 0 OID 0)
-- Name: USER MAPPING app SERVER srv; Type: USER MAPPING; Schema: -; Owner: aptible
--

CREATE USER MAPPING FOR app SERVER srv OPTIONS (
    password 'sec''ret',
    "user" 'u'
);


--
-- TOC entry 3406 (class 0 OID 0)
-- Name: USER MAPPING postgres SERVER srv; Type: USER MAPPING; Schema: -; Owner: aptible
--

CREATE USER MAPPING FOR postgres SERVER srv OPTIONS (
    password 'sec',
    "user" 'u'
);


SET SESSION AUTHORIZATION 'app';

--
-- TOC entry 216 (class 1259 OID 16391)
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


SET SESSION AUTHORIZATION 'aptible';

--
-- TOC entry 218 (class 1259 OID 16401)
-- Name: We;ird "T--; Type: TABLE; Schema: s; Owner: aptible
--

CREATE TABLE s."We;ird ""T--" (
    "end" integer,
    "case" text,
    "сol" text
);


--
-- TOC entry 220 (class 1259 OID 16416)
-- Name: mv; Type: MATERIALIZED VIEW; Schema: s; Owner: aptible
--

CREATE MATERIALIZED VIEW s.mv AS
 SELECT count(*) AS c
   FROM public.orders
  WITH NO DATA;


--
-- TOC entry 219 (class 1259 OID 16409)
-- Name: v; Type: VIEW; Schema: s; Owner: aptible
--

CREATE VIEW s.v AS
 SELECT orders.id,
        CASE
            WHEN (orders.total > (1)::numeric) THEN 'a;'::text
            ELSE 'b'::text
        END AS begin
   FROM public.orders;


--
-- TOC entry 3392 (class 2613 OID 16446)
-- Name: 16446; Type: BLOB; Schema: -; Owner: aptible
--

SELECT pg_catalog.lo_create('16446');


SET SESSION AUTHORIZATION 'app';

--
-- TOC entry 3389 (class 0 OID 16392)
-- Dependencies: 217
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


SET SESSION AUTHORIZATION 'aptible';

--
-- TOC entry 3390 (class 0 OID 16401)
-- Dependencies: 218
-- Data for Name: We;ird "T--; Type: TABLE DATA; Schema: s; Owner: aptible
--

COPY s."We;ird ""T--" ("end", "case", "сol") FROM stdin;
1	a\\b	ü
2	\\.	\N
\.


SET SESSION AUTHORIZATION 'app';

--
-- TOC entry 3407 (class 0 OID 0)
-- Dependencies: 216
-- Name: orders_id_seq; Type: SEQUENCE SET; Schema: public; Owner: app
--

SELECT pg_catalog.setval('public.orders_id_seq', 20, true);


SET SESSION AUTHORIZATION DEFAULT;

--
-- TOC entry 3393 (class 0 OID 0)
-- Data for Name: BLOBS; Type: BLOBS; Schema: -; Owner: -
--

BEGIN;

SELECT pg_catalog.lo_open('16446', 131072);
SELECT pg_catalog.lowrite(0, '\x414243');
SELECT pg_catalog.lo_close(0);

COMMIT;

SET SESSION AUTHORIZATION 'app';

--
-- TOC entry 3236 (class 2606 OID 16400)
-- Name: orders orders_pkey; Type: CONSTRAINT; Schema: public; Owner: app
--

ALTER TABLE ONLY public.orders
    ADD CONSTRAINT orders_pkey PRIMARY KEY (id);


--
-- TOC entry 3234 (class 1259 OID 16415)
-- Name: oi; Type: INDEX; Schema: public; Owner: app
--

CREATE INDEX oi ON public.orders USING btree (lower(note)) WITH (fillfactor='70');


SET SESSION AUTHORIZATION 'aptible';

--
-- TOC entry 3381 (class 2618 OID 16413)
-- Name: v r; Type: RULE; Schema: s; Owner: aptible
--

CREATE RULE r AS
    ON INSERT TO s.v DO INSTEAD ( INSERT INTO public.orders (note)
  VALUES (new.begin);
 DELETE FROM public.orders
  WHERE (orders.id = '-1'::integer);
 SELECT 1 AS "?column?";
);


SET SESSION AUTHORIZATION 'app';

--
-- TOC entry 3237 (class 2620 OID 16414)
-- Name: orders tr; Type: TRIGGER; Schema: public; Owner: app
--

CREATE TRIGGER tr BEFORE INSERT ON public.orders FOR EACH ROW EXECUTE FUNCTION s.g();


--
-- TOC entry 3383 (class 0 OID 16392)
-- Dependencies: 217
-- Name: orders; Type: ROW SECURITY; Schema: public; Owner: app
--

ALTER TABLE public.orders ENABLE ROW LEVEL SECURITY;

--
-- TOC entry 3384 (class 3256 OID 16420)
-- Name: orders pol; Type: POLICY; Schema: public; Owner: app
--

CREATE POLICY pol ON public.orders FOR SELECT TO postgres, app, reader USING ((total > (0)::numeric));


SET SESSION AUTHORIZATION 'aptible';

--
-- TOC entry 3385 (class 6104 OID 16443)
-- Name: pub; Type: PUBLICATION; Schema: -; Owner: aptible
--

CREATE PUBLICATION pub WITH (publish = 'insert, update, delete, truncate');


--
-- TOC entry 3386 (class 6106 OID 16444)
-- Name: pub orders; Type: PUBLICATION TABLE; Schema: public; Owner: aptible
--

ALTER PUBLICATION pub ADD TABLE ONLY public.orders;


--
-- TOC entry 3387 (class 6100 OID 16445)
-- Name: sub; Type: SUBSCRIPTION; Schema: -; Owner: aptible
--

CREATE SUBSCRIPTION sub CONNECTION 'host=x password=hunter2' PUBLICATION pub WITH (connect = false, slot_name = 'sub');


SET SESSION AUTHORIZATION 'app';

--
-- TOC entry 3403 (class 0 OID 0)
-- Dependencies: 217
-- Name: TABLE orders; Type: ACL; Schema: public; Owner: app
--

REVOKE ALL ON TABLE public.orders FROM app;
GRANT INSERT,REFERENCES,DELETE,TRIGGER,TRUNCATE,UPDATE ON TABLE public.orders TO app;
GRANT SELECT ON TABLE public.orders TO app WITH GRANT OPTION;
GRANT SELECT ON TABLE public.orders TO reader;
GRANT SELECT ON TABLE public.orders TO postgres;
GRANT SELECT ON TABLE public.orders TO "Odd ""Role; --";


SET SESSION AUTHORIZATION 'app';

--
-- TOC entry 3404 (class 0 OID 0)
-- Dependencies: 217 3403
-- Name: COLUMN orders.note; Type: ACL; Schema: public; Owner: app
--

GRANT INSERT(note) ON TABLE public.orders TO reader;
GRANT INSERT(note) ON TABLE public.orders TO postgres;


SET SESSION AUTHORIZATION 'app';

--
-- TOC entry 2067 (class 826 OID 16421)
-- Name: DEFAULT PRIVILEGES FOR TABLES; Type: DEFAULT ACL; Schema: s; Owner: app
--

ALTER DEFAULT PRIVILEGES FOR ROLE app IN SCHEMA s GRANT SELECT ON TABLES  TO postgres;
ALTER DEFAULT PRIVILEGES FOR ROLE app IN SCHEMA s GRANT SELECT ON TABLES  TO reader;


SET SESSION AUTHORIZATION 'app';

--
-- TOC entry 2069 (class 826 OID 16423)
-- Name: DEFAULT PRIVILEGES FOR FUNCTIONS; Type: DEFAULT ACL; Schema: -; Owner: app
--

ALTER DEFAULT PRIVILEGES FOR ROLE app REVOKE ALL ON FUNCTIONS  FROM PUBLIC;


SET SESSION AUTHORIZATION 'postgres';

--
-- TOC entry 2068 (class 826 OID 16422)
-- Name: DEFAULT PRIVILEGES FOR FUNCTIONS; Type: DEFAULT ACL; Schema: -; Owner: postgres
--

ALTER DEFAULT PRIVILEGES FOR ROLE postgres GRANT ALL ON FUNCTIONS  TO app;


SET SESSION AUTHORIZATION 'aptible';

--
-- TOC entry 3391 (class 0 OID 16416)
-- Dependencies: 220 3395
-- Name: mv; Type: MATERIALIZED VIEW DATA; Schema: s; Owner: aptible
--

REFRESH MATERIALIZED VIEW s.mv;


-- Completed on 2026-11-21 09:20:38 UTC

--
-- PostgreSQL database dump complete
--

\unrestrict 298nWRistgmlgRX593lCxKK5PmZlqc5AgquZ0kNyVcTajyJHQIE7eRbafj5Eu4S

