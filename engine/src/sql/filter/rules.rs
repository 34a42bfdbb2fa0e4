//! What a plan may ask a filter to leave out.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The rules of a `filter` step.
///
/// Two keys deal with roles that the target has already. `drop_passwords_of` is for a role whose password on the
/// target must stay: its `CREATE ROLE` is kept (and fails with an error that the restore expects), its
/// `ALTER ROLE … PASSWORD '…'` keeps every other attribute. `reserved_roles` is for a role that the target does not
/// let anyone touch: nothing about it is left, so no error is left to expect either.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FilterRules {
    /// Roles that the restore must neither create, change nor refer to.
    ///
    /// Dropped: `CREATE`, `ALTER`, `DROP`, `COMMENT ON` and `SECURITY LABEL ON ROLE`, settings of the role, its
    /// memberships and members, `OWNER TO` it (the object then belongs to the restoring role), its user mappings,
    /// `ALTER DEFAULT PRIVILEGES FOR ROLE` it. From lists (grantees, members, `CREATE POLICY … TO`) only the role goes,
    /// and the statement when no other is left. Clauses that name it (`GRANTED BY`, `AUTHORIZATION`, `OWNER =`) are
    /// taken out. `SET SESSION AUTHORIZATION` and `SET ROLE` to it return to the restoring role.
    pub reserved_roles: Vec<String>,
    /// Roles that keep the password they have on the target: their `PASSWORD` clauses are taken out.
    pub drop_passwords_of: Vec<String>,
    /// Role attributes that the target refuses, as `SUPERUSER` or `BYPASSRLS`: taken out of every `CREATE ROLE` and
    /// `ALTER ROLE`, and so is their opposite (`NOSUPERUSER`), which a server without superuser refuses as well.
    pub drop_role_attributes: Vec<String>,
    /// Objects belong to the restoring role: no `OWNER TO`, `AUTHORIZATION`, `SET SESSION AUTHORIZATION`.
    pub no_owner: bool,
    /// No privileges: no `GRANT`, `REVOKE` and `ALTER DEFAULT PRIVILEGES`. Memberships of roles stay.
    pub no_acl: bool,
    /// Everything lies in the target's default tablespace.
    pub no_tablespaces: bool,
    /// Statements to drop, by their text.
    pub drop: Vec<PatternRule>,
    /// Statements to rewrite, by their text.
    pub replace: Vec<ReplaceRule>,
    /// What the target cannot take; set by the engine from what it knows of the target.
    pub target: Option<TargetAbilities>,
}

/// Drops each statement whose text matches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PatternRule {
    /// A regular expression (Rust's `regex`), searched in the statement. Of an `INSERT` only what stands before
    /// `VALUES` is searched: the values are data.
    pub pattern: String,
    /// Why, for the report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Replaces each match in a statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplaceRule {
    /// A regular expression, as in `drop`.
    pub pattern: String,
    /// The new text; `$1` and `${name}` stand for groups, `$$` for a dollar sign.
    pub with: String,
    /// Why, for the report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What the target knows, as far as a dump of another version may go beyond it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TargetAbilities {
    /// The target's major version; settings that `pg_dump` writes and this version lacks are dropped.
    pub major: u32,
    /// Options in `ALTER COLUMN … SET (…)` that the target does not know, as `pg_attver`.
    pub unknown_column_options: Vec<String>,
    /// Storage parameters in `WITH (…)` and `ALTER … SET (…)` that the target does not know.
    pub unknown_relation_options: Vec<String>,
    /// Settings that the target does not know, in `SET`, `set_config`, `ALTER … SET` and `CREATE FUNCTION … SET`.
    pub unknown_settings: Vec<String>,
}

/// Why a statement was dropped or rewritten; its text is the rule's name in the report.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// `reserved_roles`.
    ReservedRole(String),
    /// `drop_passwords_of`.
    PasswordOf(String),
    /// `drop_role_attributes`.
    RoleAttribute(String),
    /// `no_owner`.
    NoOwner,
    /// `no_acl`.
    NoAcl,
    /// `no_tablespaces`.
    NoTablespaces,
    /// The target does not know this option of columns.
    UnknownColumnOption(String),
    /// The target does not know this storage parameter.
    UnknownRelationOption(String),
    /// The target does not know this setting.
    UnknownSetting(String),
    /// A rule of `drop`.
    Pattern(PatternRule),
    /// A rule of `replace`.
    Replaced(ReplaceRule),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let because = |f: &mut fmt::Formatter<'_>, reason: &Option<String>| match reason {
            Some(reason) => write!(f, ": {reason}"),
            None => Ok(()),
        };
        match self {
            Self::ReservedRole(role) => write!(f, "role \"{role}\" is reserved"),
            Self::PasswordOf(role) => write!(f, "role \"{role}\" keeps the target's password"),
            Self::RoleAttribute(word) => write!(f, "the target refuses the role attribute {word}"),
            Self::NoOwner => f.write_str("no_owner"),
            Self::NoAcl => f.write_str("no_acl"),
            Self::NoTablespaces => f.write_str("no_tablespaces"),
            Self::UnknownColumnOption(name) => write!(f, "the target does not know the column option {name}"),
            Self::UnknownRelationOption(name) => write!(f, "the target does not know the storage parameter {name}"),
            Self::UnknownSetting(name) => write!(f, "the target does not know the setting {name}"),
            Self::Pattern(rule) => {
                write!(f, "drop pattern `{}`", rule.pattern)?;
                because(f, &rule.reason)
            }
            Self::Replaced(rule) => {
                write!(f, "replace pattern `{}`", rule.pattern)?;
                because(f, &rule.reason)
            }
        }
    }
}
