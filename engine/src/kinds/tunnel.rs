//! `tunnel`: a program that keeps a way to a database open.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Declarations, ExpandCx, Handed, Kind, command::check_argv, declare::key};
use crate::{
    action::{Action, ActionGraph, Effect},
    error::StepError,
    facts::Facts,
    op::{self, Capture, Exec, Op},
    platforms::{Taken, Values, captures},
    quantity::Span,
    secret::Text,
};

/// How long a tunnel of one's own may take when the plan does not say.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// Opens a tunnel and keeps it open while later steps run.
///
/// The step is done when the program has printed every output and the port accepts connections: that of `ready_port`,
/// else that of the output `url`. The tunnel is closed at the end of the run, whatever happens; when it ends before,
/// the steps that follow fail with what it printed last. On resume it is opened anew.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tunnel {
    /// The platform that has a tunnel command: `aptible` or one of your own.
    #[serde(default)]
    pub platform: Option<String>,
    /// The database on the platform.
    #[serde(default)]
    pub name: Option<Text>,
    /// The application, where the platform needs it.
    #[serde(default)]
    pub app: Option<Text>,
    /// Further parameters of the platform.
    #[serde(default)]
    pub with: BTreeMap<String, Text>,
    /// A program of your own and its arguments, instead of a platform: `[ssh, -N, -L, "6543:db:5432", bastion]`.
    #[serde(default)]
    pub run: Option<Vec<Text>>,
    /// The folder the program runs in, relative to the plan.
    #[serde(default)]
    pub cwd: Option<PathBuf>,
    /// Values taken from what the program prints, on either stream.
    #[serde(default)]
    pub outputs: BTreeMap<String, Taken>,
    /// A `host:port` that must accept connections.
    #[serde(default)]
    pub ready_port: Option<Text>,
    /// How long it may take until it is ready; 60s for a program of your own.
    #[serde(default)]
    pub ready_within: Option<Span>,
}

impl Kind for Tunnel {
    const NAME: &'static str = "tunnel";
    const GROUP: &'static str = "application";
    const SUMMARY: &'static str = "Keep a tunnel to a database open";
    const EXAMPLE: &'static str =
        "tunnel: { run: [ssh, -N, -L, \"6543:db.internal:5432\", bastion.example], ready_port: \"127.0.0.1:6543\" }";

    fn check(&self, to: &mut Declarations) {
        to.makes(Handed::Tunnel);
        match (&self.platform, &self.run) {
            (Some(platform), None) => {
                to.platform(platform, "platform");
                to.output("url", true);
                if self.name.is_none() {
                    to.problem("missing_key", key([]), "`name` is missing: the database on the platform", None);
                }
            }
            (None, Some(run)) => {
                check_argv(run, "run", to);
                if self.ready_port.is_none() && self.outputs.is_empty() {
                    to.problem(
                        "never_ready",
                        key(["run"]),
                        "nothing tells when the tunnel is ready",
                        Some("add `ready_port: \"127.0.0.1:PORT\"`, or an output that it prints"),
                    );
                }
            }
            (Some(_), Some(_)) => {
                to.problem("conflicting_keys", key(["run"]), "`run` cannot stand beside `platform`", None)
            }
            (None, None) => to.problem("missing_key", key([]), "`platform` or `run` is missing", None),
        }
        for (name, taken) in self.outputs.iter().filter(|(name, _)| self.platform.is_none() || *name != "url") {
            to.output(name, taken.secret);
        }
    }

    fn actions(&self, _: &Facts, cx: &ExpandCx<'_>) -> Result<ActionGraph, StepError> {
        let mut capture = captures(&self.outputs);
        let (exec, ready) = match &self.platform {
            Some(platform) => {
                let platform = cx.platforms.get(platform)?;
                let tunnel = platform.part(platform.tunnel.as_ref(), "open a tunnel")?;
                let mut values = Values::given(platform, self.app.as_ref(), &self.with)?;
                if let Some(name) = &self.name {
                    values = values.with("name", name);
                }
                if !self.outputs.contains_key("url") {
                    capture.push(Capture { name: "url".to_owned(), parse: tunnel.url.clone(), secret: true });
                }
                (tunnel.command.exec(platform, &values)?, Duration::from_secs(tunnel.ready_seconds))
            }
            None => (Exec { argv: self.run.clone().unwrap_or_default(), ..Exec::default() }, READY_WITHIN),
        };
        let ready = self.ready_within.map_or(ready, |within| within.0);
        let exec = Exec { cwd: self.cwd.clone(), capture, ..exec };
        let title = format!("open a tunnel: {exec}");
        let ready_within_ms = u64::try_from(ready.as_millis()).unwrap_or(u64::MAX);
        let op = Op::Tunnel(op::Tunnel { exec, ready_within_ms, ready_port: self.ready_port.clone() });
        Ok(ActionGraph::of(vec![Action::new("open", title, op, Effect::Restart).volatile()]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::{declared, expand, problems};

    #[test]
    fn a_platform_knows_its_tunnel() {
        let body = "{ platform: aptible, name: old, with: { environment: prod } }";
        let graph = expand::<Tunnel>(body).unwrap();
        let [action] = graph.actions.as_slice() else { panic!("{graph:?}") };
        assert_eq!(action.title, "open a tunnel: aptible db:tunnel old --environment prod");
        assert!(action.volatile);
        assert!(
            matches!(&action.op, Op::Tunnel(tunnel) if tunnel.exec.capture[0].secret && tunnel.ready_within_ms == 120_000)
        );
        assert_eq!(declared::<Tunnel>(body).outputs, [("url".to_owned(), true)]);
    }

    #[test]
    fn keys_are_checked() {
        assert_eq!(problems::<Tunnel>("{}"), ["missing_key"]);
        assert_eq!(problems::<Tunnel>("{ platform: aptible }"), ["missing_key"]);
        assert_eq!(problems::<Tunnel>("{ run: [ssh, '(secret s)'], ready_port: 'h:1' }"), ["secret_in_argv"]);
        assert_eq!(problems::<Tunnel>("{ run: [ssh] }"), ["never_ready"]);
        assert_eq!(problems::<Tunnel>("{ run: [ssh], ready_port: 'h:1', ready_within: 5s }"), [""; 0]);
    }
}
