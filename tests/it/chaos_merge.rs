//! Merges under fire: pgplan, its server sessions and its servers are killed at random moments of a merge of shards and
//! of a merge of tenants on two servers whose keys meet. Every row arrives once, and a merge that is marked as complete
//! is complete, at whatever moment somebody looks.
//!
//! `PGPLAN_CHAOS_KILLS` says how many (`make chaos`: 200), `PGPLAN_CHAOS_SEED` repeats a run.

use crate::{
    cluster::Cluster,
    env::TestEnv,
    fire::{Dice, Fire, Struck, dice, nothing_runs_on, number, rounds, standing},
    live_merge::{SHARDS, arrived_from, merge_step, shards},
    live_merge_databases::{SHOP, shop},
};

/// Packages of a shard, and customers of the first tenant.
const ROWS: u32 = 60;

fn plan(source: &Cluster, target: &Cluster) -> String {
    format!(
        "version: 1\nname: merges\ndatabases:\n  db: {{ url: \"{}\" }}\n  a: {{ url: \"{}\" }}\n  b: {{ url: \"{}\" }}\n  all: {{ url: \"{}\" }}\nsteps:\n{}  \
         - id: tenants\n    merge_shards:\n      from: {{ databases: [a, b] }}\n      into: {{ database: all }}\n      \
         keys: {{ method: new_id, tables: [customers, orders], references: {{ notes.about: customers }} }}\n      \
         tables: {{ currencies: {{ on_conflict: skip_identical }} }}\n      provenance: tenant\n      allow: [missing_columns]\n      \
         complete: {{ run: INSERT INTO done VALUES (true) }}\n",
        source.url("origin"),
        source.url("shop_a"),
        target.url("shop_b"),
        target.url("all_shops"),
        merge_step("")
    )
}

/// Makes the databases that are merged into, empty.
fn fresh(source: &Cluster, target: &Cluster) {
    source.psql("postgres", "DROP DATABASE IF EXISTS origin");
    source.psql("postgres", "CREATE DATABASE origin TEMPLATE origin_before");
    target.psql("postgres", "DROP DATABASE IF EXISTS all_shops");
    target.psql("postgres", "CREATE DATABASE all_shops");
    target.psql("all_shops", &format!("{SHOP} CREATE TABLE done (yes bool)"));
    for server in [source, target] {
        // The servers commit asynchronously: what only WAL buffers hold would end with a killed server.
        server.psql("postgres", "CHECKPOINT");
    }
}

/// Every tenant's rows once, each reference with the row that it had.
fn tenants_arrived(target: &Cluster) {
    let (customers, orders) = (3 * ROWS, 9 * ROWS);
    let found = "SELECT (SELECT count(*) FROM customers), (SELECT count(*) FROM orders), (SELECT count(*) FROM currencies), \
         (SELECT count(*) FROM lines l JOIN orders o ON o.id = l.order_id JOIN customers c ON c.id = o.customer_id WHERE l.note = c.email), \
         (SELECT count(*) FROM notes n JOIN customers c ON c.id = n.about WHERE n.body = c.email), (SELECT count(*) FROM done)";
    assert_eq!(target.psql("all_shops", found), format!("{customers}|{orders}|1|{}|{customers}|1", 2 * orders));
    assert_eq!(target.psql("all_shops", "SELECT count(*) FROM lines"), (2 * orders).to_string());
}

/// One plan from begin to end; returns what was struck.
fn round(dice: &mut Dice, budget: u64, source: &mut Cluster, target: &mut Cluster) -> Struck {
    fresh(source, target);
    let env = TestEnv::new();
    env.write("merges.yaml", &plan(source, target));
    let mut fire = Fire::new(dice, budget);
    let mut last = String::new();
    for _ in 0..200 {
        let session = fire.session(&env, &["apply", "merges.yaml"], source, target);
        let done = match session.code() {
            Some(0) => true,
            // It may have been killed between its last event and its end.
            None => standing(&env).as_deref() == Some("succeeded"),
            Some(1) => {
                session.is_excused();
                false
            }
            Some(_) => panic!("{}\n{}\n--- before\n{last}", session.said.status, session.said.stderr),
        };
        let said = session.said;
        // What is marked as complete is so, whatever was killed just now.
        let unless_marked = |server: &Cluster, database: &str, table: &str, arrived: &dyn Fn()| {
            let marked = server.psql(database, &format!("SELECT count(*) FROM {table}"));
            assert!(marked == "1" || (!done && marked == "0"), "{database} has {marked} marks\n{}", said.stderr);
            if marked == "1" {
                arrived();
            }
        };
        unless_marked(source, "origin", "flags", &|| arrived_from(source, "origin", SHARDS));
        unless_marked(target, "all_shops", "done", &|| tenants_arrived(target));
        if done {
            let left = "SELECT count(*) FROM pg_namespace WHERE nspname = 'pgplan'";
            assert_eq!((source.psql("origin", left), target.psql("all_shops", left)), ("0".into(), "0".into()));
            let next = "INSERT INTO customers (email) VALUES ('new') RETURNING id > (SELECT max(id) FROM customers WHERE email <> 'new')";
            assert_eq!(target.psql("all_shops", next), "t", "its sequence goes on past every key");
            nothing_runs_on(&env, [source, target]);
            return fire.struck;
        }
        last = said.stderr;
    }
    panic!("it does not come to an end; the last session said:\n{last}");
}

#[test]
fn nothing_is_lost_when_merges_are_killed() {
    let kills = number("PGPLAN_CHAOS_KILLS", 6);
    let mut dice = dice();
    let (mut source, mut target) = (Cluster::start("15"), Cluster::start("18"));
    shards(&source, "origin_before", ROWS);
    shop(&source, "shop_a", ROWS);
    shop(&target, "shop_b", 2 * ROWS);
    rounds(kills, 12, |budget| round(&mut dice, budget, &mut source, &mut target));
}
