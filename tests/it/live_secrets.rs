//! What a server or a program gives back of a secret is stored and shown nowhere.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cluster::Cluster;
use crate::env::{Outcome, TestEnv};

const SECRET: &str = "geheim-4711-wort";

const PLAN: &str = r#"version: 1
name: hides
secrets: { t: { env: T } }
databases: { target: { url: "URL" } }
steps:
  - id: fill
    sql:
      database: target
      run: "INSERT INTO t VALUES ('${{ secrets.t }}') RETURNING t"
  - id: print
    command:
      run: [sh, -c, 'echo "it is $T"']
      outputs: { said: { parse: trimmed } }
    env: { T: "${{ secrets.t }}" }
  - id: use
    command:
      run: [sh, -c, 'test "$A" = "$T" && test "$B" = "it is $T" && touch used']
    env: { T: "${{ secrets.t }}", A: "${{ steps.fill.outputs.value }}", B: "${{ steps.print.outputs.said }}" }
  - id: again
    sql: { database: target, run: "INSERT INTO t VALUES ('${{ secrets.t }}')" }
"#;

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("the folder can be read") {
        let path = entry.expect("the entry can be read").path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

#[test]
fn what_comes_back_of_a_secret_is_neither_stored_nor_shown() {
    let (server, env) = (Cluster::start("15"), TestEnv::new());
    server.psql("postgres", "CREATE TABLE t (t text PRIMARY KEY)");
    env.write("plan.yaml", &PLAN.replace("URL", &server.url("postgres")));
    let run = |args: &[&str]| Outcome::of(&env.command(args).env("T", SECRET).output().expect("pgplan starts"));
    let applied = run(&["apply", "plan.yaml"]).expect(1);
    assert!(env.work().join("used").exists(), "later steps have the values: {}", applied.stderr);
    assert!(applied.stderr.contains("Key (t)=(<secret secrets.t>) already exists"), "{}", applied.stderr);
    for said in [applied, run(&["report"]).expect(0), run(&["log"]).expect(0), run(&["status"]).expect(0)] {
        assert!(!said.stdout.contains(SECRET) && !said.stderr.contains(SECRET), "{said:?}");
    }
    let stored = files(&env.work().join(".pgplan"));
    assert!(stored.iter().any(|path| path.ends_with("state.db")), "{stored:?}");
    for path in stored {
        let bytes = fs::read(&path).expect("the file can be read");
        assert!(!bytes.windows(SECRET.len()).any(|part| part == SECRET.as_bytes()), "{} has it", path.display());
    }
    let receipts = server.psql("postgres", "SELECT action, outputs FROM pgplan.receipt");
    assert!(receipts.contains("fill/") && receipts.contains("\"secret\"") && !receipts.contains(SECRET), "{receipts}");
}
