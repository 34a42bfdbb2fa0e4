//! Errors of pg_dump and pg_dumpall, which print what the source says without its SQLSTATE.

use super::{Known, errors::known};

/// Every known error of a dump.
pub const DUMPING: &[Known] = &[
    known!(
        "dump_row_security",
        [],
        r#"query would be affected by row-level security policy for table "([^"]+)""#,
        "policies hide rows of $1 from the role, and pg_dump refuses a dump without them",
        "dump as a superuser or the tables' owner, or let a superuser say ALTER ROLE … BYPASSRLS"
    ),
    known!(
        "dump_no_right",
        [],
        r"permission denied for (.+)",
        "the role may not read $1, and a dump reads everything",
        "GRANT pg_read_all_data TO … (since 14; large objects need GRANT SELECT each), or dump as a superuser"
    ),
    known!(
        "dump_timeout",
        [],
        r"canceling statement due to (statement|lock) timeout",
        "a $1 timeout of the role or the database ended the dump",
        "find who holds a lock (pg_blocking_pids), or RESET the timeout: pg_dump turns its own off, others set it again"
    ),
    known!(
        "dump_of_standby",
        [],
        r"canceling statement due to conflict with recovery",
        "the source is a standby, and what the primary did could not wait for the dump",
        "set hot_standby_feedback = on there, raise max_standby_streaming_delay, or dump from the primary"
    ),
    known!(
        "dump_out_of_locks",
        [],
        r"out of shared memory",
        "the source has no room for the locks of a dump, which takes one on every table",
        "ALTER SYSTEM SET max_locks_per_transaction = … in the source and restart it"
    ),
    known!(
        "dump_too_many_sessions",
        [],
        r"too many clients|remaining connection slots|too many connections",
        "the source takes no more connections",
        "end idle sessions, raise max_connections, or lower `jobs`"
    ),
    known!(
        "dump_damaged_data",
        [],
        r"missing chunk number|unexpected chunk (?:number|size)|invalid page in block|could not read blocks?|invalid memory alloc request size|compressed .* data is corrupt",
        "rows of the source are damaged and cannot be read",
        "copy its data folder before anything else, look with pg_amcheck, and restore what is damaged from a backup"
    ),
    known!(
        "dump_invalid_bytes",
        [],
        r#"invalid byte sequence for encoding "([^"]+)"|character with byte sequence .+ in encoding "([^"]+)""#,
        "text of the source is not valid in $1$2",
        "mend the rows (their table is named above), or dump as it lies there: args: [--encoding=SQL_ASCII]"
    ),
    known!(
        "dump_by_older_client",
        [],
        r"server version mismatch",
        "the client programs are older than the source",
        "install the client programs of the source's version or newer; PGPLAN_PG_BIN names their folder"
    ),
];
