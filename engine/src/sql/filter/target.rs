//! Rules about what the target does not know: column options, storage parameters, settings.

use std::ops::Range;

use super::change::Change;
use super::rules::{Reason, TargetAbilities};
use crate::sql::roles::with_blank;
use crate::sql::token::Tokens;

/// Settings that `pg_dump` writes at the top of a dump, and the first major version that knows them.
const SINCE: &[(&str, u32)] =
    &[("transaction_timeout", 17), ("default_toast_compression", 14), ("default_table_access_method", 12)];

/// Applies the target's abilities to one statement.
pub(super) fn apply(target: &TargetAbilities, t: &Tokens<'_>, change: &mut Change) {
    if t.any(0, &["SET", "SELECT"]) {
        session_setting(target, t, change);
    } else if t.are(0, "ALTER") {
        let after_object =
            if t.any(1, &["ROLE", "USER", "DATABASE", "FUNCTION", "PROCEDURE", "ROUTINE"]) { 2 } else { 0 };
        if after_object > 0 {
            object_setting(target, t, change);
        } else {
            altered_options(target, t, change);
        }
    } else if t.any(0, &["CREATE FUNCTION", "CREATE PROCEDURE", "CREATE OR REPLACE FUNCTION"])
        || t.are(0, "CREATE OR REPLACE PROCEDURE")
    {
        routine_settings(target, t, change);
    } else if t.are(0, "CREATE") {
        created_options(target, t, change);
    }
}

fn unknown_setting(target: &TargetAbilities, name: &str) -> Option<Reason> {
    let late = target.major > 0 && SINCE.iter().any(|(late, since)| *late == name && target.major < *since);
    let listed = target.unknown_settings.iter().any(|listed| listed.eq_ignore_ascii_case(name));
    (late || listed).then(|| Reason::UnknownSetting(name.to_owned()))
}

fn session_setting(target: &TargetAbilities, t: &Tokens<'_>, change: &mut Change) {
    let name = if t.are(0, "SELECT") {
        let at = if t.is_symbol(2, b'.') { 3 } else { 1 };
        if t.are(at, "set_config") { t.literal(at + 2) } else { None }
    } else {
        setting_name(t, if t.any(1, &["SESSION", "LOCAL"]) { 2 } else { 1 }).map(|(name, _)| name)
    };
    if let Some(reason) = name.and_then(|name| unknown_setting(target, &name.to_ascii_lowercase())) {
        change.drop(reason);
    }
}

/// Returns the setting's name at `at` and the token behind it.
fn setting_name(t: &Tokens<'_>, at: usize) -> Option<(String, usize)> {
    let end = t.name_end(at);
    let parts: Option<Vec<String>> = (at..end).step_by(2).map(|part| t.name(part)).collect();
    Some((parts?.join(".").to_ascii_lowercase(), end))
}

/// `ALTER ROLE|DATABASE|FUNCTION … SET name …` and `… RESET name`.
fn object_setting(target: &TargetAbilities, t: &Tokens<'_>, change: &mut Change) {
    let Some(at) = t.find(2, &["SET", "RESET"]) else { return };
    if let Some(reason) = setting_name(t, at + 1).and_then(|(name, _)| unknown_setting(target, &name)) {
        change.drop(reason);
    }
}

/// The `SET` clauses of `CREATE FUNCTION`, which stand before the body.
fn routine_settings(target: &TargetAbilities, t: &Tokens<'_>, change: &mut Change) {
    let mut from = 3;
    while let Some(at) = t.find(from, &["SET", "AS", "BEGIN", "RETURN"]).filter(|&at| t.are(at, "SET")) {
        let Some((name, operator)) = setting_name(t, at + 1) else { return };
        let mut end = operator + 2;
        while t.is_symbol(end, b',') {
            end += 2;
        }
        if let Some(reason) = unknown_setting(target, &name) {
            change.cut(with_blank(t, at..end.min(t.len())), reason);
        }
        from = end;
    }
}

/// Parenthesised options: their tokens without the parentheses, and what each is called.
struct Options {
    inner: Range<usize>,
    items: Vec<(String, Range<usize>)>,
}

/// Reads `(name [= value], …)` whose opening parenthesis is at `open`.
fn read_options(t: &Tokens<'_>, open: usize) -> Option<Options> {
    let (mut depth, mut first, mut items) = (0_u32, open + 1, Vec::new());
    for at in open..t.len() {
        let ends = match t.bytes(at) {
            b"(" => {
                depth += 1;
                false
            }
            b")" => {
                depth -= 1;
                depth == 0
            }
            b"," => depth == 1,
            _ => false,
        };
        if ends {
            let (name, _) = setting_name(t, first)?;
            items.push((name, first..at));
            first = at + 1;
            if depth == 0 {
                return Some(Options { inner: open + 1..at, items });
            }
        }
    }
    None
}

/// Takes unknown names out of the options; `whole` = what goes when none is left, `None` = the statement.
fn strip(t: &Tokens<'_>, open: usize, unknown: &Unknown<'_>, whole: Option<Range<usize>>, change: &mut Change) {
    let Some(options) = read_options(t, open) else { return };
    let is_unknown = |name: &str| unknown.names.iter().any(|listed| listed.eq_ignore_ascii_case(name));
    let (gone, kept): (Vec<_>, Vec<_>) = options.items.iter().partition(|(name, _)| is_unknown(name));
    let Some((first, _)) = gone.first() else { return };
    let reason = (unknown.reason)(first.clone());
    if !kept.is_empty() {
        let kept: Vec<&[u8]> = kept.iter().map(|(_, tokens)| &t.text[t.span(tokens.clone())]).collect();
        change.put(t.span(options.inner), kept.join(&b", "[..]), reason);
    } else if let Some(whole) = whole {
        change.cut(whole, reason);
    } else {
        change.drop(reason);
    }
    for (name, _) in &gone[1..] {
        change.because((unknown.reason)(name.clone()));
    }
}

struct Unknown<'r> {
    names: &'r [String],
    reason: fn(String) -> Reason,
}

/// `ALTER … [ALTER [COLUMN] c] SET (…)`, of several actions each.
fn altered_options(target: &TargetAbilities, t: &Tokens<'_>, change: &mut Change) {
    let column = Unknown { names: &target.unknown_column_options, reason: Reason::UnknownColumnOption };
    let relation = Unknown { names: &target.unknown_relation_options, reason: Reason::UnknownRelationOption };
    let mut from = 3;
    while let Some(at) = t.find(from, &["SET", "RESET"]) {
        from = at + 1;
        if !t.is_symbol(at + 1, b'(') {
            continue;
        }
        let Some(close) = read_options(t, at + 1).map(|options| options.inner.end) else { return };
        let of_column = t.any(at - 2, &["COLUMN", "ALTER"]);
        let first = if !of_column {
            at
        } else if t.are(at - 2, "COLUMN") {
            at - 3
        } else {
            at - 2
        };
        let action = if first > 0 && t.is_symbol(first - 1, b',') {
            Some(t.span(first - 1..close + 1))
        } else if t.is_symbol(close + 1, b',') {
            Some(with_blank(t, first..close + 2))
        } else {
            None
        };
        strip(t, at + 1, if of_column { &column } else { &relation }, action, change);
    }
}

/// `CREATE … WITH (…)`.
fn created_options(target: &TargetAbilities, t: &Tokens<'_>, change: &mut Change) {
    if target.unknown_relation_options.is_empty() {
        return;
    }
    let relation = Unknown { names: &target.unknown_relation_options, reason: Reason::UnknownRelationOption };
    if let Some(at) = t.find(2, &["WITH", "AS"]).filter(|&at| t.are(at, "WITH") && t.is_symbol(at + 1, b'(')) {
        let Some(close) = read_options(t, at + 1).map(|options| options.inner.end) else { return };
        strip(t, at + 1, &relation, Some(with_blank(t, at..close + 1)), change);
    }
}
