//! What a server or a program gives back of a secret is stored and shown nowhere.

use crate::cluster::Cluster;
use crate::env::{Outcome, TestEnv};
use crate::live_plans::never_told;

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

#[test]
fn what_comes_back_of_a_secret_is_neither_stored_nor_shown() {
    let (server, env) = (Cluster::start("15"), TestEnv::new());
    server.psql("postgres", "CREATE TABLE t (t text PRIMARY KEY)");
    env.write("plan.yaml", &PLAN.replace("URL", &server.url("postgres")));
    let run = |args: &[&str]| Outcome::of(&env.command(args).env("T", SECRET).output().expect("pgplan starts"));
    let applied = run(&["apply", "plan.yaml", "--events", "events.json"]).expect(1);
    assert!(env.work().join("used").exists(), "later steps have the values: {}", applied.stderr);
    assert!(applied.stderr.contains("Key (t)=(<secret secrets.t>) already exists"), "{}", applied.stderr);
    for said in [applied, run(&["report"]).expect(0), run(&["log"]).expect(0), run(&["status"]).expect(0)] {
        never_told(&env, &said, &[SECRET]);
    }
    let receipts = server.psql("postgres", "SELECT action, outputs FROM pgplan.receipt");
    assert!(receipts.contains("fill/") && receipts.contains("\"secret\"") && !receipts.contains(SECRET), "{receipts}");
}
