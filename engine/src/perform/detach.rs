//! Cutting a database off from other servers, as a copy must be: what it says to them would reach the real ones.

use crate::{
    error::StepError,
    postgres::{
        Session,
        connect::execute,
        quote::{ident, literal},
        rows::{rows, text},
    },
};

/// An address at which nobody listens.
const NOWHERE: &str = "host=127.0.0.1 port=1 dbname=nowhere";

/// Takes publisher and slot away from the subscriptions of a session's database; returns their names. One without a slot
/// can neither be enabled nor touches its publisher when it is dropped (PostgreSQL manual, 29.2).
///
/// # Errors
/// What the server said.
pub async fn subscriptions(session: &Session) -> Result<Vec<String>, StepError> {
    if session.server_version_num() < 100_000 {
        return Ok(Vec::new());
    }
    let sql = "SELECT subname FROM pg_catalog.pg_subscription \
               WHERE subdbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()) ORDER BY 1";
    let found = rows(session, "list the subscriptions", sql).await?;
    let names: Vec<String> = found.iter().map(|row| text(row, 0).to_owned()).collect();
    for name in &names {
        let alter = format!("ALTER SUBSCRIPTION {}", ident(name));
        for how in ["DISABLE", "SET (slot_name = NONE)", &format!("CONNECTION {}", literal(NOWHERE))] {
            execute(session, "cut a subscription off", &format!("{alter} {how}")).await?;
        }
    }
    Ok(names)
}

/// Drops the user mappings of a session's database, without which no foreign server takes a connection; returns the
/// names of the servers.
///
/// # Errors
/// What the server said.
pub async fn user_mappings(session: &Session) -> Result<Vec<String>, StepError> {
    let sql = "SELECT srvname, CASE WHEN umuser <> 0 THEN pg_catalog.pg_get_userbyid(umuser) END \
               FROM pg_catalog.pg_user_mappings ORDER BY 1, 2";
    let mut servers = Vec::new();
    for row in rows(session, "list the user mappings", sql).await? {
        let role = row.get(1).map_or_else(|| "PUBLIC".to_owned(), ident);
        let drop = format!("DROP USER MAPPING FOR {role} SERVER {}", ident(text(&row, 0)));
        execute(session, "drop a user mapping", &drop).await?;
        servers.push(text(&row, 0).to_owned());
    }
    servers.dedup();
    Ok(servers)
}
