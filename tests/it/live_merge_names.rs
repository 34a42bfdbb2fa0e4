//! Merges in which every name is hostile: schemas, tables, columns, types, labels, constraints, triggers, rules,
//! sequences, databases.

use pgplan_engine::postgres::quote::{ident, literal, qualified};
use serde_json::{Value, json};

use crate::{cluster::Cluster, env::TestEnv};

const TARGET: &str = "ta\"r'get;--\n$$ %I \\";
const SOURCES: [&str; 2] = ["s\"1'; DROP SCHEMA public CASCADE; --", "s\n2\t\\ ${x} %s"];
const PARENT: &str = "p\"a'rent.--\n";
/// As long as a name may be, and the same as another one up to the last byte.
const CHILDREN: [&str; 2] = [
    "tables/rows\"; DROP TABLE x; -- \u{fc}\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}x",
    "tables/rows\"; DROP TABLE x; -- \u{fc}\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}y",
];
/// What the outputs of the proof are called, too.
const PLAIN: &str = "rows";
const ID: &str = "i\"d'--\n.";
const UP: &str = "u\\p\"'; ROLLBACK; --";
const MOOD: &str = "m\"o'o\nd";
const LABELS: [&str; 3] = ["a'\"--", "b\nc", "\\d"];
const ORIGIN: &str = "o\"r'igin\n";

/// The tables of one schema.
fn tables(schema: &str) -> String {
    let (parent, id, up, mood) = (qualified(schema, PARENT), ident(ID), ident(UP), qualified(schema, MOOD));
    let labels = LABELS.map(literal).join(", ");
    let sequence = qualified(schema, "s\"e'q\n");
    let mut sql = format!(
        "CREATE SCHEMA {}; CREATE TYPE {mood} AS ENUM ({labels}); CREATE SEQUENCE {sequence}; \
         CREATE TABLE {parent} ({id} bigint CONSTRAINT {} PRIMARY KEY DEFAULT nextval({}), {} {mood} UNIQUE, {} text); \
         CREATE TABLE {} ({id} int, {} text);",
        ident(schema),
        ident("p\"k\n"),
        literal(&sequence),
        ident(MOOD),
        ident(ORIGIN),
        qualified(schema, PLAIN),
        ident(ORIGIN),
    );
    for (number, child) in CHILDREN.iter().enumerate() {
        let table = qualified(schema, child);
        let (key, rule, trigger) = (ident("f\"k'\n--"), ident("r\"u'le\n"), ident("t\"r'g\n"));
        sql.push_str(&format!(
            "CREATE TABLE {table} ({id} serial PRIMARY KEY, {up} bigint CONSTRAINT {key} REFERENCES {parent}, n int, {} text); \
             CREATE RULE {rule} AS ON INSERT TO {table} DO ALSO SELECT 1 / {number}; \
             CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN RAISE 'on'; END $f$; \
             CREATE TRIGGER {trigger} BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION {function}();",
            ident(ORIGIN),
            function = qualified(schema, &format!("f\"{number}\n")),
        ));
    }
    sql
}

/// Rows of one source: as many parents as the second has labels left, children, and rows without a key.
fn rows(schema: &str, labels: &[&str]) -> String {
    let (parent, id, up) = (qualified(schema, PARENT), ident(ID), ident(UP));
    let mut sql = String::new();
    for label in labels {
        sql.push_str(&format!("INSERT INTO {parent} ({}) VALUES ({});", ident(MOOD), literal(label)));
    }
    for child in CHILDREN {
        let table = qualified(schema, child);
        sql.push_str(&format!(
            "ALTER TABLE {table} DISABLE TRIGGER USER, DISABLE RULE {}; \
             INSERT INTO {table} ({up}, n) SELECT {id}, {id} FROM {parent}; INSERT INTO {table} (n) VALUES (0);",
            ident("r\"u'le\n")
        ));
    }
    sql.push_str(&format!("INSERT INTO {0} VALUES (7), (7);", qualified(schema, PLAIN)));
    sql
}

/// Parents by label and origin; children whose parent is the right one, by origin; rows of the plain table.
fn found(server: &Cluster, database: &str, origins: [&str; 2]) {
    let (parent, id, up) = (qualified(TARGET, PARENT), ident(ID), ident(UP));
    let of = |label: &str, origin: &str| {
        let sql = format!(
            "SELECT count(*) FROM {parent} WHERE {} = {} AND {} = {}",
            ident(MOOD),
            literal(label),
            ident(ORIGIN),
            literal(origin)
        );
        assert_eq!(server.psql(database, &sql), "1", "{label:?} of {origin:?}");
    };
    of(LABELS[0], origins[0]);
    of(LABELS[1], origins[0]);
    of(LABELS[2], origins[1]);
    for child in CHILDREN {
        let sql = format!(
            "SELECT count(*), count(*) FILTER (WHERE p.{id} IS NOT NULL AND p.{origin} = c.{origin}), count(DISTINCT c.{id}), \
             nextval(pg_get_serial_sequence({}, {})) > max(c.{id}) FROM {} c LEFT JOIN {parent} p ON p.{id} = c.{up}",
            literal(&qualified(TARGET, child)),
            literal(ID),
            qualified(TARGET, child),
            origin = ident(ORIGIN),
        );
        assert_eq!(server.psql(database, &sql), "5|3|5|t", "{child:?}");
    }
    assert_eq!(server.psql(database, &format!("SELECT count(*) FROM {}", qualified(TARGET, PLAIN))), "4");
    let left = "SELECT count(*) FROM pg_namespace WHERE nspname = 'pgplan'";
    assert_eq!(server.psql(database, left), "0");
    let on = "SELECT string_agg(DISTINCT tgenabled::text, '') FROM pg_trigger WHERE NOT tgisinternal AND tgrelid::regclass::text ~ 'ta\"\"r'";
    assert_eq!(server.psql(database, on), "O");
}

fn write(env: &TestEnv, databases: &Value, step: &Value) {
    // JSON is YAML.
    let plan = json!({ "version": 1, "name": "names", "databases": databases, "steps": [step] });
    env.write("names.yaml", &plan.to_string());
}

#[test]
fn hostile_names_everywhere() {
    let server = Cluster::start("18");
    let database = "d\"a't;a--\n";
    server.psql("postgres", &format!("CREATE DATABASE {}", ident(database)));
    server.psql(database, &tables(TARGET));
    for (schema, labels) in SOURCES.iter().zip([&LABELS[..2], &LABELS[2..]]) {
        server.psql(database, &format!("{} {}", tables(schema), rows(schema, labels)));
    }
    let env = TestEnv::new();
    let keys = json!({ "method": "new_id", "tables": [PARENT, CHILDREN[0], CHILDREN[1]] });
    write(
        &env,
        &json!({ "db": { "url": server.url(database) } }),
        &json!({ "merge_shards": {
            "from": { "database": "db", "schemas": SOURCES }, "into": { "database": "db", "schema": TARGET },
            "keys": keys, "provenance": ORIGIN, "split_above": "1B",
            "complete": { "run": "SELECT 1", "unless": "SELECT false", "undo": "SELECT 1" } } }),
    );
    let shown = env.pgplan(&["plan", "names.yaml"]).expect(0);
    assert!(shown.stdout.lines().all(|line| !line.contains(|c: char| c.is_control())), "{:?}", shown.stdout);
    // Killed when the maps of new keys are there; given up; begun anew beside what is left.
    let fault = "merge_shards/prove:hold";
    let mut child = env.command(&["apply", "names.yaml"]).env("PGPLAN_FAULT", fault).spawn().expect("pgplan starts");
    let receipts = "SELECT CASE WHEN to_regclass('pgplan.receipt') IS NOT NULL THEN (xpath('/row/n/text()', \
                    query_to_xml('SELECT count(*) AS n FROM pgplan.receipt WHERE action LIKE ''%/table/%''', false, true, '')))[1]::text END";
    crate::live_claims::until("everything is filled", || server.psql(database, receipts) == "8");
    crate::live_claims::signal(&child, nix::sys::signal::Signal::SIGKILL);
    child.wait().expect("it is dead");
    env.pgplan(&["undo", "names.yaml", "--yes"]).expect(0);
    let left = "SELECT count(*) FROM pg_namespace WHERE nspname = 'pgplan'";
    assert_eq!(server.psql(database, left), "0", "maps go with the receipts");
    let said = env.pgplan(&["apply", "names.yaml"]).expect(0);
    assert!(said.stderr.lines().all(|line| !line.contains(|c: char| c.is_control())), "{:?}", said.stderr);
    found(&server, database, SOURCES);
    env.pgplan(&["undo", "names.yaml", "--yes"]).expect(0);
    for table in [PARENT, CHILDREN[0], CHILDREN[1], PLAIN] {
        assert_eq!(server.psql(database, &format!("SELECT count(*) FROM {}", qualified(TARGET, table))), "0");
    }

    // The same from two databases, one of them with other names still.
    let (other, renamed) = ("o\"ther'\n", "re\"named'\n--");
    server.psql("postgres", &format!("CREATE DATABASE {}", ident(other)));
    server.psql(other, &format!("{} {}", tables(SOURCES[1]), rows(SOURCES[1], &LABELS[2..])));
    server.psql(
        other,
        &format!(
            "ALTER TABLE {0} RENAME TO {1}; ALTER TABLE {2} RENAME COLUMN {3} TO {1}",
            qualified(SOURCES[1], PLAIN),
            ident(renamed),
            qualified(SOURCES[1], CHILDREN[0]),
            ident(UP),
        ),
    );
    let all = json!({ PARENT: {}, CHILDREN[0]: {}, CHILDREN[1]: {}, PLAIN: {} });
    let mapped = json!({ PARENT: {}, CHILDREN[0]: { "rename": { renamed: UP } }, CHILDREN[1]: {},
        renamed: { "to": PLAIN, "derive": { ID: format!("{} * 2", ident(ID)) } } });
    write(
        &env,
        &json!({ "one": { "url": server.url(database) }, "other": { "url": server.url(other) } }),
        &json!({ "merge_databases": {
            "from": [{ "database": "one", "schema": SOURCES[0], "tables": all },
                     { "database": "other", "schema": SOURCES[1], "tables": mapped }],
            "into": { "database": "one", "schema": TARGET }, "keys": keys, "provenance": ORIGIN } }),
    );
    let shown = env.pgplan(&["plan", "names.yaml"]).expect(0);
    assert!(shown.stdout.lines().all(|line| !line.contains(|c: char| c.is_control())), "{:?}", shown.stdout);
    env.pgplan(&["apply", "names.yaml", "--fresh"]).expect(0);
    found(&server, database, ["one", "other"]);
    let doubled =
        format!("SELECT string_agg({0}::text, ' ' ORDER BY {0}) FROM {1}", ident(ID), qualified(TARGET, PLAIN));
    assert_eq!(server.psql(database, &doubled), "7 7 14 14");
}

#[test]
fn labels_of_an_enum_are_compared_one_by_one() {
    let server = Cluster::start("18");
    server.psql(
        "postgres",
        "CREATE SCHEMA s_1; CREATE TYPE public.mood AS ENUM ('a', 'b'); CREATE TYPE s_1.mood AS ENUM (E'a\\nb'); \
         CREATE TABLE public.t (m public.mood); CREATE TABLE s_1.t (m s_1.mood); INSERT INTO s_1.t VALUES (E'a\\nb')",
    );
    let env = TestEnv::new();
    write(
        &env,
        &json!({ "db": { "url": server.url("postgres") } }),
        &json!({ "merge_shards": { "from": { "database": "db", "schemas": ["s_1"] }, "into": { "database": "db" } } }),
    );
    let refused = env.pgplan(&["plan", "names.yaml"]).expect(6);
    assert!(refused.stdout.contains("its type mood is defined otherwise"), "{}", refused.stdout);
}
