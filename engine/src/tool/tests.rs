use std::{fs, path::PathBuf, process::exit, sync::Mutex};

use nix::sys::signal::{Signal, kill};

use super::*;
use crate::guard;

/// Behind this word on the test program's command line stand the files of a guard.
const GUARD: &str = "be-a-guard";
/// Behind this word stands the folder of a process that is going to be killed.
const VICTIM: &str = "be-a-victim";

fn words_behind(word: &str) -> Option<Vec<OsString>> {
    let mut words = std::env::args_os();
    words.any(|found| found == word).then(|| words.collect())
}

fn again(test: &str, word: &str) -> Vec<OsString> {
    let this = std::env::current_exe().unwrap().into_os_string();
    [this, "--test-threads=1".into(), "--exact".into(), format!("tool::tests::{test}").into(), word.into()].into()
}

fn shell(script: &str) -> Program {
    Program::new("/bin/sh").args(["-c", script]).shown("the script")
}

async fn run(program: Program) -> Result<Finished, StepError> {
    program.run(&Arc::new(Redactor::new()), &CancellationToken::new()).await
}

/// Returns the command of a guard: the test program runs tests in threads of their own, where blocking signals is not
/// enough, so a shell has them ignored.
fn guard_command() -> Vec<OsString> {
    let shell = ["/bin/sh", "-c", "trap '' TERM; exec \"$@\"", "sh"].map(OsString::from);
    shell.into_iter().chain(again("as_a_guard", GUARD)).collect()
}

/// Not a test: the guard that other tests start.
#[test]
fn as_a_guard() {
    if let Some(files) = words_behind(GUARD) {
        exit(guard::guard_main(&files));
    }
}

/// Not a test: a pgplan that is killed.
#[tokio::test]
async fn as_a_victim() {
    let Some([folder]) =
        words_behind(VICTIM).as_deref().map(|words| <[OsString; 1]>::try_from(words.to_vec()).unwrap())
    else {
        return;
    };
    guard::enable(guard_command());
    let folder = PathBuf::from(folder);
    let program =
        shell("trap '' TERM; sleep 300 & echo $PGPASSFILE; wait; sleep 300").pgpass("secret".to_owned().into());
    let mut running = program.start(Arc::new(Redactor::new())).unwrap();
    let stdout = Captured::new(1000);
    let _reader = running.capture_stdout(&stdout);
    while stdout.lines().is_empty() {
        sleep_a_little().await;
    }
    fs::write(folder.join("new"), format!("{} {}", running.group().unwrap(), stdout.lines()[0])).unwrap();
    fs::rename(folder.join("new"), folder.join("started")).unwrap();
    sleep_for_ever().await;
}

async fn sleep_a_little() {
    tokio::time::sleep(Duration::from_millis(10)).await;
}

async fn sleep_for_ever() {
    tokio::time::sleep(Duration::from_secs(3600)).await;
}

#[tokio::test]
async fn a_killed_pgplan_leaves_no_program_and_no_password_file() {
    let folder = tempfile::tempdir().unwrap();
    let command = again("as_a_victim", VICTIM);
    let mut victim = std::process::Command::new(&command[0]);
    victim.args(&command[1..]).arg(folder.path()).stdout(Stdio::null());
    let mut victim = victim.spawn().unwrap();
    while !folder.path().join("started").exists() {
        assert!(victim.try_wait().unwrap().is_none(), "the victim ended by itself");
        sleep_a_little().await;
    }
    let started = fs::read_to_string(folder.path().join("started")).unwrap();
    let (group, pgpass) = started.split_once(' ').unwrap();
    let group = Pid::from_raw(group.parse().unwrap());
    assert!(guard::is_alive(group, None) && fs::read_to_string(pgpass).unwrap() == "secret");
    kill(Pid::from_raw(i32::try_from(victim.id()).unwrap()), Signal::SIGKILL).unwrap();
    victim.wait().unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    while guard::is_alive(group, None) {
        assert!(Instant::now() < until, "the group lives on");
        sleep_a_little().await;
    }
    assert!(!PathBuf::from(pgpass).exists(), "the password file is still there");
}

#[tokio::test]
async fn a_guarded_program_ends_as_any_other() {
    guard::enable(guard_command());
    let finished =
        run(shell("cat; echo \"$PGPASSFILE\" >&2; exit 3").stdin("in".to_owned().into()).pgpass("x".to_owned().into()));
    let finished = finished.await.unwrap();
    assert_eq!((finished.status.code(), finished.stdout.whole().as_deref()), (Some(3), Some("in")));
    assert!(!PathBuf::from(finished.stderr.whole().unwrap().trim()).exists());
    finished.check(&[3]).unwrap();
}

#[tokio::test]
async fn failures_tell_what_happened() {
    let failed = run(shell("echo out; echo 'cannot do postgres://u:geheim@h' >&2; exit 2")).await.unwrap();
    let error = failed.check(&[]).unwrap_err();
    assert_eq!(error.message, "`the script` ended with exit code 2");
    assert_eq!(error.details, ["cannot do postgres://u:<secret>@h"]);
    let killed = run(shell("kill -9 $$")).await.unwrap().check(&[]).unwrap_err();
    assert_eq!(killed.message, "`the script` was killed by SIGKILL");
    let missing = run(Program::new("pgplan-no-such-program")).await.unwrap_err();
    assert_eq!(missing.kind, ErrorKind::ToolMissing);
    assert_eq!(missing.message, "there is no program `pgplan-no-such-program` in PATH");
    let nowhere = run(shell("true").cwd("/no/such/folder")).await.unwrap_err();
    assert_eq!(nowhere.message, "cannot start `the script`: the folder /no/such/folder is not there");
}

#[tokio::test]
async fn a_program_that_takes_too_long_is_ended_with_all_it_started() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let lines = Arc::clone(&seen);
    let program = shell("echo waiting >&2; sleep 300 & sleep 300").time_limit(Duration::from_millis(300));
    let program = program.on_line(Arc::new(move |stream, line| lines.lock().unwrap().push((stream, line.to_owned()))));
    let mut running = program.start(Arc::new(Redactor::new())).unwrap();
    let group = Pid::from_raw(running.group().unwrap());
    let error = running.wait(&CancellationToken::new()).await.unwrap_err();
    assert_eq!((error.kind, error.message.as_str()), (ErrorKind::Timeout, "`the script` did not end within 0.3 s"));
    assert_eq!(error.details, ["waiting"]);
    assert!(!guard::is_alive(group, None));
    assert_eq!(*seen.lock().unwrap(), [(Stream::Stderr, "waiting".to_owned())]);
}

#[tokio::test]
async fn a_cancelled_program_is_ended_and_so_is_what_a_good_one_leaves_behind() {
    let cancel = CancellationToken::new();
    cancel.cancel();
    let error = shell("sleep 300").run(&Arc::new(Redactor::new()), &cancel).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Interrupted);
    let mut running = shell("sleep 300 & exit 0").start(Arc::new(Redactor::new())).unwrap();
    let group = Pid::from_raw(running.group().unwrap());
    assert!(running.wait(&CancellationToken::new()).await.unwrap().success());
    assert!(!guard::is_alive(group, None));
}

#[tokio::test]
async fn postgres_variables_do_not_leak_in() {
    let finished = run(shell("env").env("PGHOST", "given".to_owned())).await.unwrap();
    let lines = finished.stdout.lines().into_iter();
    let variables: Vec<String> = lines.filter(|line| line.starts_with("PG") && !line.starts_with("PGPLAN_")).collect();
    assert_eq!(variables, ["PGHOST=given"]);
    assert!(is_postgres_variable("PGPASSWORD".as_ref()) && !is_postgres_variable("PGPLAN_CACHE".as_ref()));
}
