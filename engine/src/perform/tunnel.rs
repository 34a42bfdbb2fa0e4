//! Programs that stay up while later steps run: tunnels and port forwards.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use nix::sys::signal::Signal;
use secrecy::ExposeSecret;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use super::{PerformCx, exec};
use crate::{
    action::{Output, OutputValue, Outputs},
    error::{ErrorKind, StepError},
    op::Tunnel,
    tool::{Captured, Running, ending, last_lines},
};

/// How long to wait between two looks whether a tunnel is ready.
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);
/// How much of what a tunnel prints is kept at its beginning and at its end, bytes.
const KEPT: usize = 256 * 1024;

/// The tunnels of a run that are up, by the step that started them.
#[derive(Default)]
pub struct Held {
    tunnels: Mutex<BTreeMap<String, Up>>,
}

struct Up {
    running: Running,
    /// How its end is told, when it has ended by itself.
    ended: Option<StepError>,
    redactor: Arc<crate::redact::Redactor>,
}

impl Held {
    /// Checks that every tunnel is still up.
    ///
    /// # Errors
    /// [`ErrorKind::Tool`] naming the first that has ended, with the last lines it printed.
    pub fn check(&self) -> Result<(), StepError> {
        let mut tunnels = self.tunnels.lock().unwrap_or_else(PoisonError::into_inner);
        for (step, up) in tunnels.iter_mut() {
            if up.ended.is_none()
                && let Some(status) = up.running.poll()?
            {
                let message = format!("the tunnel of the step `{step}` {} while it was needed", ending(status));
                let error = StepError::new(ErrorKind::Tool, message).help("apply again to open it anew");
                let lines = last_lines(up.running.stderr(), &up.redactor);
                up.ended = Some(lines.into_iter().fold(error, StepError::detail));
            }
            if let Some(error) = &up.ended {
                return Err(error.clone());
            }
        }
        Ok(())
    }

    /// Returns the steps whose tunnels are held.
    #[must_use]
    pub fn steps(&self) -> Vec<String> {
        self.tunnels.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    /// Closes the tunnel of a step; without one nothing happens.
    ///
    /// # Errors
    /// [`ErrorKind::Tool`] when its programs cannot be ended.
    pub async fn close(&self, step: &str) -> Result<(), StepError> {
        let up = self.tunnels.lock().unwrap_or_else(PoisonError::into_inner).remove(step);
        match up {
            Some(mut up) => end(&mut up.running).await,
            None => Ok(()),
        }
    }

    /// Closes all tunnels, each even when another cannot be closed.
    ///
    /// # Errors
    /// The first error of [`Held::close`].
    pub async fn close_all(&self) -> Result<(), StepError> {
        let mut result = Ok(());
        for step in self.steps() {
            result = result.and(self.close(&step).await);
        }
        result
    }

    fn hold(&self, step: &str, up: Up) -> Option<Up> {
        self.tunnels.lock().unwrap_or_else(PoisonError::into_inner).insert(step.to_owned(), up)
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Held").field(&self.steps()).finish()
    }
}

/// Ctrl-C is what tunnels document as the way to close them.
async fn end(running: &mut Running) -> Result<(), StepError> {
    running.stop(&[Signal::SIGINT, Signal::SIGTERM]).await
}

/// Starts a tunnel, waits until every output was printed and its port accepts connections, and holds it.
///
/// # Errors
/// [`ErrorKind::Tool`] when it ends before, [`ErrorKind::Timeout`] when it is not ready in time; it is closed then.
pub async fn open(op: &Tunnel, cx: &PerformCx) -> Result<Output, StepError> {
    // One of an earlier attempt would hold the port.
    cx.held.close(&cx.step).await?;
    let mut running = exec::program(&op.exec, cx)?.keep(KEPT).start(Arc::clone(&cx.redactor))?;
    let stdout = Captured::new(KEPT);
    let reader = running.capture_stdout(&stdout);
    let ready = tokio::select! {
        ready = ready(op, &mut running, &stdout, cx) => ready,
        () = cx.cancel.cancelled() => Err(StepError::new(ErrorKind::Interrupted, "the tunnel was not opened: the run was stopped")),
    };
    // The reader goes on as long as the tunnel prints; it ends with it.
    drop(reader);
    match ready {
        Ok((outputs, place)) => {
            cx.held.hold(&cx.step, Up { running, ended: None, redactor: Arc::clone(&cx.redactor) });
            let summary = place.map_or_else(|| "is open".to_owned(), |place| format!("is open at {place}"));
            Ok(Output { outputs, summary, ..Output::default() })
        }
        Err(error) => {
            end(&mut running).await?;
            let mut lines = last_lines(running.stderr(), &cx.redactor);
            lines.extend(last_lines(&stdout, &cx.redactor));
            Err(lines.into_iter().fold(error, StepError::detail))
        }
    }
}

/// Waits until the tunnel is ready; returns its outputs and the place that answers.
async fn ready(
    op: &Tunnel,
    running: &mut Running,
    stdout: &Captured,
    cx: &PerformCx,
) -> Result<(Outputs, Option<String>), StepError> {
    let within = Duration::from_millis(op.ready_within_ms);
    let until = Instant::now() + within;
    let shown = &op.exec;
    loop {
        let ended = running.poll()?;
        let printed = stdout.lines().join("\n");
        let (outputs, missing) = exec::find(&op.exec.capture, &printed, &running.stderr().lines().join("\n"), cx)?;
        let place = place(op, &outputs, cx)?;
        if missing.is_empty() && ended.is_none() && answers(place.as_deref()).await {
            return Ok((outputs, place));
        }
        if let Some(status) = ended {
            let message = format!("`{shown}` {} before the tunnel was ready", ending(status));
            return Err(StepError::new(ErrorKind::Tool, message));
        }
        if Instant::now() >= until {
            let lack = match (missing.as_slice(), place) {
                ([], Some(place)) => format!("nothing accepts connections at {place}"),
                ([], None) => "it is not ready".to_owned(),
                (missing, _) => format!("it did not print `{}`", missing.join("`, `")),
            };
            let message = format!("`{shown}` was not ready within {} s: {lack}", within.as_secs_f64());
            return Err(
                StepError::new(ErrorKind::Timeout, message).help("raise `ready_within`, or read what it printed")
            );
        }
        sleep(BETWEEN_LOOKS).await;
    }
}

/// Returns the `host:port` that must answer: the one the plan names, else that of the captured URL.
fn place(op: &Tunnel, outputs: &Outputs, cx: &PerformCx) -> Result<Option<String>, StepError> {
    if let Some(place) = &op.ready_port {
        return cx.reveal(place).map(|place| Some(place.expose_secret().to_owned()));
    }
    let url = match outputs.get("url") {
        Some(OutputValue::Secret(Some(url))) => url.expose_secret(),
        Some(OutputValue::Plain(serde_json::Value::String(url))) => url.as_str(),
        _ => return Ok(None),
    };
    Ok(host_and_port(url))
}

fn host_and_port(url: &str) -> Option<String> {
    let (_, rest) = url.split_once("://")?;
    let login_and_host = rest.split(['/', '?', '#']).next()?;
    let place = login_and_host.rsplit_once('@').map_or(login_and_host, |(_, place)| place);
    let has_port = place.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    has_port.then(|| place.to_owned())
}

async fn answers(place: Option<&str>) -> bool {
    match place {
        Some(place) => {
            timeout(Duration::from_secs(1), TcpStream::connect(place)).await.is_ok_and(|tried| tried.is_ok())
        }
        None => true,
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::{
        guard,
        op::{Capture, Exec, Parse},
        perform::testing::cx,
        secret::Text,
    };

    fn tunnel(script: &str) -> Tunnel {
        let url = Capture { name: "url".to_owned(), parse: Parse::Regex("at (\\S+)".to_owned()), secret: true };
        let argv = ["/bin/sh", "-c", script].map(Text::from).into();
        let exec = Exec { argv, capture: vec![url], ..Exec::default() };
        Tunnel { exec, ready_within_ms: 5000, ready_port: None }
    }

    #[tokio::test]
    async fn a_tunnel_is_ready_when_its_port_answers_and_is_closed_with_its_group() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let place = listener.local_addr().unwrap();
        let cx = cx(&[]);
        let script = format!("echo 'Connect at postgresql://u:geheim@{place}/db' >&2; sleep 300 & wait");
        let output = open(&tunnel(&script), &cx).await.unwrap();
        assert_eq!(output.summary, format!("is open at {place}"));
        assert!(matches!(&output.outputs["url"], OutputValue::Secret(Some(_))));
        cx.held.check().unwrap();
        let group = cx.held.tunnels.lock().unwrap()["step"].running.group().unwrap();
        cx.held.close_all().await.unwrap();
        assert!(!guard::is_alive(nix::unistd::Pid::from_raw(group), None));
        assert!(cx.held.steps().is_empty());
    }

    #[tokio::test]
    async fn a_tunnel_that_ends_is_noticed() {
        let cx = cx(&[]);
        let early = open(&tunnel("echo 'no such database' >&2; exit 1"), &cx).await.unwrap_err();
        assert!(early.message.ends_with("ended with exit code 1 before the tunnel was ready"), "{}", early.message);
        assert_eq!(early.details, ["no such database"]);
        open(&tunnel("echo at here; sleep 0.3; echo lost >&2; exit 3"), &cx).await.unwrap();
        let error = loop {
            match cx.held.check() {
                Ok(()) => sleep(BETWEEN_LOOKS).await,
                Err(error) => break error,
            }
        };
        assert_eq!(error.message, "the tunnel of the step `step` ended with exit code 3 while it was needed");
        assert_eq!(cx.held.check().unwrap_err().message, error.message, "it stays noticed");
    }

    #[tokio::test]
    async fn a_tunnel_that_is_not_ready_in_time_is_closed() {
        let cx = cx(&[]);
        let op = Tunnel { ready_within_ms: 200, ..tunnel("echo 'Password: geheim'; sleep 300") };
        let error = open(&op, &cx).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Timeout);
        assert!(error.message.ends_with("was not ready within 0.2 s: it did not print `url`"), "{}", error.message);
        assert_eq!(error.details, ["Password: <secret>"]);
    }

    #[test]
    fn the_place_is_read_from_a_url() {
        assert_eq!(host_and_port("postgresql://u:p%40@localhost:5433/db?x=1").as_deref(), Some("localhost:5433"));
        assert_eq!(host_and_port("postgresql://[::1]:5433/db").as_deref(), Some("[::1]:5433"));
        assert_eq!(host_and_port("postgresql://u@h/db"), None);
    }
}
