//! Takes statements of a dump, one after the other, into a server: the heart of a restore.
//!
//! Statements are sent many at a time, as one transaction with the receipt. When one fails, the transaction is rolled
//! back, what stood before the culprit is done again without it, and the culprit alone: so each statement ends as if it
//! had been run by itself, as psql does it, at a fraction of the round trips. What cannot run in a transaction runs
//! alone, announced by the receipt before and confirmed after. Rows of COPY are streamed, one COPY per transaction.

use std::{collections::BTreeMap, mem::take};

use super::{
    PerformCx, RestoreOp,
    failure::{self, Item},
    grants,
    receipts::{Key, Mark, Tally},
    target::{Ran, Target},
};
use crate::{
    error::{ErrorKind, StepError},
    op::Compat,
    postgres::ConnInfo,
    sql::{Filter, FilterReport, FilterRules, Statement, StatementKind, Verdict, filter::TargetAbilities},
};

mod block;
mod copy;
mod judge;

/// Most statements in a transaction: each may hold locks until its end.
const STATEMENTS: usize = 200;
/// Most text in a message, bytes.
const TEXT: usize = 256 * 1024;
/// How often a statement that got in another's way is tried.
const ATTEMPTS: usize = 5;

/// A transaction block of the dump's own: `BEGIN` … `COMMIT`.
#[derive(Debug, PartialEq, Eq)]
enum Block {
    /// None is open.
    None,
    /// It was done before, or one of its statements failed: nothing of it is run.
    Skip,
    /// It is open on the server; it began at this offset.
    Open(u64),
}

/// See the module.
pub(super) struct Loader<'a> {
    op: &'a RestoreOp,
    cx: &'a PerformCx,
    into: ConnInfo,
    key: Key,
    /// Whether every statement is a transaction of its own: index builds side by side could deadlock otherwise.
    single: bool,
    target: Target<'a>,
    mark: Mark,
    /// Whether the receipt's table is known to be there.
    ensured: bool,
    /// Whether anything was done in this database in this attempt.
    touched: bool,
    /// What was done in databases that were left.
    left: BTreeMap<String, Tally>,
    rules: FilterRules,
    filter: Filter,
    report: FilterReport,
    /// How often the filter learnt what the target does not know.
    learnt: u64,
    batch: Vec<Item>,
    batch_text: usize,
    grants: Vec<Item>,
    block: Block,
    /// The settings of the session that the dump made, by name, in their order.
    settings: Vec<(String, String)>,
    /// `SET SESSION AUTHORIZATION` or `SET ROLE` is in force.
    acts_as_other: bool,
    copy: copy::Copy,
    errors: Vec<StepError>,
    errors_unkept: u64,
    warnings: Vec<String>,
    /// Bytes of the dump so far; of COPY rows since the start.
    at: u64,
    rows: u64,
}

/// What a whole restore did.
pub(super) struct Loaded {
    pub(super) databases: BTreeMap<String, Tally>,
    pub(super) report: FilterReport,
    pub(super) warnings: Vec<String>,
    pub(super) already_done: bool,
}

impl<'a> Loader<'a> {
    /// Connects to the first database and reads how far an earlier attempt came.
    pub(super) async fn open(op: &'a RestoreOp, cx: &'a PerformCx, key: Key, single: bool) -> Result<Self, StepError> {
        let into = cx.databases.conninfo(&op.into)?;
        let target = Target::connect(&into, &into.dbname, op, cx).await?;
        target.end_leftovers().await?;
        let mark = key.read(&target.session).await?.unwrap_or_default();
        let mut rules = op.dump.rules.clone().unwrap_or_default();
        if op.compat == Compat::Strip {
            let abilities = rules.target.get_or_insert_with(TargetAbilities::default);
            abilities.major = target.session.server_version_num() / 10_000;
        }
        let filter = Filter::new(rules.clone())?;
        let report = FilterReport::new(&filter);
        let mut loader = Self {
            op,
            cx,
            into,
            key,
            single,
            target,
            mark,
            rules,
            filter,
            report,
            learnt: 0,
            ensured: false,
            touched: false,
            left: BTreeMap::new(),
            batch: Vec::new(),
            batch_text: 0,
            grants: Vec::new(),
            block: Block::None,
            settings: Vec::new(),
            acts_as_other: false,
            copy: copy::Copy::None,
            errors: Vec::new(),
            errors_unkept: 0,
            warnings: Vec::new(),
            at: 0,
            rows: 0,
        };
        loader.learn_marked()?;
        Ok(loader)
    }

    /// Returns what was done when an earlier attempt had come to the end.
    pub(super) fn already_complete(&mut self) -> Option<BTreeMap<String, Tally>> {
        self.mark.complete.take()
    }

    pub(super) fn session(&self) -> &crate::postgres::Session {
        &self.target.session
    }

    pub(super) fn key(&self) -> &Key {
        &self.key
    }

    /// Returns bytes of the dump and rows so far.
    pub(super) fn progress(&self) -> (u64, u64) {
        (self.at, self.rows)
    }

    /// Goes on in another database of the server.
    pub(super) async fn switch(&mut self, database: &str) -> Result<(), StepError> {
        self.end_section().await?;
        let target = Target::connect(&self.into, database, self.op, self.cx).await?;
        let old = std::mem::replace(&mut self.target, target);
        // The server refuses to copy or drop a database while a session is in it.
        old.session.close().await;
        self.mark = self.key.read(&self.target.session).await?.unwrap_or_default();
        (self.ensured, self.touched, self.acts_as_other) = (false, false, false);
        self.settings.clear();
        self.learn_marked()
    }

    /// Ends the work in this database: all of it is on the target's disk when this returns.
    async fn end_section(&mut self) -> Result<(), StepError> {
        self.flush().await?;
        if self.block != Block::None {
            let message = "the dump ends inside a transaction block";
            return Err(StepError::new(ErrorKind::Verification, message));
        }
        if self.touched {
            self.target.must("write the receipt", &self.flushed(None)?).await?;
        }
        let known = self.left.entry(self.target.database.clone()).or_default();
        *known = self.mark.tally.clone();
        Ok(())
    }

    /// Ends the restore: the receipt of all, the receipts elsewhere removed.
    pub(super) async fn finish(mut self) -> Result<Loaded, StepError> {
        self.end_section().await?;
        if !self.errors.is_empty() {
            return Err(self.together());
        }
        let databases = take(&mut self.left);
        if self.target.database != self.into.dbname {
            let dbname = self.into.dbname.clone();
            self.switch(&dbname).await?;
        }
        self.mark.complete = Some(databases.clone());
        self.ensure().await?;
        self.target.must("write the receipt", &self.flushed(None)?).await?;
        self.clean(&databases).await?;
        self.target.session.close().await;
        Ok(Loaded { databases, report: self.report, warnings: self.warnings, already_done: false })
    }

    /// Removes the receipts in the other databases; those of the first tell that all is done.
    pub(super) async fn clean(&self, databases: &BTreeMap<String, Tally>) -> Result<(), StepError> {
        for database in databases.keys().filter(|database| **database != self.into.dbname) {
            let other = Target::connect(&self.into, database, self.op, self.cx).await?;
            self.key.remove(&other.session).await?;
            other.session.close().await;
        }
        Ok(())
    }

    /// Connects anew, after an error that the driver does not come back from.
    async fn renew(&mut self) -> Result<(), StepError> {
        self.target.renew(&self.into, self.op, &self.settings).await
    }

    /// Notes how far the dump was read.
    pub(super) fn reached(&mut self, offset: u64) {
        self.at = offset;
    }

    /// Takes one statement.
    pub(super) async fn statement(&mut self, statement: &Statement<'_>) -> Result<(), StepError> {
        let Some(mut item) = self.judged(statement)? else { return Ok(()) };
        let kind = item.statement().kind();
        if !matches!(kind, StatementKind::Membership) {
            self.flush_grants().await?;
        }
        if matches!(kind, StatementKind::AlterDatabase(_)) {
            self.warnings.extend(read_only_database(&item));
        }
        match kind {
            StatementKind::Begin => return self.begin(&item).await,
            StatementKind::Commit | StatementKind::Rollback if self.block != Block::None => {
                return self.end_block(item, kind == StatementKind::Commit).await;
            }
            // psql only warns; sent on, it would end a transaction of ours.
            StatementKind::Commit | StatementKind::Rollback => return Ok(()),
            _ if self.block == Block::Skip => return Ok(()),
            StatementKind::Set | StatementKind::SessionAuthorization => {
                let setting = item.statement().setting().map(|setting| setting.name).unwrap_or_default();
                if setting == "statement_timeout" && self.op.statement_timeout_ms > 0 {
                    return Ok(());
                }
                item.again = self.is_done(item.offset);
                let name =
                    if kind == StatementKind::Set { setting.clone() } else { "session authorization".to_owned() };
                self.settings.retain(|(other, _)| *other != name);
                self.settings.push((name, item.text.clone()));
                // How later text is read depends on these, so they must be in force before it is sent.
                let alone =
                    matches!(setting.as_str(), "standard_conforming_strings" | "client_encoding" | "backslash_quote");
                let authorization = kind == StatementKind::SessionAuthorization;
                if alone || authorization {
                    self.flush().await?;
                }
                self.push(item).await?;
                if alone || authorization {
                    self.flush().await?;
                }
                self.acts_as_other |= authorization;
                return Ok(());
            }
            _ if self.block == Block::None && self.is_done(item.offset) => return Ok(()),
            StatementKind::Membership if self.block == Block::None => self.grants.push(item),
            kind if self.block == Block::None && may_need_autocommit(&kind) && item.statement().needs_autocommit() => {
                self.flush().await?;
                self.outside(item).await?;
            }
            _ => self.push(item).await?,
        }
        Ok(())
    }

    /// Applies the filter; `None` when nothing is left.
    fn judged(&mut self, statement: &Statement<'_>) -> Result<Option<Item>, StepError> {
        if is_own(statement) {
            return Ok(None);
        }
        let verdict = self.filter.judge(statement);
        self.report.note(statement, &verdict);
        let text = match verdict {
            Verdict::Keep => statement.text.to_vec(),
            Verdict::Drop { .. } => return Ok(None),
            Verdict::Rewrite { text, .. } => text,
        };
        let text = String::from_utf8(text).map_err(|_| {
            let message = format!("the statement at line {} is not in UTF-8", statement.line);
            StepError::new(ErrorKind::Refused, message).help("make the dump with `--encoding=UTF8`")
        })?;
        let end = statement.offset + statement.text.len() as u64;
        let entry = statement.entry.map(ToString::to_string);
        Ok(Some(Item { text, offset: statement.offset, end, line: statement.line, entry, again: false }))
    }

    fn is_done(&self, offset: u64) -> bool {
        offset < self.mark.done && !self.mark.failed.contains(&offset)
    }

    async fn push(&mut self, item: Item) -> Result<(), StepError> {
        self.batch_text += item.text.len() + 2;
        self.batch.push(item);
        if self.single || self.batch.len() >= STATEMENTS || self.batch_text >= TEXT {
            self.flush_batch().await?;
        }
        Ok(())
    }

    /// Sends what waits.
    async fn flush(&mut self) -> Result<(), StepError> {
        self.flush_grants().await?;
        self.flush_batch().await
    }

    async fn flush_grants(&mut self) -> Result<(), StepError> {
        if self.grants.is_empty() {
            return Ok(());
        }
        self.flush_batch().await?;
        let items = take(&mut self.grants);
        let read = |item: &Item| grants::Membership::read(&item.statement().roles(), &item.text);
        let memberships: Vec<_> = items.iter().map(read).collect();
        let (start, end) = (items[0].offset, items[items.len() - 1].end);
        let mut items: Vec<Option<Item>> = items.into_iter().map(Some).collect();
        let mut ordered: Vec<Item> =
            grants::order(&memberships).into_iter().filter_map(|at| items[at].take()).collect();
        // Out of their order, only all of them together are a way-mark.
        for item in &mut ordered {
            item.end = start;
        }
        if let Some(last) = ordered.last_mut() {
            last.end = end;
        }
        self.transactions(ordered).await
    }

    async fn flush_batch(&mut self) -> Result<(), StepError> {
        let items = take(&mut self.batch);
        self.batch_text = 0;
        if items.is_empty() {
            return Ok(());
        }
        if let Block::Open(from) = self.block {
            return self.in_block(from, items).await;
        }
        let settings_only = items
            .iter()
            .all(|item| matches!(item.statement().kind(), StatementKind::Set | StatementKind::SessionAuthorization));
        if settings_only { self.settings(items).await } else { self.transactions(items).await }
    }

    /// Changes settings of the session: nothing that a receipt would have to tell.
    async fn settings(&mut self, mut items: Vec<Item>) -> Result<(), StepError> {
        while !items.is_empty() {
            match self.target.run(&joined(&items)).await? {
                Ran::Well => return Ok(()),
                Ran::Cut(at, error) => {
                    let mut rest = items.split_off(at.min(items.len() - 1));
                    let culprit = rest.remove(0);
                    items = rest;
                    if let Some(rewritten) = self.failed(culprit, &error).await? {
                        items.insert(0, rewritten);
                    }
                }
            }
        }
        Ok(())
    }

    /// Runs statements in as few transactions as their errors allow.
    async fn transactions(&mut self, mut items: Vec<Item>) -> Result<(), StepError> {
        self.ensure().await?;
        while !items.is_empty() {
            let Some((at, error)) = self.transaction(&items).await? else { return Ok(()) };
            if at >= items.len() {
                // Only the commit failed: which statement is to blame is seen one by one.
                for item in items {
                    self.alone(item).await?;
                }
                return Ok(());
            }
            let mut rest = items.split_off(at);
            let culprit = rest.remove(0);
            let learnt = self.learnt;
            if !items.is_empty() && self.transaction(&items).await?.is_some() {
                for item in take(&mut items) {
                    self.alone(item).await?;
                }
            }
            if at == 0 {
                // It stood first in its transaction: alone it would fail the same.
                if let Some(again) = self.failed(culprit, &error).await? {
                    self.alone(again).await?;
                }
            } else {
                self.alone(culprit).await?;
            }
            if self.learnt > learnt {
                self.judge_rest(&mut rest);
            }
            items = rest;
        }
        Ok(())
    }

    /// Runs statements as one transaction with the receipt; after an error it is rolled back and tells which failed.
    async fn transaction(&mut self, items: &[Item]) -> Result<Option<(usize, tokio_postgres::Error)>, StepError> {
        let Some(last) = items.last() else { return Ok(None) };
        let before = (self.mark.done, self.mark.tally.statements);
        let sent = items.iter().map(|item| item.offset);
        let retried: Vec<u64> = sent.filter(|offset| self.mark.failed.remove(offset)).collect();
        self.mark.done = self.mark.done.max(last.end);
        self.mark.tally.statements += items.iter().filter(|item| !item.again).count() as u64;
        let sql = format!("BEGIN;\n{}{};\nCOMMIT", joined(items), self.receipt(None)?);
        match self.target.run(&sql).await? {
            Ran::Well => {
                self.touched = true;
                Ok(None)
            }
            Ran::Cut(complete, error) => {
                if let Some(lost) = self.target.lost(&error) {
                    return Err(lost);
                }
                self.target.rollback().await?;
                (self.mark.done, self.mark.tally.statements) = before;
                self.mark.failed.extend(retried);
                // The first to complete was BEGIN.
                Ok(Some((complete.saturating_sub(1), error)))
            }
        }
    }

    /// Runs one statement as a transaction of its own, as often as it takes.
    async fn alone(&mut self, mut item: Item) -> Result<(), StepError> {
        for _ in 0..ATTEMPTS {
            match self.transaction(std::slice::from_ref(&item)).await? {
                None => return Ok(()),
                Some((_, error)) => match self.failed(item, &error).await? {
                    Some(again) => item = again,
                    None => return Ok(()),
                },
            }
        }
        Err(self.in_the_way(&item))
    }

    fn in_the_way(&self, item: &Item) -> StepError {
        let message = format!("the statement at line {} gets in the way of others again and again", item.line);
        StepError::new(ErrorKind::Conflict, message)
            .detail(format!("database: {}", self.target.database))
            .detail(format!("statement: {}", item.statement().redacted(200)))
    }

    /// Runs a statement that no transaction may hold.
    async fn outside(&mut self, mut item: Item) -> Result<(), StepError> {
        self.ensure().await?;
        let begun_before = self.mark.begun == Some(item.offset);
        self.target.must("write the receipt", &self.flushed(Some(item.offset))?).await?;
        self.touched = true;
        let mut attempts = 0;
        loop {
            attempts += 1;
            match self.target.run(&item.text).await? {
                Ran::Well => {
                    self.mark.tally.statements += 1;
                    break;
                }
                Ran::Cut(_, error) => {
                    let code = error.as_db_error().map_or("", |db| db.code().code());
                    let done = matches!(code, "42P04" | "42710" | "42P07" | "3D000" | "42704");
                    if begun_before && done {
                        // The attempt that was cut off had done it.
                        self.mark.tally.statements += 1;
                        break;
                    }
                    let judged = self.failed(item.clone(), &error).await;
                    if judged.is_err() && self.target.lost(&error).is_none() {
                        // It was not done, and that is known: an object that is there next time is not ours.
                        self.mark.begun = None;
                        self.target.must("write the receipt", &self.flushed(None)?).await?;
                    }
                    match judged? {
                        Some(_) if attempts == ATTEMPTS => return Err(self.in_the_way(&item)),
                        Some(again) => item = again,
                        None => break,
                    }
                }
            }
        }
        self.mark.begun = None;
        self.mark.done = self.mark.done.max(item.end);
        self.target.must("write the receipt", &self.flushed(None)?).await
    }

    async fn ensure(&mut self) -> Result<(), StepError> {
        if !self.ensured {
            self.key.ensure(&self.target.session).await?;
            self.ensured = true;
        }
        Ok(())
    }

    /// Returns the transaction that writes the receipt, and brings it and all before to the target's disk.
    fn flushed(&self, begun: Option<u64>) -> Result<String, StepError> {
        Ok(format!("BEGIN; SET LOCAL synchronous_commit = on; {}; COMMIT", self.receipt(begun)?))
    }

    /// Returns the statements that write the receipt inside a transaction, without the last semicolon.
    fn receipt(&self, begun: Option<u64>) -> Result<String, StepError> {
        let write = match begun {
            None => self.key.write(&self.mark)?,
            Some(_) => self.key.write(&Mark { begun, ..self.mark.clone() })?,
        };
        if self.acts_as_other {
            // Back to the restoring role, for the rest of the transaction only.
            return Ok(format!("SET LOCAL SESSION AUTHORIZATION DEFAULT; SET LOCAL ROLE NONE; {write}"));
        }
        Ok(write)
    }
}

/// Returns whether a statement is about the receipts of a run whose target the source was once.
fn is_own(statement: &Statement<'_>) -> bool {
    statement.entry.is_some_and(|entry| match entry.kind.as_str() {
        "SCHEMA" => entry.name == "pgplan",
        "ACL" | "COMMENT" => entry.schema.as_deref() == Some("pgplan") || entry.name == "SCHEMA pgplan",
        _ => entry.schema.as_deref() == Some("pgplan"),
    })
}

/// Returns a warning about a setting that would keep the application from writing.
fn read_only_database(item: &Item) -> Option<String> {
    let lower = item.text.to_ascii_lowercase();
    let set = lower.split_once("default_transaction_read_only").is_some_and(|(_, value)| value.contains("on"));
    set.then(|| {
        format!("the dump sets default_transaction_read_only on a database: {}", item.statement().redacted(120))
    })
}

/// Returns statements as one message.
fn joined(items: &[Item]) -> String {
    let mut sql = String::with_capacity(items.iter().map(|item| item.text.len() + 2).sum::<usize>() + 512);
    for item in items {
        sql.push_str(&item.text);
        if !item.text.ends_with(';') {
            sql.push(';');
        }
        sql.push('\n');
    }
    sql
}

fn may_need_autocommit(kind: &StatementKind) -> bool {
    matches!(
        kind,
        StatementKind::CreateDatabase(_)
            | StatementKind::DropDatabase(_)
            | StatementKind::AlterDatabase(_)
            | StatementKind::Create
            | StatementKind::Alter
            | StatementKind::Drop
            | StatementKind::Other
    )
}
