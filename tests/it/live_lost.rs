//! Work of which a part was done, or of which nobody knows: it is not repeated unless a person says so.

use crate::cluster::Cluster;
use crate::env::TestEnv;

fn plan(env: &TestEnv, server: &Cluster, step: &str) {
    let url = server.url("postgres");
    env.write(
        "plan.yaml",
        &format!("version: 1\nname: lost\ndatabases: {{ db: {{ url: '{url}' }} }}\nsteps:\n  - {step}\n"),
    );
}

#[test]
fn what_was_done_in_part_waits_for_a_person() {
    let server = Cluster::start("18");
    server.psql("postgres", "CREATE TABLE t (n int)");
    let cases = [
        ("INSERT INTO t VALUES (1); SELECT 1 / 0", "", "ERROR 22012; statement 2 of 2; the first 1 were committed"),
        ("INSERT INTO t VALUES (1)", ", expect: { rows: 7 }", "all statements were committed"),
        ("INSERT INTO t SELECT 1 FROM pg_terminate_backend(pg_backend_pid())", "", "statement 1 of 1"),
    ];
    for (sql, more, said) in cases {
        let env = TestEnv::new();
        server.psql("postgres", "TRUNCATE t");
        plan(
            &env,
            &server,
            &format!("{{ id: work, sql: {{ database: db, run: '{sql}', transaction: false{more} }} }}"),
        );
        let told = env.pgplan(&["apply", "plan.yaml"]).expect(5).stderr;
        assert!(told.contains(said) && told.contains("pgplan resolve"), "{told}");
        let rows = server.psql("postgres", "SELECT count(*) FROM t");
        env.pgplan(&["apply", "plan.yaml"]).expect(5);
        assert_eq!(server.psql("postgres", "SELECT count(*) FROM t"), rows, "{sql} was repeated");
        env.pgplan(&["resolve", "work", "--as", "done"]).expect(0);
        env.pgplan(&["apply", "plan.yaml"]).expect(0);
        assert_eq!(server.psql("postgres", "SELECT count(*) FROM t"), rows);
    }
    // An error before anything was done is an error like any other.
    let env = TestEnv::new();
    plan(&env, &server, "{ id: work, sql: { database: db, run: SELECT 1 / 0, transaction: false } }");
    env.pgplan(&["apply", "plan.yaml"]).expect(1);
}

#[test]
fn a_program_that_a_signal_killed_waits_for_a_person_unless_its_check_tells() {
    let env = TestEnv::new();
    let write = |more: &str| {
        let script = "echo once >> log; test -e go || kill -9 $$";
        env.write(
            "plan.yaml",
            &format!(
                "version: 1\nname: killed\nsteps:\n  - {{ id: work, command: {{ run: [sh, -c, '{script}'] }}{more} }}\n"
            ),
        );
    };
    write("");
    let told = env.pgplan(&["apply", "plan.yaml"]).expect(5).stderr;
    assert!(told.contains("signal 9") || told.contains("SIGKILL"), "{told}");
    env.pgplan(&["apply", "plan.yaml"]).expect(5);
    assert_eq!(env.read("log"), "once\n");
    env.write("go", "");
    env.pgplan(&["resolve", "work", "--as", "retry"]).expect(0);
    env.pgplan(&["apply", "plan.yaml"]).expect(0);
    assert_eq!(env.read("log"), "once\nonce\n");

    // The plan may say that it can be repeated.
    std::fs::remove_file(env.work().join("go")).expect("it is there");
    write(", retry: { attempts: 2, delay: 10ms, errors: [lost] }");
    env.pgplan(&["apply", "plan.yaml", "--fresh"]).expect(1);
    assert_eq!(env.read("log").lines().count(), 4);
}
