//! A script written by hand: cut into statements, with what cannot be run named.

use super::{
    meta::Meta,
    reader::{Piece, ReadOptions, Reader},
    statement::{Statement, StatementKind},
};

/// Why a script cannot be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ScriptError {
    /// One line, lower case.
    pub message: String,
    /// What to do.
    pub help: &'static str,
}

/// Returns the statements of a script; the last may stand without its semicolon.
///
/// # Errors
/// For commands of psql and COPY data; with `transaction`, for statements that begin or end a transaction and for those
/// that the server refuses inside one.
pub fn statements(text: &str, transaction: bool) -> Result<Vec<String>, ScriptError> {
    let mut reader = Reader::new(ReadOptions { open_end: true, ..ReadOptions::default() });
    reader.push(text.as_bytes());
    reader.finish();
    let mut statements = Vec::new();
    let unreadable = |error: super::ReadError| ScriptError {
        message: error.to_string(),
        help: "check quotes, dollar quotes and comments for their ends",
    };
    while let Some(piece) = reader.piece().map_err(unreadable)? {
        match piece {
            Piece::Statement(statement) => {
                if let Some(error) = unfit(&statement).filter(|_| transaction) {
                    return Err(error);
                }
                statements.push(String::from_utf8_lossy(statement.text).into_owned());
            }
            Piece::CopyStart(statement) => {
                let message = format!("`{}` brings data along", statement.redacted(60));
                return Err(ScriptError { message, help: "load dumps with a `restore` step" });
            }
            Piece::Meta(Meta { text, .. }) => {
                let message = format!("`{}` is a command of psql, not SQL", String::from_utf8_lossy(text).trim());
                return Err(ScriptError { message, help: "leave it out, or run psql with a `command` step" });
            }
            Piece::Blank(_) | Piece::CopyData(_) | Piece::CopyEnd(_) => {}
        }
    }
    Ok(statements)
}

/// Returns what is wrong with a statement inside a transaction that is not its own.
fn unfit(statement: &Statement<'_>) -> Option<ScriptError> {
    if matches!(statement.kind(), StatementKind::Begin | StatementKind::Commit | StatementKind::Rollback) {
        let message = format!("`{}` begins or ends a transaction", statement.redacted(40));
        let help = "leave it out (all of it is one transaction), or set `transaction: false`";
        return Some(ScriptError { message, help });
    }
    statement.needs_autocommit().then(|| ScriptError {
        message: format!("the server refuses `{}` in a transaction", statement.redacted(40)),
        help: "set `transaction: false` for this step",
    })
}

#[cfg(test)]
mod tests {
    use super::statements;

    #[test]
    fn statements_are_cut_at_their_own_semicolons() {
        let script = "SELECT ';' ; -- one; more\nDO $$ BEGIN PERFORM 1; END $$;\n SELECT 2";
        let found = statements(script, true).unwrap();
        assert_eq!(found, ["SELECT ';' ;", "DO $$ BEGIN PERFORM 1; END $$;", "SELECT 2"]);
        assert_eq!(statements(" -- nothing\n", true).unwrap(), [""; 0]);
    }

    #[test]
    fn what_cannot_be_run_is_named() {
        for script in ["SELECT 1; COMMIT", "CREATE INDEX CONCURRENTLY i ON t (a)", "BEGIN; SELECT 1"] {
            assert!(statements(script, true).is_err(), "{script}");
            assert!(statements(script, false).is_ok(), "{script}");
        }
        for script in ["\\copy t from x", "COPY t FROM stdin;\n1\n\\.\n", "SELECT 'open"] {
            assert!(statements(script, false).is_err(), "{script}");
        }
        assert!(statements("UPDATE t SET a = 'COMMIT'", true).is_ok());
    }
}
