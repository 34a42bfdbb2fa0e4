//! `verify`: proves that two servers hold the same.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Declarations, ExpandCx, Kind, declare::key};
use crate::{
    action::{Action, ActionGraph, Effect},
    error::{ErrorKind, StepError},
    facts::{DatabaseFacts, Depth, Facts, Look, ServerFacts, TableFacts},
    op::{
        Op,
        data::{Aspect, CompareClusters, CompareObjects, CompareRows, Comparison, JudgeComparison, Pair},
        fence::StillQuietOp,
    },
    pattern::any_matches,
    postgres::quote::on_one_line,
    receipt::SCHEMA as RECEIPTS,
};

/// Tables of at least this size are compared alone, bytes.
const BIG: u64 = 64 * 1024 * 1024;
/// How many small tables are compared together at most.
const BATCH: usize = 200;
/// The action that judges.
const VERDICT: &str = "verdict";

/// Compares two servers and fails when they differ: rows, sequences, large objects and catalogs.
///
/// The rows of every table are read on both sides at once, under the same settings, and their hashes are added up, so
/// neither the order of rows nor the server's version counts, and memory stays constant. Columns are matched by
/// name. Partitions are compared one by one; foreign tables and tables of extensions are not compared, materialized
/// views are, but a difference in one is a warning: a restore computes them anew. The schema `pgplan` is left out.
///
/// Every difference is named with both sides' values; the whole comparison is kept as JSON in the run's folder. What
/// differs legitimately between versions (the `public` schema's rights before and after 15, MAINTAIN from 17 on,
/// memberships that 16 makes itself, versions of extensions) is no difference.
///
/// When a `fence` around the left side stands, it is checked at the end that nothing has moved there since it was proved
/// quiet; privileges of the fenced databases and `default_transaction_read_only`, which are not as they will be, are
/// said when they differ, and do not count.
///
/// Outputs: `equal`, `tables` (a list, with both sides' numbers), `rows`, `bytes`, `objects`, `differences`, `report`
/// (the JSON file).
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Verify {
    /// The database of the plan that is held to be right.
    pub left: String,
    /// The database of the plan that is compared with it.
    pub right: String,
    /// Whether contents are compared, or only numbers of rows.
    #[serde(default)]
    pub mode: Mode,
    /// Which databases of the two servers: `all` that are no templates, or a list of names. Absent: when `left` and
    /// `right` name databases with different names, just that pair; else `all`.
    #[serde(default)]
    pub databases: Option<Databases>,
    /// Relations that are not compared: `schema.name`, where `*` and `?` stand for any characters and any one.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// Differences that are expected, by the object's name as the report shows it (`role aptible`, `table db:public.*`).
    #[serde(default)]
    pub ignore: Vec<String>,
    /// Whether the states of sequences are compared.
    #[serde(default = "yes")]
    pub sequences: bool,
    /// Whether large objects are compared.
    #[serde(default = "yes")]
    pub large_objects: bool,
    /// What of the catalogs is compared; absent = everything that both sides let the role see. `[]` = nothing, and
    /// then only relations that one side lacks are found.
    #[serde(default)]
    pub catalog: Option<Vec<Aspect>>,
    /// How many tables, or batches of small tables, are compared at once.
    #[serde(default)]
    pub jobs: Option<usize>,
}

/// How rows are compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// By number only.
    Counts,
    /// By content: every value of every row.
    #[default]
    Digest,
}

/// Which databases of a server.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Databases {
    /// `all`: every database that allows connections and is no template.
    Word(All),
    /// These.
    Names(Vec<String>),
}

/// The word `all`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum All {
    /// All of them.
    All,
}

fn yes() -> bool {
    true
}

impl Kind for Verify {
    const NAME: &'static str = "verify";
    const GROUP: &'static str = "look";
    const SUMMARY: &'static str = "Prove that two servers hold the same data and objects";
    const EXAMPLE: &'static str = "verify: { left: source, right: target, mode: digest, jobs: 2 }";

    fn check(&self, to: &mut Declarations) {
        to.reads(&self.left, "left");
        to.reads(&self.right, "right");
        if self.left == self.right {
            to.problem("same_side", key(["right"]), "a database is compared with itself", None);
        }
        if self.jobs == Some(0) {
            to.problem("no_jobs", key(["jobs"]), "`jobs` must be at least 1", None);
        }
        for name in ["equal", "tables", "rows", "bytes", "objects", "differences", "report"] {
            to.output(name, false);
        }
    }

    fn looks(&self, _cx: &ExpandCx<'_>) -> Result<Vec<Look>, StepError> {
        let look = |database: &str, depth| Look::Server { database: database.to_owned(), depth };
        Ok(vec![look(&self.left, Depth::AllTables), look(&self.right, Depth::Server)])
    }

    fn actions(&self, facts: &Facts, cx: &ExpandCx<'_>) -> Result<ActionGraph, StepError> {
        for side in [&self.left, &self.right] {
            if let Some(step) = facts.servers_known_after.get(side) {
                return Ok(ActionGraph::known_after(step));
            }
        }
        let (left, right) = (server(facts, &self.left)?, server(facts, &self.right)?);
        let mut list = List::default();
        let pairs = self.pairs(left, right);
        let whole = !matches!(self.databases, Some(Databases::Names(_))) && pairs.iter().all(|(l, r)| l == r);
        if whole || self.catalog.as_ref().is_some_and(|list| list.iter().any(|a| a.of_cluster())) {
            self.compare_clusters(whole, &mut list);
        }
        for (left_dbname, right_dbname) in pairs {
            let pair = Pair { left: self.left.clone(), left_dbname, right: self.right.clone(), right_dbname };
            match left.database(&pair.left_dbname) {
                Some(database) => self.compare_databases(&pair, database, &mut list),
                None if cx.dry_run => {
                    list.warn(format!("{} has no database {} yet", self.left, on_one_line(&pair.left_dbname)))
                }
                None => {
                    let message = format!("{} has no database {}", self.left, on_one_line(&pair.left_dbname));
                    return Err(StepError::new(ErrorKind::Object, message));
                }
            }
        }
        let graph = self.judge(list);
        self.prove(graph, cx)
    }
}

fn server<'a>(facts: &'a Facts, database: &str) -> Result<&'a ServerFacts, StepError> {
    let missing = || StepError::new(ErrorKind::Internal, format!("`{database}` was not looked at"));
    facts.servers.get(database).ok_or_else(missing)
}

#[derive(Default)]
struct List {
    comparisons: Vec<(Action, Comparison)>,
    ids: BTreeSet<String>,
    warnings: Vec<String>,
}

impl List {
    fn warn(&mut self, warning: String) {
        self.warnings.push(warning);
    }

    /// Adds a comparison; an id that hostile names made equal to another gets a number.
    fn add(&mut self, id: String, title: String, comparison: Comparison, (bytes, rows): (Option<u64>, Option<u64>)) {
        let mut unique = id.clone();
        let mut n = 2;
        while !self.ids.insert(unique.clone()) {
            unique = format!("{id}~{n}");
            n += 1;
        }
        let op = Op::Compare { comparison: comparison.clone() };
        self.comparisons.push((Action::new(unique, title, op, Effect::Restart).estimate(bytes, rows), comparison));
    }
}

impl Verify {
    fn aspects(&self) -> Vec<Aspect> {
        self.catalog.clone().unwrap_or_else(|| Aspect::ALL.to_vec())
    }

    fn pairs(&self, left: &ServerFacts, right: &ServerFacts) -> Vec<(String, String)> {
        match &self.databases {
            Some(Databases::Names(names)) => names.iter().map(|name| (name.clone(), name.clone())).collect(),
            None if left.dbname != right.dbname => vec![(left.dbname.clone(), right.dbname.clone())],
            _ => left.user_databases().map(|database| (database.name.clone(), database.name.clone())).collect(),
        }
    }

    fn compare_clusters(&self, same_databases: bool, list: &mut List) {
        let of_cluster = |aspect: &Aspect| aspect.of_cluster() || matches!(aspect, Aspect::Settings | Aspect::Comments);
        let aspects = self.aspects().into_iter().filter(of_cluster).collect();
        let (left, right) = (self.left.clone(), self.right.clone());
        let title = format!("compare databases, roles, memberships, passwords and settings of {left} and {right}");
        let op = CompareClusters { left, right, aspects, same_databases };
        list.add("cluster".to_owned(), title, Comparison::Clusters(op), (None, None));
    }

    fn compare_databases(&self, pair: &Pair, database: &DatabaseFacts, list: &mut List) {
        let shown = if pair.left_dbname == pair.right_dbname {
            on_one_line(&pair.left_dbname)
        } else {
            format!("{} and {}", on_one_line(&pair.left_dbname), on_one_line(&pair.right_dbname))
        };
        let mut aspects: Vec<Aspect> = self.aspects().into_iter().filter(|aspect| !aspect.of_cluster()).collect();
        if !aspects.contains(&Aspect::Objects) {
            aspects.insert(0, Aspect::Objects);
        }
        let op = CompareObjects {
            pair: pair.clone(),
            aspects,
            exclude: self.exclude.clone(),
            sequences: self.sequences,
            large_objects: self.large_objects,
        };
        let also = match (self.sequences, self.large_objects) {
            (true, true) => ", sequences and large objects",
            (true, false) => " and sequences",
            (false, true) => " and large objects",
            (false, false) => "",
        };
        let title = format!("compare the objects{also} of {shown}");
        list.add(format!("objects:{}", pair.left_dbname), title, Comparison::Objects(op), (None, None));
        let Some(tables) = &database.tables else {
            list.warn(format!("the tables of {shown} could not be listed; their rows are not compared"));
            return;
        };
        let mut batch = 0;
        for tables in batches(tables.iter().filter(|table| self.is_compared(table)).collect()) {
            let full = |table: &TableFacts| format!("{}.{}", table.schema, table.name);
            let id = if tables[0].bytes >= BIG {
                format!("rows:{}:{}", pair.left_dbname, full(tables[0]))
            } else {
                batch += 1;
                format!("rows:{}:batch {batch}", pair.left_dbname)
            };
            let what = if self.mode == Mode::Counts { "the number of rows" } else { "the rows" };
            let (first, last) = (on_one_line(&full(tables[0])), on_one_line(&full(tables[tables.len() - 1])));
            let title = match tables.len() {
                1 => format!("compare {what} of {first} in {shown}"),
                n => format!("compare {what} of {n} tables in {shown}: {first} … {last}"),
            };
            let bytes = tables.iter().map(|table| table.bytes).sum();
            let rows = tables.iter().map(|table| table.rows).sum();
            let op = CompareRows {
                pair: pair.clone(),
                tables: tables.iter().map(|table| (table.schema.clone(), table.name.clone())).collect(),
                contents: self.mode == Mode::Digest,
            };
            list.add(id, title, Comparison::Rows(op), (Some(bytes), rows));
        }
    }

    /// Partitioned tables have no rows but those of their partitions; pgplan's receipts are its own.
    fn is_compared(&self, table: &TableFacts) -> bool {
        table.relkind != 'p'
            && table.schema != RECEIPTS
            && !any_matches(&self.exclude, &format!("{}.{}", table.schema, table.name))
    }

    fn judge(&self, list: List) -> ActionGraph {
        let ids: Vec<String> = list.comparisons.iter().map(|(action, _)| action.id.clone()).collect();
        let (mut actions, comparisons): (Vec<Action>, Vec<Comparison>) = list.comparisons.into_iter().unzip();
        let op = JudgeComparison {
            comparisons: ids.iter().cloned().zip(comparisons).collect(),
            ignore: self.ignore.clone(),
        };
        let title = "judge what was found; compare once more what differs".to_owned();
        actions.push(Action::new(VERDICT, title, Op::JudgeComparison(op), Effect::Restart).after(ids));
        ActionGraph { jobs: self.jobs, warnings: list.warnings, ..ActionGraph::of(actions) }
    }
}

/// Returns the objects of a fenced database that are not as they will be: a dump may have taken the fence along or not.
fn marks_of_a_fence(database: &str) -> [String; 3] {
    let setting = "default_transaction_read_only";
    [
        format!("database {database}:"),
        format!("setting {database}:{setting}"),
        format!("setting of role {database}:* {setting}"),
    ]
}

impl Verify {
    /// Lets the comparison count only if a fence around the left side has held to its end.
    fn prove(&self, mut graph: ActionGraph, cx: &ExpandCx<'_>) -> Result<ActionGraph, StepError> {
        let Some(mut verdict) = graph.actions.pop() else { return Ok(graph) };
        let compared = verdict.after.clone();
        for (fence, quiet) in super::fence::proofs(&self.left, cx)? {
            let (id, title) = (format!("quiet:{fence}"), format!("check that nothing has moved since `{fence}`"));
            verdict.after.push(id.clone());
            if let Op::JudgeComparison(judge) = &mut verdict.op {
                judge.ignore.extend(quiet.databases.keys().flat_map(|name| marks_of_a_fence(name)));
            }
            let op = Op::StillQuiet(StillQuietOp { fence, quiet });
            graph.actions.push(Action::new(id, title, op, Effect::Restart).after(compared.clone()));
        }
        graph.actions.push(verdict);
        Ok(graph)
    }
}

/// Returns the tables in groups, the biggest alone and first, so that the last to end is a small one.
fn batches(mut tables: Vec<&TableFacts>) -> Vec<Vec<&TableFacts>> {
    let order = |table: &&TableFacts| (table.schema.clone(), table.name.clone());
    let (mut big, mut small): (Vec<_>, Vec<_>) = tables.drain(..).partition(|table| table.bytes >= BIG);
    big.sort_by_key(|table| (std::cmp::Reverse(table.bytes), order(table)));
    small.sort_by_key(order);
    let mut batches: Vec<Vec<&TableFacts>> = big.into_iter().map(|table| vec![table]).collect();
    let (mut open, mut bytes) = (Vec::new(), 0);
    for table in small {
        if !open.is_empty() && (open.len() == BATCH || bytes + table.bytes > BIG) {
            batches.push(std::mem::take(&mut open));
            bytes = 0;
        }
        bytes += table.bytes;
        open.push(table);
    }
    if !open.is_empty() {
        batches.push(open);
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::{BIG, batches};
    use crate::facts::TableFacts;

    #[test]
    fn big_tables_stand_alone_and_come_first() {
        let table = |name: &str, bytes| TableFacts { name: name.to_owned(), bytes, ..TableFacts::default() };
        let tables = [table("a", 10), table("big", BIG), table("b", BIG - 5), table("c", 1), table("bigger", BIG + 1)];
        let names: Vec<Vec<&str>> = batches(tables.iter().collect())
            .iter()
            .map(|batch| batch.iter().map(|table| table.name.as_str()).collect())
            .collect();
        assert_eq!(names, [vec!["bigger"], vec!["big"], vec!["a"], vec!["b", "c"]]);
    }
}
