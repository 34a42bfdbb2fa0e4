//! `schema_trial`: every error of a schema at once, and nothing left of the place where it was tried.

use std::{fs, path::PathBuf};

use nix::sys::signal::Signal;

use crate::{
    cluster::Cluster,
    env::TestEnv,
    live_claims::{plan, signal, until},
};

/// What 13 takes and 14 does not any more: postfix operators, aggregates over old polymorphic functions.
const OLD: &str = r#"CREATE ROLE app LOGIN; CREATE ROLE "we""ird 'role"; GRANT app TO "we""ird 'role";
CREATE DATABASE "sh'op ""x" OWNER app;"#;
const OLD_SCHEMA: &str = r#"CREATE FUNCTION fact(integer) RETURNS numeric LANGUAGE sql AS 'SELECT $1::numeric';
CREATE OPERATOR !!! (leftarg = integer, procedure = fact);
CREATE AGGREGATE collect(anyelement) (sfunc = array_append, stype = anyarray);
CREATE TABLE orders (id serial PRIMARY KEY, what text); ALTER TABLE orders OWNER TO app;
INSERT INTO orders (what) SELECT 'x' FROM generate_series(1, 1000);
GRANT SELECT ON orders TO "we""ird 'role";"#;

fn source() -> Cluster {
    let source = Cluster::start("13");
    source.psql("postgres", OLD);
    source.psql("sh'op \"x", OLD_SCHEMA);
    source
}

/// Returns the folders of servers that a run of this environment may have left.
fn servers(env: &TestEnv) -> Vec<PathBuf> {
    let runs = env.work().join(".pgplan/runs");
    let runs = fs::read_dir(runs).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let places = runs.flat_map(|run| {
        let run = run.to_string_lossy().into_owned();
        [
            PathBuf::from(format!("/var/lib/pgplan/{run}-schema_trial")),
            env.work().join(format!(".pgplan/runs/{run}/clusters/schema_trial")),
        ]
    });
    places.filter(|place| place.exists()).collect()
}

#[test]
fn every_error_is_reported_at_once_and_nothing_is_left() {
    let source = source();
    let env = TestEnv::new();
    let url = source.url("sh'op \"x");
    for (name, scope) in [("database", ""), ("cluster", ", scope: cluster")] {
        env.write("p.yaml", &plan(name, &url, &format!("  - schema_trial: {{ source: db, version: 18{scope} }}\n")));
        let failed = env.pgplan(&["apply", "p.yaml"]).expect(6);
        let told = &failed.stderr;
        assert!(told.contains("the schema cannot be restored as it is: 4 statements failed"), "{told}");
        assert!(told.contains("operator right argument type must be specified"), "{told}");
        assert!(told.contains("function array_append(anyarray, anyelement) does not exist"), "{told}");
        assert_eq!(servers(&env), Vec::<PathBuf>::new());
    }

    // The rules of the real step, and an error that the plan expects.
    let steps = "  - schema_trial:\n      source: db\n      version: 18\n      filter: clean\n      expected_errors:\n        - function array_append(anyarray, anyelement) does not exist\n        - aggregate public.collect(anyelement) does not exist\n  - dump: { from: db }\n  - id: clean\n    filter: { drop: [{ pattern: 'OPERATOR public\\.!!!' }] }\n";
    env.write("q.yaml", &plan("q", &url, steps));
    env.pgplan(&["apply", "q.yaml"]).expect(0);
    assert_eq!(servers(&env), Vec::<PathBuf>::new());
    env.write("bad.yaml", &plan("bad", &url, &steps.replace("filter: clean", "filter: dump")));
    let bad = env.pgplan(&["check", "bad.yaml"]).expect(2);
    assert!(bad.stderr.contains("the step `dump` is no `filter`"), "{}", bad.stderr);

    // On a server that is there: in a database of its own, which goes again; also with a subscription in it, whose
    // publisher (nobody, here) is not asked.
    source.psql(
        "sh'op \"x",
        "CREATE SUBSCRIPTION news CONNECTION 'host=127.0.0.1 port=1 dbname=d' PUBLICATION p \
         WITH (connect = false, slot_name = 'news')",
    );
    let target = Cluster::start("16");
    target.psql("postgres", "CREATE ROLE app; CREATE ROLE \"we\"\"ird 'role\"");
    let databases = format!("databases: {{ new: {{ url: \"{}\" }}, db:", target.url("postgres"));
    let named = steps.replace("version: 18", "target: new");
    env.write("r.yaml", &plan("r", &url, &named).replace("databases: { db:", &databases));
    env.pgplan(&["apply", "r.yaml"]).expect(0);
    assert_eq!(target.psql("postgres", "SELECT count(*) FROM pg_database"), "3");
    assert_eq!(target.psql("postgres", "SELECT count(*) FROM pg_namespace WHERE nspname = 'pgplan'"), "0");
}

#[test]
fn what_a_killed_trial_left_is_removed_by_the_next_one_or_by_undo() {
    let source = source();
    let env = TestEnv::new();
    let steps = "  - schema_trial: { source: db, version: 18, filter: { drop: [{ pattern: '!!!' }, { pattern: 'AGGREGATE' }] } }\n";
    env.write("p.yaml", &plan("p", &source.url("sh'op \"x"), steps));
    let killed = || {
        let mut child = env.command(&["apply", "p.yaml"]).spawn().expect("pgplan starts");
        until("the server runs", || {
            servers(&env)
                .iter()
                .any(|place| fs::read_to_string(place.join("log")).is_ok_and(|log| log.contains("ready to accept")))
        });
        signal(&child, Signal::SIGKILL);
        child.wait().expect("it is dead");
        let pid = servers(&env).iter().find_map(|place| fs::read_to_string(place.join("data/postmaster.pid")).ok());
        pid.and_then(|text| text.lines().next().map(str::to_owned)).expect("the server runs on")
    };
    let pid = killed();
    env.pgplan(&["apply", "p.yaml"]).expect(0);
    assert_eq!(servers(&env), Vec::<PathBuf>::new());
    until("its server has ended", || !PathBuf::from(format!("/proc/{pid}")).exists());

    env.write("p.yaml", &plan("again", &source.url("sh'op \"x"), steps));
    let pid = killed();
    env.pgplan(&["undo", "p.yaml", "--yes"]).expect(0);
    assert_eq!(servers(&env), Vec::<PathBuf>::new());
    until("its server has ended", || !PathBuf::from(format!("/proc/{pid}")).exists());
}
