//! `merge_shards` on real servers: what Habitat's script does wrong is found before anything changes, a kill in the
//! middle loses nothing, and the proof notices what changed since.

use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    cluster::Cluster,
    env::{Outcome, TestEnv},
    live_claims::{plan, signal, until},
};

/// How many shards the small database has; the last one is empty, `shard_3` holds most.
pub(crate) const SHARDS: u32 = 8;

/// Makes a database like Builder's before its shards were merged.
pub(crate) fn shards(server: &Cluster, database: &str, rows: u32) {
    some_shards(server, database, SHARDS, rows);
}

/// Makes such a database with so many shards.
pub(crate) fn some_shards(server: &Cluster, database: &str, shards: u32, rows: u32) {
    server.psql("postgres", &format!("CREATE DATABASE {database}"));
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/shards/originsrv.sql");
    let made = Command::new(server.bin("psql"))
        .args([
            "-X",
            "-q",
            "-d",
            &server.url(database),
            "-v",
            &format!("shards={shards}"),
            "-v",
            &format!("rows={rows}"),
            "-f",
            script,
        ])
        .output()
        .expect("psql starts");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// A plan that merges them as Habitat's script is meant to.
fn merge(server: &Cluster, database: &str, more: &str) -> String {
    plan("merge", &server.url(database), &merge_step(more))
}

/// The step of that plan; its database is called `db`.
pub(crate) fn merge_step(more: &str) -> String {
    format!(
        "  - merge_shards:\n      from: {{ database: db, schemas: shard_0..shard_{} }}\n      into: {{ database: db }}\n      \
         skip: [__diesel_schema_migrations]\n      complete:\n        run: INSERT INTO flags (shard_migration_complete) VALUES (true)\n        \
         unless: SELECT shard_migration_complete FROM flags\n        undo: DELETE FROM flags\n{more}",
        SHARDS - 1
    )
}

/// The rows of a table over all shards that are not in `public`, and the other way round.
fn missing(server: &Cluster, database: &str, shards: u32, table: &str, columns: &str) -> String {
    let union =
        (0..shards).map(|n| format!("SELECT {columns} FROM shard_{n}.{table}")).collect::<Vec<_>>().join(" UNION ALL ");
    server.psql(
        database,
        &format!(
            "SELECT (SELECT count(*) FROM (({union}) EXCEPT ALL SELECT {columns} FROM public.{table}) x), \
                    (SELECT count(*) FROM (SELECT {columns} FROM public.{table} EXCEPT ALL ({union})) x)"
        ),
    )
}

pub(crate) fn all_arrived(server: &Cluster, database: &str) {
    arrived_from(server, database, SHARDS);
    assert_eq!(server.psql(database, "SELECT count(*) FROM pg_namespace WHERE nspname = 'pgplan'"), "0");
}

/// Fails unless every row of so many shards is in `public`, and no other, and the merge is marked as complete once.
pub(crate) fn arrived_from(server: &Cluster, database: &str, shards: u32) {
    // Columns by name, as they may stand in another order; as text, as an enum of each schema is a type of its own.
    let tables = "SELECT relname || ' ' || string_agg(quote_ident(attname), ', ' ORDER BY attnum) \
                  FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped \
                  WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' \
                    AND relname NOT IN ('flags', '__diesel_schema_migrations') GROUP BY relname";
    let tables = server.psql(database, tables);
    assert_eq!(tables.lines().count(), 17, "{tables}");
    for (table, columns) in tables.lines().filter_map(|line| line.split_once(' ')) {
        assert_eq!(missing(server, database, shards, table, &format!("ROW({columns})::text")), "0|0", "{table}");
    }
    assert_eq!(server.psql(database, "SELECT count(*) FROM public.__diesel_schema_migrations"), "5", "skipped");
    assert_eq!(server.psql(database, "SELECT bool_and(shard_migration_complete), count(*) FROM flags"), "t|1");
}

fn untouched(server: &Cluster, database: &str) {
    let counts = "SELECT (SELECT count(*) FROM origins), (SELECT count(*) FROM audit), (SELECT count(*) FROM flags)";
    assert_eq!(server.psql(database, counts), "0|0|0");
}

#[test]
fn a_merge_that_is_killed_goes_on_and_is_proved() {
    let server = Cluster::start("15");
    shards(&server, "origin", 20);
    server.psql("origin", "CREATE SCHEMA shard_0_backup; CREATE SCHEMA shard_128");
    let env = TestEnv::new();
    env.write("merge.yaml", &merge(&server, "origin", ""));

    let shown = env.pgplan(&["plan", "merge.yaml"]).expect(0);
    for told in [
        "left out, not named by the plan: shard_128, shard_0_backup",
        "origin_packages: 320 rows (shard_0 20, shard_1 20, shard_2 20, shard_3 200",
        "left as they are in the target: __diesel_schema_migrations, flags",
        "then, in the same transaction: INSERT INTO flags",
    ] {
        assert!(shown.stdout.contains(told), "no {told:?} in\n{}", shown.stdout);
    }
    untouched(&server, "origin");
    let json = env.pgplan(&["plan", "merge.yaml", "--format", "json"]).expect(0);
    let json: Value = serde_json::from_str(&json.stdout).expect("it is JSON");
    let rows = &json["steps"][0]["would"]["details"]["rows"]["origin_packages"];
    assert_eq!((rows["shard_3"].as_u64(), rows["shard_7"].as_u64()), (Some(200), Some(0)), "{json}");

    // Killed before a table, after another was committed and before that was recorded, and before the proof.
    for (fault, what) in [
        ("merge_shards/table/origin_packages:hold", "SELECT count(*) > 0 FROM origins"),
        ("merge_shards/prove:hold", "SELECT count(*) > 0 FROM origin_channel_packages"),
    ] {
        let mut child =
            env.command(&["apply", "merge.yaml"]).env("PGPLAN_FAULT", fault).spawn().expect("pgplan starts");
        until("the tables before it are merged", || server.psql("origin", what) == "t");
        signal(&child, Signal::SIGKILL);
        child.wait().expect("it is dead");
        assert_eq!(server.psql("origin", "SELECT count(*) FROM flags"), "0", "nothing half merged is called done");
    }
    let done = env.pgplan(&["apply", "merge.yaml"]).expect(0);
    assert!(done.stderr.contains("contents equal, 14 foreign keys whole"), "{}", done.stderr);
    all_arrived(&server, "origin");
    // The new rows' ids go on past the old ones, and the function's counter where the furthest shard stood.
    assert_eq!(server.psql("origin", "SELECT last_value FROM origin_package_id_seq"), "200");

    let again = env.pgplan(&["apply", "merge.yaml", "--fresh"]).expect(0);
    assert!(again.stderr.contains("was merged already"), "{}", again.stderr);
    all_arrived(&server, "origin");
}

#[test]
fn everything_wrong_with_the_shards_is_found_before_anything_changes() {
    let server = Cluster::start("18");
    shards(&server, "origin", 20);
    // The order of columns is no mistake: they are taken by name.
    server.psql("postgres", "CREATE DATABASE reordered TEMPLATE origin");
    server.psql(
        "reordered",
        "ALTER TABLE shard_1.origin_secrets RENAME TO old; \
         CREATE TABLE shard_1.origin_secrets (value text, name text, origin_id bigint REFERENCES shard_1.origins, id bigint PRIMARY KEY); \
         INSERT INTO shard_1.origin_secrets SELECT value, name, origin_id, id FROM shard_1.old; DROP TABLE shard_1.old",
    );
    let env = TestEnv::new();
    env.write("reordered.yaml", &merge(&server, "reordered", ""));
    let done = env.pgplan(&["apply", "reordered.yaml"]).expect(0);
    assert!(done.stderr.contains("its columns stand in another order; they are taken by name"), "{}", done.stderr);
    assert_eq!(missing(&server, "reordered", SHARDS, "origin_secrets", "id, origin_id, name, value"), "0|0");
    all_arrived(&server, "reordered");

    server.psql(
        "origin",
        "INSERT INTO shard_1.origins (id, name) SELECT id, 'twin' FROM shard_0.origins LIMIT 1; \
         UPDATE shard_2.origins SET name = (SELECT min(name) FROM shard_0.origins) WHERE id = (SELECT min(id) FROM shard_2.origins); \
         ALTER TABLE shard_4.origin_channels DROP CONSTRAINT origin_channels_origin_id_fkey; \
         INSERT INTO shard_4.origin_channels VALUES (77, 4711, 1, 'lost', now()); \
         ALTER TABLE shard_5.origin_members ALTER account_id TYPE text; \
         ALTER TABLE shard_5.origin_projects ADD extra text; \
         ALTER TABLE shard_6.audit DROP COLUMN created_at; \
         ALTER TABLE shard_6.origin_projects ALTER visibility DROP NOT NULL; \
         INSERT INTO shard_6.origin_projects (id, visibility) VALUES (4712, NULL); \
         ALTER TABLE shard_6.origins ALTER default_package_visibility SET DEFAULT 'private'; \
         DROP TABLE shard_5.origin_secret_keys; DROP SCHEMA shard_7 CASCADE; \
         INSERT INTO public.origin_invitations (id, account_name) VALUES (1, 'was here before')",
    );
    env.write("wrong.yaml", &merge(&server, "origin", ""));
    let before = server.psql("origin", "SELECT txid_snapshot_xmax(txid_current_snapshot())");
    for args in [&["plan", "wrong.yaml"][..], &["apply", "wrong.yaml"][..]] {
        let refused = env.pgplan(args).expect(6);
        let said = format!("{}{}", refused.stdout, refused.stderr);
        for told in [
            "the merge is refused for 10 reasons",
            "the schema shard_7 does not exist [shard_7]",
            "origins: primary key: 1 value more than once: (",
            "in shard_0, shard_1",
            "origins: unique key origins_name_key: 1 value more than once",
            "foreign key origin_channels_origin_id_fkey: 1 reference to rows of origins that are nowhere: (4711) [shard_4]",
            "origin_members: column account_id: it is text there and bigint in the target",
            "origin_projects: the target has no column extra; its values would be left behind [shard_5]",
            "audit: it has no column created_at; it would be null [shard_6]",
            "1 row with null in visibility, which the target does not allow [shard_6]",
            "origin_secret_keys: it has no such table [shard_5]",
            "origin_invitations: the target holds 1 row already",
            "note: origins: column default_package_visibility: its default is 'private'::text, the target's 'public'::text",
        ] {
            assert!(said.contains(told), "no {told:?} in\n{said}");
        }
    }
    assert_eq!(
        server.psql("origin", "SELECT txid_snapshot_xmax(txid_current_snapshot())"),
        before,
        "nothing was written"
    );

    // What is allowed is merged, and said.
    server.psql(
        "origin",
        "DELETE FROM public.origin_invitations; DELETE FROM shard_1.origins WHERE name = 'twin'; DELETE FROM shard_4.origin_channels WHERE id = 77; \
         UPDATE shard_2.origins SET name = 'x' WHERE id = (SELECT min(id) FROM shard_2.origins); DELETE FROM shard_6.origin_projects WHERE id = 4712; \
         ALTER TABLE shard_5.origin_members ALTER account_id TYPE bigint USING account_id::bigint",
    );
    let allowed = "      allow: [missing_sources, missing_tables, missing_columns, extra_columns]\n";
    env.write("wrong.yaml", &merge(&server, "origin", allowed));
    let done = env.pgplan(&["apply", "wrong.yaml"]).expect(0);
    assert!(done.stderr.contains("the schema shard_7 does not exist [shard_7]"), "{}", done.stderr);
    assert_eq!(server.psql("origin", "SELECT count(*) FROM flags"), "1");
    assert_eq!(server.psql("origin", "SELECT count(*), count(created_at) FROM public.audit"), "320|300");
}

#[test]
fn a_source_that_changed_since_is_noticed_and_a_merge_is_taken_back() {
    let server = Cluster::start("18");
    shards(&server, "origin", 20);
    let env = TestEnv::new();
    env.write("merge.yaml", &merge(&server, "origin", ""));
    let mut child = env
        .command(&["apply", "merge.yaml"])
        .env("PGPLAN_FAULT", "merge_shards/prove:hold")
        .spawn()
        .expect("pgplan starts");
    until("all tables are merged", || server.psql("origin", "SELECT count(*) FROM origin_channel_packages") == "320");
    until("the last one, too", || {
        let last = "SELECT count(*) FROM pgplan.receipt WHERE action LIKE 'merge_shards/table/%'";
        server.psql("origin", last) == "17"
    });
    signal(&child, Signal::SIGKILL);
    child.wait().expect("it is dead");
    server.psql(
        "origin",
        "INSERT INTO shard_2.audit VALUES (9, 9, 'late', '{}', now()); \
         UPDATE public.origin_secrets SET value = 'forged' WHERE id = (SELECT min(id) FROM origin_secrets); \
         ALTER TABLE origin_channels DISABLE TRIGGER ALL; UPDATE origin_channels SET origin_id = 1 WHERE id = (SELECT min(id) FROM origin_channels)",
    );
    let failed = env.pgplan(&["apply", "merge.yaml"]).expect(6);
    for told in [
        "audit: shard_2 has changed since: it had 20 rows and has 21 rows now",
        "audit: the target holds 320 rows, not 321 rows",
        "origin_secrets: 16 rows as expected, and their contents differ from the sources'",
        "origin_channels: foreign key origin_channels_origin_id_fkey: 1 reference to nowhere",
    ] {
        assert!(failed.stderr.contains(told), "no {told:?} in\n{}", failed.stderr);
    }
    assert_eq!(server.psql("origin", "SELECT count(*) FROM flags"), "0");

    // Somebody's row in the target is not thrown away.
    server.psql("origin", "INSERT INTO public.audit VALUES (1, 1, 'the application', '{}', now())");
    let stuck = env.pgplan(&["undo", "merge.yaml", "--yes"]);
    assert!(!stuck.status.success(), "{}", stuck.stderr);
    assert!(stuck.stderr.contains("audit holds 321 rows, and 320 rows came by the merge"), "{}", stuck.stderr);
    server.psql("origin", "DELETE FROM public.audit WHERE requester_name = 'the application'");
    env.pgplan(&["undo", "merge.yaml", "--yes"]).expect(0);
    untouched(&server, "origin");
    assert_eq!(server.psql("origin", "SELECT count(*) FROM pg_namespace WHERE nspname = 'pgplan'"), "0");
    env.pgplan(&["apply", "merge.yaml"]).expect(0);
    all_arrived(&server, "origin");
    // A finished merge can be taken back, too: the mark first. Its receipts are gone; what it put in is known.
    env.pgplan(&["undo", "merge.yaml", "--yes"]).expect(0);
    untouched(&server, "origin");
}

#[test]
fn a_merge_is_taken_back_once_when_the_answers_are_lost() {
    let server = Cluster::start("18");
    shards(&server, "origin", 20);
    server.psql("origin", "CREATE SCHEMA side; CREATE TABLE side.undone (n int)");
    let env = TestEnv::new();
    // A run that has not ended well keeps its receipts.
    let plan = merge(&server, "origin", "  - command: { run: [\"false\"] }\n")
        .replace("undo: DELETE FROM flags", "undo: [DELETE FROM flags, INSERT INTO side.undone VALUES (1)]");
    env.write("merge.yaml", &plan);
    let failed = env.pgplan(&["apply", "merge.yaml"]);
    assert!(!failed.status.success(), "{}", failed.stderr);
    arrived_from(&server, "origin", SHARDS);
    let lost = |action: &str| {
        let mut command = env.command(&["undo", "merge.yaml", "--yes"]);
        command.env("PGPLAN_FAULT", format!("merge_shards/{action}:after"));
        let stuck = Outcome::of(&command.output().expect("pgplan starts")).expect(5);
        assert!(stuck.stderr.contains("lost on purpose"), "{}", stuck.stderr);
    };
    lost("undo-prove");
    assert_eq!(server.psql("origin", "SELECT count(*) FROM flags"), "0");
    lost("undo-table/audit");
    assert_eq!(server.psql("origin", "SELECT count(*) FROM audit"), "0");
    env.pgplan(&["undo", "merge.yaml", "--yes"]).expect(0);
    untouched(&server, "origin");
    assert_eq!(server.psql("origin", "SELECT count(*) FROM side.undone"), "1", "complete.undo ran once");
    assert_eq!(server.psql("origin", "SELECT count(*) FROM pg_namespace WHERE nspname = 'pgplan'"), "0");
}

/// Shards whose keys meet, with a circle of foreign keys, triggers, a rule and an identity.
const MEETING: &str = "CREATE FUNCTION public.loud() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.heard VALUES (TG_TABLE_NAME); RETURN NEW; END $$;
    CREATE TABLE public.heard (what text);
    DO $$ DECLARE s text; BEGIN FOREACH s IN ARRAY ARRAY['s_1', 's_2', 'public'] LOOP
      IF s <> 'public' THEN EXECUTE format('CREATE SCHEMA %I', s); END IF;
      EXECUTE format('CREATE TABLE %1$I.team (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text, lead int);
        CREATE TABLE %1$I.person (id int PRIMARY KEY, team int REFERENCES %1$I.team, boss int REFERENCES %1$I.person, upper_name text GENERATED ALWAYS AS (upper(name)) STORED, name text);
        ALTER TABLE %1$I.team ADD FOREIGN KEY (lead) REFERENCES %1$I.person;
        CREATE TABLE %1$I.country (code text PRIMARY KEY, name text);
        CREATE TABLE %1$I.\"odd \"\"name\" (k int, v text)', s);
    END LOOP; END $$;
    CREATE TRIGGER loud AFTER INSERT ON public.person FOR EACH ROW EXECUTE FUNCTION public.loud();
    CREATE RULE nothing AS ON INSERT TO public.country DO ALSO INSERT INTO public.heard VALUES ('rule');";

fn fill_meeting(server: &Cluster, database: &str) {
    server.psql("postgres", &format!("CREATE DATABASE {database}"));
    server.psql(database, MEETING);
    for (schema, from) in [("s_1", 0), ("s_2", 10)] {
        server.psql(
            database,
            &format!(
                "INSERT INTO {schema}.team OVERRIDING SYSTEM VALUE VALUES ({from} + 1, 'a', NULL), ({from} + 2, 'b', NULL); \
                 INSERT INTO {schema}.person (id, team, boss, name) VALUES ({from} + 1, {from} + 1, {from} + 2, 'x'), ({from} + 2, {from} + 2, NULL, 'y'); \
                 UPDATE {schema}.team SET lead = {from} + 2; \
                 INSERT INTO {schema}.country VALUES ('de', 'Deutschland'), ('{schema}', 'own'); \
                 INSERT INTO {schema}.\"odd \"\"name\" VALUES (1, 'same'), (1, 'same')"
            ),
        );
    }
}

fn meeting(server: &Cluster, database: &str, more: &str) -> String {
    let steps = format!(
        "  - merge_shards:\n      from: {{ database: db, schemas: \"s_#\" }}\n      into: {{ database: db }}\n{more}"
    );
    plan("meet", &server.url(database), &steps)
}

#[test]
fn circles_triggers_duplicates_and_conflicts() {
    let server = Cluster::start("15");
    fill_meeting(&server, "meet");
    let env = TestEnv::new();
    env.write("meet.yaml", &meeting(&server, "meet", ""));
    let refused = env.pgplan(&["apply", "meet.yaml"]).expect(6);
    assert!(
        refused.stderr.contains("country: primary key: 1 value more than once: (de) in s_1, s_2"),
        "{}",
        refused.stderr
    );

    let skip = "      tables: { country: { on_conflict: skip_identical } }\n      split_above: 1B\n";
    env.write("meet.yaml", &meeting(&server, "meet", skip));
    env.pgplan(&["apply", "meet.yaml", "--fresh"]).expect(0);
    let found = "SELECT (SELECT count(*) FROM team), (SELECT string_agg(upper_name, '' ORDER BY id) FROM person), (SELECT count(*) FROM country), \
                 (SELECT count(*) FROM \"odd \"\"name\"), (SELECT count(*) FROM heard)";
    assert_eq!(server.psql("meet", found), "4|XYXY|3|4|0", "triggers and rules were off");
    let on = "SELECT (SELECT tgenabled FROM pg_trigger WHERE tgname = 'loud'), (SELECT ev_enabled FROM pg_rewrite WHERE rulename = 'nothing'), \
              (SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND condeferrable)";
    assert_eq!(server.psql("meet", on), "O|O|0", "and everything is as it was");
    // The identity goes on past the largest value.
    assert_eq!(server.psql("meet", "INSERT INTO team (name) VALUES ('new') RETURNING id"), "13");

    // Rows of one key that differ.
    fill_meeting(&server, "differ");
    server.psql("differ", "UPDATE s_2.country SET name = 'Allemagne' WHERE code = 'de'");
    env.write("differ.yaml", &meeting(&server, "differ", skip));
    let refused = env.pgplan(&["apply", "differ.yaml"]).expect(6);
    assert!(refused.stderr.contains("1 key with rows that differ"), "{}", refused.stderr);
    let keep = "      on_conflict: keep\n      existing_rows: keep\n      triggers: true\n";
    env.write("differ.yaml", &meeting(&server, "differ", keep));
    let refused = env.pgplan(&["apply", "differ.yaml", "--fresh"]).expect(6);
    assert!(refused.stderr.contains("takes no ON CONFLICT on a table with rules"), "{}", refused.stderr);
    server.psql("differ", "DROP RULE nothing ON country; INSERT INTO country VALUES ('fr', 'before')");
    let done = env.pgplan(&["apply", "differ.yaml", "--fresh"]).expect(0);
    assert!(done.stderr.contains("1 row left out, the first stays"), "{}", done.stderr);
    assert_eq!(
        server.psql("differ", "SELECT string_agg(code || name, ' ' ORDER BY code) FROM country"),
        "deDeutschland frbefore s_1own s_2own"
    );
    assert_ne!(server.psql("differ", "SELECT count(*) FROM heard"), "0", "triggers and rules were on");
}

#[test]
fn a_long_look_says_what_it_looks_at() {
    let server = Cluster::start("18");
    server.psql(
        "postgres",
        "CREATE DATABASE a; CREATE TABLE public.t (id int PRIMARY KEY); CREATE TABLE public.u (id int)",
    );
    server.psql("a", "CREATE TABLE t (id int); INSERT INTO t VALUES (1); CREATE TABLE u (id int)");
    let env = TestEnv::new();
    // The rows of `t` take four seconds to count, and their keys four more.
    let text = format!(
        "version: 1\nname: slow\ndatabases:\n  a: {{ url: \"{}\" }}\n  all: {{ url: \"{}\" }}\nsteps:\n  - id: merge\n    merge_databases:\n      \
         from: [{{ database: a, tables: {{ u: {{}}, t: {{ derive: {{ id: \"id + length(pg_sleep(4)::text)\" }} }} }} }}]\n      into: {{ database: all }}\n",
        server.url("a"),
        server.url("postgres"),
    );
    env.write("slow.yaml", &text);
    let said = env.pgplan(&["plan", "slow.yaml"]).expect(0);
    assert_eq!(said.stderr.trim(), "merge looking at table 1 of 2: t: keys", "a line after five seconds");
    let quiet = text.replace("pg_sleep(4)", "pg_sleep(0)");
    env.write("quick.yaml", &quiet);
    assert_eq!(env.pgplan(&["plan", "quick.yaml"]).expect(0).stderr, "", "what is quick says nothing");
}
