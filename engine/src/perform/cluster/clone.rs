//! A server that is a physical copy of another one of its major version, made by `pg_basebackup`.
//!
//! The copy must do nothing of what the original does towards others: it archives no WAL, follows no primary, fetches
//! no logical changes, and loads no libraries with background workers.

use std::{
    fs, io,
    os::unix::fs::lchown,
    path::{Path, PathBuf},
    sync::Arc,
};

use secrecy::{ExposeSecret as _, SecretString};

use super::{Cluster, make};
use crate::{
    action::{Output, OutputValue},
    error::{ErrorKind, StepError},
    op::CreateCluster,
    perform::PerformCx,
    postgres::{
        ConnInfo,
        quote::{ident, literal},
        rows::first,
    },
    tool::{Client, Program},
};

/// What the copy is told whatever the original is told.
const ALONE: [(&str, &str); 8] = [
    ("archive_mode", "off"),
    ("archive_command", ""),
    ("primary_conninfo", ""),
    ("restore_command", ""),
    ("shared_preload_libraries", ""),
    ("max_logical_replication_workers", "0"),
    ("ssl", "off"),
    ("max_wal_senders", "0"),
];

/// Makes a server that is a copy of the one that `from` leads to, and starts it.
///
/// Outputs: `url` (secret), as the original's superuser with a new password.
///
/// # Errors
/// [`ErrorKind::Refused`] when the original has tablespaces of its own, [`ErrorKind::ToolMissing`] when the version is not
/// installed, [`ErrorKind::Tool`] when `pg_basebackup` fails: the role must have the attribute `REPLICATION`.
pub(crate) async fn create(op: &CreateCluster, from: &ConnInfo, cx: &PerformCx) -> Result<Output, StepError> {
    let session = crate::survey::connect_anywhere(from).await?;
    let sql = "SELECT string_agg(spcname, ', ') FROM pg_catalog.pg_tablespace WHERE spcname !~ '^pg_'";
    let tablespaces = first(&session, "look for tablespaces", sql).await;
    session.close().await;
    if let Some(names) = tablespaces? {
        let message = format!("a physical copy would need the tablespaces {names} elsewhere");
        return Err(StepError::new(ErrorKind::Refused, message).help("rehearse without --clone: a dump needs none"));
    }
    let cluster = make(op, Some(from), cx).await?;
    Ok(Output::said("made").with("url", OutputValue::Secret(Some(cluster.url(cx)?))))
}

impl Cluster {
    /// Fills the folder with the copy; it is not started yet.
    pub(super) async fn clone_of(
        &self,
        from: &ConnInfo,
        op: &CreateCluster,
        password: &SecretString,
        client: &Client,
        cx: &PerformCx,
    ) -> Result<(), StepError> {
        let env = from.to_client_env().map_err(|error| StepError::new(ErrorKind::Plan, error.to_string()))?;
        let mut program =
            Program::new(client.path("pg_basebackup")).shown("pg_basebackup").arg("--pgdata").arg(self.data());
        program =
            program.args(["--wal-method=stream", "--checkpoint=fast", "--no-password"]).env("LC_ALL", "C".to_owned());
        // The database of the plan is no word that pg_basebackup knows.
        for (name, value) in env.vars.into_iter().filter(|(name, _)| name != "PGDATABASE") {
            program = program.env(name, value);
        }
        if let Some(passfile) = env.passfile {
            program = program.pgpass(passfile);
        }
        let finished = program.run(&Arc::clone(&cx.redactor), &cx.cancel).await?;
        finished.check(&[]).map_err(|error| {
            error.help("the role needs the attribute REPLICATION and a line for `replication` in pg_hba.conf; or leave --clone out")
        })?;
        self.give_away(&self.data())?;
        self.stand_alone(op)?;
        self.set_password(&op.superuser, password, cx).await
    }

    /// Gives what `pg_basebackup` wrote to the user that the server runs as.
    fn give_away(&self, path: &Path) -> Result<(), StepError> {
        let Some(user) = self.user()? else { return Ok(()) };
        let failed = |error: &io::Error, path: &Path| StepError::io("give away", path, error);
        let mut waiting: Vec<PathBuf> = vec![path.to_owned()];
        while let Some(path) = waiting.pop() {
            lchown(&path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).map_err(|error| failed(&error, &path))?;
            if fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir()) {
                let entries = fs::read_dir(&path).map_err(|error| failed(&error, &path))?;
                for entry in entries {
                    waiting.push(entry.map_err(|error| failed(&error, &path))?.path());
                }
            }
        }
        Ok(())
    }

    /// Writes configuration files that have nothing of the original's but the wanted settings.
    fn stand_alone(&self, op: &CreateCluster) -> Result<(), StepError> {
        let mut settings = op.settings.clone();
        settings.extend(ALONE.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let text = "# written by pgplan\n".to_owned() + &self.conf(&settings);
        self.write_private(&self.data().join("postgresql.conf"), &text)?;
        self.write_private(&self.data().join("postgresql.auto.conf"), "")?;
        let hba = "local all all scram-sha-256\nhost all all 127.0.0.1/32 scram-sha-256\n";
        self.write_private(&self.data().join("pg_hba.conf"), hba)?;
        self.write_private(&self.data().join("pg_ident.conf"), "")?;
        for name in ["standby.signal", "recovery.signal"] {
            let file = self.data().join(name);
            if file.exists() {
                fs::remove_file(&file).map_err(|error| StepError::io("remove", &file, &error))?;
            }
        }
        Ok(())
    }

    /// Sets the superuser's password without a connection (PostgreSQL manual, "postgres", single-user mode).
    async fn set_password(&self, superuser: &str, password: &SecretString, cx: &PerformCx) -> Result<(), StepError> {
        let sql = format!(
            "SET password_encryption = 'scram-sha-256'\nALTER ROLE {} PASSWORD {}\n",
            ident(superuser),
            literal(password.expose_secret())
        );
        let program = self.as_user(&self.stamp.bin.join("postgres"))?;
        let program = program.args(["--single", "-D"]).arg(self.data()).arg("postgres").stdin(sql.into());
        self.run(program.shown("postgres --single"), cx).await?.check(&[])
    }
}
