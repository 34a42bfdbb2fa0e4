//! One look at a server, through a session in which every transaction is read-only.
//!
//! The number of queries per database is constant: eight for the server, one for each database whose tables are wanted.
//! What the role may not ask is left out, not an error. Nothing here waits long for a lock: a table that another
//! session holds exclusively shows the size that the last VACUUM or ANALYZE recorded.

pub mod merge;

use std::collections::BTreeMap;

use tokio_postgres::SimpleQueryRow;

use crate::{
    error::{ErrorKind, StepError},
    facts::{DatabaseFacts, Defaults, Depth, ServerFacts, TableFacts},
    op::fence::Grant,
    postgres::{
        ConnInfo, Session,
        connect::{connect_read_only, execute},
        quote::literal,
        rows::{flag, number, rows, text},
    },
};

/// How a survey's sessions are called in `pg_stat_activity`.
pub const APPLICATION_NAME: &str = "pgplan-look survey";

/// Databases that are asked when the one of the plan does not exist (yet).
pub const MAINTENANCE: [&str; 2] = ["postgres", "template1"];

/// Settings whose values are facts, where the server knows them and the role may see them.
const SETTINGS: &[&str] = &[
    "archive_mode",
    "block_size",
    "data_checksums",
    "data_directory",
    "default_transaction_read_only",
    "hot_standby",
    "idle_in_transaction_session_timeout",
    "idle_replication_slot_timeout",
    "integer_datetimes",
    "lc_collate",
    "lc_ctype",
    "listen_addresses",
    "lock_timeout",
    "max_connections",
    "max_locks_per_transaction",
    "max_logical_replication_workers",
    "max_parallel_maintenance_workers",
    "max_prepared_transactions",
    "max_replication_slots",
    "max_slot_wal_keep_size",
    "max_wal_senders",
    "max_worker_processes",
    "output_plugin_libraries",
    "password_encryption",
    "port",
    "server_encoding",
    "shared_preload_libraries",
    "standard_conforming_strings",
    "statement_timeout",
    "superuser_reserved_connections",
    "TimeZone",
    "transaction_timeout",
    "wal_level",
];

/// Looks at a server, as far as `depth` says.
///
/// When the database that `conninfo` names does not exist, the look goes through `postgres` or `template1`, and
/// [`ServerFacts::dbname_exists`] is false. Besides the server's own settings, `settings` holds `in_recovery` and
/// `transaction_read_only`: what a session of this role gets, not what this read-only session has.
///
/// # Errors
/// The server cannot be reached, or a query that every role may ask failed.
pub async fn server(conninfo: &ConnInfo, depth: Depth) -> Result<ServerFacts, StepError> {
    let session = connect_anywhere(conninfo).await?;
    let looked = look(&session, conninfo).await;
    session.close().await;
    let mut facts = looked?;
    let wanted: Vec<usize> = (0..facts.databases.len())
        .filter(|at| {
            let database = &facts.databases[*at];
            let open = !database.is_template && database.allows_connections;
            match depth {
                Depth::Server => false,
                Depth::Tables => database.name == facts.dbname && database.allows_connections,
                Depth::AllTables => open || database.name == facts.dbname && database.allows_connections,
            }
        })
        .collect();
    for at in wanted {
        let named = facts.databases[at].name == facts.dbname;
        match tables_of(&conninfo.with_dbname(&facts.databases[at].name), facts.version_num).await {
            Ok(tables) => facts.databases[at].tables = Some(tables),
            Err(error) if named || !may_not_enter(&error) => return Err(error),
            Err(_) => {}
        }
    }
    Ok(facts)
}

/// Connects read-only to the database, or to a maintenance database when it does not exist.
///
/// # Errors
/// As for [`connect_read_only`].
pub(crate) async fn connect_anywhere(conninfo: &ConnInfo) -> Result<Session, StepError> {
    let missing = |error: &StepError| error.sqlstate.as_deref() == Some("3D000");
    let mut result = connect(conninfo).await;
    for dbname in MAINTENANCE {
        match &result {
            Err(error) if missing(error) && conninfo.dbname != dbname => {
                result = connect(&conninfo.with_dbname(dbname)).await;
            }
            Err(error) if missing(error) => {}
            _ => break,
        }
    }
    result
}

/// Connects read-only; a role's `search_path` can put nothing in front of the server's own functions.
async fn connect(conninfo: &ConnInfo) -> Result<Session, StepError> {
    let session = connect_read_only(conninfo, APPLICATION_NAME).await?;
    execute(&session, "prepare the survey", "SET search_path = pg_catalog").await?;
    Ok(session)
}

/// Returns whether a database refused the role: no CONNECT right, no line in `pg_hba.conf`.
pub(crate) fn may_not_enter(error: &StepError) -> bool {
    error.sqlstate.as_deref().is_some_and(|code| code == "42501" || code.starts_with("28"))
}

async fn look(session: &Session, conninfo: &ConnInfo) -> Result<ServerFacts, StepError> {
    let version_num = session.server_version_num();
    let mut facts =
        ServerFacts { version_num, label: conninfo.label(), dbname: conninfo.dbname.clone(), ..ServerFacts::default() };
    let general = "SELECT current_setting('server_version'), current_user, rolsuper, pg_is_in_recovery() \
                   FROM pg_catalog.pg_roles WHERE rolname = current_user";
    for row in rows(session, "ask for the server's version", general).await? {
        facts.version = text(&row, 0).to_owned();
        facts.user = text(&row, 1).to_owned();
        facts.superuser = flag(&row, 2);
        facts.settings.insert("in_recovery".to_owned(), if flag(&row, 3) { "on" } else { "off" }.to_owned());
    }
    facts.system_identifier = system_identifier(session).await?;
    facts.settings.append(&mut settings(session).await?);
    let read_only = ["in_recovery", "default_transaction_read_only"]
        .iter()
        .any(|name| facts.settings.get(*name).is_some_and(|value| value == "on"));
    facts.settings.insert("transaction_read_only".to_owned(), if read_only { "on" } else { "off" }.to_owned());
    let roles = rows(session, "list the roles", "SELECT rolname FROM pg_catalog.pg_roles ORDER BY 1").await?;
    facts.roles = roles.iter().map(|row| text(row, 0).to_owned()).collect();
    facts.databases = databases(session).await?;
    for (name, grant) in connect_grants(session).await? {
        let database = facts.databases.iter_mut().find(|database| database.name == name);
        database.into_iter().for_each(|database| database.connect.push(grant.clone()));
    }
    facts.defaults = defaults(session).await?;
    facts.dbname_exists = facts.database(&facts.dbname).is_some();
    facts.sessions = sessions(session).await?;
    Ok(facts)
}

/// Asks for the cluster's own number (PostgreSQL manual, 9.28.11), if the role may.
async fn system_identifier(session: &Session) -> Result<Option<u64>, StepError> {
    if session.server_version_num() < 90_600 {
        return Ok(None);
    }
    let doing = "ask for the system identifier";
    let may = "SELECT has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE')";
    if !rows(session, doing, may).await?.first().is_some_and(|row| flag(row, 0)) {
        return Ok(None);
    }
    let found = rows(session, doing, "SELECT system_identifier FROM pg_catalog.pg_control_system()").await?;
    // The catalog shows the unsigned number as a signed one.
    let signed: Option<i64> = found.first().and_then(|row| text(row, 0).parse().ok());
    Ok(signed.map(i64::cast_unsigned))
}

/// Reads settings as they were when the session began: this session has changed some for itself.
async fn settings(session: &Session) -> Result<BTreeMap<String, String>, StepError> {
    let names: Vec<String> = SETTINGS.iter().map(|name| literal(name)).collect();
    let sql = format!(
        "SELECT name, coalesce(reset_val, setting) FROM pg_catalog.pg_settings WHERE name IN ({})",
        names.join(", ")
    );
    let found = rows(session, "read the settings", &sql).await?;
    Ok(found.iter().map(|row| (text(row, 0).to_owned(), text(row, 1).to_owned())).collect())
}

async fn databases(session: &Session) -> Result<Vec<DatabaseFacts>, StepError> {
    // A database whose creation or removal was cut (connection limit -2, 15.4 and later) takes no connections.
    let sql = "SELECT datname, pg_catalog.pg_get_userbyid(datdba), datistemplate, \
                      datallowconn AND datconnlimit <> -2, pg_catalog.pg_encoding_to_char(encoding), \
                      CASE WHEN (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) \
                                OR pg_catalog.has_database_privilege(oid, 'CONNECT') \
                           THEN pg_catalog.pg_database_size(oid) ELSE 0 END, datacl::text, datconnlimit \
               FROM pg_catalog.pg_database ORDER BY 1";
    let doing = "list the databases";
    let found = rows(session, doing, sql).await?;
    let limit = |row| {
        text(row, 7).parse().map_err(|_| {
            let message = format!("{}: cannot {doing}: {} is no connection limit", session.label(), text(row, 7));
            StepError::new(ErrorKind::Internal, message)
        })
    };
    let database = |row| {
        Ok(DatabaseFacts {
            name: text(row, 0).to_owned(),
            owner: text(row, 1).to_owned(),
            is_template: flag(row, 2),
            allows_connections: flag(row, 3),
            encoding: text(row, 4).to_owned(),
            bytes: number(row, 5).unwrap_or_default(),
            acl: row.get(6).map(str::to_owned),
            connect: Vec::new(),
            connection_limit: limit(row)?,
            tables: None,
        })
    };
    found.iter().map(database).collect()
}

/// Lists who may connect to which database, also by default privileges (PostgreSQL manual, 5.8).
///
/// # Errors
/// What the server said.
pub(crate) async fn connect_grants(session: &Session) -> Result<Vec<(String, Grant)>, StepError> {
    let sql = "SELECT d.datname, pg_catalog.pg_get_userbyid(a.grantor), \
                      CASE WHEN a.grantee <> 0 THEN pg_catalog.pg_get_userbyid(a.grantee) END, a.is_grantable \
               FROM pg_catalog.pg_database d, \
                    pg_catalog.aclexplode(coalesce(d.datacl, pg_catalog.acldefault('d', d.datdba))) a \
               WHERE a.privilege_type = 'CONNECT' ORDER BY 1, 2, 3 NULLS FIRST, 4";
    let found = rows(session, "list who may connect", sql).await?;
    let grant = |row: &SimpleQueryRow| Grant {
        grantor: text(row, 1).to_owned(),
        grantee: row.get(2).map(str::to_owned),
        grantable: flag(row, 3),
    };
    Ok(found.iter().map(|row| (text(row, 0).to_owned(), grant(row))).collect())
}

/// Lists which roles and databases say whether sessions write by default.
///
/// # Errors
/// What the server said.
pub(crate) async fn defaults(session: &Session) -> Result<Vec<Defaults>, StepError> {
    let sql = "SELECT d.datname, CASE WHEN s.setrole <> 0 THEN pg_catalog.pg_get_userbyid(s.setrole) END, \
                      substr(c, strpos(c, '=') + 1) \
               FROM pg_catalog.pg_db_role_setting s LEFT JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase, \
                    unnest(s.setconfig) c \
               WHERE c LIKE 'default\\_transaction\\_read\\_only=%' ORDER BY 1 NULLS FIRST, 2 NULLS FIRST";
    let found = rows(session, "list the settings of roles and databases", sql).await?;
    let of = |row: &SimpleQueryRow| Defaults {
        database: row.get(0).map(str::to_owned),
        role: row.get(1).map(str::to_owned),
        read_only: row.get(2).map(str::to_owned),
    };
    Ok(found.iter().map(of).collect())
}

/// Lists the client sessions of others: `database role application address`.
async fn sessions(session: &Session) -> Result<Vec<String>, StepError> {
    let clients = if session.server_version_num() >= 100_000 {
        "(backend_type IS NULL OR backend_type = 'client backend')"
    } else {
        "true"
    };
    let sql = format!(
        "SELECT datname, usename, coalesce(nullif(application_name, ''), '-'), \
                coalesce(host(client_addr), 'local') \
         FROM pg_catalog.pg_stat_activity \
         WHERE pid <> pg_catalog.pg_backend_pid() AND datname IS NOT NULL AND {clients} \
           AND application_name NOT LIKE 'pgplan%' ORDER BY 1, 2, 3, 4"
    );
    let found = rows(session, "list the sessions", &sql).await?;
    let line = |row| format!("{} {} {} {}", text(row, 0), text(row, 1), text(row, 2), text(row, 3));
    Ok(found.iter().map(line).collect())
}

async fn tables_of(conninfo: &ConnInfo, version_num: u32) -> Result<Vec<TableFacts>, StepError> {
    let session = connect(conninfo).await?;
    let found = tables(&session, version_num).await;
    session.close().await;
    found
}

async fn tables(session: &Session, version_num: u32) -> Result<Vec<TableFacts>, StepError> {
    let doing = format!("list the tables of {}", session.label());
    execute(session, &doing, "SET lock_timeout = '2s'").await?;
    let exact = rows(session, &doing, &tables_sql(version_num, "pg_catalog.pg_total_relation_size(c.oid)")).await;
    let found = match exact {
        Err(error) if error.sqlstate.as_deref() == Some("55P03") => {
            let recorded = "c.relpages::bigint * current_setting('block_size')::bigint";
            rows(session, &doing, &tables_sql(version_num, recorded)).await?
        }
        other => other?,
    };
    let table = |row| TableFacts {
        schema: text(row, 0).to_owned(),
        name: text(row, 1).to_owned(),
        relkind: text(row, 2).chars().next().unwrap_or('r'),
        is_partition: flag(row, 3),
        bytes: number(row, 4).unwrap_or_default(),
        rows: number(row, 5),
        options: row.get(6).map(|names| names.split(',').map(str::to_owned).collect()).unwrap_or_default(),
        parent: row.get(7).zip(row.get(8)).map(|(schema, name)| (schema.to_owned(), name.to_owned())),
        may_vacuum: flag(row, 9),
    };
    Ok(found.iter().map(table).collect())
}

/// Returns the query for everything that holds rows and is not the server's own.
fn tables_sql(version_num: u32, size: &str) -> String {
    let partition = if version_num >= 100_000 { "c.relispartition" } else { "false" };
    // Until 13, a table that was never analyzed cannot be told from an empty one.
    let rows = "CASE WHEN c.reltuples < 0 OR c.reltuples = 0 AND c.relpages = 0 THEN NULL \
                ELSE c.reltuples::bigint END";
    let may_vacuum = may_vacuum(version_num);
    format!(
        "SELECT n.nspname, c.relname, c.relkind, {partition}, \
                CASE WHEN c.relkind IN ('r', 'm') THEN {size} ELSE 0 END, {rows}, \
                (SELECT string_agg(DISTINCT split_part(o, '=', 1), ',' ORDER BY split_part(o, '=', 1)) \
                 FROM (SELECT unnest(c.reloptions) UNION ALL \
                       SELECT unnest(a.attoptions) FROM pg_catalog.pg_attribute a \
                       WHERE a.attrelid = c.oid AND a.attoptions IS NOT NULL AND NOT a.attisdropped) used(o)), \
                pn.nspname, p.relname, {may_vacuum} \
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
              LEFT JOIN pg_catalog.pg_inherits i ON {partition} AND i.inhrelid = c.oid \
              LEFT JOIN pg_catalog.pg_class p ON p.oid = i.inhparent \
              LEFT JOIN pg_catalog.pg_namespace pn ON pn.oid = p.relnamespace \
         WHERE c.relkind IN ('r', 'p', 'm', 'f') AND c.relpersistence <> 't' \
           AND n.nspname NOT IN ('information_schema', 'pgplan') AND n.nspname !~ '^pg_' ORDER BY 1, 2"
    )
}

/// Returns the condition that the role may vacuum and analyze the relation `c`: the server only warns where it may not.
pub(crate) fn may_vacuum(version_num: u32) -> String {
    let maintain = if version_num >= 170_000 { "OR pg_catalog.has_table_privilege(c.oid, 'MAINTAIN')" } else { "" };
    format!(
        "(pg_catalog.pg_has_role(c.relowner, 'USAGE') {maintain} OR NOT c.relisshared AND \
         (SELECT pg_catalog.pg_has_role(datdba, 'USAGE') FROM pg_catalog.pg_database \
          WHERE datname = pg_catalog.current_database()))"
    )
}
