//! Saved plans: through the binary, on real servers.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
};

use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, Settings},
    env::{Outcome, TestEnv},
    live_claims::plan,
};

const PASSWORDS: [&str; 2] = ["0ldS3cretOfSaved", "n3wS3cretOfSaved"];

fn with_password(version: &str, password: &str) -> Cluster {
    Cluster::with(Settings { password: Some(password.to_owned()), ..Settings::new(version) })
}

/// A source with some objects and an empty target, a plan that moves one to the other, passwords in an environment
/// variable and in a `.pgpass`.
struct Bench {
    env: TestEnv,
    source: Cluster,
    target: Cluster,
}

const SCHEMA: &str = "CREATE TABLE orders (id int PRIMARY KEY, note text); INSERT INTO orders VALUES (1, 'one');
    CREATE VIEW recent AS SELECT id FROM orders; CREATE SEQUENCE numbers;
    CREATE FUNCTION net(int) RETURNS int LANGUAGE sql AS 'SELECT $1'; CREATE INDEX by_note ON orders (note);";

impl Bench {
    fn new() -> Self {
        Self::of("15", "18")
    }

    fn of(source: &str, target: &str) -> Self {
        let (source, target) = (with_password(source, PASSWORDS[0]), with_password(target, PASSWORDS[1]));
        source.psql("postgres", "CREATE DATABASE db");
        source.psql("db", SCHEMA);
        target.psql("postgres", "CREATE DATABASE db");
        let env = TestEnv::new();
        let bench = Self { env, source, target };
        bench.env.write("p.yaml", &bench.plan());
        bench.env.write("after.sql", "CREATE TABLE added ();\n");
        let pgpass = bench.env.write("../home/.pgpass", &format!("*:*:*:*:{}\n", PASSWORDS[1]));
        fs::set_permissions(pgpass, fs::Permissions::from_mode(0o600)).expect("the mode can be set");
        bench
    }

    fn plan(&self) -> String {
        let (source, target) = (self.source.port, self.target.port);
        format!(
            "version: 1
name: p
vars: {{ word: hello }}
secrets: {{ old: {{ env: OLD_PASSWORD }} }}
databases:
  source: {{ url: \"postgres://postgres@127.0.0.1:{source}/db\", password: \"${{{{ secrets.old }}}}\" }}
  target: {{ url: \"postgres://postgres@127.0.0.1:{target}/db\" }}
steps:
  - dump: {{ from: source }}
  - restore: {{ into: target }}
  - sql: {{ database: target, file: after.sql }}
  - command: {{ run: [sh, -c, \"echo ${{{{ vars.word }}}} > said\"] }}
"
        )
    }

    fn pgplan(&self, args: &[&str]) -> Outcome {
        let mut command = self.env.command(args);
        Outcome::of(&command.env("OLD_PASSWORD", PASSWORDS[0]).output().expect("pgplan starts"))
    }

    fn save(&self) -> Outcome {
        self.pgplan(&["plan", "p.yaml", "--out", "p.saved"]).expect(0)
    }

    /// Returns all that an apply could have changed.
    fn state(&self) -> (String, bool) {
        let tables = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace";
        (self.target.psql("db", tables), self.env.work().join("said").exists())
    }

    /// Applies the saved plan, which must be refused for these reasons, without a change anywhere.
    #[track_caller]
    fn refused(&self, reasons: &[&str]) -> Outcome {
        let before = self.state();
        let said = self.pgplan(&["apply", "p.saved"]).expect(3);
        for reason in reasons {
            assert!(said.stderr.contains(reason), "no `{reason}` in\n{}", said.stderr);
        }
        assert!(said.stderr.contains("was saved by"), "{}", said.stderr);
        assert_eq!(self.state(), before);
        let runs = self.pgplan(&["runs"]).expect(0);
        assert_eq!(runs.stdout.lines().count(), 1, "a run was begun: {}", runs.stdout);
        let folders = fs::read_dir(self.env.work().join(".pgplan/runs")).map_or(0, Iterator::count);
        assert_eq!(folders, 0, "a run's folder is left");
        said
    }
}

#[test]
fn a_saved_plan_is_applied_when_nothing_has_changed() {
    let bench = Bench::new();
    let shown = bench.save();
    let path = bench.env.work().join("p.saved");
    assert_eq!(fs::metadata(&path).expect("it is there").permissions().mode() & 0o7777, 0o600);
    let text = bench.env.read("p.saved");
    for password in PASSWORDS {
        assert!(!text.contains(password), "{password} stands in the saved plan");
        assert!(!shown.stdout.contains(password) && !shown.stderr.contains(password));
    }
    let saved: Value = serde_json::from_str(&text).expect("it is JSON");
    let source = &saved["saved"]["bound"]["source"]["looked"];
    let number = bench.source.psql("postgres", "SELECT system_identifier FROM pg_control_system()");
    assert_eq!(source["identity"]["system_identifier"], json!(number));
    assert!(source["databases"]["db"]["table public.orders"].is_string(), "{source}");
    // What was looked at can be looked at again, without a server.
    assert_eq!(bench.env.pgplan(&["plan", "p.saved"]).expect(0).stdout, shown.stdout);
    assert_eq!(bench.env.pgplan(&["apply", "p.saved", "--dry-run"]).expect(0).stdout, shown.stdout);

    // Rows and statistics are no schema.
    bench.source.psql("db", "INSERT INTO orders SELECT i FROM generate_series(2, 500) i; ANALYZE");
    bench.source.psql("db", "SELECT nextval('numbers')");
    let done = bench.pgplan(&["apply", "p.saved"]).expect(0);
    assert!(done.stderr.contains("plan and servers are as they were when p.saved was saved"), "{}", done.stderr);
    assert_eq!(bench.target.psql("db", "SELECT count(*) FROM orders"), "500");
    assert_eq!(bench.env.read("said"), "hello\n");
    // What it did is a change, too.
    let again = bench.pgplan(&["apply", "p.saved"]).expect(3);
    assert!(again.stderr.contains("+ table public.orders"), "{}", again.stderr);
    assert!(!again.stderr.contains("column public.orders."), "{}", again.stderr);
}

#[test]
fn a_plan_that_has_changed_is_refused() {
    let bench = Bench::new();
    bench.save();
    let text = bench.env.read("p.yaml");
    let edits: [(&str, &str, &[&str]); 6] = [
        ("echo $", "print $", &["step command, as it was saved", "+       \"echo -n ${{ vars.word }} > said\""]),
        ("word: hello", "word: bye", &["variable `word` is \"bye\", was \"hello\""]),
        ("into: target }", "into: target }\n    needs: [dump]\n    if: \"true\"", &["step `restore` has another `if`"]),
        ("/db\" }\nsteps", "/db\", expect: { empty: true } }\nsteps", &["database `target` is declared differently"]),
        (
            "  - sql: ",
            "  - { id: new, command: { run: [\"true\"] } }\n  - sql: ",
            &["step `new` is new", "step `sql` comes after new, came after restore"],
        ),
        (
            "  - sql: { database: target, file: after.sql }\n",
            "",
            &["step `sql` has gone", "file after.sql is not used"],
        ),
    ];
    for (from, to, reasons) in edits {
        assert!(text.contains(from), "the plan has no `{from}`");
        let edited = text.replace(from, to).replace("print $", "echo -n $");
        bench.env.write("p.yaml", &edited);
        bench.refused(reasons);
    }
    bench.env.write("p.yaml", &text);
    bench.env.write("after.sql", "CREATE TABLE other ();\n");
    bench.refused(&["file after.sql has changed", "step sql, as it was saved"]);
    bench.env.write("after.sql", "CREATE TABLE added ();\n");
    // Names are no part of it.
    bench.env.write("p.yaml", &text.replace("  - dump: ", "  - name: for people\n    dump: "));
    bench.pgplan(&["apply", "p.saved"]).expect(0);
}

#[test]
fn variables_and_platforms_belong_to_the_saved_plan() {
    let bench = Bench::new();
    let built_in = concat!(env!("CARGO_MANIFEST_DIR"), "/../engine/src/platforms/systemd.yaml");
    let text = fs::read_to_string(built_in).expect("the platform is there");
    bench.env.write("own.yaml", &text.replace("name: systemd", "name: own"));
    let args = ["plan", "p.yaml", "--out", "p.saved", "--var", "word=given", "--platform", "own.yaml"];
    bench.pgplan(&args).expect(0);
    for more in [["--var", "word=other"], ["--platform", "own.yaml"]] {
        let wrong = bench.pgplan(&["apply", "p.saved", more[0], more[1]]).expect(2);
        assert!(wrong.stderr.contains("cannot be given with the saved plan"), "{}", wrong.stderr);
    }
    bench.pgplan(&["plan", "p.saved", "--out", "q.saved"]).expect(2);
    let own = bench.env.read("own.yaml");
    bench.env.write("own.yaml", &format!("{own}# edited\n"));
    bench.refused(&["platform file", "own.yaml has changed"]);
    bench.env.write("own.yaml", &own);
    bench.pgplan(&["apply", "p.saved"]).expect(0);
    assert_eq!(bench.env.read("said"), "given\n");
}

#[test]
fn a_schema_that_has_changed_is_refused() {
    let bench = Bench::new();
    bench.save();
    let source = |sql: &str| bench.source.psql("db", sql);
    let movements: [(&str, &str, &[&str]); 9] = [
        (
            "ALTER TABLE orders ADD more int",
            "ALTER TABLE orders DROP more",
            &["source: schema of db: 1 added, 0 gone, 0 changed", "+ column public.orders.more"],
        ),
        (
            "ALTER TABLE orders ALTER note TYPE varchar(9)",
            "ALTER TABLE orders ALTER note TYPE text",
            &["~ column public.orders.note"],
        ),
        (
            "DROP INDEX by_note",
            "CREATE INDEX by_note ON orders (note)",
            &["0 added, 1 gone, 0 changed", "- index public.by_note"],
        ),
        (
            "ALTER TABLE orders ADD CONSTRAINT positive CHECK (id > 0)",
            "ALTER TABLE orders DROP CONSTRAINT positive",
            &["+ constraint public.orders.positive"],
        ),
        (
            "CREATE OR REPLACE FUNCTION net(int) RETURNS int LANGUAGE sql AS 'SELECT $1 * 2'",
            "CREATE OR REPLACE FUNCTION net(int) RETURNS int LANGUAGE sql AS 'SELECT $1'",
            &["~ function public.net(integer)"],
        ),
        (
            "CREATE OR REPLACE VIEW recent AS SELECT id FROM orders WHERE id > 7",
            "CREATE OR REPLACE VIEW recent AS SELECT id FROM orders",
            &["~ view public.recent"],
        ),
        ("ALTER SEQUENCE numbers INCREMENT 5", "ALTER SEQUENCE numbers INCREMENT 1", &["~ sequence public.numbers"]),
        ("CREATE ROLE app", "DROP ROLE app", &["source: roles of the server: 1 added", "+ role app"]),
        ("CREATE TABLE \"two\nlines\" (n int)", "DROP TABLE \"two\nlines\"", &["+ table public.two"]),
    ];
    for (there, back, reasons) in movements {
        source(there);
        bench.refused(reasons);
        source(back);
    }
    let many: String = (0..25).map(|n| format!("CREATE TABLE t{n:02} (n int); ")).collect();
    bench.target.psql("db", &many);
    let said = bench.refused(&["target: schema of db: 25 added", "+ table public.t19", "… and 5 more"]);
    assert!(!said.stderr.contains("public.t20") && !said.stderr.contains("column public.t0"), "{}", said.stderr);
    bench.target.psql("db", &many.replace("CREATE TABLE", "DROP TABLE").replace(" (n int)", ""));
    bench.target.psql("postgres", "ALTER DATABASE db RENAME TO gone");
    let refused = bench.pgplan(&["apply", "p.saved"]).expect(3);
    assert!(refused.stderr.contains("target: database db has gone"), "{}", refused.stderr);
    bench.target.psql("postgres", "ALTER DATABASE gone RENAME TO db");
    bench.pgplan(&["apply", "p.saved"]).expect(0);
}

#[test]
fn a_dump_of_the_whole_server_is_bound_to_all_its_databases() {
    let bench = Bench::new();
    let text = bench.env.read("p.yaml").replace("from: source", "from: source, scope: cluster");
    bench.env.write("p.yaml", &text);
    bench.source.psql("postgres", "CREATE DATABASE second");
    bench.save();
    bench.source.psql("second", "CREATE TABLE other (n int)");
    bench.refused(&["source: schema of second: 1 added", "+ table public.other"]);
    bench.source.psql("postgres", "CREATE DATABASE third");
    bench.refused(&["source: database third is new"]);
    bench.target.psql("postgres", "CREATE DATABASE unrelated");
    let said = bench.refused(&[]);
    assert!(!said.stderr.contains("unrelated"), "{}", said.stderr);
}

#[test]
fn another_server_at_the_same_address_is_refused() {
    let mut bench = Bench::of("15.18", "18");
    bench.save();
    // Of another version: servers of one version are copies of one data directory here.
    let mut other = with_password("16", PASSWORDS[1]);
    other.psql("postgres", "CREATE DATABASE db");
    let theirs = other.psql("postgres", "SELECT system_identifier FROM pg_control_system()");
    bench.target.stop();
    let port = std::mem::replace(&mut other.port, bench.target.port);
    other.restart();
    assert_eq!(other.port, bench.target.port, "the port was taken meanwhile");
    let refused = bench.pgplan(&["apply", "p.saved"]).expect(3);
    assert!(
        refused.stderr.contains(&format!("target: another server: system identifier {theirs}")),
        "{}",
        refused.stderr
    );
    other.stop();
    let refused = bench.pgplan(&["apply", "p.saved"]).expect(3);
    assert!(refused.stderr.contains("target cannot be looked at: "), "{}", refused.stderr);
    assert_ne!(port, other.port);
    bench.target.restart();
    bench.source.restart_as("15");
    let said = bench.refused(&["source: PostgreSQL 15.", ", was 15.18"]);
    assert!(!said.stderr.contains("schema of"), "{}", said.stderr);
    bench.source.restart_as("15.18");
    bench.pgplan(&["apply", "p.saved"]).expect(0);
}

#[test]
fn another_client_program_is_refused() {
    let bench = Bench::new();
    bench.save();
    // A newer minor release of the source's version is what pgplan would choose.
    let newer = bench.env.write("newer/pg_dump", "#!/bin/sh\necho 'pg_dump (PostgreSQL) 15.99'\n");
    fs::set_permissions(&newer, fs::Permissions::from_mode(0o755)).expect("the mode can be set");
    let mut command = bench.env.command(&["apply", "p.saved"]);
    command.env("OLD_PASSWORD", PASSWORDS[0]).env("PGPLAN_PG_BIN", newer.parent().expect("it has a folder"));
    let refused = Outcome::of(&command.output().expect("pgplan starts")).expect(3);
    assert!(refused.stderr.contains("source: pg_dump 15.99 would be used, was 15."), "{}", refused.stderr);
    bench.pgplan(&["apply", "p.saved"]).expect(0);
}

#[test]
fn no_other_run_moves_a_server_after_it_was_compared() {
    let server = Cluster::start("18");
    let (env, other) = (TestEnv::new(), TestEnv::new());
    let steps = "  - command: { run: [touch, begun] }\n  - sql: { database: db, run: \"CREATE TABLE made ()\" }\n";
    env.write("p.yaml", &plan("p", &server.url("postgres"), steps));
    env.pgplan(&["plan", "p.yaml", "--out", "p.saved"]).expect(0);
    let slow = "  - sql: { database: db, run: [\"CREATE TABLE theirs ()\", \"SELECT pg_sleep(600)\"] }\n";
    other.write("q.yaml", &plan("q", &server.url("postgres"), slow));
    let mut holder = other.command(&["apply", "q.yaml"]).spawn().expect("pgplan starts");
    crate::live_claims::until("the other run works", || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)%' AND state = 'active' \
                   AND pid <> pg_backend_pid()";
        server.psql("postgres", sql) != "0"
    });
    // What that run does is not to be seen yet; only its lock tells.
    let refused = env.pgplan(&["apply", "p.saved"]).expect(3);
    assert!(refused.stderr.contains("another run is changing"), "{}", refused.stderr);
    assert!(!env.work().join("begun").exists(), "a step was done before the lock was held");
    assert_eq!(env.pgplan(&["runs"]).expect(0).stdout.lines().count(), 1, "a run was begun");
    assert_eq!(fs::read_dir(env.work().join(".pgplan/runs")).map_or(0, Iterator::count), 0);
    crate::live_claims::signal(&holder, nix::sys::signal::Signal::SIGTERM);
    holder.wait().expect("it ends");
    env.pgplan(&["apply", "p.saved"]).expect(0);
}

#[test]
fn other_server_programs_are_refused() {
    let env = TestEnv::new();
    let folder = tempfile::Builder::new().prefix("pgs").tempdir_in("/tmp").expect("a folder can be made");
    let place = folder.path().join("own").display().to_string();
    let steps = format!(
        "vars: {{ major: 18 }}\nsteps:\n  - provision: {{ managed: {{ version: \"${{{{ vars.major }}}}\", data_dir: \"{place}\" }} }}\n"
    );
    env.write("p.yaml", &format!("version: 1\nname: p\n{steps}"));
    env.pgplan(&["plan", "p.yaml", "--out", "p.saved"]).expect(0);
    for program in ["initdb", "pg_ctl", "postgres"] {
        let newer =
            env.write(&format!("newer/{program}"), &format!("#!/bin/sh\necho '{program} (PostgreSQL) 18.99'\n"));
        fs::set_permissions(&newer, fs::Permissions::from_mode(0o755)).expect("the mode can be set");
    }
    let mut command = env.command(&["apply", "p.saved"]);
    let refused = Outcome::of(&command.env("PGPLAN_PG_BIN", env.work().join("newer")).output().expect("pgplan starts"));
    let refused = refused.expect(3);
    assert!(refused.stderr.contains("the server programs 18.99 would be used, were 18."), "{}", refused.stderr);
    assert!(!folder.path().join("own").exists());
}

#[test]
fn the_file_takes_the_place_of_a_saved_plan_only() {
    let bench = Bench::new();
    bench.env.write("victim", "precious\n");
    symlink("victim", bench.env.work().join("p.saved")).expect("a link can be made");
    let refused = bench.pgplan(&["plan", "p.yaml", "--out", "p.saved"]).expect(3);
    assert!(refused.stderr.contains("p.saved is a symbolic link"), "{}", refused.stderr);
    assert_eq!(bench.env.read("victim"), "precious\n");
    assert!(fs::symlink_metadata(bench.env.work().join("p.saved")).expect("it is there").is_symlink());
    fs::remove_file(bench.env.work().join("p.saved")).expect("the link can be removed");

    let text = bench.env.read("p.yaml");
    let refused = bench.pgplan(&["plan", "p.yaml", "--out", "p.yaml"]).expect(3);
    assert!(refused.stderr.contains("is no saved plan"), "{}", refused.stderr);
    assert_eq!(bench.env.read("p.yaml"), text);
    bench.pgplan(&["plan", "p.yaml", "--out", "../home"]).expect(3);
    bench.save();
    bench.save();
    let left = fs::read_dir(bench.env.work()).expect("it can be read").count();
    assert_eq!(left, 4, "something is left beside the file");

    bench.env.write(
        "p.yaml",
        &text.replace("expect: {", "x-expect: {").replace("/db\" }\nsteps", "/db\", expect: { major: 17 } }\nsteps"),
    );
    let fails = bench.pgplan(&["plan", "p.yaml", "--out", "other.saved"]).expect(3);
    assert!(fails.stderr.contains("other.saved was not written: step `restore` would fail"), "{}", fails.stderr);
    assert!(!bench.env.work().join("other.saved").exists());
}

#[test]
fn a_damaged_or_newer_file_is_no_saved_plan() {
    let bench = Bench::new();
    bench.save();
    let text = bench.env.read("p.saved");
    let cases = [
        (text[..text.len() / 2].to_owned(), "is damaged: "),
        (text.replace("echo hello", "echo h3llo"), "is damaged: its digest does not fit"),
        (text.replace("\"pgplan_saved\": 1", "\"pgplan_saved\": 2"), "has format 2, this pgplan knows 1"),
        (text.replace("\"pgplan_saved\": 1", "\"pgplan_saved\": \"x\""), "is damaged: its format is no number"),
    ];
    for (wrong, why) in cases {
        assert_ne!(wrong, text);
        bench.env.write("p.saved", &wrong);
        for command in ["apply", "plan"] {
            let said = bench.pgplan(&[command, "p.saved"]).expect(2);
            assert!(said.stderr.contains(why), "{}", said.stderr);
        }
    }
    bench.pgplan(&["apply", "missing.saved"]).expect(2);
    assert_eq!(bench.state(), ("0".to_owned(), false));
}

#[test]
fn a_run_goes_on_although_it_changed_the_servers_itself() {
    let server = Cluster::start("18");
    let env = TestEnv::new();
    let steps = "  - sql: { database: db, run: \"CREATE TABLE made ()\" }\n  - approve: { message: \"go on?\" }\n  - command: { run: [touch, done] }\n";
    let text = plan("p", &server.url("postgres"), steps);
    env.write("p.yaml", &text);
    env.pgplan(&["plan", "p.yaml", "--out", "p.saved"]).expect(0);
    let waits = env.pgplan(&["apply", "p.saved"]).expect(5);
    assert!(waits.stderr.contains("go on with: pgplan apply p.saved"), "{}", waits.stderr);
    assert_eq!(server.psql("postgres", "SELECT count(*) FROM pg_class WHERE relname = 'made'"), "1");
    env.pgplan(&["approve", "p", "approve"]).expect(0);
    // Consent was given to the plan as it was saved.
    env.write("p.yaml", &text.replace("touch, done", "touch, other"));
    let refused = env.pgplan(&["apply", "p.saved"]).expect(3);
    assert!(refused.stderr.contains("+       \"other\""), "{}", refused.stderr);
    env.pgplan(&["apply", "p.yaml"]).expect(5);
    env.write("p.yaml", &text);
    let done = env.pgplan(&["apply", "p.saved"]).expect(0);
    assert!(done.stderr.contains("the servers were compared with p.saved when it began"), "{}", done.stderr);
    assert!(env.work().join("done").exists());
}

#[test]
fn its_run_can_be_taken_back_and_begun_anew() {
    let server = Cluster::start("18");
    let env = TestEnv::new();
    let steps = "  - sql: { database: db, run: \"CREATE TABLE made ()\" }\n    undo: { database: db, sql: \"DROP TABLE made\" }\n";
    env.write("p.yaml", &plan("p", &server.url("postgres"), steps));
    env.pgplan(&["plan", "p.yaml", "--out", "p.saved"]).expect(0);
    for _ in 0..2 {
        env.pgplan(&["apply", "p.saved"]).expect(0);
        env.pgplan(&["apply", "p.saved"]).expect(3);
        env.pgplan(&["undo", "p.saved", "--yes"]).expect(0);
    }
    assert_eq!(server.psql("postgres", "SELECT count(*) FROM pg_class WHERE relname = 'made'"), "0");
}

#[test]
fn a_password_in_an_address_is_not_written() {
    let server = with_password("18", PASSWORDS[0]);
    let env = TestEnv::new();
    let steps = "  - sql: { database: db, run: \"SELECT 1\" }\n  - repoint: { file: app.env, set: { DATABASE_URL: \"${{ databases.db.url }}\" } }\n";
    env.write("p.yaml", &plan("p", &server.url("postgres"), steps));
    env.write("app.env", "DATABASE_URL=old\n");
    let said = env.pgplan(&["plan", "p.yaml", "--out", "p.saved"]).expect(0);
    assert!(!env.read("p.saved").contains(PASSWORDS[0]) && !said.stdout.contains(PASSWORDS[0]));
    env.pgplan(&["apply", "p.saved"]).expect(0);
    assert!(env.read("app.env").contains(PASSWORDS[0]));
    let copies = crate::live_plans::files(&env.work().join(".pgplan/runs"));
    let copy = copies.iter().find(|path| path.ends_with("saved-plan.json")).expect("the run keeps a copy");
    assert_eq!(fs::read_to_string(copy).expect("it can be read"), env.read("p.saved"));
    assert_eq!(fs::metadata(copy).expect("it is there").permissions().mode() & 0o7777, 0o600);
}

#[test]
fn a_run_that_was_begun_without_it_is_not_gone_on_with() {
    let server = Cluster::start("18");
    let env = TestEnv::new();
    let steps = "  - command: { run: [sh, -c, \"echo one >> log\"] }\n  - id: last\n    sql: { database: db, run: \"SELECT 1 FROM late\" }\n";
    env.write("p.yaml", &plan("p", &server.url("postgres"), steps));
    env.pgplan(&["plan", "p.yaml", "--out", "p.saved"]).expect(0);
    env.pgplan(&["apply", "p.yaml"]).expect(1);
    let refused = env.pgplan(&["apply", "p.saved"]).expect(3);
    assert!(refused.stderr.contains("was not begun from p.saved"), "{}", refused.stderr);
    // A refused --fresh gives nothing up.
    server.psql("postgres", "CREATE TABLE late ()");
    env.pgplan(&["apply", "p.saved", "--fresh"]).expect(3);
    server.psql("postgres", "DROP TABLE late");
    env.pgplan(&["apply", "p.saved", "--fresh"]).expect(1);
    assert_eq!(env.read("log"), "one\none\n");
    server.psql("postgres", "CREATE TABLE late ()");
    env.pgplan(&["apply", "p.saved"]).expect(0);
    assert_eq!(env.read("log"), "one\none\n");
}

#[test]
fn an_address_that_a_step_tells_is_said_to_be_unbound() {
    let env = TestEnv::new();
    env.set_fakes(
        &json!({ "apps": { "orders": { "environment": "production", "services": { "cmd": 2, "worker": 3 } } } }),
    );
    let plan = crate::live_plans::plan("aptible-upgrade.yaml");
    let said = env.pgplan(&["plan", &plan, "--allow-programs", "--out", "p.saved"]).expect(0);
    assert!(
        said.stderr.contains("warning: not bound to what target is now: its address is known after step"),
        "{}",
        said.stderr
    );
}

/// Changes of objects of every other kind, and what is said of each.
const OTHERS: [(&str, &str); 12] = [
    ("ALTER TYPE mood ADD VALUE 'bad'", "~ type public.mood"),
    ("ALTER DOMAIN short DROP CONSTRAINT short_check", "~ type public.short"),
    ("DROP TRIGGER t ON orders", "- trigger public.orders.t"),
    ("CREATE POLICY p ON orders USING (true)", "+ policy public.orders.p"),
    ("ALTER TABLE a ENABLE ROW LEVEL SECURITY", "~ table public.a"),
    ("ALTER TABLE b SET (fillfactor = 70)", "~ table public.b"),
    ("ALTER TABLE c OWNER TO app", "~ table public.c"),
    ("ALTER TABLE orders ALTER note SET DEFAULT 'x'", "~ column public.orders.note"),
    ("GRANT SELECT ON recent TO app", "~ view public.recent"),
    ("ALTER TABLE parts ATTACH PARTITION part DEFAULT", "~ table public.part"),
    ("ALTER DATABASE db SET work_mem = '9MB'", "+ setting work_mem"),
    ("ALTER ROLE app CREATEDB", "~ role app"),
];

#[test]
fn every_version_tells_its_objects() {
    for version in ["13", "15.18", "16", "18"] {
        let server = Cluster::start(version);
        server.psql("postgres", "CREATE DATABASE db; CREATE ROLE app");
        server.psql("db", SCHEMA);
        let more = "CREATE TYPE mood AS ENUM ('good'); CREATE DOMAIN short AS text CHECK (length(VALUE) < 9);
            CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
            CREATE PROCEDURE pro() LANGUAGE sql AS 'SELECT 1';
            CREATE TRIGGER t BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION f();
            CREATE TABLE a (); CREATE TABLE b (); CREATE TABLE c ();
            CREATE TABLE parts (n int) PARTITION BY LIST (n); CREATE TABLE part (n int);
            SELECT lo_create(0) FROM generate_series(1, 9)";
        server.psql("db", more);
        let env = TestEnv::new();
        env.write("p.yaml", &plan("p", &server.url("db"), "  - sql: { database: db, run: \"SELECT 1\" }\n"));
        env.pgplan(&["plan", "p.yaml", "--out", "p.saved"]).expect(0);
        assert!(!env.read("p.saved").contains("large object"));
        for (sql, _) in OTHERS {
            server.psql("db", sql);
        }
        let refused = env.pgplan(&["apply", "p.saved"]).expect(3);
        let mut named: Vec<&str> = refused.stderr.lines().filter_map(|line| line.strip_prefix("  ")).collect();
        let mut wanted = OTHERS.map(|(_, object)| object);
        named.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(named, wanted, "{version}: {}", refused.stderr);
    }
}

#[test]
fn a_role_that_may_not_ask_who_the_server_is_gets_its_address() {
    let server = Cluster::start("18");
    server.psql("postgres", "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC; CREATE ROLE small LOGIN");
    let env = TestEnv::new();
    let url = server.url("postgres").replace("postgres@", "small@");
    env.write("p.yaml", &plan("p", &url, "  - sql: { database: db, run: \"SELECT 1\", read_only: true }\n"));
    env.pgplan(&["plan", "p.yaml", "--out", "p.saved"]).expect(0);
    let saved: Value = serde_json::from_str(&env.read("p.saved")).expect("it is JSON");
    let address = format!("127.0.0.1:{}", server.port);
    assert_eq!(saved["saved"]["bound"]["db"]["looked"]["identity"], json!({ "address": address }));
    server.psql("postgres", "GRANT EXECUTE ON FUNCTION pg_control_system() TO small");
    let refused = env.pgplan(&["apply", "p.saved"]).expect(3);
    assert!(refused.stderr.contains("another server: system identifier "), "{}", refused.stderr);
    assert!(refused.stderr.contains(&format!("was server at {address}")), "{}", refused.stderr);
    server.psql("postgres", "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM small");
    env.pgplan(&["apply", "p.saved"]).expect(0);
}
