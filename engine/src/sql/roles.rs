//! Where a statement refers to roles, and what goes when such a reference has to.

use std::ops::Range;

use super::token::{TokenKind, Tokens};

/// One reference to a role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RoleUse {
    /// The role's name as the catalog holds it; `None` = a keyword in a list, such as `PUBLIC`.
    pub(super) name: Option<String>,
    /// The reference's own bytes, with `GROUP` before it.
    pub(super) span: Range<usize>,
    pub(super) part: Part,
}

/// What a reference is to its statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    /// Without it the statement means nothing.
    Subject,
    /// One of the list at these bytes; `clause` is what goes with the last of them, `None` = the statement.
    Member { list: Range<usize>, clause: Option<Range<usize>> },
    /// These bytes can go, and the statement stays whole.
    Clause { span: Range<usize> },
    /// The role of the session; this keyword in its place stands for the role that connected.
    Session { own: &'static str },
}

/// An option of `CREATE ROLE` and `ALTER ROLE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RoleOption {
    /// Its keyword in upper case: `SUPERUSER`, `NOLOGIN`, `PASSWORD`, …
    pub(super) word: String,
    /// Its tokens.
    pub(super) tokens: Range<usize>,
}

/// Returns the references of a statement in their order.
pub(super) fn uses(t: &Tokens<'_>) -> Vec<RoleUse> {
    let mut found = Finder { t, uses: Vec::new() };
    let role = t.any(1, &["ROLE", "USER", "GROUP"]);
    let first = t.bytes(0).to_ascii_uppercase();
    match first.as_slice() {
        _ if t.are(1, "USER MAPPING") => {
            if let Some(at) = t.find(3, &["FOR"]) {
                found.subject(at + 1);
            }
        }
        b"CREATE" if role => {
            found.subject(2);
            found.option_lists(3);
        }
        b"ALTER" if role => found.alter_role(),
        b"DROP" if role => {
            found.list(2 + t.skip(2, "IF EXISTS"), None);
        }
        b"CREATE" => found.create(),
        b"ALTER" if t.are(1, "DEFAULT PRIVILEGES") => found.default_privileges(),
        b"ALTER" => found.alter(),
        b"GRANT" | b"REVOKE" => found.grant(0),
        b"DROP" | b"REASSIGN" if t.are(1, "OWNED BY") => {
            let end = found.list(3, None);
            if t.are(end, "TO") {
                found.subject(end + 1);
            }
        }
        b"COMMENT" if t.are(1, "ON ROLE") => found.subject(3),
        b"SECURITY" => {
            if let Some(at) = t.find(2, &["ON ROLE"]) {
                found.subject(at + 2);
            }
        }
        b"SET" => found.set(),
        _ => {}
    }
    found.uses
}

/// Returns the options of `CREATE ROLE` and `ALTER ROLE`; none for `ALTER ROLE … SET` and `… RENAME`.
pub(super) fn options(t: &Tokens<'_>) -> Vec<RoleOption> {
    let mut options = Vec::new();
    if !t.any(0, &["CREATE", "ALTER"]) || !t.any(1, &["ROLE", "USER", "GROUP"]) || t.are(1, "USER MAPPING") {
        return options;
    }
    let mut at = 3 + t.skip(3, "WITH");
    while at < t.len() && !t.is_symbol(at, b';') {
        if t.any(at, &["SET", "RESET", "IN DATABASE", "RENAME"]) {
            return options;
        }
        let (word, end) = if t.any(at, &["ENCRYPTED PASSWORD", "UNENCRYPTED PASSWORD"]) {
            (at + 1, at + 3)
        } else if t.any(at, &["VALID", "CONNECTION"]) {
            (at, at + 3 + usize::from(t.is_symbol(at + 2, b'-')))
        } else if t.any(at, &["PASSWORD", "SYSID"]) {
            (at, at + 2)
        } else if t.any(at, &["IN ROLE", "IN GROUP"]) {
            (at, list_end(t, at + 2))
        } else if t.any(at, &["ROLE", "USER", "ADMIN"]) {
            (at, list_end(t, at + 1))
        } else {
            (at, at + 1)
        };
        let tokens = at..end.min(t.len());
        let word = String::from_utf8_lossy(t.bytes(word)).to_ascii_uppercase();
        options.push(RoleOption { word, tokens });
        at = end;
    }
    options
}

fn list_end(t: &Tokens<'_>, mut at: usize) -> usize {
    while t.is_symbol(at + 1, b',') {
        at += 2;
    }
    at + 1
}

/// Returns the bytes of these tokens together with the white space before them.
pub(super) fn with_blank(t: &Tokens<'_>, tokens: Range<usize>) -> Range<usize> {
    let before = tokens.start.checked_sub(1).and_then(|at| t.get(at)).map_or(0, |token| token.end);
    before..t.span(tokens).end
}

struct Finder<'t, 'a> {
    t: &'t Tokens<'a>,
    uses: Vec<RoleUse>,
}

impl Finder<'_, '_> {
    /// Records the role at `at`; a keyword there counts only as a member of a list.
    fn push(&mut self, at: usize, part: Part) {
        const KEYWORDS: &[&str] =
            &["PUBLIC", "CURRENT_USER", "CURRENT_ROLE", "SESSION_USER", "DEFAULT", "NONE", "ALL", "USER"];
        let keyword = self.t.any(at, KEYWORDS);
        let name = if keyword { None } else { self.t.name(at).or_else(|| self.t.literal(at)) };
        if at < self.t.len() && (name.is_some() || matches!(part, Part::Member { .. })) {
            let first = if at > 0 && self.t.are(at - 1, "GROUP") { at - 1 } else { at };
            self.uses.push(RoleUse { name, span: self.t.span(first..at + 1), part });
        }
    }

    fn subject(&mut self, at: usize) {
        self.push(at, Part::Subject);
    }

    fn clause(&mut self, tokens: Range<usize>) {
        if tokens.end <= self.t.len() {
            let span = with_blank(self.t, tokens.clone());
            self.push(tokens.end - 1, Part::Clause { span });
        }
    }

    /// Records the list of roles from `at` on; returns the token behind it.
    fn list(&mut self, at: usize, clause: Option<usize>) -> usize {
        let mut names = Vec::new();
        let mut next = at;
        loop {
            // GROUP before a name is noise; a role may bear that name.
            let named = matches!(self.t.get(next + 1).map(|t| t.kind), Some(TokenKind::Word | TokenKind::Quoted));
            if self.t.are(next, "GROUP") && named && !self.t.any(next + 1, &["WITH", "GRANTED", "CASCADE", "RESTRICT"])
            {
                next += 1;
            }
            if next >= self.t.len() {
                break;
            }
            names.push(next);
            next += 1;
            if !self.t.is_symbol(next, b',') {
                break;
            }
            next += 1;
        }
        if let (Some(_), Some(&last)) = (names.first(), names.last()) {
            let list = self.t.span(at..last + 1);
            let clause = clause.map(|from| with_blank(self.t, from..last + 1));
            for name in names {
                self.push(name, Part::Member { list: list.clone(), clause: clause.clone() });
            }
        }
        next
    }

    fn option_lists(&mut self, from: usize) {
        for option in options(self.t) {
            let at = option.tokens.start;
            if at >= from && matches!(option.word.as_str(), "IN" | "ROLE" | "USER" | "ADMIN") {
                self.list(at + 1 + usize::from(option.word == "IN"), Some(at));
            }
        }
    }

    fn alter_role(&mut self) {
        self.subject(2);
        if self.t.are(3, "RENAME TO") {
            self.subject(5);
        } else if self.t.any(3, &["ADD USER", "DROP USER"]) {
            self.list(5, None);
        }
    }

    fn create(&mut self) {
        let t = self.t;
        if t.are(1, "SCHEMA") {
            let at = 2 + t.skip(2, "IF NOT EXISTS");
            if t.are(at, "AUTHORIZATION") {
                // CREATE SCHEMA AUTHORIZATION r makes a schema named r: the word goes, the name stays.
                self.push(at + 1, Part::Clause { span: with_blank(t, at..at + 1) });
            } else if t.are(at + 1, "AUTHORIZATION") {
                self.clause(at + 1..at + 3);
            }
        } else if t.are(1, "POLICY") {
            if let Some(at) = t.find(3, &["TO", "USING"]).filter(|&at| t.are(at, "TO")) {
                self.list(at + 1, None);
            }
        } else if t.any(1, &["DATABASE", "TABLESPACE"])
            && let Some(at) = t.find(3, &["OWNER"])
        {
            self.clause(at..at + 2 + usize::from(t.is_symbol(at + 1, b'=')));
        }
    }

    fn alter(&mut self) {
        let t = self.t;
        if t.are(1, "POLICY") {
            if let Some(at) = t.find(3, &["RENAME", "TO", "USING"]).filter(|&at| t.are(at, "TO")) {
                self.list(at + 1, None);
            }
            return;
        }
        let Some(at) = t.find(2, &["OWNER TO"]) else { return };
        if t.is_symbol(at - 1, b',') {
            self.clause(at - 1..at + 3);
        } else if t.is_symbol(at + 3, b',') {
            self.push(at + 2, Part::Clause { span: with_blank(t, at..at + 4) });
        } else {
            self.subject(at + 2);
        }
    }

    fn default_privileges(&mut self) {
        let mut at = 3;
        if self.t.any(at, &["FOR ROLE", "FOR USER"]) {
            at = self.list(at + 2, None);
        }
        if let Some(at) = self.t.find(at, &["GRANT", "REVOKE"]) {
            self.grant(at);
        }
    }

    /// `GRANT` or `REVOKE` at `at`, of privileges or of roles.
    fn grant(&mut self, at: usize) {
        let t = self.t;
        let word = if t.are(at, "GRANT") { "TO" } else { "FROM" };
        let Some(grantees) = t.find(at + 1, &[word]) else { return };
        let privileges = t.find(at + 1, &["ON"]).is_some_and(|on| on < grantees);
        if !privileges {
            let option = t.find(at + 1, &["OPTION FOR"]).filter(|&option| option < grantees);
            self.list(option.map_or(at + 1, |option| option + 2), None);
        }
        let end = self.list(grantees + 1, None);
        if let Some(by) = t.find(end, &["GRANTED BY"]) {
            self.clause(by..by + 3);
        }
    }

    fn set(&mut self) {
        let at = if self.t.any(1, &["LOCAL", "SESSION SESSION", "SESSION ROLE"]) { 2 } else { 1 };
        if self.t.are(at, "SESSION AUTHORIZATION") {
            self.push(at + 2, Part::Session { own: "DEFAULT" });
        } else if self.t.are(at, "ROLE") {
            let operator = self.t.is_symbol(at + 1, b'=') || self.t.are(at + 1, "TO");
            self.push(at + 1 + usize::from(operator), Part::Session { own: "NONE" });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::lexer::Quoting;
    use super::*;

    fn found(sql: &str) -> Vec<(String, &'static str)> {
        let tokens = Tokens::new(sql.as_bytes(), Quoting::Plain);
        let part = |part: &Part| match part {
            Part::Subject => "subject",
            Part::Member { .. } => "member",
            Part::Clause { .. } => "clause",
            Part::Session { .. } => "session",
        };
        uses(&tokens).iter().filter_map(|one| Some((one.name.clone()?, part(&one.part)))).collect()
    }

    #[test]
    fn every_form_names_its_roles() {
        for (sql, expected) in [
            ("CREATE ROLE a;", "a:subject"),
            ("CREATE ROLE a LOGIN IN ROLE b, c ADMIN d;", "a:subject b:member c:member d:member"),
            ("ALTER ROLE \"A b\" IN DATABASE d SET x TO 'y';", "A b:subject"),
            ("ALTER ROLE ALL SET x = 1;", ""),
            ("DROP ROLE IF EXISTS a, b;", "a:member b:member"),
            ("GRANT a TO b WITH ADMIN OPTION GRANTED BY c;", "a:member b:member c:clause"),
            ("GRANT a TO b WITH INHERIT FALSE, SET TRUE GRANTED BY c;", "a:member b:member c:clause"),
            ("REVOKE ADMIN OPTION FOR a FROM b CASCADE;", "a:member b:member"),
            ("GRANT SELECT(x),UPDATE(y) ON TABLE s.t TO a, PUBLIC, GROUP b;", "a:member b:member"),
            ("GRANT ALL ON FUNCTION s.f(a integer, OUT b text) TO x;", "x:member"),
            ("ALTER DEFAULT PRIVILEGES FOR ROLE a IN SCHEMA s GRANT SELECT ON TABLES  TO b;", "a:member b:member"),
            ("ALTER TABLE s.t OWNER TO a;", "a:subject"),
            ("ALTER TABLE s.t ADD c int, OWNER TO a;", "a:clause"),
            ("ALTER FUNCTION s.f(owner to_x) OWNER TO \"To\";", "To:subject"),
            ("CREATE SCHEMA s AUTHORIZATION a;", "a:clause"),
            ("CREATE DATABASE d WITH TEMPLATE = template0 OWNER = a;", "a:clause"),
            ("CREATE POLICY p ON s.t FOR SELECT TO a, b USING (x IN (SELECT 1));", "a:member b:member"),
            ("CREATE POLICY p ON s.t USING (to_b(1));", ""),
            ("ALTER POLICY p ON s.t RENAME TO a;", ""),
            ("CREATE USER MAPPING IF NOT EXISTS FOR a SERVER s;", "a:subject"),
            ("SET SESSION AUTHORIZATION 'a';", "a:session"),
            ("SET SESSION AUTHORIZATION DEFAULT;", ""),
            ("SET ROLE a;", "a:session"),
            ("COMMENT ON ROLE a IS 'x';", "a:subject"),
            ("SECURITY LABEL FOR p ON ROLE a IS 'x';", "a:subject"),
            ("REASSIGN OWNED BY a TO b;", "a:member b:subject"),
        ] {
            let text: Vec<_> = found(sql).into_iter().map(|(name, part)| format!("{name}:{part}")).collect();
            assert_eq!(text.join(" "), expected, "{sql}");
        }
    }

    #[test]
    fn role_options() {
        let sql = b"ALTER ROLE a WITH NOLOGIN CONNECTION LIMIT -1 ENCRYPTED PASSWORD 'x' VALID UNTIL 'y' BYPASSRLS;";
        let tokens = Tokens::new(sql, Quoting::Plain);
        let words: Vec<_> = options(&tokens).into_iter().map(|option| option.word).collect();
        assert_eq!(words, ["NOLOGIN", "CONNECTION", "PASSWORD", "VALID", "BYPASSRLS"]);
    }
}
