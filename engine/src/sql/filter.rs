//! Decides what of a dump is restored: each statement is kept, dropped or rewritten, and each decision has its reason.
//!
//! Only statements are judged. Rows of COPY blocks never come here, and of an `INSERT` patterns see what stands before
//! `VALUES`. A consumer that drops a [`CopyStart`](super::Piece::CopyStart) drops the pieces up to its
//! [`CopyEnd`](super::Piece::CopyEnd) as well.

use regex::bytes::Regex;

use super::lexer::word_end;
use super::roles::{self, Part, RoleUse, with_blank};
use super::statement::Statement;
use super::token::{Lexer, TokenKind, Tokens};
use crate::error::{ErrorKind, StepError};

mod change;
mod report;
mod rules;
mod target;

use change::Change;
pub use report::{FilterReport, Removal, RemovalAction};
pub use rules::{FilterRules, PatternRule, Reason, ReplaceRule, TargetAbilities};

/// What is to be done with a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It stays as it is.
    Keep,
    /// It goes; of a COPY, its rows too.
    Drop {
        /// Why; never empty.
        reasons: Vec<Reason>,
    },
    /// This text stands in its place.
    Rewrite {
        /// The new statement.
        text: Vec<u8>,
        /// Why; never empty.
        reasons: Vec<Reason>,
    },
}

/// Rules that are ready to be applied.
#[derive(Debug, Clone)]
pub struct Filter {
    rules: FilterRules,
    drop: Vec<Regex>,
    replace: Vec<Regex>,
    /// Whether any rule looks at the tokens of a statement.
    reads_tokens: bool,
}

impl Filter {
    /// Returns a filter with these rules.
    ///
    /// # Errors
    /// When a pattern is no regular expression; the error names it.
    pub fn new(mut rules: FilterRules) -> Result<Self, StepError> {
        let compile = |pattern: &str| {
            Regex::new(pattern).map_err(|error| {
                StepError::new(ErrorKind::Plan, format!("`{pattern}` is no regular expression"))
                    .detail(error.to_string())
                    .help("escape parentheses, dots and dollar signs with a backslash")
            })
        };
        let drop = rules.drop.iter().map(|rule| compile(&rule.pattern)).collect::<Result<_, _>>()?;
        let replace = rules.replace.iter().map(|rule| compile(&rule.pattern)).collect::<Result<_, _>>()?;
        for word in &mut rules.drop_role_attributes {
            *word = word.trim().to_ascii_uppercase();
        }
        let names = !(rules.reserved_roles.is_empty()
            && rules.drop_passwords_of.is_empty()
            && rules.drop_role_attributes.is_empty());
        let reads_tokens = names || rules.no_owner || rules.no_acl || rules.no_tablespaces || rules.target.is_some();
        Ok(Self { rules, drop, replace, reads_tokens })
    }

    /// Returns the reason that each rule of the plan gives when it matches; not those about the target's abilities.
    #[must_use]
    pub fn rules(&self) -> Vec<Reason> {
        let rules = &self.rules;
        let mut all: Vec<Reason> = rules.reserved_roles.iter().cloned().map(Reason::ReservedRole).collect();
        all.extend(rules.drop_passwords_of.iter().cloned().map(Reason::PasswordOf));
        all.extend(rules.drop_role_attributes.iter().cloned().map(Reason::RoleAttribute));
        let flags = [
            (rules.no_owner, Reason::NoOwner),
            (rules.no_acl, Reason::NoAcl),
            (rules.no_tablespaces, Reason::NoTablespaces),
        ];
        all.extend(flags.into_iter().filter(|(on, _)| *on).map(|(_, reason)| reason));
        all.extend(rules.drop.iter().cloned().map(Reason::Pattern));
        all.extend(rules.replace.iter().cloned().map(Reason::Replaced));
        all
    }

    /// Returns what the rules make of a statement. First match of `drop`, then the rules about roles, owners and the
    /// target, then all of `replace` in their order.
    #[must_use]
    pub fn judge(&self, statement: &Statement<'_>) -> Verdict {
        let patterns = !(self.drop.is_empty() && self.replace.is_empty());
        let (code, data) = statement.text.split_at(if patterns { code_end(statement) } else { statement.text.len() });
        for (regex, rule) in self.drop.iter().zip(&self.rules.drop) {
            if regex.is_match(code) {
                return Verdict::Drop { reasons: vec![Reason::Pattern(rule.clone())] };
            }
        }
        let mut change = Change::default();
        let mut new: Option<Vec<u8>> = None;
        if self.reads_tokens && data.is_empty() && may_concern(code) {
            self.read(&statement.tokens(), &mut change);
            if change.is_drop() {
                return Verdict::Drop { reasons: change.into_reasons() };
            }
            new = change.has_edits().then(|| change.apply(code));
        }
        for (regex, rule) in self.replace.iter().zip(&self.rules.replace) {
            let now = new.as_deref().unwrap_or(code);
            if regex.is_match(now) {
                new = Some(regex.replace_all(now, rule.with.as_bytes()).into_owned());
                change.because(Reason::Replaced(rule.clone()));
            }
        }
        match new {
            Some(mut text) => {
                text.extend_from_slice(data);
                Verdict::Rewrite { text, reasons: change.into_reasons() }
            }
            None => Verdict::Keep,
        }
    }

    /// Applies the rules that look at tokens.
    fn read(&self, t: &Tokens<'_>, change: &mut Change) {
        let rules = &self.rules;
        if rules.no_acl && is_acl(t) {
            return change.drop(Reason::NoAcl);
        }
        let uses = roles::uses(t);
        self.reserved(t, &uses, change);
        self.role_options(t, change);
        if rules.no_owner && gives_owner(t) {
            for one in &uses {
                match &one.part {
                    Part::Clause { span } => change.cut(span.clone(), Reason::NoOwner),
                    Part::Subject | Part::Member { .. } | Part::Session { .. } => change.drop(Reason::NoOwner),
                }
            }
        }
        if rules.no_tablespaces {
            tablespaces(t, change);
        }
        if let Some(target) = &rules.target {
            target::apply(target, t, change);
        }
    }

    /// Takes out every reference to a reserved role.
    fn reserved(&self, t: &Tokens<'_>, uses: &[RoleUse], change: &mut Change) {
        let reserved =
            |one: &RoleUse| one.name.as_ref().filter(|name| self.rules.reserved_roles.contains(name)).cloned();
        let mut lists_done = Vec::new();
        for one in uses {
            let Some(reason) = reserved(one).map(Reason::ReservedRole) else { continue };
            match &one.part {
                Part::Subject => change.drop(reason),
                Part::Clause { span } => change.cut(span.clone(), reason),
                // Dropping the statement would leave the session with the role of the objects before.
                Part::Session { own } => change.put(one.span.clone(), own.as_bytes().to_vec(), reason),
                Part::Member { list, clause } => {
                    change.because(reason.clone());
                    if lists_done.contains(list) {
                        continue;
                    }
                    lists_done.push(list.clone());
                    let same = |other: &&RoleUse| matches!(&other.part, Part::Member { list: l, .. } if l == list);
                    let kept: Vec<&[u8]> = uses
                        .iter()
                        .filter(same)
                        .filter(|other| reserved(other).is_none())
                        .map(|other| &t.text[other.span.clone()])
                        .collect();
                    match clause {
                        _ if !kept.is_empty() => change.put(list.clone(), kept.join(&b", "[..]), reason),
                        Some(clause) => change.cut(clause.clone(), reason),
                        None => change.drop(reason),
                    }
                }
            }
        }
    }

    /// Takes passwords and attributes out of `CREATE ROLE` and `ALTER ROLE`.
    fn role_options(&self, t: &Tokens<'_>, change: &mut Change) {
        let rules = &self.rules;
        if rules.drop_passwords_of.is_empty() && rules.drop_role_attributes.is_empty() {
            return;
        }
        let options = roles::options(t);
        let Some(role) = t.name(2).filter(|_| !options.is_empty()) else { return };
        let mut left = options.len();
        for option in options {
            let reason = if option.word == "PASSWORD" {
                rules.drop_passwords_of.iter().find(|name| **name == role).cloned().map(Reason::PasswordOf)
            } else {
                let same = |listed: &&String| {
                    **listed == option.word || option.word.strip_prefix("NO") == Some(listed.as_str())
                };
                rules.drop_role_attributes.iter().find(same).cloned().map(Reason::RoleAttribute)
            };
            if let Some(reason) = reason {
                change.cut(with_blank(t, option.tokens), reason);
                left -= 1;
            }
        }
        if left == 0 && t.are(0, "ALTER") {
            change.drop_all();
        }
    }
}

/// Returns where the data of an `INSERT` begin: behind `VALUES`; of other statements, the end.
fn code_end(statement: &Statement<'_>) -> usize {
    let text = statement.text;
    if !text[..word_end(text, 0)].eq_ignore_ascii_case(b"INSERT") {
        return text.len();
    }
    Lexer::new(text, statement.quoting)
        .find(|token| {
            let word = token.kind == TokenKind::Word && text[token.start..token.end].eq_ignore_ascii_case(b"VALUES");
            word || token.kind == TokenKind::String
        })
        .map_or(text.len(), |token| if token.kind == TokenKind::String { token.start } else { token.end })
}

/// Returns whether a rule about tokens may have to do with a statement, by its first word.
fn may_concern(text: &[u8]) -> bool {
    const WORDS: &[&str] = &["CREATE", "ALTER", "DROP", "GRANT", "REVOKE", "COMMENT", "SECURITY", "SET", "REASSIGN"];
    let word = &text[..word_end(text, 0)];
    if word.eq_ignore_ascii_case(b"SELECT") {
        let head = &text[..text.len().min(100)];
        return memchr::memmem::find(&head.to_ascii_lowercase(), b"set_config").is_some();
    }
    WORDS.iter().any(|first| word.eq_ignore_ascii_case(first.as_bytes()))
}

fn is_acl(t: &Tokens<'_>) -> bool {
    let grant = t.any(0, &["GRANT", "REVOKE"]);
    let privileges = grant && t.find(1, &["ON", "TO", "FROM"]).is_some_and(|at| t.are(at, "ON"));
    privileges || t.are(0, "ALTER DEFAULT PRIVILEGES")
}

fn gives_owner(t: &Tokens<'_>) -> bool {
    t.any(0, &["CREATE SCHEMA", "CREATE DATABASE", "CREATE TABLESPACE"])
        || (t.are(0, "ALTER") && t.find(2, &["OWNER TO"]).is_some())
        || (t.are(0, "SET") && t.find(1, &["AUTHORIZATION"]).is_some())
}

/// Takes out what places objects in tablespaces.
fn tablespaces(t: &Tokens<'_>, change: &mut Change) {
    let about = t.any(0, &["CREATE TABLESPACE", "ALTER TABLESPACE", "DROP TABLESPACE", "COMMENT ON TABLESPACE"])
        || (t.any(0, &["GRANT", "REVOKE", "SECURITY"]) && t.find(1, &["ON TABLESPACE"]).is_some())
        || (t.are(0, "ALTER") && t.find(2, &["SET TABLESPACE"]).is_some());
    let default = t.are(0, "SET default_tablespace") && t.literal(3).is_none_or(|name| !name.is_empty());
    if about || default {
        return change.drop(Reason::NoTablespaces);
    }
    let place = t.find(2, &["TABLESPACE", "AS", "WHERE"]).filter(|&at| t.are(at, "TABLESPACE"));
    let placed = t.any(1, &["DATABASE", "TABLE", "INDEX", "UNIQUE INDEX", "UNLOGGED TABLE"]);
    if let Some(at) = place.filter(|_| placed) {
        let first = if at > 2 && t.are(at - 2, "USING INDEX") { at - 2 } else { at };
        let end = at + 2 + usize::from(t.is_symbol(at + 1, b'='));
        change.cut(with_blank(t, first..end.min(t.len())), Reason::NoTablespaces);
    }
}

#[cfg(test)]
mod tests;
