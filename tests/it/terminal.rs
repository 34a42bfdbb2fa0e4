//! Questions on a real terminal: what is asked, and what follows from yes, no and Ctrl-C.

use std::{
    io::{Read as _, Write as _},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread::JoinHandle,
};

use crate::{env::TestEnv, live_claims::until};

/// A program on a terminal of its own.
struct Terminal {
    child: Child,
    shown: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Terminal {
    fn pgplan(env: &TestEnv, args: &[&str]) -> Self {
        let command = env.command(args);
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let line: Vec<String> = words.map(|word| format!("'{}'", word.to_str().expect("it is text"))).collect();
        let mut script = Command::new("script");
        script.args(["-qefc", &line.join(" "), "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        script.current_dir(env.work());
        for (name, value) in command.get_envs() {
            script.env(name, value.unwrap_or_default());
        }
        let mut child = script.env("TERM", "xterm").spawn().expect("script is part of Debian's essential packages");
        let shown = Arc::new(Mutex::new(Vec::new()));
        let (mut pipe, to) = (child.stdout.take().expect("it is piped"), Arc::clone(&shown));
        let reader = std::thread::spawn(move || {
            let mut some = [0; 4096];
            loop {
                match pipe.read(&mut some).expect("the terminal can be read") {
                    0 => return,
                    n => to.lock().expect("nobody panicked").extend(&some[..n]),
                }
            }
        });
        Self { child, shown, reader }
    }

    fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().expect("nobody panicked")).into_owned()
    }

    fn types(&mut self, asked: &str, keys: &str) {
        until(asked, || self.shown().contains(asked));
        let pipe = self.child.stdin.as_mut().expect("it is piped");
        pipe.write_all(keys.as_bytes()).and_then(|()| pipe.flush()).expect("the terminal takes keys");
    }

    /// Returns what was shown until the program ended with this exit code.
    #[track_caller]
    fn ends(mut self, code: i32) -> String {
        until("the program ends", || self.child.try_wait().expect("it can be asked").is_some());
        let status = self.child.wait().expect("it can be waited for");
        self.reader.join().expect("all was read");
        let shown = String::from_utf8_lossy(&self.shown.lock().expect("nobody panicked")).into_owned();
        assert_eq!(status.code(), Some(code), "{shown}");
        shown
    }
}

const STEPS: &str = "version: 1\nname: p\non_failure: ask\nsteps:\n  \
    - { id: one, command: { run: [sh, -c, 'echo one >> log'], undo: [sh, -c, 'echo back >> log'] } }\n  \
    - { id: two, command: [test, -e, mended] }\n";

#[test]
fn a_failed_step_asks_whether_to_go_back() {
    for (keys, code, log, next) in [
        ("y\r", 1, "one\nback\n", "has been taken back"),
        ("n\r", 1, "one\n", "go on with: pgplan apply"),
        ("\u{3}", 1, "one\n", "go on with: pgplan apply"),
    ] {
        let env = TestEnv::new();
        env.write("p.yaml", STEPS);
        let mut terminal = Terminal::pgplan(&env, &["apply", "p.yaml"]);
        terminal.types("a step failed: take back what was done?", keys);
        let shown = terminal.ends(code);
        assert!(shown.contains(next), "{shown}");
        assert_eq!(env.read("log"), log, "{keys:?}");
    }
    // Nobody is there: it stays as it is.
    let env = TestEnv::new();
    env.write("p.yaml", STEPS);
    env.pgplan(&["apply", "p.yaml"]).expect(1);
    assert_eq!(env.read("log"), "one\n");
}

#[test]
fn a_person_agrees_declines_or_stops() {
    let env = TestEnv::new();
    env.write(
        "p.yaml",
        "version: 1\nname: p\nsteps:\n  - approve: { message: \"switch over now?\" }\n  - { id: one, command: { run: [touch, one], undo: [rm, one] } }\n",
    );
    for (keys, code, next) in [
        ("n\r", 5, "the answer was no"),
        ("\u{3}", 4, "interrupted; go on with: pgplan apply p.yaml"),
        ("y\r", 0, "plan p is done"),
    ] {
        assert!(!env.work().join("one").exists());
        let mut terminal = Terminal::pgplan(&env, &["apply", "p.yaml"]);
        terminal.types("switch over now?", keys);
        let shown = terminal.ends(code);
        assert!(shown.contains(next), "{shown}");
    }
    for (keys, code, next) in [
        ("n\r", 5, "nothing was taken back"),
        ("\u{3}", 4, "nothing was taken back"),
        ("y\r", 0, "has been taken back"),
    ] {
        assert!(env.work().join("one").exists());
        let mut terminal = Terminal::pgplan(&env, &["undo", "p.yaml"]);
        terminal.types("take all of this back?", keys);
        let shown = terminal.ends(code);
        assert!(shown.contains(next), "{shown}");
    }
    assert!(!env.work().join("one").exists());
}
