//! `scale`: the application down, and up again as it was.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Declarations, ExpandCx, Handed, Kind, declare::key};
use crate::{
    action::{Action, ActionGraph, Effect, OutputValue, Outputs},
    error::{ErrorKind, StepError},
    facts::{Facts, Look},
    op::{Capture, Exec, Found, Op, Probe},
    platforms::{self, Per, Platform, Values},
    secret::Text,
};

/// The name of the captured value or map of a look.
const COUNTS: &str = "counts";
/// The output that holds the count that all services were set to.
const SET_TO: &str = "set_to";

/// Sets how many instances of an application's services run.
///
/// Before anything is scaled, the counts there are now are remembered, durably: a later step gives them back with
/// `restore`. Each service is set by the platform's own command, and the command that reads the counts must then show
/// the new one: "scaled down" is never just the exit code of the command that was told so.
///
/// On platforms that only know running and stopped (systemd, Habitat) the count is 1 or 0.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Scale {
    /// The platform: `aptible`, `dokku`, `habitat`, `systemd`, `kubernetes`, `heroku`, `compose` or one of your own.
    #[serde(default)]
    pub platform: Option<String>,
    /// The application.
    #[serde(default)]
    pub app: Option<Text>,
    /// Further parameters of the platform: `environment`, `namespace`.
    #[serde(default)]
    pub with: BTreeMap<String, Text>,
    /// The services; all of the application when not given, where the platform can list them.
    #[serde(default)]
    pub services: Option<Vec<String>>,
    /// How many instances of each.
    #[serde(default)]
    pub to: Option<u64>,
    /// The `scale` step whose remembered counts are set again; nothing else is given then.
    #[serde(default)]
    pub restore: Option<String>,
}

/// What is to be scaled, from the step itself or from what another one remembered.
struct Target<'a> {
    platform: &'a Platform,
    scale: &'a platforms::Scale,
    values: Values,
    services: Option<Vec<String>>,
    /// The count for each service that is not in `counts`.
    to: u64,
    counts: BTreeMap<String, u64>,
}

impl Kind for Scale {
    const NAME: &'static str = "scale";
    const GROUP: &'static str = "application";
    const SUMMARY: &'static str = "Scale the services of an application";
    const EXAMPLE: &'static str = "scale: { platform: dokku, app: shop, services: [web, worker], to: 0 }";

    fn check(&self, to: &mut Declarations) {
        if let Some(step) = &self.restore {
            to.takes("restore", Handed::Scale, Some(step));
            to.ends("restore");
            let others = [
                ("platform", self.platform.is_some()),
                ("app", self.app.is_some()),
                ("with", !self.with.is_empty()),
                ("services", self.services.is_some()),
                ("to", self.to.is_some()),
            ];
            for (name, _) in others.into_iter().filter(|(_, given)| *given) {
                let message = format!("`{name}` cannot stand beside `restore`");
                to.problem("conflicting_keys", key([name]), message, Some("`restore` brings all of it from that step"));
            }
            return;
        }
        match &self.platform {
            Some(platform) => to.platform(platform, "platform"),
            None => to.problem("missing_key", key([]), "`platform` is missing", Some("or `restore: STEP`")),
        }
        if self.to.is_none() {
            to.problem("missing_key", key([]), "`to` is missing: how many instances", Some("`to: 0` stops all"));
        }
        if self.services.as_ref().is_some_and(Vec::is_empty) {
            to.problem("empty_list", key(["services"]), "no service is named", Some("leave `services` out for all"));
        }
        if self.app.iter().chain(self.with.values()).any(Text::is_tainted) {
            to.problem(
                "secret_not_allowed",
                key(["app"]),
                "the application's name is remembered, so it cannot be secret",
                None,
            );
        }
        to.makes(Handed::Scale);
        for name in ["platform", "with", COUNTS, SET_TO] {
            to.output(name, false);
        }
    }

    fn looks(&self, cx: &ExpandCx<'_>) -> Result<Vec<Look>, StepError> {
        let Some(target) = self.target(cx)? else { return Ok(Vec::new()) };
        let parse = &target.scale.read.parse;
        let look = |key: String, values: &Values| {
            let capture = vec![Capture { name: COUNTS.to_owned(), parse: parse.clone(), secret: false }];
            let exec = target.scale.read.command.exec(target.platform, values)?;
            Ok(Look::Program { key, exec: Exec { capture, ..exec } })
        };
        match target.scale.per {
            Per::App => Ok(vec![look("scale".to_owned(), &target.values)?]),
            Per::Service => {
                let each = target.named()?.iter().map(|service| {
                    look(format!("scale {service}"), &target.values.clone().with("service", &service.as_str().into()))
                });
                each.collect()
            }
        }
    }

    fn actions(&self, facts: &Facts, cx: &ExpandCx<'_>) -> Result<ActionGraph, StepError> {
        let Some(target) = self.target(cx)? else {
            let step = cx.inputs.get("restore").or(self.restore.as_ref()).cloned().unwrap_or_default();
            return Ok(ActionGraph::known_after(step));
        };
        let before = target.counts_now(facts)?;
        let mut graph = ActionGraph { jobs: Some(1), ..ActionGraph::default() };
        if before.is_none() {
            if !cx.dry_run {
                return Err(StepError::new(ErrorKind::Internal, "the counts were not read"));
            }
            graph.warnings.push("the counts there are now were not read: no program was started".to_owned());
        }
        let services = target.services(before.as_ref())?;
        if let Some(before) = &before
            && self.restore.is_none()
        {
            graph.actions.push(target.remember(before, &services, cx)?);
        }
        for service in &services {
            let count = target.counts.get(service).copied().unwrap_or(target.to);
            let now = before.as_ref().and_then(|before| before.get(service)).copied();
            let from = now.map(|now| format!(" from {now}")).unwrap_or_default();
            let title = format!("scale {service}{}{from} to {count}", target.of_app());
            let mut action = Action::new(service, title, Op::Exec(target.set(service, count)?), Effect::Probe);
            if let Some(now) = now {
                action = action.undo(Op::Exec(target.set(service, now)?));
            }
            let after = graph.actions.first().filter(|first| first.id == "remember").map(|first| first.id.clone());
            graph.actions.push(action.after(after));
        }
        Ok(graph)
    }
}

impl Scale {
    /// Returns what is to be scaled; `None` while the step that remembers it has not run.
    fn target<'a>(&self, cx: &ExpandCx<'a>) -> Result<Option<Target<'a>>, StepError> {
        let Some(restore) = &self.restore else {
            let platform = cx.platforms.get(self.platform.as_deref().unwrap_or_default())?;
            return Ok(Some(Target {
                platform,
                scale: platform.part(platform.scale.as_ref(), "scale an application")?,
                values: Values::given(platform, self.app.as_ref(), &self.with)?,
                services: self.services.clone(),
                to: self.to.unwrap_or_default(),
                counts: BTreeMap::new(),
            }));
        };
        let step = cx.inputs.get("restore").unwrap_or(restore);
        let Some(outputs) = cx.outputs.get(step) else {
            return match cx.dry_run {
                true => Ok(None),
                false => {
                    Err(StepError::new(ErrorKind::Plan, format!("the step `{step}` has not remembered any counts")))
                }
            };
        };
        let platform = cx.platforms.get(plain(outputs, "platform").and_then(Value::as_str).unwrap_or_default())?;
        let with: BTreeMap<String, String> = remembered(outputs, "with", step)?;
        let counts: BTreeMap<String, u64> = remembered(outputs, COUNTS, step)?;
        let with = with.into_iter().map(|(name, value)| (name, Text::from(value))).collect();
        Ok(Some(Target {
            platform,
            scale: platform.part(platform.scale.as_ref(), "scale an application")?,
            values: Values::given(platform, None, &with)?,
            services: Some(counts.keys().cloned().collect()),
            to: 0,
            counts,
        }))
    }
}

fn plain<'a>(outputs: &'a Outputs, name: &str) -> Option<&'a Value> {
    match outputs.get(name) {
        Some(OutputValue::Plain(value)) => Some(value),
        _ => None,
    }
}

fn remembered<T: serde::de::DeserializeOwned>(outputs: &Outputs, name: &str, step: &str) -> Result<T, StepError> {
    let value = plain(outputs, name).cloned().unwrap_or_default();
    serde_json::from_value(value).map_err(|error| {
        let message = format!("what the step `{step}` remembered as `{name}` cannot be read: {error}");
        StepError::new(ErrorKind::Internal, message)
    })
}

impl Target<'_> {
    fn of_app(&self) -> String {
        let app = self.values.plain().get("app").cloned();
        app.map(|app| format!(" of {app}")).unwrap_or_default()
    }

    fn named(&self) -> Result<&[String], StepError> {
        self.services.as_deref().ok_or_else(|| {
            let message = format!("the platform `{}` cannot list services", self.platform.name);
            StepError::new(ErrorKind::Plan, message).help("name them: `services: [...]`")
        })
    }

    /// Returns the services to scale, in order; each must be one of those that were found.
    fn services(&self, before: Option<&BTreeMap<String, u64>>) -> Result<Vec<String>, StepError> {
        let Some(named) = &self.services else {
            return Ok(before.map(|before| before.keys().cloned().collect()).unwrap_or_default());
        };
        if let (Per::App, Some(before)) = (self.scale.per, before)
            && let Some(unknown) = named.iter().find(|service| !before.contains_key(*service))
        {
            let known: Vec<&str> = before.keys().map(String::as_str).collect();
            let message = format!("there is no service `{unknown}`{}", self.of_app());
            return Err(StepError::new(ErrorKind::Object, message).help(format!("there are {}", known.join(", "))));
        }
        Ok(named.clone())
    }

    /// Returns the counts that the looks found; `None` when a dry run started no program.
    fn counts_now(&self, facts: &Facts) -> Result<Option<BTreeMap<String, u64>>, StepError> {
        let found = |key: &str| facts.programs.get(key).and_then(|captured| captured.get(COUNTS));
        match self.scale.per {
            Per::App => {
                let Some(found) = found("scale") else { return Ok(None) };
                let entries = found.as_object().into_iter().flatten();
                let counts: BTreeMap<String, u64> = entries
                    .map(|(service, count)| Ok((service.clone(), self.count(service, count)?)))
                    .collect::<Result<_, StepError>>()?;
                if counts.is_empty() {
                    let message = format!("no service{} was found", self.of_app());
                    return Err(StepError::new(ErrorKind::Object, message).help("check the name of the application"));
                }
                Ok(Some(counts))
            }
            Per::Service => {
                let each = self.named()?.iter().map(|service| {
                    let count = found(&format!("scale {service}"));
                    count.map(|count| Ok((service.clone(), self.count(service, count)?))).transpose()
                });
                // One that was not looked at means that none was: the counts are then not known.
                each.collect::<Result<Option<_>, StepError>>()
            }
        }
    }

    fn count(&self, service: &str, found: &Value) -> Result<u64, StepError> {
        let text = found.as_str().map_or_else(|| found.to_string(), str::to_owned);
        let count =
            if self.scale.counts.is_empty() { text.parse().ok() } else { self.scale.counts.get(&text).copied() };
        count.ok_or_else(|| {
            let message = format!(
                "the count of `{service}` is `{text}`, which the platform `{}` does not explain",
                self.platform.name
            );
            StepError::new(ErrorKind::Tool, message)
        })
    }

    /// Remembers the counts as they were before the run: a step that is done again finds those that it has set itself.
    fn remember(
        &self,
        before: &BTreeMap<String, u64>,
        services: &[String],
        cx: &ExpandCx<'_>,
    ) -> Result<Action, StepError> {
        let with = json!(self.values.plain());
        let mut counts: BTreeMap<&String, u64> =
            services.iter().filter_map(|service| Some((service, *before.get(service)?))).collect();
        let own = |outputs: &&Outputs| {
            plain(outputs, "platform") == Some(&json!(self.platform.name)) && plain(outputs, "with") == Some(&with)
        };
        // The last doing that had set what there is now, which has carried on what it found.
        for outputs in cx.earlier.iter().filter(own) {
            let found: BTreeMap<String, u64> = remembered(outputs, COUNTS, cx.step)?;
            let set: Option<u64> = remembered(outputs, SET_TO, cx.step)?;
            for (service, count) in &mut counts {
                if before.get(*service).copied() == set {
                    *count = found.get(*service).copied().unwrap_or(*count);
                }
            }
        }
        let shown: Vec<String> = counts.iter().map(|(service, count)| format!("{service} {count}")).collect();
        let title = format!("remember the counts{}: {}", self.of_app(), shown.join(", "));
        let values = [
            ("platform", json!(self.platform.name)),
            ("with", with),
            (COUNTS, json!(counts)),
            (SET_TO, json!(self.to)),
        ];
        let values = values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let file = Some(format!("scale-{}.json", cx.step).into());
        Ok(Action::new("remember", title, Op::Remember { values, file }, Effect::Restart))
    }

    /// Returns the program that sets a count, with the check that shows it.
    fn set(&self, service: &str, count: u64) -> Result<Exec, StepError> {
        let values = self.values.clone().with("service", &service.into()).count("count", count);
        let shown: Vec<Text> = if self.scale.counts.is_empty() {
            vec![Text::from(count.to_string())]
        } else {
            let words =
                self.scale.counts.iter().filter(|(word, means)| **means == count && !self.scale.passing.contains(word));
            words.map(|(word, _)| Text::from(word.as_str())).collect()
        };
        if shown.is_empty() {
            let message = format!("the platform `{}` cannot run {count} instances of `{service}`", self.platform.name);
            return Err(StepError::new(ErrorKind::Plan, message).help("it knows 0 (stopped) and 1 (running)"));
        }
        let read = self.scale.settled.as_ref().unwrap_or(&self.scale.read);
        let entry = (self.scale.per == Per::App).then(|| service.to_owned());
        let found = Some(Found { parse: read.parse.clone(), entry, values: shown });
        let done_if = Probe { exec: read.command.exec(self.platform, &values)?, stdout: None, found };
        Ok(Exec {
            done_if: Some(Box::new(done_if)),
            confirm_within_ms: Some(self.scale.settle_seconds * 1000),
            ..self.scale.set.exec(self.platform, &values)?
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::{Expand, expand, problems};

    const DOWN: &str = "{ platform: aptible, app: shop, services: [cmd, worker], to: 0 }";

    fn found(pairs: &[(&str, Value)]) -> Facts {
        let captured = |value: &Value| [(COUNTS.to_owned(), value.clone())].into();
        let programs = pairs.iter().map(|(key, value)| ((*key).to_owned(), captured(value))).collect();
        Facts { programs, ..Facts::default() }
    }

    fn titles(graph: &ActionGraph) -> Vec<&str> {
        graph.actions.iter().map(|action| action.title.as_str()).collect()
    }

    #[test]
    fn counts_are_remembered_before_anything_is_scaled() {
        let facts = found(&[("scale", json!({ "cmd": 2, "worker": 1, "cron": 1 }))]);
        let graph = Expand::facts(facts).kind::<Scale>(DOWN).unwrap();
        assert_eq!(
            titles(&graph),
            [
                "remember the counts of shop: cmd 2, worker 1",
                "scale cmd of shop from 2 to 0",
                "scale worker of shop from 1 to 0"
            ]
        );
        assert_eq!(graph.actions[1].after, ["remember"]);
        let Some(Op::Exec(undo)) = graph.actions[1].undo.as_deref() else { panic!("{graph:?}") };
        assert_eq!(undo.to_string(), "aptible apps:scale --app shop cmd --container-count 2");
        let Op::Exec(Exec { done_if: Some(check), .. }) = &graph.actions[1].op else { panic!("{graph:?}") };
        assert_eq!(check.exec.to_string(), "aptible services --app shop");
        assert_eq!(check.found.as_ref().unwrap().entry.as_deref(), Some("cmd"));
    }

    #[test]
    fn remembered_counts_are_given_back() {
        let graph = Expand::facts(found(&[("scale", json!({ "cmd": 2, "worker": 1 }))])).kind::<Scale>(DOWN).unwrap();
        let Op::Remember { values, .. } = &graph.actions[0].op else { panic!("{graph:?}") };
        let values = values.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
        let zero = found(&[("scale", json!({ "cmd": 0, "worker": 0 }))]);
        let mut expand = Expand::facts(zero);
        expand.outputs.insert("stop".to_owned(), values);
        let graph = expand.kind::<Scale>("{ restore: stop }").unwrap();
        assert_eq!(titles(&graph), ["scale cmd of shop from 0 to 2", "scale worker of shop from 0 to 1"]);
    }

    #[test]
    fn what_was_there_before_the_run_is_remembered_however_often_it_is_done() {
        let scaled = |counts: Value, to: u64, earlier: &[Outputs]| -> (Value, Outputs) {
            let mut expand = Expand::facts(found(&[("scale", counts)]));
            expand.earlier = earlier.to_vec();
            let graph = expand.kind::<Scale>(&DOWN.replace("to: 0", &format!("to: {to}"))).unwrap();
            let Op::Remember { values, .. } = &graph.actions[0].op else { panic!("{graph:?}") };
            (values[COUNTS].clone(), values.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect())
        };
        let (at_first, first) = scaled(json!({ "cmd": 2, "worker": 1 }), 0, &[]);
        assert_eq!(at_first, json!({ "cmd": 2, "worker": 1 }));
        // The worker was started again by somebody, and edited plans set another count.
        let (again, second) = scaled(json!({ "cmd": 0, "worker": 4 }), 1, std::slice::from_ref(&first));
        assert_eq!(again, json!({ "cmd": 2, "worker": 4 }));
        let (third, _) = scaled(json!({ "cmd": 1, "worker": 0 }), 0, &[first, second.clone()]);
        assert_eq!(third, json!({ "cmd": 2, "worker": 1 }));
        let other_app = second.into_iter().map(|(name, value)| match name.as_str() {
            "with" => (name, json!({ "app": "other" }).into()),
            _ => (name, value),
        });
        let (other, _) = scaled(json!({ "cmd": 1, "worker": 1 }), 0, &[other_app.collect()]);
        assert_eq!(other, json!({ "cmd": 1, "worker": 1 }));
    }

    #[test]
    fn a_dry_run_tells_what_it_does_not_know() {
        let graph = expand::<Scale>(DOWN).unwrap();
        assert_eq!(titles(&graph), ["scale cmd of shop to 0", "scale worker of shop to 0"]);
        assert_eq!(graph.warnings.len(), 1);
        assert_eq!(expand::<Scale>("{ restore: stop }").unwrap().known_after, ["stop"]);
    }

    #[test]
    fn words_stand_for_counts() {
        let step = "{ platform: systemd, services: [a.service, b.service], to: 0 }";
        let facts = found(&[("scale a.service", json!("active")), ("scale b.service", json!("failed"))]);
        let graph = Expand::facts(facts).kind::<Scale>(step).unwrap();
        assert_eq!(titles(&graph)[0], "remember the counts: a.service 1, b.service 0");
        let Op::Exec(Exec { done_if: Some(check), .. }) = &graph.actions[1].op else { panic!("{graph:?}") };
        let values: Vec<String> = check.found.as_ref().unwrap().values.iter().map(ToString::to_string).collect();
        assert_eq!(values, ["failed", "inactive"], "a unit that is still stopping is not stopped");
        let facts = found(&[("scale a.service", json!("active"))]);
        let error =
            Expand::facts(facts).kind::<Scale>("{ platform: systemd, services: [a.service], to: 2 }").unwrap_err();
        assert_eq!(error.message, "the platform `systemd` cannot run 2 instances of `a.service`");
    }

    #[test]
    fn what_is_not_there_is_not_scaled() {
        let facts = || found(&[("scale", json!({ "web": 1 }))]);
        let error = Expand::facts(facts()).kind::<Scale>(DOWN).unwrap_err();
        assert_eq!(error.message, "there is no service `cmd` of shop");
        let error = Expand::facts(found(&[("scale", json!({}))])).kind::<Scale>(DOWN).unwrap_err();
        assert_eq!(error.message, "no service of shop was found");
        let all = Expand::facts(facts()).kind::<Scale>("{ platform: dokku, app: shop, to: 0 }").unwrap();
        assert_eq!(titles(&all)[1], "scale web of shop from 1 to 0");
        let error = expand::<Scale>("{ platform: systemd, to: 0 }").unwrap_err();
        assert_eq!(error.message, "the platform `systemd` cannot list services");
    }

    #[test]
    fn keys_are_checked() {
        assert_eq!(problems::<Scale>("{}"), ["missing_key", "missing_key"]);
        assert_eq!(problems::<Scale>("{ restore: stop, to: 0, app: x }"), ["conflicting_keys", "conflicting_keys"]);
        assert_eq!(problems::<Scale>("{ platform: dokku, to: 0, services: [] }"), ["empty_list"]);
        assert_eq!(problems::<Scale>(DOWN), [""; 0]);
    }
}
