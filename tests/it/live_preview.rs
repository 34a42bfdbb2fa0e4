//! `pgplan plan` against real servers: what it prints, and that nothing is changed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::cluster::Cluster;
use crate::env::TestEnv;

/// Everything on a server that a change would leave a trace in: transactions that wrote, catalogs, rows, files.
fn server(server: &Cluster) -> Vec<String> {
    let catalog = "SELECT txid_snapshot_xmax(txid_current_snapshot()), (SELECT string_agg(datname, ',' ORDER BY datname) FROM pg_database), \
                   (SELECT md5(string_agg(c::text, ',' ORDER BY oid)) FROM pg_class c), \
                   (SELECT md5(string_agg(r::text, ',' ORDER BY oid)) FROM pg_roles r), \
                   (SELECT md5(string_agg(s::text, ',' ORDER BY setdatabase, setrole)) FROM pg_db_role_setting s)";
    let rows = "SELECT count(*), md5(string_agg(t::text, ',' ORDER BY n)) FROM t t";
    let tables = "SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_user_tables";
    let mut state: Vec<String> = [catalog, rows, tables].iter().map(|sql| server.psql("postgres", sql)).collect();
    let relations = files(&server.data().join("base"));
    state.push(
        relations.keys().filter(|path| !path.ends_with("pg_internal.init")).map(|p| p.display().to_string()).collect(),
    );
    state
}

/// Returns the files of a folder with what they hold.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("the folder can be read").flatten() {
        if entry.path().is_dir() {
            found.insert(entry.path(), Vec::new());
            found.extend(files(&entry.path()));
        } else if let Ok(bytes) = fs::read(entry.path()) {
            found.insert(entry.path(), bytes);
        }
    }
    found
}

const PLAN: &str = r#"version: 1
name: move
databases:
  source: { url: "SOURCE", expect: { major: 15 } }
  target: { url: "TARGET", expect: { major: 18 } }
steps:
  - { id: stop, downtime: begin, command: [touch, stopped] }
  - dump: { from: source }
  - filter: { no_owner: true }
  - restore: { into: target }
  - verify: { left: source, right: target }
  - { id: tune, sql: { database: target, run: "CREATE TABLE made ()" } }
  - { id: start, downtime: end, command: [touch, started] }
  - vacuum: { database: target }
"#;

#[test]
fn a_plan_is_shown_and_nothing_is_changed() {
    let (source, target, env) = (Cluster::start("15"), Cluster::start("18"), TestEnv::new());
    for cluster in [&source, &target] {
        cluster.psql("postgres", "CREATE TABLE t AS SELECT generate_series(1, 1000) AS n");
        cluster.psql("postgres", "VACUUM ANALYZE");
        cluster.psql("postgres", "CHECKPOINT");
    }
    let plan = PLAN.replace("SOURCE", &source.url("postgres")).replace("TARGET", &target.url("postgres"));
    env.write("plan.yaml", &plan);
    let state = || (server(&source), server(&target), files(env.work().parent().expect("the private folder")));
    // The first look may make caches of the server's own.
    state();
    let before = state();
    let text = env.pgplan(&["plan", "plan.yaml"]).expect(0).stdout;
    assert!(before == state(), "the text format left a trace");
    for args in [["--format", "json"], ["--format", "markdown"]] {
        let said = env.pgplan(&[&["plan", "plan.yaml"][..], &args].concat()).expect(0).stdout;
        assert!(said.contains("vacuum"), "{said}");
        assert!(before == state(), "{args:?} left a trace");
    }
    let dry = env.pgplan(&["apply", "plan.yaml", "--dry-run"]).expect(0).stdout;
    assert_eq!(dry, text);
    assert!(before == state(), "apply --dry-run left a trace");
    assert!(!env.work().join(".pgplan").exists());

    let cache = crate::env::cache_folder().display().to_string();
    let packaged = source.psql("postgres", "SELECT substring(current_setting('server_version') from ' .*$')");
    let hide =
        [(source.port.to_string(), "SOURCE"), (target.port.to_string(), "TARGET"), (cache, "CACHE"), (packaged, "")];
    let hidden = hide.iter().filter(|(what, _)| !what.is_empty());
    let shown = hidden.fold(text, |text, (what, by)| text.replace(what, by));
    insta::assert_snapshot!("the_text_of_a_plan", crate::live_plans::without_numbers_in(&shown));
}
