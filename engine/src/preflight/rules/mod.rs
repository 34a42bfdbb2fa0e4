//! The catalogue, by topic.

use std::sync::LazyLock;

use super::rule::Rule;
use crate::op::preflight::Method;

/// Writes the condition that a namespace is not the server's own, nor pgplan's.
macro_rules! own_schema {
    ($n:literal) => {
        concat!(
            $n,
            ".nspname NOT IN ('pg_catalog', 'information_schema', 'pgplan') AND ",
            $n,
            ".nspname !~ '^pg_(toast|temp_)'"
        )
    };
}

/// Writes the condition that an object of this catalog belongs to no extension.
macro_rules! no_member {
    ($class:literal, $oid:literal) => {
        concat!(
            "NOT EXISTS (SELECT FROM pg_depend dx WHERE dx.classid = '",
            $class,
            "'::regclass AND dx.objid = ",
            $oid,
            " AND dx.deptype = 'e')"
        )
    };
}

mod catalogs;
mod collations;
mod extensions;
mod functions;
mod in_place;
mod inheritance;
mod names;
mod objects;
mod operators;
mod quiet;
mod replication;
mod rights;
mod roles;
mod servers;
mod settings;
mod states;
mod target;
mod types;

/// Every method.
const ALL: &[Method] = &[Method::Dump, Method::Replication, Method::InPlace];
/// The methods by which the schema is dumped and restored into another server.
const RESTORED: &[Method] = &[Method::Dump, Method::Replication];
/// A dump and its restore.
const DUMPED: &[Method] = &[Method::Dump];
/// Logical replication.
const REPLICATED: &[Method] = &[Method::Replication];
/// `pg_upgrade`.
const IN_PLACE: &[Method] = &[Method::InPlace];

/// Returns every rule, by topic.
#[must_use]
pub fn all() -> &'static [&'static Rule] {
    static ALL_RULES: LazyLock<Vec<&'static Rule>> = LazyLock::new(|| {
        let topics = [
            servers::RULES,
            quiet::RULES,
            rights::RULES,
            roles::RULES,
            settings::RULES,
            names::RULES,
            types::RULES,
            operators::RULES,
            functions::RULES,
            catalogs::RULES,
            inheritance::RULES,
            collations::RULES,
            extensions::RULES,
            objects::RULES,
            states::RULES,
            target::RULES,
            replication::RULES,
            in_place::RULES,
        ];
        topics.into_iter().flatten().collect()
    });
    &ALL_RULES
}

/// Hazards that have no rule, because pgplan takes them away or no look at a server can find them.
pub const TAKEN_AWAY: &[(&str, &str)] = &[
    ("`\\restrict` and `\\unrestrict` in dumps, commands of psql", "the restore reads dumps itself and starts no psql"),
    ("holes of unpatched psql (CVE-2026-18408, CVE-2026-6464)", "the restore reads dumps itself and starts no psql"),
    (
        "`SET transaction_timeout` and its kin for an older target",
        "the restore leaves out what the target does not know",
    ),
    ("column options that only the source's minor version knows (`pg_attver`)", "`filter` and `restore` strip them"),
    ("float output that changed with 12", "every digest is taken with the same `extra_float_digits` on both sides"),
    (
        "`pg_dumpall -g` without the databases' own settings since 11",
        "a cluster is dumped whole, never by its globals alone",
    ),
    ("`pg_restore` that writes nowhere without `-f` since 12", "pgplan gives it"),
    ("references to roles that a filter drops", "`filter` drops grants, owners and default privileges with the role"),
    ("views made by an ON SELECT rule (gone with 16)", "a server keeps them as views, and they are dumped as views"),
    ("`CREATE EXTENSION … FROM unpackaged` (gone with 13)", "it stands in scripts only, never in a dump"),
    ("a role that was its own ADMIN (gone with 15)", "it was never stored, so it can neither be found nor dumped"),
    ("corrupted indexes and rows", "`verify` reads every row on both sides; run `pg_amcheck` on the source before"),
    ("fields near 1 GB", "only reading every row tells; the dump fails and names the table"),
    ("plugins of logical decoding that the server does not allow", "pgplan uses `pgoutput` alone"),
    (
        "triggers that call functions without a schema",
        "triggers are restored after the rows, so none fires in a restore; afterwards they run as in the source",
    ),
    (
        "COMMENT ON EXTENSION by a role that does not own it",
        "the restore stops there and says so (`pgplan explain not_the_owner`); put it among the expected errors",
    ),
    (
        "TRUNCATE across foreign keys while rows are replicated",
        "no catalog tells whether one will come; keep it out of the time of the move",
    ),
    (
        "tables of a subscription that are not ready yet (`srsubstate`)",
        "it matters at a cutover by replication, not before one",
    ),
    (
        "base backups from before the move",
        "point-in-time recovery does not cross versions: take a new base backup of the target",
    ),
    ("sessions that write until the dump begins", "`open_sessions` names them; a fence stops them"),
];
