//! Programs that run to their end.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::{
    PerformCx, Progress,
    parse::{as_text, read},
};
use crate::{
    action::{Output, OutputValue, Outputs},
    error::{ErrorKind, StepError},
    op::{Capture, Exec, Found, Probe},
    tool::{Finished, OnLine, Program, Stream},
};

/// How much of standard output is kept when values are to be read from it, at its beginning and at its end, bytes.
const KEPT_TO_READ: usize = 8 * 1024 * 1024;
/// How long to wait between two looks whether work is done.
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);

/// Runs a program unless its check says that the work is done, and takes the outputs from what it prints.
///
/// # Errors
/// [`ErrorKind::Tool`] when it fails or an output is missing in what it printed, [`ErrorKind::Lost`] when a signal killed
/// it, [`ErrorKind::ToolMissing`] when it is not installed, [`ErrorKind::Verification`] when it ended well but its check does not show the work,
/// [`ErrorKind::Interrupted`] when the run was told to stop.
pub async fn exec(op: &Exec, cx: &PerformCx) -> Result<Output, StepError> {
    if let Some(check) = &op.done_if
        && let Some(outputs) = probe(check, cx).await?
    {
        return Ok(Output { outputs, already_done: true, summary: "was done already".to_owned(), ..Output::default() });
    }
    let finished = run(op, cx).await?;
    finished.check(&op.success_codes).map_err(|error| match finished.status.code() {
        Some(_) => error,
        None => StepError { kind: ErrorKind::Lost, ..error },
    })?;
    let mut outputs = captures(&op.capture, &finished, cx)?;
    if let (Some(check), Some(within)) = (&op.done_if, op.confirm_within_ms) {
        outputs.extend(confirm(check, Duration::from_millis(within), cx).await?);
    }
    let summary = match finished.status.code() {
        Some(0) | None => String::new(),
        Some(code) => format!("ended with exit code {code}"),
    };
    Ok(Output { outputs, summary, ..Output::default() })
}

/// Runs a program that only looks, and returns what it captures; secrets among it are left out.
///
/// # Errors
/// As [`exec`].
pub async fn look(op: &Exec, cx: &PerformCx) -> Result<BTreeMap<String, Value>, StepError> {
    let finished = run(op, &quiet(cx)).await?;
    finished.check(&op.success_codes)?;
    let outputs = captures(&op.capture, &finished, cx)?;
    let plain = outputs.into_iter().filter_map(|(name, value)| match value {
        OutputValue::Plain(value) => Some((name, value)),
        OutputValue::Secret(_) => None,
    });
    Ok(plain.collect())
}

/// Asks a check; returns what it captured when it says yes.
///
/// A program that ends with a failure says no; one that is missing or was killed says nothing.
///
/// # Errors
/// When there is no answer: the program is not installed, was killed or interrupted, or an output is missing.
pub async fn probe(check: &Probe, cx: &PerformCx) -> Result<Option<Outputs>, StepError> {
    let finished = run(&check.exec, &quiet(cx)).await?;
    if finished.status.code().is_none() {
        finished.check(&[])?;
    }
    if finished.check(&check.exec.success_codes).is_err() {
        return Ok(None);
    }
    let stdout = finished.stdout.whole().unwrap_or_default();
    if check.stdout.as_ref().is_some_and(|wanted| wanted.trim() != stdout.trim()) {
        return Ok(None);
    }
    if let Some(found) = &check.found
        && !is_found(found, &stdout, &finished, cx)?
    {
        return Ok(None);
    }
    captures(&check.exec.capture, &finished, cx).map(Some)
}

/// What a look prints is read, not shown.
fn quiet(cx: &PerformCx) -> PerformCx {
    PerformCx { progress: Progress::silent(), ..cx.clone() }
}

fn is_found(found: &Found, stdout: &str, finished: &Finished, cx: &PerformCx) -> Result<bool, StepError> {
    let stderr = finished.stderr.whole().unwrap_or_default();
    let Some(value) = read(&found.parse, stdout, &stderr)? else {
        return Ok(false);
    };
    let value = match &found.entry {
        Some(entry) => value.get(entry).cloned(),
        None => Some(value),
    };
    let Some(value) = value.as_ref().map(as_text) else {
        return Ok(false);
    };
    for wanted in &found.values {
        if cx.reveal(wanted)?.expose_secret() == value {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn confirm(check: &Probe, within: Duration, cx: &PerformCx) -> Result<Outputs, StepError> {
    let until = Instant::now() + within;
    loop {
        if let Some(outputs) = probe(check, cx).await? {
            return Ok(outputs);
        }
        if Instant::now() >= until {
            let looked = &check.exec;
            let message = format!("the program ended well, but `{looked}` does not show what it should have done");
            return Err(StepError::new(ErrorKind::Verification, message)
                .help("look at the application by hand; apply again when it is as it should be"));
        }
        sleep(BETWEEN_LOOKS).await;
    }
}

/// Returns the program with everything revealed, ready to be started; `keeps_secrets` holds back its lines.
pub(super) fn program(op: &Exec, cx: &PerformCx) -> Result<Program, StepError> {
    let Some((first, rest)) = op.argv.split_first() else {
        return Err(StepError::new(ErrorKind::Plan, "there is no program to run: the list is empty"));
    };
    if !op.secret_argv && op.argv.iter().any(crate::secret::Text::is_tainted) {
        let message = format!("a secret stands on the command line `{op}`");
        return Err(StepError::new(ErrorKind::Refused, message)
            .help("every user of this machine could read it there; give it by `env` or `stdin`"));
    }
    let folder = match &op.cwd {
        Some(folder) => cx.plan_dir.join(folder),
        None => cx.plan_dir.clone(),
    };
    let name = cx.reveal(first)?;
    let path = Path::new(name.expose_secret());
    // A path is meant from the folder the program is started in, as a shell there would take it.
    let path = if path.components().count() > 1 { folder.join(path) } else { path.to_owned() };
    let mut program = Program::new(path).shown(op.to_string()).cwd(folder);
    for arg in rest {
        program = program.arg(cx.reveal(arg)?.expose_secret());
    }
    for (name, value) in cx.env.iter().chain(&op.env) {
        program = program.env(name, cx.reveal(value)?);
    }
    if let Some(text) = &op.stdin {
        program = program.stdin(cx.reveal(text)?);
    }
    if !op.capture.is_empty() {
        program = program.keep(KEPT_TO_READ);
    }
    Ok(program)
}

async fn run(op: &Exec, cx: &PerformCx) -> Result<Finished, StepError> {
    let program = program(op, cx)?;
    let program = if gives_secret(op) { program } else { program.on_line(reporter(cx)) };
    program.run(&cx.redactor, &cx.cancel).await
}

/// Lines may hold a secret that is not known before they were read.
fn gives_secret(op: &Exec) -> bool {
    op.capture.iter().any(|capture| capture.secret)
}

fn reporter(cx: &PerformCx) -> OnLine {
    let (progress, redactor) = (cx.progress.clone(), Arc::clone(&cx.redactor));
    Arc::new(move |_: Stream, line: &str| progress.line(redactor.redact(line)))
}

fn captures(wanted: &[Capture], finished: &Finished, cx: &PerformCx) -> Result<Outputs, StepError> {
    if wanted.is_empty() {
        return Ok(Outputs::new());
    }
    let stdout = finished.stdout.whole().ok_or_else(|| {
        StepError::new(ErrorKind::Tool, "the program printed too much to read values from it (over 16 MiB)")
    })?;
    let stderr = finished.stderr.lines().join("\n");
    let (found, missing) = find(wanted, &stdout, &stderr, cx)?;
    if missing.is_empty() {
        return Ok(found);
    }
    let message = format!("the program did not print `{}`", missing.join("`, `"));
    let error = StepError::new(ErrorKind::Tool, message)
        .help("compare what it printed with the pattern in the plan or in the platform's file");
    Err(finished.with_last_lines(error))
}

/// Returns the captures that are there and the names of those that are not; what is secret is redacted from now on.
pub(super) fn find(
    wanted: &[Capture],
    stdout: &str,
    stderr: &str,
    cx: &PerformCx,
) -> Result<(Outputs, Vec<String>), StepError> {
    let (mut outputs, mut missing) = (Outputs::new(), Vec::new());
    for Capture { name, parse, secret } in wanted {
        match read(parse, stdout, stderr)? {
            None => missing.push(name.clone()),
            Some(value) if *secret => {
                let value = SecretString::from(as_text(&value));
                cx.redactor.add(&format!("steps.{}.outputs.{name}", cx.step), &value);
                outputs.insert(name.clone(), OutputValue::Secret(Some(value)));
            }
            Some(value) => {
                outputs.insert(name.clone(), OutputValue::Plain(value));
            }
        }
    }
    Ok((outputs, missing))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        op::Parse,
        perform::{Progress, Report, testing::cx},
        secret::Text,
    };

    fn shell(script: &str) -> Exec {
        Exec { argv: ["/bin/sh", "-c", script].map(Text::from).into(), ..Exec::default() }
    }

    fn capture(name: &str, parse: Parse, secret: bool) -> Capture {
        Capture { name: name.to_owned(), parse, secret }
    }

    #[tokio::test]
    async fn outputs_are_read_and_lines_reported_without_secrets() {
        let (progress, mut reports) = Progress::channel();
        let cx = PerformCx { progress, ..cx(&[("secrets.pw", "hunter22")]) };
        let mut op = shell("echo \"got $PW from $(cat)\"; echo oops >&2");
        op.env.insert("PW".to_owned(), Text::secret("secrets.pw"));
        op.stdin = Some("stdin".into());
        op.capture = vec![capture("from", Parse::Regex("from (\\w+)".into()), false)];
        let output = exec(&op, &cx).await.unwrap();
        assert!(matches!(&output.outputs["from"], OutputValue::Plain(value) if value == "stdin"));
        drop(cx);
        let mut lines = Vec::new();
        while let Some(Report::Line(line)) = reports.recv().await {
            lines.push(line);
        }
        lines.sort();
        assert_eq!(lines, ["got <secret secrets.pw> from stdin", "oops"]);
    }

    #[tokio::test]
    async fn a_captured_secret_is_redacted_and_never_reported() {
        let (progress, mut reports) = Progress::channel();
        let cx = PerformCx { progress, ..cx(&[]) };
        let mut op = shell("echo postgresql://u:geheim@h:1/db");
        op.capture = vec![capture("url", Parse::Trimmed, true)];
        let output = exec(&op, &cx).await.unwrap();
        assert!(
            matches!(&output.outputs["url"], OutputValue::Secret(Some(url)) if url.expose_secret().ends_with("/db"))
        );
        assert_eq!(cx.redactor.redact("geheim"), "<secret steps.step.outputs.url>");
        drop(cx);
        assert_eq!(reports.recv().await, None);
    }

    #[tokio::test]
    async fn what_was_not_printed_is_named_with_what_was() {
        let cx = cx(&[]);
        let mut op = shell("echo 'Password: geheim'; echo 'no such database' >&2");
        op.capture = vec![capture("url", Parse::Regex("at (\\S+)".into()), true)];
        let error = exec(&op, &cx).await.unwrap_err();
        assert_eq!(error.message, "the program did not print `url`");
        assert_eq!(error.details, ["no such database"]);
    }

    #[tokio::test]
    async fn a_secret_on_the_command_line_is_refused_unless_allowed() {
        let cx = cx(&[("secrets.pw", "hunter22")]);
        let argv = vec!["/bin/echo".into(), Text::secret("secrets.pw")];
        let mut op = Exec { argv, ..Exec::default() };
        let error = exec(&op, &cx).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Refused);
        assert_eq!(error.message, "a secret stands on the command line `/bin/echo <secret secrets.pw>`");
        op.secret_argv = true;
        exec(&op, &cx).await.unwrap();
    }

    #[tokio::test]
    async fn a_check_saves_the_work_and_confirms_it() {
        let folder = tempfile::tempdir().unwrap();
        let cx = PerformCx { plan_dir: folder.path().to_owned(), ..cx(&[("secrets.pw", "right")]) };
        let found = Found { parse: Parse::Trimmed, entry: None, values: vec![Text::secret("secrets.pw")] };
        let check = Probe { exec: shell("cat done"), found: Some(found), ..Probe::default() };
        let op = |script| Exec { done_if: Some(Box::new(check.clone())), confirm_within_ms: Some(50), ..shell(script) };
        let lied = exec(&op("echo wrong > done"), &cx).await.unwrap_err();
        assert_eq!(lied.kind, ErrorKind::Verification);
        assert!(lied.message.contains("`/bin/sh -c 'cat done'` does not show"), "{}", lied.message);
        assert!(!exec(&op("echo right > done"), &cx).await.unwrap().already_done);
        assert!(exec(&op("exit 1"), &cx).await.unwrap().already_done);
    }

    #[tokio::test]
    async fn an_entry_of_a_map_is_compared_as_it_is_written() {
        let cx = cx(&[]);
        let parse = Parse::JsonPairs { list: String::new(), key: "/s".into(), value: "/n".into() };
        let ask = |entry: &str, value: &str| Probe {
            exec: shell(r#"echo '[{"s":"web","n":2}]'"#),
            found: Some(Found { parse: parse.clone(), entry: Some(entry.to_owned()), values: vec![value.into()] }),
            ..Probe::default()
        };
        assert!(probe(&ask("web", "2"), &cx).await.unwrap().is_some());
        assert!(probe(&ask("web", "0"), &cx).await.unwrap().is_none());
        assert!(probe(&ask("cmd", "2"), &cx).await.unwrap().is_none());
    }
}
