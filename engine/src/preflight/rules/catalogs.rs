//! System catalogs and views whose columns have gone, and who uses them.

use super::{ALL, RESTORED};
use crate::{
    postgres::quote::literal,
    preflight::rule::{Check, Pair, Pairs, Rule, Severity},
};

/// Columns of catalogs and of well-known views of extensions, and the version that no longer has them.
pub(crate) const GONE: &[(&str, &[&str], u32)] = &[
    ("pg_proc", &["proisagg", "proiswindow"], 11),
    ("pg_class", &["relhaspkey"], 11),
    ("pg_class", &["relhasoids"], 12),
    ("pg_attrdef", &["adsrc"], 12),
    ("pg_constraint", &["consrc"], 12),
    ("pg_proc", &["protransform"], 12),
    ("pg_stat_statements", &["total_time", "min_time", "max_time", "mean_time", "stddev_time"], 13),
    ("pg_stat_ssl", &["compression"], 14),
    ("pg_database", &["datlastsysoid"], 15),
    (
        "pg_stat_bgwriter",
        &[
            "checkpoints_timed",
            "checkpoints_req",
            "checkpoint_write_time",
            "checkpoint_sync_time",
            "buffers_checkpoint",
            "buffers_backend",
            "buffers_backend_fsync",
        ],
        17,
    ),
    ("pg_collation", &["colliculocale"], 17),
    ("pg_database", &["daticulocale"], 17),
    ("pg_stat_progress_vacuum", &["max_dead_tuples", "num_dead_tuples"], 17),
    ("pg_stat_statements", &["blk_read_time", "blk_write_time"], 17),
    ("pg_attribute", &["attcacheoff"], 18),
    ("pg_backend_memory_contexts", &["parent"], 18),
    ("pg_stat_io", &["op_bytes"], 18),
    ("pg_stat_wal", &["wal_write", "wal_sync", "wal_write_time", "wal_sync_time"], 18),
];

/// Returns the rows of [`GONE`] that are between source and target, as a VALUES list; `None` when there are none.
fn gone(pair: &Pair<'_>) -> Option<String> {
    let between = GONE.iter().filter(|(_, _, since)| pair.from() < *since && *since <= pair.to);
    let rows: Vec<String> = between
        .flat_map(|(relation, columns, since)| {
            columns.iter().map(move |column| format!("({}, {}, {since})", literal(relation), literal(column)))
        })
        .collect();
    (!rows.is_empty()).then(|| format!("gone(rel, col, since) AS (VALUES {})", rows.join(", ")))
}

fn views(pair: &Pair<'_>) -> String {
    let Some(gone) = gone(pair) else { return String::new() };
    // The rule's tree names the relation by its oid; the text names the column.
    format!(
        r"WITH {gone},
          uses AS (
            SELECT r.ev_class, g.rel, g.col, g.since
            FROM gone g
                 JOIN pg_class s ON s.relname = g.rel AND s.relkind IN ('r', 'v')
                 JOIN pg_attribute a ON a.attrelid = s.oid AND a.attname = g.col
                 JOIN pg_rewrite r ON r.oid >= 16384 AND r.ev_class <> s.oid
                                  AND r.ev_action::text LIKE '%:relid ' || s.oid || ' %')
          SELECT format(CASE c.relkind WHEN 'm' THEN 'materialized view %s' ELSE 'view %s' END, c.oid::regclass),
                 format('uses %s', string_agg(u.rel || '.' || u.col || ' (gone with ' || u.since || ')', ', ')), NULL
          FROM uses u JOIN pg_class c ON c.oid = u.ev_class JOIN pg_namespace n ON n.oid = c.relnamespace
          WHERE {} AND {} AND pg_get_viewdef(c.oid) ~ ('\y' || u.col || '\y')
          GROUP BY c.oid, c.relkind ORDER BY 1",
        own_schema!("n"),
        no_member!("pg_class", "c.oid"),
    )
}

fn functions(pair: &Pair<'_>) -> String {
    let Some(gone) = gone(pair) else { return String::new() };
    format!(
        r"WITH {gone}
          SELECT format('function %s', p.oid::regprocedure),
                 format('names %s', string_agg(g.rel || '.' || g.col || ' (gone with ' || g.since || ')', ', ')), NULL
          FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang,
               gone g
          WHERE l.lanname NOT IN ('c', 'internal') AND {} AND {}
            AND p.prosrc ~* ('\y' || g.rel || '\y') AND p.prosrc ~* ('\y' || g.col || '\y')
          GROUP BY p.oid ORDER BY 1",
        own_schema!("n"),
        no_member!("pg_proc", "p.oid"),
    )
}

pub(super) static RULES: &[Rule] = &[
    Rule {
        code: "catalog_columns_in_views",
        severity: Severity::Blocker,
        title: "views over columns of system catalogs that the target no longer has",
        pairs: Pairs::Any,
        methods: ALL,
        check: Check::Each(|pair| Ok(views(pair))),
        why: "CREATE VIEW fails in the target, and so does what stands upon the view",
        fix: "drop the view, and create it after the upgrade over the new columns",
        link: "https://www.postgresql.org/docs/current/release.html",
        untested: None,
    },
    Rule {
        code: "catalog_columns_in_functions",
        severity: Severity::Warning,
        title: "functions that name columns of system catalogs which the target no longer has",
        pairs: Pairs::Any,
        methods: ALL,
        check: Check::Each(|pair| Ok(functions(pair))),
        why: "the function is restored and fails when it is called",
        fix: "mend its body after the upgrade",
        link: "https://www.postgresql.org/docs/current/release.html",
        untested: None,
    },
    Rule {
        code: "objects_in_pg_catalog",
        severity: Severity::Warning,
        title: "objects that users made in pg_catalog or information_schema",
        pairs: Pairs::Any,
        methods: RESTORED,
        check: Check::Each(|_| {
            Ok(concat!(
                "SELECT format('relation %s', c.oid::regclass), NULL, NULL \
                 FROM pg_class c WHERE c.oid >= 16384 AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') \
                  AND c.relnamespace IN (SELECT oid FROM pg_namespace \
                                         WHERE nspname IN ('pg_catalog', 'information_schema')) AND ",
                no_member!("pg_class", "c.oid"),
                " UNION ALL SELECT format('function %s', p.oid::regprocedure), NULL, NULL \
                 FROM pg_proc p WHERE p.oid >= 16384 \
                  AND p.pronamespace IN (SELECT oid FROM pg_namespace \
                                         WHERE nspname IN ('pg_catalog', 'information_schema')) AND ",
                no_member!("pg_proc", "p.oid"),
                " AND NOT EXISTS (SELECT FROM pg_language l \
                                 WHERE p.oid IN (l.lanplcallfoid, l.laninline, l.lanvalidator)) ORDER BY 1"
            )
            .into())
        }),
        why: "a dump takes these schemas to be the server's and leaves such objects out",
        fix: "move them: ALTER … SET SCHEMA",
        link: "https://www.postgresql.org/docs/current/app-pgdump.html",
        untested: None,
    },
];
