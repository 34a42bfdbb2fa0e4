//! What the catalogs of one server say, object by object, as digests: enough to name what was added, has gone or was
//! changed between two looks, and small whatever the definitions are like.
//!
//! The same queries as for comparing two servers, and those that only make sense on one: definitions of views, types of
//! columns, versions of extensions. Rows, sizes, statistics, OIDs, comments and passwords have no part in it; large
//! objects count as data.

use std::collections::BTreeMap;

use super::catalog_sql::{OURS, RELATION, free, of_cluster, of_database};
use crate::{
    error::StepError,
    op::data::Aspect,
    postgres::{
        Session,
        connect::execute,
        pin::{Floats, pin_session},
        rows::{rows, text},
    },
};

/// Objects (`table public.orders`) with a digest of all that was said of each.
pub(crate) type Objects = BTreeMap<String, String>;

/// Hex digits kept of an object's digest: enough to tell a change, too few to guess a definition from.
const DIGITS: usize = 16;

/// What is asked of a server as a whole.
const OF_CLUSTER: [Aspect; 3] = [Aspect::Roles, Aspect::Memberships, Aspect::Settings];

/// What is asked of a database.
const OF_DATABASE: [Aspect; 12] = [
    Aspect::Settings,
    Aspect::Locale,
    Aspect::Objects,
    Aspect::Columns,
    Aspect::Constraints,
    Aspect::Indexes,
    Aspect::Triggers,
    Aspect::Functions,
    Aspect::Types,
    Aspect::Policies,
    Aspect::Owners,
    Aspect::Acls,
];

/// Prepares a session for [`of_server`] and [`of_current_database`]: one snapshot, and text that does not depend on
/// the role's settings. A table that another session holds is waited for ten seconds.
///
/// # Errors
/// What the server said.
pub(crate) async fn prepare(session: &Session) -> Result<(), StepError> {
    pin_session(session, Floats::Exact).await?;
    let begin = "SET lock_timeout = '10s'; SET quote_all_identifiers = on; \
                 BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
    execute(session, "begin to read the catalogs", begin).await
}

/// Returns the roles of the server, their memberships and settings.
///
/// # Errors
/// What the server said.
pub(crate) async fn of_server(session: &Session) -> Result<Objects, StepError> {
    let version = session.server_version_num();
    let queries = OF_CLUSTER.iter().filter_map(|aspect| of_cluster(*aspect, version, version));
    read(session, queries).await
}

/// Returns the objects of the session's database.
///
/// # Errors
/// What the server said; a table that another session holds exclusively for long.
pub(crate) async fn of_current_database(session: &Session) -> Result<Objects, StepError> {
    let version = session.server_version_num();
    let queries = OF_DATABASE.iter().filter_map(|aspect| of_database(*aspect, version, version));
    read(session, queries.chain(definitions(version))).await
}

async fn read(session: &Session, queries: impl Iterator<Item = String>) -> Result<Objects, StepError> {
    let mut hashers: BTreeMap<String, blake3::Hasher> = BTreeMap::new();
    for (at, query) in queries.enumerate() {
        // There may be millions of large objects.
        let sql = format!("SELECT * FROM ({query}) said (kind, name, value) WHERE kind <> 'large object'");
        let found = rows(session, "read the catalogs", &sql).await?;
        let mut lines: Vec<_> = found.iter().map(|row| (text(row, 0), text(row, 1), text(row, 2))).collect();
        lines.sort_unstable();
        for (kind, name, value) in lines {
            let kind = if kind == "procedure" { "function" } else { kind };
            let object = format!("{kind} {name}").trim_end().to_owned();
            let hasher = hashers.entry(object).or_default();
            hasher.update(&[u8::try_from(at).unwrap_or(u8::MAX)]).update(value.as_bytes()).update(b"\0");
        }
    }
    let digest = |hasher: blake3::Hasher| hasher.finalize().to_hex()[..DIGITS].to_owned();
    Ok(hashers.into_iter().map(|(object, hasher)| (object, digest(hasher))).collect())
}

/// Returns the queries that make sense on one server only: what they say is written differently by different versions.
fn definitions(version: u32) -> Vec<String> {
    let relations = |what: &str, kinds: &str| {
        format!(
            "SELECT {RELATION}, n.nspname || '.' || c.relname, {what} \
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE c.relkind IN ({kinds}) AND c.relpersistence <> 't' AND {OURS} AND {}",
            free("pg_class", "c.oid")
        )
    };
    let mut queries = vec![
        relations("pg_get_viewdef(c.oid)", "'v', 'm'"),
        relations("array_to_string(c.reloptions, ',')", "'r', 'p', 'v', 'm', 'f'"),
        format!(
            "SELECT 'column', n.nspname || '.' || c.relname || '.' || a.attname, format_type(a.atttypid, a.atttypmod) \
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
             WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relpersistence <> 't' AND {OURS} AND {}",
            free("pg_class", "c.oid")
        ),
        format!(
            "SELECT 'rule', n.nspname || '.' || c.relname || '.' || rulename, pg_get_ruledef(r.oid) \
             FROM pg_rewrite r JOIN pg_class c ON c.oid = ev_class JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE rulename <> '_RETURN' AND {OURS} AND {}",
            free("pg_class", "c.oid")
        ),
        "SELECT 'extension', extname, extversion FROM pg_extension".to_owned(),
    ];
    if version >= 100_000 {
        queries.push(relations(
            "(SELECT concat_ws(' ', format_type(seqtypid, NULL), seqstart, seqincrement, seqmin, seqmax, seqcache, \
             seqcycle) FROM pg_sequence WHERE seqrelid = c.oid)",
            "'S'",
        ));
    }
    queries
}
