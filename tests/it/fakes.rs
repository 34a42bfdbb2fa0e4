//! The stand-ins answer as the real commands do, and the servers of the tests work.

use std::io::{BufRead as _, BufReader};
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::cluster::{Cluster, Settings};
use crate::env::{Outcome, TestEnv};

fn call(env: &TestEnv, words: &[&str]) -> Outcome {
    Outcome::of(&env.stand_in(words).output().expect("the stand-in starts"))
}

#[test]
fn aptible_scales_configures_and_lists() {
    let env = TestEnv::new();
    env.set_fakes(&json!({
        "apps": { "shop": { "environment": "production", "services": { "cmd": 2, "worker": 1 }, "config": {} } },
        "fail": { "apps:scale --app shop worker": { "code": 1, "stderr": "lost", "times": 1, "after": true } }
    }));
    call(&env, &["aptible", "apps:scale", "--app", "shop", "cmd", "--container-count", "0"]).expect(0);
    let lost = call(&env, &["aptible", "apps:scale", "--app", "shop", "worker", "--container-count", "0"]).expect(1);
    assert_eq!(lost.stderr, "lost\n");
    assert_eq!(
        env.fakes()["apps"]["shop"]["services"],
        json!({ "cmd": 0, "worker": 0 }),
        "the work was done, the answer lost"
    );
    call(&env, &["aptible", "apps:scale", "--app", "shop", "worker", "--container-count", "3"]).expect(0);
    call(&env, &["aptible", "config:set", "--app", "shop", "DB_URL=postgresql://a b"]).expect(0);
    assert_eq!(call(&env, &["aptible", "config", "--app", "shop"]).expect(0).stdout, "DB_URL=postgresql://a\\ b\n");
    assert_eq!(call(&env, &["aptible", "apps"]).expect(0).stdout, "=== production\nshop\n");
    assert_eq!(env.fake_calls().len(), 6);
}

#[test]
fn dokku_hab_and_systemctl_answer() {
    let env = TestEnv::new();
    env.set_fakes(&json!({
        "apps": { "cows": { "services": { "web": 1 }, "config": {}, "git_sha": "82eeec6fe1" } },
        "databases": { "cows-db": { "url": "postgresql://postgres:pw@10.0.0.1:5432/cows_db", "version": "15.2" } },
        "services": { "habitat/builder-api": "up" },
        "units": { "shop.service": "active" }
    }));
    assert_eq!(
        call(&env, &["dokku", "ps:scale", "cows"]).stdout,
        "-----> Scaling for cows\nproctype: qty\n--------: ---\nweb:  1\n"
    );
    assert!(
        call(&env, &["dokku", "git:report", "cows"])
            .stdout
            .contains("       Git sha:                       82eeec6fe1\n")
    );
    assert_eq!(call(&env, &["dokku", "postgres:info", "cows-db", "--internal-ip"]).stdout, "10.0.0.1\n");
    call(&env, &["dokku", "postgres:link", "cows-db", "cows"]).expect(0);
    call(&env, &["dokku", "postgres:link", "cows-db", "cows"]).expect(1);
    call(&env, &["hab", "svc", "stop", "habitat/builder-api"]).expect(0);
    assert!(
        call(&env, &["hab", "svc", "status"])
            .stdout
            .contains("standalone  down     down   595          <none>  builder-api.default")
    );
    call(&env, &["systemctl", "stop", "shop"]).expect(0);
    assert_eq!(call(&env, &["systemctl", "is-active", "shop.service"]).expect(3).stdout, "inactive\n");
    assert_eq!(
        call(&env, &["systemctl", "show", "-p", "ActiveState", "shop"]).expect(0).stdout,
        "ActiveState=inactive\n"
    );
}

#[test]
fn tunnel_forwards_to_the_server_until_interrupted() {
    let env = TestEnv::new();
    let mut settings = Settings::new("15");
    (settings.superuser, settings.password) = ("aptible".into(), Some("pa$word".into()));
    let cluster = Cluster::with(settings);
    env.set_fakes(&json!({ "databases": { "old": { "url": cluster.url("postgres") } } }));
    let mut tunnel = env.stand_in(&["aptible", "db:tunnel", "old"]).spawn().expect("the tunnel starts");
    let mut lines = BufReader::new(tunnel.stderr.take().expect("stderr is a pipe")).lines().map_while(Result::ok);
    let url = lines.find_map(|line| line.strip_prefix("Connect at ").map(str::to_owned)).expect("the URL is printed");
    assert!(lines.any(|line| line == "Connected. Ctrl-C to close connection."));
    let asked =
        Command::new(cluster.bin("psql")).args(["-XAtc", "select 'through'", &url]).output().expect("psql starts");
    assert_eq!(Outcome::of(&asked).expect(0).stdout, "through\n");
    kill(Pid::from_raw(i32::try_from(tunnel.id()).expect("a process id fits")), Signal::SIGINT)
        .expect("the tunnel runs");
    assert!(tunnel.wait().expect("the tunnel ends").success());
    assert_eq!(lines.last().as_deref(), Some("Closing tunnel"));
}

#[test]
fn server_survives_kill_and_restart() {
    let mut cluster = Cluster::start("18");
    cluster.psql("postgres", "CREATE TABLE kept AS SELECT 1 AS one; CHECKPOINT");
    let port = cluster.port;
    cluster.kill9();
    assert!(cluster.try_psql("postgres", "SELECT 1").is_err());
    cluster.restart();
    assert_eq!((cluster.port, cluster.psql("postgres", "TABLE kept").as_str()), (port, "1"), "{}", cluster.log());
    cluster.stop();
}

#[test]
fn pgplan_sees_only_what_the_test_gives() {
    let env = TestEnv::new();
    let names: Vec<_> = env.command(&[]).get_envs().map(|(name, _)| name.to_owned()).collect();
    assert!(
        !names
            .iter()
            .any(|name| name.to_string_lossy().starts_with("PG") && !name.to_string_lossy().starts_with("PGPLAN"))
    );
    env.pgplan(&["--version"]).expect(0);
}
