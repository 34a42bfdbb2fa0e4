//! Fences on real servers beside and after each other, and what others do meanwhile.

use crate::{
    cluster::Cluster,
    env::TestEnv,
    live_claims::plan,
    live_fence::{access, load},
};

/// Who may connect to `app` and `postgres` of those who always may when nothing is fenced.
fn may_connect(server: &Cluster) -> String {
    server.psql(
        "postgres",
        "SELECT has_database_privilege('writer', 'app', 'CONNECT'), has_database_privilege('writer', 'postgres', 'CONNECT')",
    )
}

#[test]
fn two_fences_on_one_server_are_two() {
    let server = Cluster::start("16");
    load(&server);
    let before = access(&server);
    let env = TestEnv::new();
    let steps = "  - id: one\n    fence: { database: db, databases: [app], grace: 0s, window: 1s }\n  - id: two\n    fence: { database: db, databases: [postgres], grace: 0s, window: 1s }\n  - id: half\n    unfence: { fence: one }\n  - id: last\n    command: { run: [test, -e, mended] }\n";
    env.write("p.yaml", &plan("p", &server.url("app"), steps));
    env.pgplan(&["apply", "p.yaml"]).expect(1);
    // The first is open again, the second is not.
    assert_eq!(may_connect(&server), "t|f");
    env.write("mended", "");
    env.pgplan(&["apply", "p.yaml"]).expect(0);
    assert_eq!(may_connect(&server), "t|f");
    env.pgplan(&["undo", "p.yaml", "--yes"]).expect(0);
    assert_eq!(access(&server), before);
}

#[test]
fn what_is_written_between_two_fences_is_nothing_to_the_second() {
    let server = Cluster::start("16");
    load(&server);
    let before = access(&server);
    let env = TestEnv::new();
    let write = format!(
        "[{}, -Xqc, INSERT INTO log VALUES ('between'), -d, \"{}\"]",
        server.bin("psql").display(),
        server.url("app")
    );
    let steps = format!(
        "  - id: one\n    fence: {{ database: db, grace: 0s, window: 1s }}\n  - unfence: {{ fence: one }}\n  - id: write\n    command: {{ run: {write} }}\n  - id: two\n    fence: {{ database: db, grace: 0s, window: 1s }}\n"
    );
    env.write("p.yaml", &plan("p", &server.url("app"), &steps));
    env.pgplan(&["apply", "p.yaml"]).expect(0);
    assert_eq!(server.psql("app", "SELECT who FROM log"), "between");
    assert_eq!(may_connect(&server), "f|f");
    env.pgplan(&["undo", "p.yaml", "--yes"]).expect(0);
    assert_eq!(access(&server), before);
}
