//! The values of secrets: read where the plan says they are, kept in memory, never written anywhere.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

use crate::{
    error::{ErrorKind, StepError},
    plan::{Plan, SecretSource},
    postgres::{Environment, PassFile},
    redact::Redactor,
    tool::Program,
};

/// Secrets by their dotted name: `secrets.old`, `databases.target.password`, `steps.tunnel.outputs.url`.
#[derive(Debug)]
pub struct Vault {
    values: Mutex<BTreeMap<String, SecretString>>,
    redactor: Arc<Redactor>,
}

impl Vault {
    /// Returns an empty vault; every secret put into it is made known to the redactor first.
    #[must_use]
    pub fn new(redactor: Arc<Redactor>) -> Self {
        Self { values: Mutex::default(), redactor }
    }

    /// Keeps a value, and takes it out of all that is printed and stored.
    pub fn put(&self, name: &str, value: SecretString) {
        self.redactor.add(name, &value);
        self.keep(name, value);
    }

    /// Keeps a value that may be shown.
    pub fn keep(&self, name: &str, value: SecretString) {
        self.values.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), value);
    }

    /// Returns a value.
    ///
    /// # Errors
    /// When it was never put in: a secret that a dry run may not read, or that died with an earlier session.
    pub fn get(&self, name: &str) -> Result<SecretString, StepError> {
        let values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        values.get(name).cloned().ok_or_else(|| {
            StepError::new(ErrorKind::Plan, format!("the value of `{name}` is not known in this session"))
                .help("a secret output lives as long as the session that made it; apply again with --rerun of its step")
        })
    }

    /// Returns whether the value is there.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.values.lock().unwrap_or_else(PoisonError::into_inner).contains_key(name)
    }

    /// Reads every secret of the plan; those given by a program only when programs may be started.
    ///
    /// # Errors
    /// When one cannot be read: the error names the secret and where it should be.
    pub async fn read_all(&self, plan: &Plan, env: &BTreeMap<String, String>, programs: bool) -> Result<(), StepError> {
        for (name, source) in &plan.secrets {
            if matches!(source, SecretSource::Command(_)) && !programs {
                continue;
            }
            let value = read(name, source, plan, env, &self.redactor).await?;
            self.put(&format!("secrets.{name}"), value);
        }
        Ok(())
    }

    /// Reads secrets of the plan by name, also those given by a program.
    ///
    /// # Errors
    /// As [`Vault::read_all`].
    pub async fn read_named(
        &self,
        plan: &Plan,
        env: &BTreeMap<String, String>,
        names: impl Iterator<Item = &str>,
    ) -> Result<(), StepError> {
        for name in names {
            if let Some(source) = plan.secrets.get(name) {
                self.put(&format!("secrets.{name}"), read(name, source, plan, env, &self.redactor).await?);
            }
        }
        Ok(())
    }
}

async fn read(
    name: &str,
    source: &SecretSource,
    plan: &Plan,
    env: &BTreeMap<String, String>,
    redactor: &Arc<Redactor>,
) -> Result<SecretString, StepError> {
    let fail = |what: String, help: &str| {
        StepError::new(ErrorKind::Plan, format!("secret `{name}` cannot be read: {what}")).help(help)
    };
    match source {
        SecretSource::Env(variable) => match env.get(variable) {
            Some(value) if !value.is_empty() => Ok(SecretString::from(value.clone())),
            Some(_) => Err(fail(format!("the variable {variable} is empty"), "set it to the secret's value")),
            None => Err(fail(format!("the variable {variable} is not set"), "export it before you call pgplan")),
        },
        SecretSource::File(path) => file(&plan.folder.join(path)).map_err(|(what, help)| fail(what, help)),
        SecretSource::Command(argv) => {
            let Some((program, args)) = argv.split_first() else {
                return Err(fail("its command is empty".to_owned(), "name a program"));
            };
            let program = Program::new(program).args(args).cwd(&plan.folder);
            let finished = program.run(redactor, &CancellationToken::new()).await?;
            finished.check(&[]).map_err(|error| {
                let help = "run the command by hand and mend what it says";
                let mut failed = fail(error.message, help);
                failed.details = error.details;
                failed
            })?;
            let printed = finished.stdout.whole().unwrap_or_default();
            let value = printed.trim_end_matches(['\n', '\r']);
            if value.is_empty() {
                return Err(fail("its command printed nothing".to_owned(), "the secret is what it prints on stdout"));
            }
            Ok(SecretString::from(value.to_owned()))
        }
        SecretSource::Pgpass { host, port, dbname, user, file } => {
            let environment = Environment::from_vars(env.clone());
            let default =
                || env.get("PGPASSFILE").map(PathBuf::from).or_else(|| Some(environment.home.clone()?.join(".pgpass")));
            let path = file.as_ref().map(|file| plan.folder.join(file)).or_else(default);
            let path = path.ok_or_else(|| fail("there is no home folder".to_owned(), "name the `file`"))?;
            let passwords = PassFile::read(&path);
            if let Some(warning) = passwords.warning() {
                return Err(fail(warning.to_owned(), "chmod 600 the file"));
            }
            passwords.password(host, *port, dbname, user).cloned().ok_or_else(|| {
                let what = format!("no line of {} matches {host}:{port}:{dbname}:{user}", path.display());
                fail(what, "add the line, or correct host, port, dbname and user")
            })
        }
    }
}

/// Reads the first line of a file that only its owner may read.
fn file(path: &Path) -> Result<SecretString, (String, &'static str)> {
    let cannot = |error: std::io::Error| (format!("{}: {error}", path.display()), "check the path and its rights");
    let mode = fs::metadata(path).map_err(cannot)?.permissions().mode();
    if mode & 0o077 != 0 {
        let what = format!("{} can be read by others (mode {:03o})", path.display(), mode & 0o777);
        return Err((what, "chmod 600 the file"));
    }
    let text = fs::read_to_string(path).map_err(cannot)?;
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(SecretString::from(line.to_owned())),
        _ => Err((format!("the first line of {} is empty", path.display()), "write the secret into the first line")),
    }
}
