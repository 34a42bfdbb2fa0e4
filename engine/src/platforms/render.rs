//! A platform's command with its names filled in.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use minijinja::{Environment, UndefinedBehavior, Value};

use super::{Command, Platform, Word};
use crate::{
    error::{ErrorKind, StepError},
    op::Exec,
    secret::Text,
    template::segments::{Segment, split},
};

static ENVIRONMENT: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(10_000));
    environment
});

/// What a step gives to a platform's commands, by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Values(BTreeMap<String, Value>);

impl Values {
    /// Returns what the step gives under `app` and `with`, and the platform's defaults for the rest.
    ///
    /// # Errors
    /// [`ErrorKind::Plan`] for a name under `with` that the platform does not know.
    pub fn given(platform: &Platform, app: Option<&Text>, with: &BTreeMap<String, Text>) -> Result<Self, StepError> {
        let defaults = platform.params.iter().filter_map(|(name, param)| Some((name, param.default.as_ref()?)));
        let mut values = Self(defaults.map(|(name, default)| (name.clone(), Value::from(default.as_str()))).collect());
        let app = app.map(|app| ("app".to_owned(), app));
        for (name, text) in app.into_iter().chain(with.iter().map(|(name, text)| (name.clone(), text))) {
            if !platform.params.contains_key(&name) {
                let known: Vec<&str> = platform.params.keys().map(String::as_str).collect();
                let message = format!("the platform `{}` has no parameter `{name}`", platform.name);
                let help = match known.as_slice() {
                    [] => "it has none at all".to_owned(),
                    known => format!("it knows {}", known.join(", ")),
                };
                return Err(StepError::new(ErrorKind::Plan, message).help(help));
            }
            values = values.with(&name, text);
        }
        Ok(values)
    }

    /// Returns the values with one more text.
    #[must_use]
    pub fn with(mut self, name: &str, text: &Text) -> Self {
        self.0.insert(name.to_owned(), Value::from(text.to_marked()));
        self
    }

    /// Returns the values with one more number.
    #[must_use]
    pub fn count(mut self, name: &str, count: u64) -> Self {
        self.0.insert(name.to_owned(), Value::from(count));
        self
    }

    /// Returns the texts among the values as they were given, for another step to use; a secret is not among them.
    #[must_use]
    pub fn plain(&self) -> BTreeMap<String, String> {
        let plain = |value: &Value| value.as_str().filter(|text| !crate::secret::is_marked(text)).map(str::to_owned);
        self.0.iter().filter_map(|(name, value)| Some((name.clone(), plain(value)?))).collect()
    }
}

impl Command {
    /// Returns the program to run, every name filled in.
    ///
    /// # Errors
    /// [`ErrorKind::Plan`] for a parameter that the step must give and does not.
    pub fn exec(&self, platform: &Platform, values: &Values) -> Result<Exec, StepError> {
        let text = |template: &str| render(template, platform, values);
        let mut argv = Vec::new();
        for word in &self.run {
            match word {
                Word::One(word) => argv.push(text(word)?),
                Word::Optional(words) if values.0.get(&words.given).is_some_and(Value::is_true) => {
                    for word in &words.then {
                        argv.push(text(word)?);
                    }
                }
                Word::Optional(_) => {}
            }
        }
        Ok(Exec {
            argv,
            env: self
                .env
                .iter()
                .map(|(name, value)| Ok((name.clone(), text(value)?)))
                .collect::<Result<_, StepError>>()?,
            stdin: self.stdin.as_deref().map(text).transpose()?,
            success_codes: self.success_codes.clone(),
            secret_argv: self.secret_argv,
            ..Exec::default()
        })
    }

    /// Returns the names that the command uses.
    ///
    /// # Errors
    /// What is wrong with an expression.
    pub(super) fn names(&self) -> Result<BTreeSet<String>, String> {
        let mut names = BTreeSet::new();
        let words = self.run.iter().flat_map(|word| match word {
            Word::One(word) => vec![word],
            Word::Optional(words) => {
                names.insert(words.given.clone());
                words.then.iter().collect()
            }
        });
        let templates: Vec<&String> = words.chain(self.env.values()).chain(&self.stdin).collect();
        for template in templates {
            for segment in split(template).map_err(|_| format!("a `${{{{` of `{template}` is never closed"))? {
                if let Segment::Expression(range) = segment {
                    let expression = ENVIRONMENT.compile_expression(&template[range]);
                    let expression = expression.map_err(|error| format!("`{template}`: {error}"))?;
                    names.extend(expression.undeclared_variables(false));
                }
            }
        }
        Ok(names)
    }
}

fn render(template: &str, platform: &Platform, values: &Values) -> Result<Text, StepError> {
    let wrong = |what: String| {
        StepError::new(ErrorKind::Plan, format!("the platform `{}` cannot fill in `{template}`: {what}", platform.name))
    };
    let mut out = String::new();
    for segment in split(template).map_err(|_| wrong("a brace is never closed".to_owned()))? {
        match segment {
            Segment::Text(text) => out.push_str(&text),
            Segment::Expression(range) => {
                let expression =
                    ENVIRONMENT.compile_expression(&template[range]).map_err(|error| wrong(error.to_string()))?;
                if let Some(name) =
                    expression.undeclared_variables(false).iter().find(|name| !values.0.contains_key(*name))
                {
                    return Err(missing(platform, name));
                }
                let value = expression.eval(&values.0).map_err(|error| wrong(error.to_string()))?;
                out.push_str(&value.to_string());
            }
        }
    }
    Text::from_marked(&out).map_err(|broken| wrong(broken.to_string()))
}

fn missing(platform: &Platform, name: &str) -> StepError {
    let about = platform.params.get(name).map_or("", |param| param.about.as_str());
    let place = if name == "app" { "`app: …`".to_owned() } else { format!("`with: {{ {name}: … }}`") };
    StepError::new(ErrorKind::Plan, format!("the platform `{}` needs `{name}`", platform.name))
        .help(format!("add {place} to the step: {about}"))
}
