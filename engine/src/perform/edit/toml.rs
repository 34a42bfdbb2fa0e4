//! TOML, its comments and layout kept.

use toml_edit::{DocumentMut, Item, Key, TableLike, Value};

use super::Problem;

/// Returns the text with each dotted key set to its value; tables and keys that are not there are added.
///
/// A value that was a number or a boolean stays one where the new text reads as one.
pub(super) fn edit(text: &str, set: &[(&str, &str)]) -> Result<String, Problem> {
    let mut document: DocumentMut = text.parse().map_err(|error: toml_edit::TomlError| {
        // The error's own text shows a line of the file, which may hold a secret.
        let line = error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        Problem::new(format!("it is not TOML: line {line}"), None)
    })?;
    for (key, value) in set {
        let path = Key::parse(key).map_err(|_| Problem::new(format!("`{key}` is not a TOML key"), None))?;
        put(document.as_table_mut(), &path, key, value)?;
    }
    Ok(document.to_string())
}

fn put(table: &mut dyn TableLike, path: &[Key], whole: &str, value: &str) -> Result<(), Problem> {
    let Some((first, rest)) = path.split_first() else {
        return Ok(());
    };
    if rest.is_empty() {
        return set(table, first, whole, value);
    }
    if table.get(first.get()).is_none() {
        let mut fresh = toml_edit::Table::new();
        // A table that only holds tables needs no header of its own.
        fresh.set_implicit(rest.len() > 1);
        table.insert(first.get(), Item::Table(fresh));
    }
    match table.get_mut(first.get()).and_then(Item::as_table_like_mut) {
        Some(inner) => put(inner, rest, whole, value),
        None => Err(Problem::new(format!("`{}` in `{whole}` is not a table", first.get()), None)),
    }
}

fn set(table: &mut dyn TableLike, key: &Key, whole: &str, text: &str) -> Result<(), Problem> {
    match table.get_mut(key.get()) {
        None => {
            table.insert(key.get(), toml_edit::value(text));
            Ok(())
        }
        Some(Item::Value(old)) => {
            let mut new = like(old, text);
            *new.decor_mut() = old.decor().clone();
            if !same(old, &new) {
                *old = new;
            }
            Ok(())
        }
        Some(_) => Err(Problem::new(format!("`{whole}` is a table, not a value"), None)),
    }
}

fn like(old: &Value, text: &str) -> Value {
    match old {
        Value::Integer(_) => text.parse::<i64>().map_or_else(|_| text.into(), Value::from),
        Value::Boolean(_) => text.parse::<bool>().map_or_else(|_| text.into(), Value::from),
        Value::Float(_) => text.parse::<f64>().map_or_else(|_| text.into(), Value::from),
        _ => text.into(),
    }
}

/// Returns whether both read the same, however they are written.
fn same(old: &Value, new: &Value) -> bool {
    match (old, new) {
        (Value::String(old), Value::String(new)) => old.value() == new.value(),
        (Value::Integer(old), Value::Integer(new)) => old.value() == new.value(),
        (Value::Boolean(old), Value::Boolean(new)) => old.value() == new.value(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "# builder\nlog_level = \"info\" # quiet\n\n[datastore]\npassword = 'old' # secret\nport = 5432 # default\n\n[[nodes]]\na = 1\n";

    #[track_caller]
    fn check(old: &str, set: &[(&str, &str)], new: &str) {
        let edited = edit(old, set).unwrap();
        assert_eq!(edited, new);
        assert_eq!(edit(&edited, set).unwrap(), edited, "a second edit changes nothing");
    }

    #[test]
    fn comments_and_types_stay() {
        let new = CONFIG.replace("'old'", "\"new\"").replace("5432", "5433");
        check(CONFIG, &[("datastore.password", "new"), ("datastore.port", "5433")], &new);
        check(CONFIG, &[("datastore.password", "old")], CONFIG);
    }

    #[test]
    fn what_is_missing_is_added() {
        let new = CONFIG.replace("# default\n", "# default\nhost = \"db\"\n");
        check(CONFIG, &[("datastore.host", "db")], &new);
        check("", &[("a.b.c", "1")], "[a.b]\nc = \"1\"\n");
        check("a = { x = 1 }\n", &[("a.y", "2")], "a = { x = 1 , y = \"2\" }\n");
        check("a.b = 1\n", &[("a.b", "2")], "a.b = 2\n");
    }

    #[test]
    fn hostile_values_cannot_break_out() {
        let edited = edit("p = 'x'\n", &[("p", "\"\n[evil]\n\u{1b}'''\\")]).unwrap();
        let read: DocumentMut = edited.parse().unwrap();
        assert_eq!(read["p"].as_str(), Some("\"\n[evil]\n\u{1b}'''\\"));
        assert_eq!(read.len(), 1);
    }

    #[test]
    fn what_cannot_be_edited_is_named_without_its_values() {
        let message = |text: &str, key: &str| edit(text, &[(key, "v")]).unwrap_err().message;
        assert_eq!(message("a = 1\npassword = geheim\n", "a"), "it is not TOML: line 2");
        assert_eq!(message(CONFIG, "datastore"), "`datastore` is a table, not a value");
        assert_eq!(message(CONFIG, "log_level.x"), "`log_level` in `log_level.x` is not a table");
        assert_eq!(message(CONFIG, "nodes.a"), "`nodes` in `nodes.a` is not a table");
        assert_eq!(message(CONFIG, "a b"), "`a b` is not a TOML key");
    }
}
