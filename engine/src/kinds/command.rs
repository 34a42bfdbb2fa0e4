//! `command`: any program.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use schemars::{JsonSchema, Schema};
use serde::{
    Deserialize, Deserializer,
    de::{self, value::MapAccessDeserializer, value::SeqAccessDeserializer},
};
use serde_json::json;

use super::{Declarations, ExpandCx, Kind, declare::key};
use crate::{
    action::{Action, ActionGraph, Effect},
    error::StepError,
    facts::Facts,
    op::{Exec, Op, Probe},
    platforms::{Taken, captures},
    secret::Text,
};

/// Runs a program.
///
/// Written as a list (`command: [notify-send, done]`) or as a mapping with the keys below. The words are given to the
/// program as they are: there is no shell, so nothing is expanded and nothing needs quotes; write `[sh, -c, "…"]` for
/// one. The program runs in the folder of the plan, with the step's `env`; `PG*` variables of the surroundings are
/// taken out, so that it talks to no server but the one it is told.
///
/// A secret on a command line could be read by every user of the machine and is refused: give it by `env` or `stdin`.
///
/// pgplan cannot see what a program does. When it is cut in the middle a person has to say whether it is done
/// (`pgplan resolve`), unless `done_if` can tell. Programs that it leaves behind in the background are ended with it.
#[derive(Debug, JsonSchema)]
#[schemars(transform = or_words)]
pub struct Command(Body);

/// A program with all that can be said about it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Body {
    /// The program and its arguments.
    pub run: Vec<Text>,
    /// The program and arguments that take back what `run` did.
    #[serde(default)]
    pub undo: Option<Vec<Text>>,
    /// A program that tells whether the work is done already: then it is not done again.
    #[serde(default)]
    pub done_if: Option<Check>,
    /// Values for later steps, taken from what the program prints.
    #[serde(default)]
    pub outputs: BTreeMap<String, Taken>,
    /// What the program reads on standard input.
    #[serde(default)]
    pub stdin: Option<Text>,
    /// The folder it runs in, relative to the plan.
    #[serde(default)]
    pub cwd: Option<PathBuf>,
    /// The exit codes that mean success; only 0 when not given.
    #[serde(default)]
    pub success_codes: Vec<i32>,
    /// Whether a resumed run does it again when a later step is still to run: for outputs that are secret, which no
    /// journal keeps.
    #[serde(default)]
    pub volatile: bool,
}

/// A program that answers yes or no without changing anything.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// The program and its arguments.
    pub run: Vec<Text>,
    /// What it must print for "yes", white space around it aside; when not given, its exit code tells.
    #[serde(default)]
    pub stdout: Option<String>,
    /// The exit codes that mean "yes"; only 0 when not given.
    #[serde(default)]
    pub success_codes: Vec<i32>,
    /// The outputs of the step, taken from what this program prints when the work is done already.
    #[serde(default)]
    pub outputs: BTreeMap<String, Taken>,
}

impl<'de> Deserialize<'de> for Command {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Command;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of words, or a mapping with `run`")
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, seq: A) -> Result<Command, A::Error> {
                let run = Vec::deserialize(SeqAccessDeserializer::new(seq))?;
                Ok(Command(Body {
                    run,
                    undo: None,
                    done_if: None,
                    outputs: BTreeMap::new(),
                    stdin: None,
                    cwd: None,
                    success_codes: Vec::new(),
                    volatile: false,
                }))
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Command, A::Error> {
                Body::deserialize(MapAccessDeserializer::new(map)).map(Command)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// Lets the schema of the mapping accept a list of words, too.
fn or_words(schema: &mut Schema) {
    let body = schema.remove("$ref");
    let word = json!({ "type": ["string", "number", "boolean"] });
    schema.insert("anyOf".to_owned(), json!([{ "type": "array", "items": word }, { "$ref": body }]));
}

impl Kind for Command {
    const NAME: &'static str = "command";
    const GROUP: &'static str = "application";
    const SUMMARY: &'static str = "Run a program";
    const EXAMPLE: &'static str = "command: { run: [./smoke-test, --url, \"https://shop.example\"], outputs: { build: { parse: { json: /build } } } }";

    fn check(&self, to: &mut Declarations) {
        let body = &self.0;
        check_argv(&body.run, "run", to);
        if let Some(undo) = &body.undo {
            check_argv(undo, "undo", to);
        }
        if let Some(check) = &body.done_if {
            check_argv(&check.run, "done_if", to);
            for name in body.outputs.keys().filter(|name| !check.outputs.contains_key(*name)) {
                let message = format!("the output `{name}` is not known when `done_if` says that the work is done");
                to.problem(
                    "output_lost",
                    key(["outputs", name]),
                    message,
                    Some("add it to `done_if: { outputs: … }`, too"),
                );
            }
        }
        for (name, taken) in &body.outputs {
            to.output(name, taken.secret);
        }
    }

    fn actions(&self, _: &Facts, _: &ExpandCx<'_>) -> Result<ActionGraph, StepError> {
        let body = &self.0;
        let probe = |check: &Check| {
            let exec = Exec {
                argv: check.run.clone(),
                cwd: body.cwd.clone(),
                success_codes: check.success_codes.clone(),
                capture: captures(&check.outputs),
                ..Exec::default()
            };
            Box::new(Probe { exec, stdout: check.stdout.clone(), found: None })
        };
        let exec = Exec {
            argv: body.run.clone(),
            cwd: body.cwd.clone(),
            stdin: body.stdin.clone(),
            capture: captures(&body.outputs),
            success_codes: body.success_codes.clone(),
            done_if: body.done_if.as_ref().map(probe),
            ..Exec::default()
        };
        let effect = if exec.done_if.is_some() { Effect::Probe } else { Effect::Opaque };
        let mut action = Action::new("run", format!("run {exec}"), Op::Exec(exec), effect);
        if let Some(undo) = &body.undo {
            action = action.undo(Op::Exec(Exec { argv: undo.clone(), cwd: body.cwd.clone(), ..Exec::default() }));
        }
        action.volatile = body.volatile;
        Ok(ActionGraph::of(vec![action]))
    }
}

/// Reports an empty list, and a secret among the words.
pub(super) fn check_argv(argv: &[Text], at: &str, to: &mut Declarations) {
    for (code, message) in argv_problems(argv) {
        let help = if code == "secret_in_argv" {
            "give it to the program by `env` or `stdin`"
        } else {
            "the first word is the program"
        };
        to.problem(code, key([at]), message, Some(help));
    }
}

/// Returns what is wrong with a command line, each with its code: no program, a secret among the words.
pub(crate) fn argv_problems(argv: &[Text]) -> Vec<(&'static str, &'static str)> {
    let mut problems = Vec::new();
    if argv.first().is_none_or(|program| program.as_plain().is_some_and(|text| text.trim().is_empty())) {
        problems.push(("empty_command", "there is no program to run"));
    }
    if argv.iter().any(Text::is_tainted) {
        problems.push(("secret_in_argv", "a secret on a command line could be read by every user of the machine"));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::{decode, expand, problems};

    #[test]
    fn a_list_is_a_command() {
        let graph = expand::<Command>("[pg_isready, -h, 'a b']").unwrap();
        assert_eq!(graph.actions[0].title, "run pg_isready -h 'a b'");
        assert_eq!(graph.actions[0].effect, Effect::Opaque);
    }

    #[test]
    fn a_check_makes_it_recoverable() {
        let graph = expand::<Command>("{ run: [a], done_if: { run: [b], stdout: yes }, undo: [c] }").unwrap();
        let [action] = graph.actions.as_slice() else { panic!("{graph:?}") };
        assert_eq!(action.effect, Effect::Probe);
        assert!(matches!(action.undo.as_deref(), Some(Op::Exec(exec)) if exec.to_string() == "c"));
    }

    #[test]
    fn a_secret_on_the_command_line_is_a_problem() {
        let secret = "(secret secrets.pw)";
        assert_eq!(problems::<Command>(&format!("[psql, '--password={secret}']")), ["secret_in_argv"]);
        assert_eq!(problems::<Command>(&format!("{{ run: [psql], stdin: '{secret}' }}")), [""; 0]);
        assert_eq!(problems::<Command>("[]"), ["empty_command"]);
        let lost = "{ run: [a], done_if: { run: [b] }, outputs: { x: { parse: trimmed } } }";
        assert_eq!(problems::<Command>(lost), ["output_lost"]);
    }

    #[test]
    fn what_is_neither_list_nor_mapping_is_refused() {
        assert!(decode::<Command>("'rm -rf /'").is_err());
        assert!(decode::<Command>("{ run: [a], shell: true }").is_err());
    }
}
