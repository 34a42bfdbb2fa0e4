//! `vacuum`: statistics and dead rows, after a restore or an upgrade.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Declarations, ExpandCx, Kind, declare::key, verify::Databases};
use crate::{
    action::{Action, ActionGraph, Effect},
    error::{ErrorKind, StepError},
    facts::{Depth, Facts, Look, ServerFacts, TableFacts},
    op::{
        Op,
        data::{self, VacuumPart, VacuumTable},
    },
    postgres::quote::on_one_line,
    quantity::counted,
};

/// How large the tables of one action are together at most, bytes, unless it is one table.
const PACK_BYTES: u64 = 32 << 20;
/// How many tables one action takes at most.
const PACK_TABLES: usize = 50;

/// Vacuums and analyzes the databases of a server.
///
/// Each database is one action, in which its tables are taken one by one. With `jobs` greater than 1 each large table
/// is one action, the biggest of all databases first, small ones share some, and the server's own tables of a database are
/// one more; after an interruption only what is not done yet is done.
///
/// Partitioned tables get their own statistics too, after their partitions; `vacuumdb` leaves them out before version
/// 19. Tables that the role may not vacuum are left out, and counted in a warning. A table that is dropped meanwhile is
/// passed over.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Vacuum {
    /// The database of the plan whose server is meant.
    pub database: String,
    /// Whether statistics for the planner are gathered too.
    #[serde(default = "yes")]
    pub analyze: bool,
    /// Whether tables are rewritten (`VACUUM FULL`); each is locked meanwhile. The server's own catalogs are left out.
    #[serde(default)]
    pub full: bool,
    /// Whether rows are frozen.
    #[serde(default)]
    pub freeze: bool,
    /// Tables at once, each by a session of its own; from 2 on each table is one action.
    #[serde(default)]
    pub jobs: Option<usize>,
    /// Which databases of the server: `all` that allow connections and are no templates, or a list of names.
    #[serde(default = "all")]
    pub databases: Databases,
}

fn yes() -> bool {
    true
}

fn all() -> Databases {
    Databases::Word(super::verify::All::All)
}

impl Kind for Vacuum {
    const NAME: &'static str = "vacuum";
    const GROUP: &'static str = "data";
    const SUMMARY: &'static str = "Vacuum and analyze databases";
    const EXAMPLE: &'static str = "vacuum: { database: target, analyze: true, jobs: 2 }";

    fn check(&self, to: &mut Declarations) {
        to.changes(&self.database, "database");
        if self.jobs == Some(0) {
            to.problem("no_jobs", key(["jobs"]), "`jobs` must be at least 1", None);
        }
    }

    fn looks(&self, _cx: &ExpandCx<'_>) -> Result<Vec<Look>, StepError> {
        let depth = if self.by_table() { Depth::AllTables } else { Depth::Server };
        Ok(vec![Look::Server { database: self.database.clone(), depth }])
    }

    fn actions(&self, facts: &Facts, cx: &ExpandCx<'_>) -> Result<ActionGraph, StepError> {
        if let Some(step) = facts.servers_known_after.get(&self.database) {
            return Ok(ActionGraph::known_after(step));
        }
        let missing = || StepError::new(ErrorKind::Internal, format!("`{}` was not looked at", self.database));
        let server = facts.servers.get(&self.database).ok_or_else(missing)?;
        let names: Vec<String> = match &self.databases {
            Databases::Word(_) => server.user_databases().map(|database| database.name.clone()).collect(),
            Databases::Names(names) => names.clone(),
        };
        let mut list = List::default();
        if self.by_table() && cx.dry_run {
            list.warnings.push("tables that the steps before it make are listed when it begins".to_owned());
        }
        for dbname in names {
            let facts = server.database(&dbname);
            if facts.is_none() {
                let message = format!("{} has no database {}", self.database, on_one_line(&dbname));
                if !cx.dry_run {
                    return Err(StepError::new(ErrorKind::Object, message));
                }
                list.warnings.push(format!("{message} yet"));
            }
            match facts.and_then(|facts| facts.tables.as_ref()).filter(|_| self.by_table()) {
                Some(tables) => self.list_tables(&dbname, tables, server, &mut list),
                None => {
                    let bytes = facts.map(|facts| facts.bytes).filter(|bytes| *bytes > 0);
                    let action =
                        self.action(&on_one_line(&dbname), &dbname, VacuumPart::Database, self.analyze, &mut list.ids);
                    list.rest.push(action.estimate(bytes, None));
                }
            }
        }
        Ok(list.graph(self.jobs.unwrap_or(1)))
    }
}

/// What is to be done, as it comes up.
#[derive(Default)]
struct List {
    tables: Vec<Action>,
    /// With their depth in the hierarchy.
    parents: Vec<(usize, Action)>,
    rest: Vec<Action>,
    ids: BTreeSet<String>,
    warnings: Vec<String>,
}

impl List {
    /// Returns the actions: the biggest table first, so that the last to end is a small one.
    fn graph(mut self, jobs: usize) -> ActionGraph {
        self.tables.sort_by_key(|action| std::cmp::Reverse(action.estimate.bytes));
        self.parents.sort_by_key(|(depth, _)| std::cmp::Reverse(*depth));
        let mut actions = self.tables;
        actions.extend(self.parents.into_iter().map(|(_, action)| action));
        actions.extend(self.rest);
        ActionGraph { jobs: Some(jobs), warnings: self.warnings, ..ActionGraph::of(actions) }
    }
}

type Name<'a> = (&'a str, &'a str);

/// What the tables of one action have in common.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Group<'a> {
    /// Whether each is analyzed by itself.
    analyze: bool,
    /// The partitioned table whose statistics come after them.
    parent: Option<Name<'a>>,
}

/// Puts tables together, the biggest first, such that an action is neither long nor a matter of milliseconds: each that
/// is recorded costs about as much as the vacuum of a small table.
fn packed(mut tables: Vec<&TableFacts>) -> Vec<Vec<&TableFacts>> {
    tables.sort_by_key(|table| std::cmp::Reverse(table.bytes));
    let (mut packs, mut bytes): (Vec<Vec<&TableFacts>>, u64) = (Vec::new(), 0);
    for table in tables {
        match packs.last_mut().filter(|pack| bytes + table.bytes <= PACK_BYTES && pack.len() < PACK_TABLES) {
            Some(pack) => pack.push(table),
            None => {
                packs.push(vec![table]);
                bytes = 0;
            }
        }
        bytes += table.bytes;
    }
    packs
}

fn name(table: &TableFacts) -> Name<'_> {
    (&table.schema, &table.name)
}

/// Returns the partitioned tables above a table, the nearest first.
fn above<'a>(table: &'a TableFacts, tables: &BTreeMap<Name<'a>, &'a TableFacts>) -> Vec<&'a TableFacts> {
    let parent = |of: &&'a TableFacts| {
        let (schema, name) = of.parent.as_ref()?;
        tables.get(&(schema.as_str(), name.as_str())).copied()
    };
    std::iter::successors(parent(&table), parent).collect()
}

impl Vacuum {
    fn by_table(&self) -> bool {
        self.jobs.is_some_and(|jobs| jobs > 1)
    }

    /// Lists the tables of a database, its partitioned tables after their partitions, and its catalogs.
    fn list_tables(&self, dbname: &str, tables: &[TableFacts], server: &ServerFacts, list: &mut List) {
        let shown = on_one_line(dbname);
        let by_name: BTreeMap<Name<'_>, &TableFacts> = tables.iter().map(|table| (name(table), table)).collect();
        let mut partitions: BTreeMap<Name<'_>, Vec<String>> = BTreeMap::new();
        let mut groups: BTreeMap<Group<'_>, Vec<&TableFacts>> = BTreeMap::new();
        let mut parents = Vec::new();
        let mut left_out = 0;
        for table in tables.iter().filter(|table| table.relkind != 'f') {
            if !table.may_vacuum {
                left_out += 1;
                continue;
            }
            let mut above = above(table, &by_name);
            let depth = above.len();
            above.retain(|parent| parent.may_vacuum);
            // Before 18, ANALYZE of the topmost parent does all partitions below it; from then on each is done alone.
            let recursive = server.version_num < 180_000;
            let parent = if recursive { above.last() } else { above.first() };
            let with_parent = recursive && parent.is_some();
            let part = (table.schema.clone(), table.name.clone());
            let id = format!("{shown}/{}", on_one_line(&format!("{}.{}", part.0, part.1)));
            if table.relkind != 'p' {
                let group = Group {
                    analyze: self.analyze && !with_parent,
                    parent: parent.filter(|_| self.analyze).map(|parent| name(parent)),
                };
                groups.entry(group).or_default().push(table);
            } else if self.analyze && !with_parent {
                let part = VacuumPart::Partitioned { schema: part.0, name: part.1 };
                let action = self.action(&id, dbname, part, true, &mut list.ids);
                if let Some(parent) = parent {
                    partitions.entry(name(parent)).or_default().push(action.id.clone());
                }
                parents.push((name(table), depth, action));
            }
        }
        for (group, tables) in groups {
            for tables in packed(tables) {
                let action = self.tables(dbname, &tables, group.analyze, &mut list.ids);
                if let Some(parent) = group.parent {
                    partitions.entry(parent).or_default().push(action.id.clone());
                }
                list.tables.push(action);
            }
        }
        if left_out > 0 {
            let (tables, are) = (counted(left_out, "table"), if left_out == 1 { "is" } else { "are" });
            list.warnings.push(format!("{tables} of {shown} {are} left out: {} may not vacuum", server.user));
        }
        list.parents.extend(
            parents
                .into_iter()
                .map(|(name, depth, action)| (depth, action.after(partitions.remove(&name).into_iter().flatten()))),
        );
        let id = format!("{shown}/pg_catalog");
        list.rest.push(self.action(&id, dbname, VacuumPart::Catalogs, self.analyze, &mut list.ids));
    }

    /// Returns the action for tables of a group.
    fn tables(&self, dbname: &str, tables: &[&TableFacts], analyze: bool, ids: &mut BTreeSet<String>) -> Action {
        let first = on_one_line(&format!("{}.{}", tables[0].schema, tables[0].name));
        let more = match tables.len() {
            1 => String::new(),
            count => format!(" and {} more", count - 1),
        };
        let table = |table: &&TableFacts| VacuumTable {
            schema: table.schema.clone(),
            name: table.name.clone(),
            bytes: table.bytes,
        };
        let part = VacuumPart::Tables(tables.iter().map(table).collect());
        let action = self.action(&format!("{}/{first}{more}", on_one_line(dbname)), dbname, part, analyze, ids);
        let rows = tables.iter().map(|table| table.rows).sum();
        action.estimate(Some(tables.iter().map(|table| table.bytes).sum()), rows)
    }

    /// Returns an action; an id that hostile names made equal to another gets a number.
    fn action(&self, id: &str, dbname: &str, part: VacuumPart, analyze: bool, ids: &mut BTreeSet<String>) -> Action {
        let mut unique = id.to_owned();
        let mut n = 2;
        while !ids.insert(unique.clone()) {
            unique = format!("{id}~{n}");
            n += 1;
        }
        let op = data::Vacuum {
            database: self.database.clone(),
            dbname: dbname.to_owned(),
            part,
            analyze,
            full: self.full,
            freeze: self.freeze,
        };
        Action::new(unique, title(&op), Op::Vacuum(op), Effect::Restart)
    }
}

fn title(op: &data::Vacuum) -> String {
    let mut title = if op.full { "vacuum full" } else { "vacuum" }.to_owned();
    if op.freeze {
        title.push_str(", freeze");
    }
    if op.analyze {
        title.push_str(" and analyze");
    }
    if matches!(op.part, VacuumPart::Partitioned { .. }) {
        "analyze".clone_into(&mut title);
    }
    let what = match &op.part {
        VacuumPart::Database => String::new(),
        VacuumPart::Tables(tables) => match tables.as_slice() {
            [first, .., last] => format!("{} tables, {} … {}, in ", tables.len(), shown(first), shown(last)),
            one => one.iter().map(|table| format!("{} in ", shown(table))).collect(),
        },
        VacuumPart::Partitioned { schema, name } => format!("{} in ", on_one_line(&format!("{schema}.{name}"))),
        VacuumPart::Catalogs => "the server's own tables in ".to_owned(),
    };
    format!("{title} {what}{} on {}", on_one_line(&op.dbname), op.database)
}

fn shown(table: &VacuumTable) -> String {
    on_one_line(&format!("{}.{}", table.schema, table.name))
}

#[cfg(test)]
mod tests {
    use super::{Depth, Facts, Look, ServerFacts, TableFacts, Vacuum};
    use crate::{facts::DatabaseFacts, kinds::testing::Expand};

    fn facts(version_num: u32, exists: bool) -> Facts {
        let table = |name: &str, relkind, bytes, parent: Option<&str>| TableFacts {
            schema: "s".to_owned(),
            name: name.to_owned(),
            relkind,
            bytes,
            is_partition: parent.is_some(),
            parent: parent.map(|parent| ("s".to_owned(), parent.to_owned())),
            may_vacuum: name != "foreign",
            ..TableFacts::default()
        };
        let tables = vec![
            table("a\nb", 'r', 5, None),
            table("a\\nb", 'r', 1, None),
            table("foreign", 'r', 1, None),
            table("p", 'p', 0, None),
            table("p1", 'r', 9, Some("p")),
            table("p2", 'p', 0, Some("p")),
            table("p21", 'r', 7, Some("p2")),
            table("remote", 'f', 0, Some("p2")),
        ];
        let database = DatabaseFacts {
            name: "db".to_owned(),
            bytes: 100,
            allows_connections: true,
            tables: Some(tables),
            ..DatabaseFacts::default()
        };
        let databases = if exists { vec![database] } else { Vec::new() };
        let server = ServerFacts { version_num, user: "app".to_owned(), databases, ..ServerFacts::default() };
        Facts { servers: [("x".to_owned(), server)].into(), ..Facts::default() }
    }

    fn listed(facts: Facts, body: &str) -> Vec<String> {
        let graph = Expand::facts(facts).kind::<Vacuum>(body).unwrap_or_else(|error| panic!("{error}"));
        let line = |action: &crate::action::Action| match action.after.as_slice() {
            [] => format!("{}: {}", action.id, action.title),
            after => format!("{}: {} after {}", action.id, action.title, after.join(" ")),
        };
        graph.actions.iter().map(line).chain(graph.warnings.iter().map(|text| format!("! {text}"))).collect()
    }

    #[test]
    fn tables_are_actions_when_there_are_sessions_for_them() {
        let warning = "! 1 table of db is left out: app may not vacuum";
        let catalogs = "db/pg_catalog: vacuum and analyze the server's own tables in db on x".to_owned();
        let before_18 = [
            "db/s.p1 and 1 more: vacuum 2 tables, s.p1 … s.p21, in db on x".to_owned(),
            "db/s.a\\nb and 1 more: vacuum and analyze 2 tables, s.a\\nb … s.a\\nb, in db on x".to_owned(),
            "db/s.p: analyze s.p in db on x after db/s.p1 and 1 more".to_owned(),
            catalogs.clone(),
            warning.to_owned(),
        ];
        assert_eq!(listed(facts(150_000, true), "{ database: x, jobs: 2 }"), before_18);
        let since_18 = [
            "db/s.p1: vacuum and analyze s.p1 in db on x".to_owned(),
            "db/s.p21: vacuum and analyze s.p21 in db on x".to_owned(),
            "db/s.a\\nb and 1 more: vacuum and analyze 2 tables, s.a\\nb … s.a\\nb, in db on x".to_owned(),
            "db/s.p2: analyze s.p2 in db on x after db/s.p21".to_owned(),
            "db/s.p: analyze s.p in db on x after db/s.p2 db/s.p1".to_owned(),
            catalogs,
            warning.to_owned(),
        ];
        assert_eq!(listed(facts(180_000, true), "{ database: x, jobs: 2 }"), since_18);

        let plain = listed(facts(180_000, true), "{ database: x, jobs: 2, analyze: false, freeze: true }");
        assert_eq!(
            plain[0], "db/s.p1 and 3 more: vacuum, freeze 4 tables, s.p1 … s.a\\nb, in db on x",
            "without ANALYZE it does not matter what belongs to what"
        );
        assert!(!plain.iter().any(|line| line.contains("s.p:") || line.contains("analyze")), "{plain:?}");
    }

    #[test]
    fn large_tables_are_actions_of_their_own_and_small_ones_share_some() {
        let table = |bytes| TableFacts { bytes, ..TableFacts::default() };
        let mut tables: Vec<TableFacts> = (0..120).map(|_| table(8192)).collect();
        tables.extend([table(super::PACK_BYTES + 1), table(super::PACK_BYTES / 2), table(super::PACK_BYTES / 2)]);
        let packs: Vec<usize> = super::packed(tables.iter().collect()).iter().map(Vec::len).collect();
        assert_eq!(packs, [1, 2, 50, 50, 20]);
    }

    #[test]
    fn a_partition_is_analyzed_by_itself_when_its_parents_belong_to_others() {
        let mut facts = facts(150_000, true);
        let tables = facts.servers.get_mut("x").and_then(|server| server.databases[0].tables.as_mut()).unwrap();
        tables[3].may_vacuum = false;
        let listed = listed(facts, "{ database: x, jobs: 2 }");
        assert_eq!(listed[0], "db/s.p1 and 2 more: vacuum and analyze 3 tables, s.p1 … s.a\\nb, in db on x");
        assert_eq!(listed[1], "db/s.p21: vacuum s.p21 in db on x");
        assert_eq!(listed[2], "db/s.p2: analyze s.p2 in db on x after db/s.p21");
    }

    #[test]
    fn with_one_session_each_database_is_an_action() {
        let one = ["db: vacuum and analyze db on x"];
        for body in ["{ database: x }", "{ database: x, jobs: 1 }"] {
            assert_eq!(listed(facts(180_000, true), body), one);
        }
        let looks = |body: &str| match Expand::default().looks::<Vacuum>(body).as_deref() {
            Ok([Look::Server { depth, .. }]) => *depth,
            other => panic!("{other:?}"),
        };
        assert_eq!(looks("{ database: x }"), Depth::Server);
        assert_eq!(looks("{ database: x, jobs: 2 }"), Depth::AllTables);
    }

    #[test]
    fn a_database_that_is_not_there_yet_is_one_action_of_a_dry_run() {
        let body = "{ database: x, jobs: 2, databases: [new] }";
        let graph = Expand { dry_run: true, ..Expand::facts(facts(180_000, false)) }.kind::<Vacuum>(body).unwrap();
        let ids: Vec<&str> = graph.actions.iter().map(|action| action.id.as_str()).collect();
        assert_eq!(ids, ["new"]);
        assert_eq!(graph.warnings.last().map(String::as_str), Some("x has no database new yet"));
        Expand::facts(facts(180_000, false)).kind::<Vacuum>(body).expect_err("an apply needs it");
    }
}
