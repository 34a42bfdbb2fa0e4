//! A sample of a database, such that every foreign key holds in it.
//!
//! Tables that no foreign key refers to (neither to them nor to a table they are a partition of) and that are not small
//! are thinned: of each a share of its pages is read, by `TABLESAMPLE SYSTEM` (PostgreSQL manual, SELECT). All other
//! tables are copied whole, so every row that a thinned table refers to is there. Both come from one snapshot.

use crate::{
    error::{ErrorKind, StepError},
    facts::DatabaseFacts,
    postgres::{
        ConnInfo, Session,
        connect::{connect, connect_read_only, execute},
        copy,
        quote::qualified,
        rows::{first, number, rows, text},
    },
    quantity::counted,
};

/// Tables below this size, bytes, are copied whole.
const SMALL: u64 = 1 << 20;

/// The tables that may be thinned, with their columns that hold values of their own.
const LEAVES: &str = "\
    WITH RECURSIVE referred AS ( \
      SELECT confrelid AS id FROM pg_catalog.pg_constraint WHERE contype = 'f' \
      UNION SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN referred r ON i.inhparent = r.id) \
    SELECT n.nspname, c.relname, pg_catalog.pg_table_size(c.oid), \
           (SELECT pg_catalog.string_agg(pg_catalog.quote_ident(attname), ', ' ORDER BY attnum) \
              FROM pg_catalog.pg_attribute a \
             WHERE a.attrelid = c.oid AND attnum > 0 AND NOT attisdropped AND attgenerated = '') \
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
     WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND n.nspname !~ '^pg_' \
       AND n.nspname NOT IN ('information_schema', 'pgplan') \
       AND c.oid NOT IN (SELECT id FROM referred) \
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e' \
                          AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass) \
     ORDER BY 1, 2";

/// A table that is thinned.
struct Leaf {
    schema: String,
    name: String,
    bytes: u64,
    columns: String,
}

/// A sample of one database, held in one snapshot.
pub(super) struct Sample {
    session: Session,
    snapshot: String,
    database: String,
    share: f64,
    leaves: Vec<Leaf>,
    tables: usize,
    bytes: u64,
}

impl Sample {
    /// Takes a snapshot and finds the tables to thin.
    ///
    /// # Errors
    /// What the server said.
    pub(super) async fn of(from: &ConnInfo, database: &DatabaseFacts, share: f64) -> Result<Self, StepError> {
        let session = connect_read_only(from, "pgplan-look sample").await?;
        execute(&session, "take a snapshot", "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY").await?;
        let snapshot = first(&session, "take a snapshot", "SELECT pg_catalog.pg_export_snapshot()").await?;
        let missing = || StepError::new(ErrorKind::Internal, format!("{} gave no snapshot", session.label()));
        let snapshot = snapshot.ok_or_else(missing)?;
        let mut leaves = Vec::new();
        for row in rows(&session, "find the tables to thin", LEAVES).await? {
            // A table that was dropped meanwhile has no size.
            let Some(bytes) = number(&row, 2) else { continue };
            if bytes >= SMALL && !text(&row, 3).is_empty() {
                let (schema, name) = (text(&row, 0).to_owned(), text(&row, 1).to_owned());
                leaves.push(Leaf { schema, name, bytes, columns: text(&row, 3).to_owned() });
            }
        }
        let tables = database.tables.iter().flatten().filter(|table| table.relkind == 'r');
        Ok(Self {
            session,
            snapshot,
            database: database.name.clone(),
            share,
            leaves,
            tables: tables.clone().count(),
            bytes: tables.map(|table| table.bytes).sum(),
        })
    }

    /// Returns what `pg_dump` is told: the snapshot, and whose rows it leaves out.
    pub(super) fn dump_options(&self) -> Vec<String> {
        let exact = |leaf: &Leaf| format!("--exclude-table-data={}", qualified(&leaf.schema, &leaf.name));
        std::iter::once(format!("--snapshot={}", self.snapshot)).chain(self.leaves.iter().map(exact)).collect()
    }

    /// Copies the thinned tables' rows; their triggers do not fire.
    ///
    /// # Errors
    /// What either server said.
    pub(super) async fn pipe(&self, to: &ConnInfo) -> Result<(), StepError> {
        let target = connect(to, "pgplan rehearsal").await?;
        execute(&target, "keep triggers from firing", "SET session_replication_role = replica").await?;
        for leaf in &self.leaves {
            let table = qualified(&leaf.schema, &leaf.name);
            let columns = &leaf.columns;
            let percent = self.share * 100.0;
            let out = format!("COPY (SELECT {columns} FROM ONLY {table} TABLESAMPLE SYSTEM ({percent})) TO STDOUT");
            copy::pipe(&self.session, &out, &target, &format!("COPY {table} ({columns}) FROM STDIN")).await?;
        }
        target.close().await;
        Ok(())
    }

    /// Returns the bytes of all tables.
    pub(super) fn bytes(&self) -> f64 {
        float(self.bytes)
    }

    /// Returns the bytes of what is copied, as far as sizes of tables tell.
    pub(super) fn kept_bytes(&self) -> f64 {
        let thinned: f64 = self.leaves.iter().map(|leaf| float(leaf.bytes)).sum();
        (self.bytes() - thinned * (1.0 - self.share)).max(0.0)
    }
}

impl Sample {
    /// Says what the sample is, for people; `None` when no table is thinned.
    pub(super) fn told(&self) -> Option<String> {
        let whole = self.tables.saturating_sub(self.leaves.len()) as u64;
        let share = self.kept_bytes() / self.bytes().max(1.0) * 100.0;
        (!self.leaves.is_empty()).then(|| {
            format!(
                "{}: {} with {} % of the pages each, {} whole (foreign keys refer to them, or they are smaller than 1 MiB), \
                 about {share:.0} % of the bytes",
                self.database,
                counted(self.leaves.len() as u64, "table"),
                self.share * 100.0,
                counted(whole, "table"),
            )
        })
    }
}

#[expect(clippy::cast_precision_loss, reason = "sizes are far below 2^52")]
fn float(number: u64) -> f64 {
    number as f64
}
