//! What a killed `pgplan` leaves behind: nothing that runs.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::env::TestEnv;

const PLAN: &str = r#"version: 1
name: guarded
steps:
  - command: [sh, -c, "trap '' TERM; sleep 300 & echo $$ > new; mv new started; wait; sleep 300"]
"#;

#[test]
fn programs_end_with_a_killed_pgplan_even_when_they_ignore_term() {
    let env = TestEnv::new();
    env.write("plan.yaml", PLAN);
    let mut pgplan = env.command(&["apply", "plan.yaml", "--yes"]).spawn().expect("pgplan starts");
    let deadline = Instant::now() + Duration::from_secs(30);
    while !env.work().join("started").exists() {
        assert!(pgplan.try_wait().expect("pgplan can be waited for").is_none(), "pgplan ended by itself");
        assert!(Instant::now() < deadline, "the program did not start");
        std::thread::sleep(Duration::from_millis(10));
    }
    let program: i32 = env.read("started").trim().parse().expect("the program wrote its id");
    pgplan.kill().and_then(|()| pgplan.wait()).expect("pgplan can be killed");
    while kill(Pid::from_raw(program), None::<Signal>).is_ok() && !is_zombie(program) {
        assert!(Instant::now() < deadline, "the program runs on");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn is_zombie(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_none_or(|rest| rest.is_empty() || rest.starts_with('Z'))
}
