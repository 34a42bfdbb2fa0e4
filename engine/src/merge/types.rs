//! Whether a value of one column fits into another.

use super::catalog::Column;
use crate::postgres::quote::{ident, qualified};

/// How a value gets from a source's column into the target's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fit {
    /// As it is.
    Same,
    /// As it is: every value of the source's type is one of the target's.
    Wider,
    /// Through this expression: the types are two of the same name, one in each schema.
    Cast(String),
    /// Not without the plan's own expression.
    No(String),
}

/// Returns how values of `from`, in the schema `source`, fit into `to`, in the schema `target`; `together` says whether
/// both are in one database. Another database does not know the target's types: its values travel as text.
pub(super) fn fit(from: &Column, source: &str, to: &Column, target: &str, together: bool) -> Fit {
    let twins = from.type_schema == source && to.type_schema == target && from.type_base == to.type_base;
    if twins && source != target && from.type_kind == to.type_kind && from.array == to.array {
        return match (from.type_kind, shapes_fit(from, to)) {
            // A domain of the other schema is its base type to the server.
            ('d', true) if !from.array => Fit::Cast(cast(ident(&from.name), to, together)),
            (_, true) => Fit::Cast(cast(format!("{}::pg_catalog.text", ident(&from.name)), to, together)),
            (_, false) => Fit::No(format!("its type {} is defined otherwise", to.type_base)),
        };
    }
    if from.type_name == to.type_name {
        return if from.type_kind == to.type_kind && shapes_fit(from, to) {
            Fit::Same
        } else {
            Fit::No(format!("its type {} is defined otherwise", to.type_base))
        };
    }
    if is_wider(&from.type_name, &to.type_name) {
        return Fit::Wider;
    }
    Fit::No(format!("it is {} there and {} in the target", from.type_name, to.type_name))
}

fn cast(value: String, to: &Column, together: bool) -> String {
    if !together {
        return value;
    }
    let array = if to.array { "[]" } else { "" };
    format!("{value}::{}{array}", qualified(&to.type_schema, &to.type_base))
}

/// Returns whether what makes up a type is there in the other: every label of an enum, the same base or attributes.
fn shapes_fit(from: &Column, to: &Column) -> bool {
    if from.type_kind == 'e' {
        return from.type_shape.lines().all(|label| to.type_shape.lines().any(|other| other == label));
    }
    from.type_shape == to.type_shape
}

/// Returns whether every value of the one type is a value of the other, with the same text but for its digits.
fn is_wider(from: &str, to: &str) -> bool {
    let integers = ["smallint", "integer", "bigint"];
    let rank = |name: &str| integers.iter().position(|integer| *integer == name);
    match (rank(from), rank(to)) {
        (Some(from), Some(to)) => return from < to,
        (Some(_), None) => return to == "numeric",
        _ => {}
    }
    let limit = |name: &str| name.strip_prefix("character varying(")?.strip_suffix(')')?.parse::<u32>().ok();
    match (limit(from), limit(to)) {
        (Some(from), Some(to)) => from < to,
        (Some(_), None) => matches!(to, "text" | "character varying"),
        _ => matches!((from, to), ("character varying", "text") | ("text", "character varying")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(type_name: &str, schema: &str, base: &str, kind: char, shape: &str) -> Column {
        Column {
            name: "c".to_owned(),
            type_name: type_name.to_owned(),
            type_schema: schema.to_owned(),
            type_base: base.to_owned(),
            type_kind: kind,
            type_shape: shape.to_owned(),
            ..Column::default()
        }
    }

    fn base(name: &str) -> Column {
        column(name, "pg_catalog", name, 'b', "")
    }

    #[test]
    fn numbers_and_texts_may_grow_and_never_shrink() {
        for (from, to, fits) in [
            ("integer", "bigint", true),
            ("bigint", "integer", false),
            ("integer", "numeric", true),
            ("character varying(20)", "character varying(30)", true),
            ("character varying(30)", "character varying(20)", false),
            ("character varying(30)", "text", true),
            ("text", "integer", false),
            ("timestamp with time zone", "timestamp without time zone", false),
        ] {
            assert_eq!(fit(&base(from), "a", &base(to), "b", true) == Fit::Wider, fits, "{from} to {to}");
        }
    }

    #[test]
    fn types_of_the_schemas_own_are_compared_by_what_they_are() {
        let shard = |shape| column("shard_0.mood", "shard_0", "mood", 'e', shape);
        let target = column("public.mood", "public", "mood", 'e', "\"sad\"\n\"ok\"");
        let cast = "\"c\"::pg_catalog.text::\"public\".\"mood\"";
        assert_eq!(fit(&shard("\"sad\"\n\"ok\""), "shard_0", &target, "public", true), Fit::Cast(cast.to_owned()));
        let text = "\"c\"::pg_catalog.text";
        assert_eq!(fit(&shard("\"ok\""), "shard_0", &target, "public", false), Fit::Cast(text.to_owned()));
        assert_eq!(fit(&shard("\"ok\""), "shard_0", &target, "public", true), Fit::Cast(cast.to_owned()));
        assert!(matches!(fit(&shard("\"ok\"\n\"glad\""), "shard_0", &target, "public", true), Fit::No(_)));
        let other = column("other.mood", "other", "mood", 'e', "\"sad\"\n\"ok\"");
        assert!(matches!(fit(&other, "shard_0", &target, "public", true), Fit::No(_)));
    }
}
