//! The order of tables: a table after those it refers to, and tables that refer to each other together.

use std::collections::BTreeMap;

use petgraph::{algo::tarjan_scc, graph::DiGraph};

use super::catalog::Catalog;

/// Returns the tables in groups: each group after those that its foreign keys lead to. A group of several tables is a
/// circle of foreign keys. Tables that nothing orders are in the order of `names`.
pub(super) fn groups(names: &[String], target: &Catalog, schema: &str) -> Vec<Vec<String>> {
    let mut graph = DiGraph::<&str, ()>::new();
    let nodes: BTreeMap<&str, _> = names.iter().map(|name| (name.as_str(), graph.add_node(name))).collect();
    for (name, node) in &nodes {
        for key in target.tables.get(*name).map(|table| table.foreign_keys.as_slice()).unwrap_or_default() {
            if let Some(parent) = nodes.get(key.to_table.as_str()).filter(|_| key.to_schema == schema) {
                graph.update_edge(*node, *parent, ());
            }
        }
    }
    // Tarjan's algorithm ends a component after those that its edges lead to.
    let components = tarjan_scc(&graph).into_iter();
    let named = components.map(|component| {
        let mut group: Vec<String> = component.into_iter().map(|node| graph[node].to_owned()).collect();
        group.sort();
        group
    });
    named.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merge::catalog::{ForeignKey, Relation};

    fn catalog(references: &[(&str, &[&str])]) -> Catalog {
        let key =
            |to: &&str| ForeignKey { to_schema: "public".to_owned(), to_table: (*to).to_owned(), ..Default::default() };
        let table = |(name, to): &(&str, &[&str])| {
            ((*name).to_owned(), Relation { foreign_keys: to.iter().map(key).collect(), ..Relation::default() })
        };
        Catalog { exists: true, tables: references.iter().map(table).collect(), ..Catalog::default() }
    }

    #[test]
    fn parents_come_first_and_circles_stay_together() {
        let catalog = catalog(&[("a", &["c"]), ("b", &["a", "b"]), ("c", &[]), ("x", &["y"]), ("y", &["x", "c"])]);
        let names: Vec<String> = catalog.tables.keys().cloned().collect();
        let groups = groups(&names, &catalog, "public");
        assert_eq!(groups, [vec!["c"], vec!["a"], vec!["b"], vec!["x", "y"]]);
    }
}
