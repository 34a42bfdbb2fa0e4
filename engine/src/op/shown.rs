//! Operations as the dry run shows them: the command line or SQL that would be used, secrets by name.

use super::{
    DumpOp, Exec, Expected, FilterOp, Op, RestoreOp,
    data::{RunSql, SqlSource},
    fence::{Access, FenceOp},
    merge::FillTables,
    preflight::{Preflight, Waiver},
    trial::TrialOp,
};
use crate::{
    postgres::quote::{ident, on_one_line, qualified},
    secret::Text,
    sql::Filter,
};

impl Op {
    /// Returns what a reader wants to see besides the action's title, line by line.
    #[must_use]
    pub fn shown(&self) -> Vec<String> {
        match self {
            Self::Exec(exec) => exec.shown(),
            Self::Tunnel(tunnel) => tunnel.exec.shown(),
            Self::RestoreFile { backup, .. } => vec![format!("from {}", backup.display())],
            Self::CreateCluster(cluster) => vec![format!("in {}", cluster.folder.display())],
            Self::RemoveCluster { folder, .. } => vec![format!("rm -r {}", folder.display())],
            Self::Restore(restore) => restore.shown(),
            Self::RunSql(sql) => sql.shown(),
            Self::CreateDatabase(new) => vec![new.sql(new.name.as_deref().unwrap_or("?"))],
            Self::DropDatabase(old) => vec![format!("DROP DATABASE {}", ident(old.name.as_deref().unwrap_or("?")))],
            Self::Dump(dump) => vec![dump.command_line()],
            Self::Filter(filter) => filter.shown(),
            Self::Fence(fence) => fence.shown(),
            Self::SchemaTrial(trial) => trial.shown(),
            Self::Unfence(unfence) => unfence.before.iter().map(Access::shown).collect(),
            Self::FillTables(fill) => fill.shown(),
            Self::ProveMerge(proof) => {
                proof.complete.iter().map(|sql| format!("then, in the same transaction: {sql}")).collect()
            }
            Self::EmptyTables(empty) => {
                let delete = |(table, _): &(String, Option<u64>)| {
                    format!("DELETE FROM {}", qualified(&empty.into.schema, table))
                };
                empty.first.iter().map(ToString::to_string).chain(empty.tables.iter().map(delete)).collect()
            }
            Self::Preflight(preflight) => preflight.shown(),
            // Their titles say it all.
            Self::EditFile(_)
            | Self::Vacuum(_)
            | Self::Compare { .. }
            | Self::JudgeComparison(_)
            | Self::StillQuiet(_)
            | Self::EndTrial(_)
            | Self::MapKeys(_)
            | Self::Approve { .. }
            | Self::Remember { .. } => Vec::new(),
        }
    }
}

impl Preflight {
    fn shown(&self) -> Vec<String> {
        let waived = |waiver: &Waiver| {
            let objects = if waiver.objects.is_empty() { "all of it".to_owned() } else { waiver.objects.join(", ") };
            format!("waived until {}: {} ({objects}): {}", waiver.until, waiver.code, on_one_line(&waiver.reason))
        };
        self.waive.iter().map(waived).collect()
    }
}

impl FilterOp {
    fn shown(&self) -> Vec<String> {
        let rules = Filter::new(self.rules.clone()).map(|filter| filter.rules()).unwrap_or_default();
        rules.iter().map(ToString::to_string).collect()
    }
}

impl TrialOp {
    fn shown(&self) -> Vec<String> {
        let dumps = self.roles.iter().chain(std::iter::once(&self.schema)).map(DumpOp::command_line);
        let rules = Filter::new(self.rules.clone()).map(|filter| filter.rules()).unwrap_or_default();
        dumps.chain(rules.iter().map(ToString::to_string)).collect()
    }
}

impl FenceOp {
    fn shown(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.before.iter().map(|access| format!("before: {}", access.shown())).collect();
        let stay = self.allow_roles.iter().map(|role| format!("role {role}"));
        let stay: Vec<String> = stay.chain(self.allow_applications.iter().cloned()).collect();
        if !stay.is_empty() {
            lines.push(format!("stay: {}", stay.join(", ")));
        }
        lines
    }
}

impl Access {
    fn shown(&self) -> String {
        let acl = self.acl.as_deref().unwrap_or("default privileges");
        let limit = match self.connection_limit {
            -1 => "no connection limit".to_owned(),
            limit => format!("connection limit {limit}"),
        };
        let read_only = self.read_only.as_deref().map_or_else(String::new, |value| format!(", read-only {value}"));
        on_one_line(&format!("{}: {acl}, {limit}{read_only}", self.name))
    }
}

impl Exec {
    fn shown(&self) -> Vec<String> {
        let env = self.env.iter().map(|(name, value)| format!("{name}={value} ")).collect::<String>();
        let mut lines = vec![format!("$ {env}{self}")];
        if let Some(check) = &self.done_if {
            lines.push(format!("unless done: $ {}", check.exec));
        }
        if self.secret_argv && self.argv.iter().any(Text::is_tainted) {
            lines.push("other users of this machine can see the secret while the program runs".to_owned());
        }
        lines
    }
}

impl RestoreOp {
    fn shown(&self) -> Vec<String> {
        let mut lines = vec![format!("from {}", self.dump.path.display())];
        lines.extend(self.expected.iter().map(|expected| match expected {
            Expected::Message(message) => format!("expected: {message}"),
            Expected::Code(code) => {
                format!("expected: SQLSTATE {} at {}", code.sqlstate, code.object)
            }
        }));
        lines
    }
}

impl FillTables {
    /// Shows the statement for each table's first source; those of the others differ in names only.
    fn shown(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for table in &self.tables {
            let Some(part) = table.parts.first() else { continue };
            let select = part.select(&part.columns());
            lines.push(on_one_line(&table.insert(&self.into.schema, part, &select, false)));
            if table.parts.len() > 1 {
                lines.push(format!("… and so from {} more", table.parts.len() - 1));
            }
        }
        lines
    }
}

impl RunSql {
    fn shown(&self) -> Vec<String> {
        let lines = |text: &Text| text.to_string().lines().map(on_one_line).collect::<Vec<_>>();
        let mut shown: Vec<String> = match &self.source {
            SqlSource::Text(texts) => texts.iter().flat_map(lines).collect(),
            SqlSource::File(file) => vec![format!("from {}", file.display())],
        };
        if let Some(rows) = self.expect.rows {
            shown.push(format!("must give {rows} {}", if rows == 1 { "row" } else { "rows" }));
        }
        if let Some(value) = &self.expect.value {
            shown.push(format!("must give the value {value}"));
        }
        shown
    }
}
