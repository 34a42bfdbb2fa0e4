//! The errors, the more precise before the more general.

use super::Known;

macro_rules! known {
    ($code:literal, $states:expr, $message:literal, $cause:literal, $fix:literal) => {
        known!($code, $states, $message, "", $cause, $fix)
    };
    ($code:literal, $states:expr, $message:literal, $context:literal, $cause:literal, $fix:literal) => {
        Known { code: $code, sqlstates: &$states, message: $message, context: $context, cause: $cause, fix: $fix }
    };
}

pub(super) use known;

/// Every known error of a restore.
pub const ALL: &[Known] = &[
    known!(
        "missing_extension",
        ["0A000", "58P01"],
        r#"extension "([^"]+)" is not available|could not open extension control file ".*/([^/"]+)\.control""#,
        "the extension $1$2 is not installed on the target's machine",
        "install its package for the target's version (extensions of other makers have their own), or drop it in the source \
         and leave it out"
    ),
    known!(
        "extension_needs_superuser",
        ["42501"],
        r#"permission denied to create extension "([^"]+)""#,
        "the extension $1 is not trusted: only a superuser may create it",
        "let a superuser say CREATE EXTENSION $1 in the target, then restore with `expected_errors` for it"
    ),
    known!(
        "missing_library",
        ["58P01", "XX000"],
        r#"could not (?:access file|load library) "([^"]+)""#,
        "a function in C needs the library $1, which the target's machine does not have for this version",
        "install what it belongs to, or drop the function in the source"
    ),
    known!(
        "missing_library_symbol",
        ["42883"],
        r#"could not find function "([^"]+)" in file "([^"]+)""#,
        "the library $2 of the target no longer has the function $1",
        "update the extension or module in the source first, or drop the function there"
    ),
    known!(
        "empty_search_path",
        ["42P01", "42883", "42704"],
        r#"^(?:relation|function|type) "?([^".\s(]+)[^.]* does not exist"#,
        "(?:function|SQL statement|PL/pgSQL)",
        "a function names $1 without a schema, and a restore runs with an empty search_path",
        "in the source: ALTER FUNCTION … SET search_path = …, or write the schema into its body; then dump anew \
         (`preflight` finds them: unqualified_names)"
    ),
    known!(
        "missing_role",
        ["42704"],
        r#"^role "([^"]+)" does not exist"#,
        "the role $1 owns something or has rights, and the target does not have it",
        "CREATE ROLE $1 in the target, or dump with `scope: cluster`, or leave owners and rights out by `filter: { no_owner: \
         true, no_acl: true }`"
    ),
    known!(
        "missing_tablespace",
        ["42704"],
        r#"tablespace "([^"]+)" does not exist"#,
        "the tablespace $1 is not in the target",
        "create it there with a folder of its own, or use `filter: { no_tablespaces: true }`"
    ),
    known!(
        "missing_tablespace_folder",
        ["58P01", "42501", "55000"],
        r#"(?:directory|permissions on directory|set permissions on directory) "([^"]+)""#,
        "the folder $1 of a tablespace is not there, not empty, or not the server's own",
        "make it on the target's machine for the server's user, or use `filter: { no_tablespaces: true }`"
    ),
    known!(
        "missing_language",
        ["42704"],
        r#"language "([^"]+)" does not exist"#,
        "the language $1 is not in the target, or its extension failed before",
        "install the package of the language and CREATE EXTENSION $1; Python 2 has been gone since 15"
    ),
    known!(
        "missing_collation",
        ["42704"],
        r#"collation "([^"]+)" .*does not exist"#,
        "the collation $1 is not in the target: its system lacks the locale, or the server was built without ICU",
        "install the locale and call pg_import_system_collations('pg_catalog'), or choose another collation in the source"
    ),
    known!(
        "missing_locale",
        ["42809", "22023", "42704", "58P01", "0A000"],
        r#"(?:invalid .*locale name|could not create locale|ICU is not supported|LC_COLLATE).*?(?:"([^"]+)")?$"#,
        "the target's system does not have the locale $1",
        "install the locale there and restart the server, or create the database with another by `create_database`"
    ),
    known!(
        "missing_setting",
        ["42704"],
        r#"unrecognized configuration parameter "([^"]+)""#,
        "the target's version does not have the setting $1",
        "use `compat: strip`, which leaves out what the target does not know, or RESET it in the source"
    ),
    known!(
        "missing_option",
        ["22023", "42704"],
        r#"unrecognized parameter "([^"]+)""#,
        "the target's version does not have the option $1 of a column, table or index",
        "use `compat: strip`, which leaves out what the target does not know"
    ),
    known!(
        "invalid_setting",
        ["22023"],
        r#"invalid value for parameter "([^"]+)": "([^"]*)""#,
        "the target's version does not take $2 for $1",
        "RESET it in the source (ALTER ROLE or ALTER DATABASE … RESET $1) and dump anew"
    ),
    known!(
        "missing_type",
        ["42704"],
        r#"type "([^"]+)" does not exist"#,
        "the type $1 has gone from the target's version, or its extension or CREATE TYPE failed before",
        "look at the first error of the restore; a type that is gone needs another in the source"
    ),
    known!(
        "changed_function",
        ["42883"],
        r"^(?:function|operator) (.+) does not exist|operator does not exist: (.+)|could not find a function named",
        "$1$2 is not in the target: its version has removed it or changed its arguments, or it failed before",
        "look it up in the release notes of the versions between (14: factorial operators, array functions take \
         anycompatible), and mend what uses it in the source"
    ),
    known!(
        "postfix_operator",
        ["42601", "42P13", "0A000", "42883"],
        r"postfix operators are not supported|operator right argument type must be specified",
        "14 has no postfix operators",
        "drop the operator in the source, and call its function where it is used"
    ),
    known!(
        "broken_tsvector",
        ["42601"],
        r"syntax error in tsvector",
        "a value of tsvector holds an empty lexeme, which cannot be read back",
        "in the source: UPDATE … SET v = ts_delete(v, ''), then dump anew"
    ),
    known!(
        "backslash_line",
        ["42601"],
        r#"syntax error at or near "\\"#,
        "a command of psql (as \\restrict) was sent to the server, or a COPY before it failed and its rows came as SQL",
        "restore plain dumps by pgplan or by a psql of the dump's age; look at the first error, the others follow from it"
    ),
    known!(
        "foreign_key_types",
        ["42804", "42830", "42P21"],
        r#"foreign key constraint "([^"]+)" cannot be implemented|no unique constraint matching"#,
        "the columns on both sides of the foreign key $1 do not go together in the target's version",
        "give them the same type and collation in the source (18: also nondeterministic collations must be the same)"
    ),
    known!(
        "already_there",
        ["42710", "42P07", "42P06", "42723", "42P04", "42701", "42P16"],
        r#"(\S+ "[^"]+"|.+) already exists|multiple primary keys"#,
        "$1 is in the target already: it is not empty, template1 has it, or the restore ran before",
        "give a fresh target made from template0; list what is always there (roles, the first database) in `expected_errors`"
    ),
    known!(
        "duplicate_key",
        ["23505"],
        r#"(?:could not create unique index|violates unique constraint) "([^"]+)""#,
        "rows are twice under $1: its index in the source is broken (often by a new collation of the system), or the target \
         had rows",
        "find them in the source with index scans switched off, mend them, REINDEX, then dump anew"
    ),
    known!(
        "broken_foreign_key",
        ["23503"],
        r#"violates foreign key constraint "([^"]+)""#,
        "rows lack what $1 refers to: its triggers were disabled in the source once, or rows are missing from the dump",
        "mend the rows in the source; a key that is NOT VALID there stays so"
    ),
    known!(
        "wrong_partition",
        ["23514"],
        r"no partition of relation|violates partition constraint",
        "a row belongs to another partition in the target: hashes of enums and text, and orders of collations, differ",
        "dump with --load-via-partition-root"
    ),
    known!(
        "broken_check",
        ["23514", "23502", "44000"],
        r#"violates (?:check|not-null) constraint(?: "([^"]+)")?"#,
        "a row breaks the constraint $1, which was made or changed without looking at the rows, or whose function does not \
         say the same any more",
        "mend the rows in the source, or make the constraint NOT VALID there"
    ),
    known!(
        "missing_relation",
        ["42P01", "3F000", "42703"],
        r#"(?:relation|schema|column) "?([^"]+?)"? .*does not exist|column (\S+) does not exist"#,
        "$1$2 is not there: what should have made it failed before, or the target's version has removed it from a catalog",
        "look at the first error of the restore, this one follows from it; for a catalog see the release notes"
    ),
    known!(
        "not_the_owner",
        ["42501"],
        r"must be owner of (.+)",
        "the role of the restore does not own $1",
        "restore as its owner or a superuser; for a comment on an extension, list the error in `expected_errors`"
    ),
    known!(
        "cannot_become",
        ["42501"],
        r#"must be (?:member of role|able to SET ROLE) "([^"]+)"|permission denied to set role "([^"]+)""#,
        "the role of the restore may not give an object to $1$2",
        "GRANT $1$2 TO it in the target, or use `filter: { no_owner: true }`"
    ),
    known!(
        "cannot_grant",
        ["42501", "0LP01"],
        r"grant|ADMIN option",
        "the grantor of the source has no right to grant this in the target",
        "give the grantor the role WITH ADMIN OPTION on the target first, or grant it there by hand"
    ),
    known!(
        "superuser_only",
        ["42501"],
        r"must be superuser|permission denied to (create|alter|set) (.+)|[Oo]nly roles with the",
        "only a superuser may do this, and the role of the restore is none",
        "let a superuser do it before, or take it out by `filter` (`drop_role_attributes` for roles)"
    ),
    known!(
        "no_right",
        ["42501"],
        r"permission denied for (.+)",
        "the role of the restore has no right on $1",
        "grant it in the target; for the schema public (closed to others since 15): GRANT CREATE ON SCHEMA public TO …"
    ),
    known!(
        "disk_full",
        ["53100"],
        r"",
        "the target's disk is full",
        "free space on the target's machine (WAL counts, too), then apply again: the restore goes on here"
    ),
    known!(
        "out_of_locks",
        ["53200"],
        r"out of shared memory",
        "the target has no room for more locks in one transaction",
        "ALTER SYSTEM SET max_locks_per_transaction = … in the target and restart it, then apply again"
    ),
    known!(
        "out_of_memory",
        ["53200"],
        r"out of memory",
        "the target's machine has no memory left for this statement",
        "lower maintenance_work_mem or `jobs`, or give the machine more memory"
    ),
    known!(
        "too_many_sessions",
        ["53300"],
        r"",
        "the target takes no more connections",
        "end idle sessions, raise max_connections, or lower `jobs`"
    ),
    known!(
        "timeout",
        ["57014", "55P03", "25P03", "25P04"],
        r"timeout",
        "a timeout ended the statement: another session holds a lock, or something set the timeout after the login",
        "find who holds the lock (pg_blocking_pids), or RESET the timeout of the role or the database"
    ),
    known!(
        "read_only",
        ["25006"],
        r"",
        "the target takes no writes: it is a standby, or default_transaction_read_only is on",
        "give the primary's address, or lift the setting"
    ),
    known!(
        "invalid_bytes",
        ["22021", "22P05"],
        r#"encoding "([^"]+)""#,
        "text of the dump is not valid in the encoding $1: the source is SQL_ASCII, or the encodings differ",
        "create the target's database with the source's encoding, or mend the rows in the source"
    ),
];
