//! What rules want to know about the target: a few lists, one query each.

use std::collections::{BTreeMap, BTreeSet};

use super::Hunt;
use crate::{
    error::StepError,
    postgres::{
        ConnInfo, Session,
        rows::{first, flag, rows, text},
    },
    preflight::rule::{Extension, Pair},
    survey,
};

/// Fills in the lists of the target.
///
/// # Errors
/// What the server said; every role may ask for all of it.
pub(super) async fn learn(info: &ConnInfo, pair: &mut Pair<'_>, hunt: &mut Hunt) -> Result<(), StepError> {
    let session = survey::connect_anywhere(info).await?;
    let learned = ask(&session, pair, hunt).await;
    session.close().await;
    learned
}

async fn ask(session: &Session, pair: &mut Pair<'_>, hunt: &mut Hunt) -> Result<(), StepError> {
    let version = session.server_version_num();
    hunt.queries += 8;
    let settings = rows(session, "list the settings", "SELECT name, context FROM pg_settings").await?;
    pair.settings = Some(settings.iter().map(|row| (text(row, 0).to_owned(), text(row, 1).to_owned())).collect());

    let may = "SELECT bool_or(rolsuper OR EXISTS (SELECT FROM pg_roles g WHERE g.rolname = 'pg_read_all_settings' \
               AND pg_has_role(g.oid, 'USAGE'))) FROM pg_roles WHERE rolname = current_user";
    pair.all_settings = rows(session, "ask for a right", may).await?.first().is_some_and(|row| flag(row, 0));

    let trusted = if version >= 130_000 { "AND NOT v.trusted" } else { "" };
    let sql = format!(
        "SELECT a.name, a.default_version, coalesce(v.superuser {trusted}, true) \
         FROM pg_available_extensions a \
              LEFT JOIN pg_available_extension_versions v ON v.name = a.name AND v.version = a.default_version"
    );
    let extensions = rows(session, "list the extensions", &sql).await?;
    let extension = |row| {
        let found = Extension { version: text(row, 1).to_owned(), superuser: flag(row, 2) };
        (text(row, 0).to_owned(), found)
    };
    pair.extensions = Some(extensions.iter().map(extension).collect::<BTreeMap<_, _>>());

    let sql = "SELECT c.collname, c.collcollate, c.collctype FROM pg_collation c \
               WHERE c.collnamespace = 'pg_catalog'::regnamespace";
    let collations = rows(session, "list the collations", sql).await?;
    pair.collations = Some(collations.iter().map(|row| text(row, 0).to_owned()).collect());
    let databases = rows(session, "list the locales", "SELECT datcollate, datctype FROM pg_database").await?;
    let mut locales: BTreeSet<String> = ["c", "posix", "c.utf8"].map(str::to_owned).into();
    locales.extend(collations.iter().flat_map(|row| [normal(text(row, 1)), normal(text(row, 2))]));
    locales.extend(databases.iter().flat_map(|row| [normal(text(row, 0)), normal(text(row, 1))]));
    pair.locales = Some(locales);

    let tablespaces = rows(session, "list the tablespaces", "SELECT spcname FROM pg_tablespace").await?;
    pair.tablespaces = Some(tablespaces.iter().map(|row| text(row, 0).to_owned()).collect());
    let right = if version >= 160_000 { "SET" } else { "MEMBER" };
    let sql = format!("SELECT rolname FROM pg_roles WHERE pg_has_role(oid, '{right}')");
    let becomes = rows(session, "list the roles that may be set", &sql).await?;
    pair.becomes = Some(becomes.iter().map(|row| text(row, 0).to_owned()).collect());
    pair.bootstrap = first(session, "ask who made the server", "SELECT rolname FROM pg_roles WHERE oid = 10").await?;
    Ok(())
}

/// Returns a locale's name as far as it matters: `en_US.UTF-8` and `en_US.utf8` are the same.
fn normal(locale: &str) -> String {
    locale.to_lowercase().replace('-', "")
}
