//! `create_database`: a database on a server that is there.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Declarations, ExpandCx, Kind, declare::key};
use crate::{
    action::{Action, ActionGraph, Effect},
    error::{ErrorKind, StepError},
    facts::{Depth, Facts, Look},
    op::{
        Op,
        data::{self, DropDatabase},
    },
    postgres::quote::on_one_line,
};

/// Creates a database.
///
/// From `template0` unless told otherwise, so that nothing of `template1` gets in the way of a restore. Undo drops it
/// again: only a database that this run created, and only when no session is connected to it.
///
/// Outputs: `name`, `created` (whether it was created now, not kept).
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateDatabase {
    /// The database of the plan whose server is meant; it need not exist.
    pub on: String,
    /// The new database's name; absent = the one that `on` names.
    #[serde(default)]
    pub name: Option<String>,
    /// The role that owns it; absent = the role that creates it.
    #[serde(default)]
    pub owner: Option<String>,
    /// Its encoding; absent = the template's.
    #[serde(default)]
    pub encoding: Option<String>,
    /// Both `lc_collate` and `lc_ctype`.
    #[serde(default)]
    pub locale: Option<String>,
    /// How text is sorted; absent = as the template does.
    #[serde(default)]
    pub lc_collate: Option<String>,
    /// How characters are classified; absent = as the template does.
    #[serde(default)]
    pub lc_ctype: Option<String>,
    /// The database that it is copied from.
    #[serde(default = "template0")]
    pub template: String,
    /// The tablespace that it lies in.
    #[serde(default)]
    pub tablespace: Option<String>,
    /// Its comment.
    #[serde(default)]
    pub comment: Option<String>,
    /// What to do when a database of this name is there already.
    #[serde(default)]
    pub if_exists: IfExists,
}

/// What to do with a database that is there already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum IfExists {
    /// The step fails before anything is done.
    #[default]
    Fail,
    /// It is left as it is, and undo does not drop it.
    Keep,
}

fn template0() -> String {
    "template0".to_owned()
}

impl Kind for CreateDatabase {
    const NAME: &'static str = "create_database";
    const GROUP: &'static str = "servers";
    const SUMMARY: &'static str = "Create a database on a server";
    const EXAMPLE: &'static str = "create_database: { on: target, owner: app, encoding: UTF8, locale: C.UTF-8 }";

    fn check(&self, to: &mut Declarations) {
        to.changes(&self.on, "on");
        if self.locale.is_some() && (self.lc_collate.is_some() || self.lc_ctype.is_some()) {
            to.problem("two_locales", key(["locale"]), "`locale` already is `lc_collate` and `lc_ctype`", None);
        }
        to.output("name", false);
        to.output("created", false);
    }

    fn looks(&self, _cx: &ExpandCx<'_>) -> Result<Vec<Look>, StepError> {
        Ok(vec![Look::Server { database: self.on.clone(), depth: Depth::Server }])
    }

    fn actions(&self, facts: &Facts, _cx: &ExpandCx<'_>) -> Result<ActionGraph, StepError> {
        let server = facts.servers.get(&self.on);
        if server.is_none() && !facts.servers_known_after.contains_key(&self.on) {
            return Err(StepError::new(ErrorKind::Internal, format!("`{}` was not looked at", self.on)));
        }
        let name = self.name.clone().or_else(|| server.map(|server| server.dbname.clone()));
        let shown = name.as_deref().map_or_else(|| "its database".to_owned(), on_one_line);
        let existed = server.zip(name.as_deref()).is_some_and(|(server, name)| server.database(name).is_some());
        if existed && self.if_exists == IfExists::Fail {
            return Err(StepError::new(ErrorKind::Refused, format!("the database {shown} is on {} already", self.on))
                .help("set `if_exists: keep` to use it as it is, or drop it yourself"));
        }
        let op = data::CreateDatabase {
            on: self.on.clone(),
            name: name.clone(),
            owner: self.owner.clone(),
            encoding: self.encoding.clone(),
            lc_collate: self.lc_collate.clone().or_else(|| self.locale.clone()),
            lc_ctype: self.lc_ctype.clone().or_else(|| self.locale.clone()),
            template: self.template.clone(),
            tablespace: self.tablespace.clone(),
            comment: self.comment.clone(),
            keep_existing: self.if_exists == IfExists::Keep,
            existed,
        };
        let title = if existed {
            format!("keep the database {shown} on {} as it is", self.on)
        } else {
            format!("create the database {shown} on {}", self.on)
        };
        let mut action = Action::new("create", title, Op::CreateDatabase(op), Effect::Probe);
        if !existed {
            action = action.undo(Op::DropDatabase(DropDatabase { on: self.on.clone(), name }));
        }
        Ok(ActionGraph::of(vec![action]))
    }
}
