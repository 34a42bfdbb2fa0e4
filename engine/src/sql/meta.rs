//! The psql commands that a dump may contain (manual, reference page "psql", section "Meta-Commands").

use super::error::Problem;

/// A line of the dump that is meant for psql, not for the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta<'a> {
    /// The line, with its newline.
    pub text: &'a [u8],
    /// Byte of the input at which the line begins.
    pub offset: u64,
    /// Line of the input, counted from 1.
    pub line: u64,
    /// What it says.
    pub command: MetaCommand,
}

/// The commands that `pg_dump` and `pg_dumpall` write; any other is an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetaCommand {
    /// `\connect`: what follows goes to this database.
    Connect {
        /// The database's name, unquoted.
        database: String,
    },
    /// `\restrict`: psql takes no other command until `\unrestrict` with the same key.
    Restrict {
        /// The random key.
        key: String,
    },
    /// `\unrestrict`.
    Unrestrict {
        /// The random key.
        key: String,
    },
    /// `\encoding`: written before `\connect` with a name that needs quoting.
    Encoding {
        /// The encoding's name.
        name: String,
    },
}

impl MetaCommand {
    /// Reads a line that begins with a backslash.
    pub(super) fn parse(line: &[u8]) -> Result<Self, Problem> {
        let text = String::from_utf8_lossy(line);
        let text = text.trim_end_matches(['\r', '\n']);
        let unknown = || Problem::Command(word(text));
        let (command, rest) = text.split_once(' ').ok_or_else(unknown)?;
        let rest = rest.trim();
        let one = || {
            let plain = !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
            plain.then(|| rest.to_owned()).ok_or_else(unknown)
        };
        match command {
            "\\restrict" => Ok(Self::Restrict { key: one()? }),
            "\\unrestrict" => Ok(Self::Unrestrict { key: one()? }),
            "\\encoding" => Ok(Self::Encoding { name: one()? }),
            "\\connect" | "\\c" => {
                let database = match rest.strip_prefix("-reuse-previous=on ") {
                    Some(conninfo) => argument(conninfo.trim()).and_then(|text| dbname(&text)),
                    None => argument(rest),
                };
                Ok(Self::Connect { database: database.ok_or_else(unknown)? })
            }
            _ => Err(unknown()),
        }
    }
}

/// Returns the command of a line without its arguments, which may hold a password.
pub(super) fn word(line: &str) -> String {
    line.split_whitespace().next().unwrap_or_default().chars().take(30).collect()
}

/// Reads psql's one argument: a plain word as it is, or `"…"` with `""` for a quote.
fn argument(text: &str) -> Option<String> {
    if let Some(inner) = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        let plain = inner.replace("\"\"", "");
        return (!plain.contains('"')).then(|| inner.replace("\"\"", "\""));
    }
    let plain = !text.is_empty() && !text.starts_with('-') && !text.contains([' ', '\t', '\'', '"', '`', ':', '\\']);
    plain.then(|| text.to_owned())
}

/// Reads the connection string `dbname='…'`, in which a backslash takes the next character as it is.
fn dbname(conninfo: &str) -> Option<String> {
    let value = conninfo.strip_prefix("dbname=")?;
    let Some(quoted) = value.strip_prefix('\'') else {
        return (!value.is_empty() && !value.contains([' ', '\'', '\\'])).then(|| value.to_owned());
    };
    let (mut name, mut chars) = (String::new(), quoted.chars());
    loop {
        match chars.next()? {
            '\'' => return chars.as_str().is_empty().then_some(name),
            '\\' => name.push(chars.next()?),
            other => name.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(line: &str) -> Option<String> {
        match MetaCommand::parse(line.as_bytes()) {
            Ok(MetaCommand::Connect { database }) => Some(database),
            _ => None,
        }
    }

    #[test]
    fn connect_as_pg_dumpall_writes_it() {
        assert_eq!(database("\\connect db\n").as_deref(), Some("db"));
        assert_eq!(database("\\connect \"My\"\"DB\"\r\n").as_deref(), Some("My\"DB"));
        let odd = "\\connect -reuse-previous=on \"dbname='we\\'ird \"\"db\\\\'\"\n";
        assert_eq!(database(odd).as_deref(), Some("we'ird \"db\\"));
    }

    #[test]
    fn anything_else_is_refused() {
        for line in [
            "\\! rm -rf /\n",
            "\\connect `whoami`\n",
            "\\connect db user host\n",
            "\\connect -reuse-previous=on \"host=evil dbname='x'\"\n",
            "\\connect -reuse-previous=on \"dbname='x' host=evil\"\n",
            "\\unrestrict `id`\n",
            "\\restrict\n",
            "\\i /etc/passwd",
        ] {
            assert!(matches!(MetaCommand::parse(line.as_bytes()), Err(Problem::Command(_))), "{line}");
        }
    }
}
