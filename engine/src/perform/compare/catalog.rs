//! Comparing what catalogs say: each side's objects as lines `key → value`, the same query on both.

use std::collections::BTreeMap;

use super::{Piece, Sides};
use crate::{
    error::StepError,
    op::data::Aspect,
    postgres::{Session, quote::on_one_line, rows::rows},
};

/// Objects of one aspect: kind, name and what the aspect says of it.
pub(super) type Lines = BTreeMap<(String, String), String>;

/// Runs a query whose rows are lines.
pub(super) async fn lines(session: &Session, aspect: Aspect, sql: &str) -> Result<Lines, StepError> {
    let found = rows(session, &format!("compare the {}", word(aspect)), sql).await?;
    let text = |row: &tokio_postgres::SimpleQueryRow, at| row.get(at).unwrap_or_default().to_owned();
    Ok(found.iter().map(|row| ((text(row, 0), text(row, 1)), text(row, 2))).collect())
}

/// Reads what an aspect says on both sides; `query` gives the SQL for a server's version, `None` when there is none.
pub(super) async fn both(
    sides: &Sides,
    aspect: Aspect,
    query: impl Fn(Aspect, u32, u32) -> Option<String>,
) -> Result<Option<(Lines, Lines)>, StepError> {
    let (left, right) = (sides.left.server_version_num(), sides.right.server_version_num());
    let lowest = left.min(right);
    let (Some(on_left), Some(on_right)) = (query(aspect, left, lowest), query(aspect, right, lowest)) else {
        return Ok(None);
    };
    tokio::try_join!(lines(&sides.left, aspect, &on_left), lines(&sides.right, aspect, &on_right)).map(Some)
}

/// Adds what differs between two sets of lines.
///
/// Existence is judged under [`Aspect::Objects`] and the aspects that have objects of their own; for the aspects that
/// describe objects (owners, privileges, comments, columns) only what both sides have is compared, or a missing table
/// would be told five times.
pub(super) fn differences(
    aspect: Aspect,
    prefix: &str,
    left: &Lines,
    right: &Lines,
    wanted: impl Fn(&str, &str) -> bool,
    piece: &mut Piece,
) {
    let describes = matches!(aspect, Aspect::Owners | Aspect::Acls);
    let mut keys: Vec<_> = left.keys().chain(right.keys()).collect();
    keys.sort();
    keys.dedup();
    for (kind, name) in keys.into_iter().filter(|(kind, name)| wanted(kind, name)) {
        piece.objects += 1;
        let key = (kind.clone(), name.clone());
        let (on_left, on_right) = (left.get(&key), right.get(&key));
        if on_left == on_right || (describes && (on_left.is_none() || on_right.is_none())) {
            continue;
        }
        let object = format!("{kind} {prefix}{}", on_one_line(name));
        match (on_left, on_right) {
            (Some(on_left), Some(on_right)) => piece.find(object, word(aspect), told(on_left), told(on_right)),
            (Some(_), None) => piece.find(object, "existence", "there", "missing"),
            (None, _) => piece.find(object, "existence", "missing", "there"),
        }
    }
}

fn told(value: &str) -> String {
    if value.is_empty() { "none".to_owned() } else { on_one_line(value) }
}

/// Returns what of an object an aspect is about.
fn word(aspect: Aspect) -> &'static str {
    match aspect {
        Aspect::Roles => "attributes",
        Aspect::Memberships => "membership",
        Aspect::Passwords => "password",
        Aspect::Settings => "setting",
        Aspect::Locale => "encoding and locale",
        Aspect::Objects => "properties",
        Aspect::Columns => "column",
        Aspect::Constraints | Aspect::Indexes | Aspect::Triggers | Aspect::Functions | Aspect::Types => "definition",
        Aspect::Policies => "policy",
        Aspect::Owners => "owner",
        Aspect::Acls => "privileges",
        Aspect::Comments => "comment",
    }
}
