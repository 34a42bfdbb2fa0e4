//! What a server counts: rows changed, values of sequences, transaction ids, its log of changes.

use std::collections::BTreeMap;

use crate::{
    error::{ErrorKind, StepError},
    op::fence::{Counters, Quiet},
    perform::PerformCx,
    postgres::{
        Session,
        quote::qualified,
        rows::{count, count_in, first, flag, rows, text},
    },
};

/// The counters of a server at a moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Sample {
    /// As they are kept.
    pub(super) quiet: Quiet,
    /// Rows changed in each table, by database and table; one shared by all databases stands under no database.
    pub(super) tables: BTreeMap<(String, String), u64>,
    /// Databases in which nothing is counted.
    pub(super) uncounted: Vec<String>,
}

/// Reads the counters of a server and of these databases. It uses no transaction id itself.
pub(super) async fn sample(
    database: &str,
    names: &[&str],
    cx: &PerformCx,
    session: &Session,
) -> Result<Sample, StepError> {
    let mut sample = Sample::default();
    for name in names {
        let inside = cx.connect_read_only(database, Some(name)).await?;
        let counted = counters(name, &inside, &mut sample).await;
        inside.close().await;
        sample.quiet.databases.insert((*name).to_owned(), counted?);
    }
    let shared = sample.tables.iter().filter(|((database, _), _)| database.is_empty());
    sample.quiet.shared = shared.map(|(_, changes)| changes).sum();
    let lsn = match session.server_version_num() {
        0..100_000 => "pg_catalog.pg_current_xlog_insert_location()",
        _ => "pg_catalog.pg_current_wal_insert_lsn()",
    };
    let sql = format!(
        "SELECT {lsn}, pg_catalog.txid_snapshot_xmax(pg_catalog.txid_current_snapshot()), \
                to_char(pg_catalog.clock_timestamp(), 'YYYY-MM-DD HH24:MI:SS.MS TZHTZM')"
    );
    let doing = "read the server's counters";
    for row in rows(session, doing, &sql).await? {
        sample.quiet.lsn = text(&row, 0).to_owned();
        sample.quiet.xid = count_in(session, doing, &row, 1)?;
        sample.quiet.at = text(&row, 2).to_owned();
    }
    sample.quiet.database = database.to_owned();
    Ok(sample)
}

async fn counters(name: &str, session: &Session, sample: &mut Sample) -> Result<Counters, StepError> {
    let doing = "count the changed rows";
    // What ANALYZE writes is no change; what VACUUM changes in pg_class it changes in place, which is not counted.
    let sql = "SELECT s.schemaname, s.relname, c.relisshared, s.n_tup_ins + s.n_tup_upd + s.n_tup_del \
               FROM pg_catalog.pg_stat_all_tables s JOIN pg_catalog.pg_class c ON c.oid = s.relid \
               WHERE c.relpersistence <> 't' AND s.n_tup_ins + s.n_tup_upd + s.n_tup_del > 0 AND NOT EXISTS \
                 (SELECT FROM pg_catalog.pg_class p JOIN pg_catalog.pg_namespace n ON n.oid = p.relnamespace \
                  WHERE n.nspname = 'pg_catalog' AND p.relname IN ('pg_statistic', 'pg_statistic_ext_data') \
                    AND c.oid IN (p.oid, p.reltoastrelid))";
    let mut changes = 0;
    for row in rows(session, doing, sql).await? {
        let (shared, changed) = (flag(&row, 2), count_in(session, doing, &row, 3)?);
        let database = if shared { "" } else { name };
        if !shared {
            changes += changed;
        }
        sample.tables.insert((database.to_owned(), qualified(text(&row, 0), text(&row, 1))), changed);
    }
    let own = sample.tables.iter().filter(|((database, _), _)| database == name);
    let mut tables = blake3::Hasher::new();
    for ((_, table), changed) in own {
        tables.update(format!("{table}={changed}\0").as_bytes());
    }
    let tables = tables.finalize().to_hex()[..32].to_owned();
    let sql = "SELECT coalesce(sum(vacuum_count + autovacuum_count + analyze_count + autoanalyze_count), 0) \
               FROM pg_catalog.pg_stat_all_tables";
    let maintained = count(session, doing, sql).await?;
    let mut sequences = String::new();
    if session.server_version_num() >= 100_000 {
        // NULL where the role may not read it.
        let sql = "SELECT pg_catalog.md5(coalesce(string_agg(pg_catalog.format('%I.%I=%s', schemaname, sequencename, \
                     last_value), ',' ORDER BY schemaname, sequencename), '')) FROM pg_catalog.pg_sequences";
        let doing = "read the sequences";
        sequences = first(session, doing, sql).await?.ok_or_else(|| {
            StepError::new(ErrorKind::Internal, format!("{}: cannot {doing}: there is no answer", session.label()))
        })?;
    }
    if first(session, doing, "SELECT pg_catalog.current_setting('track_counts')").await?.as_deref() != Some("on") {
        sample.uncounted.push(name.to_owned());
    }
    Ok(Counters { changes, tables, sequences, maintained })
}
