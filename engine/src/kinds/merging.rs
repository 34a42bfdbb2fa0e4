//! What `merge_shards` and `merge_databases` have in common: their options, and the actions that follow from a look.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Declarations, ExpandCx, declare::key};
use crate::{
    action::{Action, ActionGraph, Effect},
    error::{ErrorKind, StepError},
    facts::{Depth, Facts, Look, MergeFacts},
    merge::{Conflict, Existing, Finding, Keys, Method, Place, Selection, Severity, Spec, TableLayout, Tolerated},
    op::{
        Op,
        merge::{EmptyTables, FillTable, FillTables, MapKeys, ProveMerge},
    },
    postgres::quote::{literal, on_one_line, qualified},
    quantity::{Size, counted},
    secret::Text,
};

/// The action that proves the merge.
const PROVE: &str = "prove";
/// Tables larger than this are moved source by source, bytes.
const LARGE: u64 = 1 << 30;
/// How many findings are written out.
const TOLD: usize = 40;
/// How many sources of one finding are named.
const NAMED: usize = 8;

/// Where the rows go.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Into {
    /// The database of the plan.
    pub database: String,
    /// The schema.
    #[serde(default = "public")]
    pub schema: String,
}

pub(super) fn public() -> String {
    "public".to_owned()
}

/// Keys that several sources have, told apart.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeysBody {
    /// How: `offset` adds a number of each source's own, `new_id` gives every row the next value of the target's default.
    pub method: Method,
    /// Tables whose primary keys change; absent = every table whose primary key is one column of its own. Foreign keys
    /// that lead to a changed key change with it.
    #[serde(default)]
    pub tables: Vec<String>,
    /// With `offset`: the distance between the keys of two sources; absent = the next power of ten above every key.
    #[serde(default)]
    pub step: Option<u64>,
    /// Columns that refer to a changed key without a foreign key: `table.column` → table.
    #[serde(default)]
    pub references: BTreeMap<String, String>,
}

/// What is done when all has been proved.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Complete {
    /// SQL that marks the merge as complete; it runs in the transaction of the last check.
    pub run: Statements,
    /// A query that gives true when it is marked already; then `run` does not run.
    #[serde(default)]
    pub unless: Option<Text>,
    /// SQL that takes the mark back when the merge is undone; without it the merge cannot be undone.
    #[serde(default)]
    pub undo: Option<Statements>,
}

/// One statement or several.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Statements {
    /// One text.
    One(Text),
    /// Several, run in order.
    Several(Vec<Text>),
}

impl Statements {
    fn texts(&self) -> Vec<Text> {
        match self {
            Self::One(text) => vec![text.clone()],
            Self::Several(texts) => texts.clone(),
        }
    }
}

/// Options for one table of the target.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TableOptions {
    /// What becomes of rows with the same key, in this table.
    pub on_conflict: Conflict,
}

/// A merge as a kind describes it.
pub(super) struct Merging<'a> {
    pub(super) from: Selection,
    pub(super) into: &'a Into,
    pub(super) skip: &'a [String],
    pub(super) on_conflict: Conflict,
    pub(super) tables: &'a BTreeMap<String, TableOptions>,
    pub(super) existing_rows: Existing,
    pub(super) triggers: bool,
    pub(super) keys: Option<&'a KeysBody>,
    pub(super) provenance: Option<&'a String>,
    pub(super) allow: &'a BTreeSet<Tolerated>,
    pub(super) jobs: Option<usize>,
    pub(super) split_above: Option<&'a Size>,
    pub(super) complete: Option<&'a Complete>,
}

impl Merging<'_> {
    /// Declares what every merge uses, gives and must not say.
    pub(super) fn check(&self, to: &mut Declarations) {
        to.databases.push((self.into.database.clone(), key(["into", "database"]), super::Use::Changes));
        if self.jobs == Some(0) {
            to.problem("no_jobs", key(["jobs"]), "`jobs` must be at least 1", None);
        }
        if let Some(keys) = self.keys {
            if keys.step == Some(0) {
                to.problem("merge_keys", key(["keys", "step"]), "`step` must be at least 1", None);
            }
            if keys.step.is_some() && keys.method == Method::NewId {
                to.problem("merge_keys", key(["keys", "step"]), "`step` belongs to `method: offset`", None);
            }
            for reference in keys.references.keys().filter(|reference| !reference.contains('.')) {
                let message = format!("`{reference}` is no `table.column`");
                to.problem(
                    "merge_keys",
                    key(["keys", "references", reference]),
                    message,
                    Some("write `notes.customer_id: customers`"),
                );
            }
            if keys.method == Method::NewId
                && self.existing_rows == Existing::Keep
                && self.complete.is_none_or(|c| c.unless.is_none())
            {
                let message = "run twice, `new_id` beside existing rows merges every row twice";
                let help = "give the step a `done_if`, or `complete` with `unless`";
                to.warning("merge_keys", key(["existing_rows"]), message, Some(help));
            }
        }
        for name in ["tables", "rows", "sequences", "marked"] {
            to.output(name, false);
        }
        // Each table's counts stand under its name.
        to.open_outputs = true;
    }

    fn spec(&self) -> Spec {
        let keys = self.keys.map(|keys| Keys {
            method: keys.method,
            tables: keys.tables.clone(),
            step: keys.step,
            references: keys.references.clone(),
        });
        Spec {
            from: self.from.clone(),
            into: self.place(),
            skip: self.skip.to_vec(),
            on_conflict: self.on_conflict,
            conflicts: self.tables.iter().map(|(name, options)| (name.clone(), options.on_conflict)).collect(),
            existing_rows: self.existing_rows,
            triggers: self.triggers,
            keys,
            provenance: self.provenance.cloned(),
            allow: self.allow.clone(),
        }
    }

    fn place(&self) -> Place {
        Place { database: self.into.database.clone(), schema: self.into.schema.clone() }
    }

    pub(super) fn looks(&self) -> Vec<Look> {
        let spec = self.spec();
        let mut databases = spec.read_databases();
        if !databases.contains(&spec.into.database) {
            databases.push(spec.into.database.clone());
        }
        let server = |database| Look::Server { database, depth: Depth::Server };
        let mut looks: Vec<Look> = databases.into_iter().map(server).collect();
        looks.push(Look::Merge(Box::new(spec)));
        looks
    }

    pub(super) fn actions(&self, facts: &Facts, cx: &ExpandCx<'_>) -> Result<ActionGraph, StepError> {
        let Some(merge) = &facts.merge else {
            let after = facts.servers_known_after.values().next().cloned().unwrap_or_default();
            return Ok(ActionGraph::known_after(after));
        };
        let mut findings: Vec<&Finding> = merge.layout.findings.iter().chain(&merge.findings).collect();
        findings.sort();
        let mut graph = ActionGraph { jobs: Some(self.jobs.unwrap_or(2)), ..ActionGraph::default() };
        graph.notes = counts(merge);
        graph.details = serde_json::json!({
            "sources": merge.sources,
            "left_out": merge.look_alikes,
            "untouched": merge.layout.untouched,
            "rows": merge.rows,
            "held": merge.held,
            "findings": findings,
        });
        if findings.iter().any(|finding| finding.severity == Severity::Blocks) {
            return Err(refusal(&findings, &graph.notes, cx.dry_run));
        }
        graph.warnings.extend(findings.iter().map(|finding| told(finding)));
        if merge.merged_already {
            graph
                .notes
                .push("the target holds just these rows already: nothing is moved, all is proved again".to_owned());
            graph.actions.push(self.prove(merge, Vec::new()));
            return Ok(graph);
        }
        self.moves(merge, &mut graph);
        Ok(graph)
    }

    /// Lists what moves rows, and the proof.
    fn moves(&self, merge: &MergeFacts, graph: &mut ActionGraph) {
        let total = |table: &TableLayout| merge.rows.get(&table.name).map_or(0, |rows| rows.values().sum::<u64>());
        for table in merge.layout.tables() {
            let Some((column, next)) = new_key(table, &self.into.schema) else { continue };
            let rows = total(table);
            let title = format!("give new keys to {} of {}", counted(rows, "row"), on_one_line(&table.name));
            let op =
                MapKeys { into: self.place(), table: table.name.clone(), column, next, parts: table.parts.clone() };
            let id = format!("keys/{}", table.name);
            graph.actions.push(Action::new(id, title, Op::MapKeys(op), Effect::Transaction).estimate(None, Some(rows)));
        }
        for group in &merge.layout.groups {
            let names: BTreeSet<&str> = group.iter().map(|table| table.name.as_str()).collect();
            let after = self.before(graph, group, &names);
            let bytes: u64 = group.iter().map(|table| table.parts.iter().map(|part| part.bytes).sum::<u64>()).sum();
            let deferred = deferred(group, &self.into.schema);
            let limit = self.split_above.map_or(LARGE, |size| size.0);
            let whole = FillTables {
                into: self.place(),
                tables: group.iter().map(|table| self.fill(table)).collect(),
                triggers: self.triggers,
                deferred,
            };
            let split =
                bytes > limit && group.len() == 1 && whole.deferred.is_empty() && whole.tables[0].parts.len() > 1;
            if split {
                self.split(graph, merge, &group[0], whole, after);
                continue;
            }
            let id = id_of(&names);
            let rows: u64 = group.iter().map(total).sum();
            let sources = group.iter().map(|table| table.parts.len()).max().unwrap_or(0);
            let title = format!(
                "merge {} from {} into {}",
                counted(rows, "row"),
                counted(sources as u64, "source"),
                names.iter().map(|name| on_one_line(name)).collect::<Vec<_>>().join(", ")
            );
            let mut action = Action::new(&id, title, Op::FillTables(whole), Effect::Transaction)
                .after(after)
                .estimate(Some(bytes), Some(rows));
            if self.can_be_undone() {
                action = action.undo(self.empty(&id, group.iter().map(|table| put_in(table, merge)).collect()));
            }
            graph.actions.push(action);
        }
        let all: Vec<String> = graph.actions.iter().map(|action| action.id.clone()).collect();
        graph.actions.push(self.prove(merge, all));
    }

    /// Returns the actions that must be over before a group is filled: the tables that it refers to, and new keys.
    fn before(&self, graph: &ActionGraph, group: &[TableLayout], names: &BTreeSet<&str>) -> Vec<String> {
        let keys = group.iter().flat_map(|table| &table.relation.foreign_keys);
        let parents: BTreeSet<&str> =
            keys.map(|key| key.to_table.as_str()).filter(|name| !names.contains(name)).collect();
        let maps: BTreeSet<&str> = group
            .iter()
            .flat_map(|table| table.parts.iter().flat_map(|part| &part.filled))
            .filter_map(|filled| filled.mapped.as_deref())
            .collect();
        let wanted = |action: &&Action| match &action.op {
            Op::MapKeys(op) => maps.contains(op.table.as_str()),
            Op::FillTables(op) => op.tables.iter().any(|table| parents.contains(table.name.as_str())),
            _ => false,
        };
        graph.actions.iter().filter(wanted).map(|action| action.id.clone()).collect()
    }

    /// Moves a large table source by source; one after the other, so that the first row of a key stays.
    fn split(
        &self,
        graph: &mut ActionGraph,
        merge: &MergeFacts,
        table: &TableLayout,
        whole: FillTables,
        after: Vec<String>,
    ) {
        let mut after = after;
        for (number, part) in table.parts.iter().enumerate() {
            let id = format!("{}/{}", id_of(&BTreeSet::from([table.name.as_str()])), part.label);
            let rows = merge.rows.get(&table.name).and_then(|rows| rows.get(&part.label)).copied().unwrap_or(0);
            let title = format!(
                "merge {} from {} into {}",
                counted(rows, "row"),
                on_one_line(&part.label),
                on_one_line(&table.name)
            );
            let mut one = whole.clone();
            one.tables.iter_mut().for_each(|table| table.parts = vec![part.clone()]);
            let mut action = Action::new(&id, title, Op::FillTables(one), Effect::Transaction)
                .after(std::mem::take(&mut after))
                .estimate(Some(part.bytes), Some(rows));
            if self.can_be_undone() {
                // Undone last, the first part empties the table of all of them.
                let tables = if number == 0 { vec![put_in(table, merge)] } else { Vec::new() };
                action = action.undo(self.empty(&id, tables));
            }
            after.push(id);
            graph.actions.push(action);
        }
    }

    fn fill(&self, table: &TableLayout) -> FillTable {
        let mapped = table.parts.iter().flat_map(|part| &part.filled);
        let mapped = mapped.filter_map(|filled| Some((filled.column.clone(), filled.mapped.clone()?)));
        FillTable {
            name: table.name.clone(),
            columns: table.common.clone(),
            mapped: mapped.collect(),
            parts: table.parts.clone(),
            conflict: table.conflict,
            key: table.relation.primary_key().map(<[String]>::to_vec).unwrap_or_default(),
            overriding: table.overrides_identity(),
            triggers: if self.triggers { Vec::new() } else { table.relation.triggers.clone() },
            rules: if self.triggers { Vec::new() } else { table.relation.rules.clone() },
        }
    }

    fn prove(&self, merge: &MergeFacts, after: Vec<String>) -> Action {
        let tables: Vec<FillTable> = merge.layout.tables().map(|table| self.fill(table)).collect();
        let keys = merge
            .layout
            .tables()
            .flat_map(|table| table.relation.foreign_keys.iter().map(|key| (table.name.clone(), key.clone())));
        let merged: BTreeSet<&str> = tables.iter().map(|table| table.name.as_str()).collect();
        let own = merge
            .sequences
            .iter()
            .filter(|sequence| sequence.feeds.as_ref().is_none_or(|(table, _)| merged.contains(table.as_str())));
        let rows: u64 = merge.rows.values().flat_map(BTreeMap::values).sum();
        let op = ProveMerge {
            into: self.place(),
            foreign_keys: keys.collect(),
            sequences: own.cloned().collect(),
            by_another_run: merge.merged_already,
            complete: self.complete.map(|complete| complete.run.texts()).unwrap_or_default(),
            unless: self.complete.and_then(|complete| complete.unless.clone()),
            tables,
        };
        let mark = if self.complete.is_some() { ", mark it as complete" } else { "" };
        let title = format!(
            "prove that {} in {} are those of the sources, check {}, advance {}{mark}",
            counted(rows, "row"),
            counted(op.tables.len() as u64, "table"),
            counted(op.foreign_keys.len() as u64, "foreign key"),
            counted(op.sequences.len() as u64, "sequence"),
        );
        let mut action =
            Action::new(PROVE, title, Op::ProveMerge(op), Effect::Transaction).after(after).estimate(None, Some(rows));
        if let Some(undo) = self.complete.and_then(|complete| complete.undo.as_ref()) {
            let op = EmptyTables { into: self.place(), tables: Vec::new(), first: undo.texts(), own: PROVE.to_owned() };
            action = action.undo(Op::EmptyTables(op));
        }
        action
    }

    /// Returns whether the target can be emptied again: it was empty, and its mark can be taken back.
    fn can_be_undone(&self) -> bool {
        self.existing_rows == Existing::Refuse && self.complete.is_none_or(|complete| complete.undo.is_some())
    }

    fn empty(&self, own: &str, tables: Vec<(String, Option<u64>)>) -> Op {
        Op::EmptyTables(EmptyTables { into: self.place(), tables, first: Vec::new(), own: own.to_owned() })
    }
}

/// Returns a table with how many rows the merge puts in, unless rows with the same key are left out.
fn put_in(table: &TableLayout, merge: &MergeFacts) -> (String, Option<u64>) {
    let rows = merge.rows.get(&table.name).map_or(0, |rows| rows.values().sum());
    (table.name.clone(), (table.conflict == Conflict::Fail).then_some(rows))
}

fn id_of(names: &BTreeSet<&str>) -> String {
    format!("table/{}", names.iter().copied().collect::<Vec<_>>().join("+"))
}

/// Returns the key of a table that gets new values, and the expression that gives them.
fn new_key(table: &TableLayout, schema: &str) -> Option<(String, String)> {
    let column = table.relation.column(table.own_new_key.as_deref()?)?;
    let next = match &column.default {
        Some(default) => default.clone(),
        None => format!(
            "pg_catalog.nextval(pg_catalog.pg_get_serial_sequence({}, {})::pg_catalog.regclass)",
            literal(&qualified(schema, &table.name)),
            literal(&column.name)
        ),
    };
    Some((column.name.clone(), next))
}

/// Returns the foreign keys that lead around in a circle inside a group.
fn deferred(group: &[TableLayout], schema: &str) -> Vec<(String, String, bool)> {
    let keys = group.iter().flat_map(|table| table.circular(group, schema).into_iter().map(move |key| (table, key)));
    keys.map(|(table, key)| (table.name.clone(), key.name.clone(), key.deferrable)).collect()
}

/// Returns what a reader wants to know of the sources: rows by table.
fn counts(merge: &MergeFacts) -> Vec<String> {
    let mut lines = vec![format!("{}: {}", counted(merge.sources.len() as u64, "source"), shortened(&merge.sources))];
    if !merge.look_alikes.is_empty() {
        lines.push(format!("left out, not named by the plan: {}", shortened(&merge.look_alikes)));
    }
    if let Some(step) = merge.step {
        lines.push(format!("keys: each source's are {step} further than those of the one before"));
    }
    for table in merge.layout.tables() {
        let Some(rows) = merge.rows.get(&table.name) else { continue };
        let total: u64 = rows.values().sum();
        let full: Vec<(&String, &u64)> = rows.iter().filter(|(_, rows)| **rows > 0).collect();
        let mut line = format!("{}: {}", on_one_line(&table.name), counted(total, "row"));
        if full.len() <= NAMED {
            let each = table.parts.iter().filter_map(|part| Some((&part.label, rows.get(&part.label)?)));
            let each =
                each.filter(|(_, rows)| **rows > 0).map(|(label, rows)| format!("{} {rows}", on_one_line(label)));
            line.push_str(&format!(" ({})", each.collect::<Vec<_>>().join(", ")));
        } else if let Some((label, most)) = full.iter().max_by_key(|(_, rows)| **rows) {
            line.push_str(&format!(" in {} sources (most: {} {most})", full.len(), on_one_line(label)));
        }
        if let Some(held) = merge.held.get(&table.name) {
            line.push_str(&format!(", the target holds {held}"));
        }
        lines.push(line);
    }
    if !merge.layout.untouched.is_empty() {
        lines.push(format!("left as they are in the target: {}", shortened(&merge.layout.untouched)));
    }
    lines
}

/// Returns a finding as one line.
fn told(finding: &Finding) -> String {
    let table = if finding.table.is_empty() { String::new() } else { format!("{}: ", on_one_line(&finding.table)) };
    if finding.sources.is_empty() {
        return format!("{table}{}", finding.message);
    }
    format!("{table}{} [{}]", finding.message, shortened(&finding.sources))
}

/// Names a few and counts the rest.
fn shortened(names: &[String]) -> String {
    let shown = names.iter().take(NAMED).map(|name| on_one_line(name)).collect::<Vec<_>>().join(", ");
    match names.len().checked_sub(NAMED).filter(|more| *more > 0) {
        Some(more) => format!("{shown} and {more} more"),
        None => shown,
    }
}

fn refusal(findings: &[&Finding], counts: &[String], dry_run: bool) -> StepError {
    let blocks: Vec<&&Finding> = findings.iter().filter(|finding| finding.severity == Severity::Blocks).collect();
    let message = match blocks.len() {
        1 => "the merge is refused for one reason".to_owned(),
        n => format!("the merge is refused for {n} reasons"),
    };
    let mut error = StepError::new(ErrorKind::Verification, message);
    for finding in blocks.iter().take(TOLD) {
        error = error.detail(told(finding));
    }
    if let Some(more) = blocks.len().checked_sub(TOLD).filter(|more| *more > 0) {
        error = error.detail(format!("… and {more} more; `--format json` has all"));
    }
    for finding in findings.iter().filter(|finding| finding.severity == Severity::Notes).take(TOLD) {
        error = error.detail(format!("note: {}", told(finding)));
    }
    if dry_run {
        error = counts.iter().fold(error, |error, line| error.detail(format!("seen: {line}")));
    }
    error.help("nothing was changed; mend the sources or say in the plan what is to be done about each")
}
