//! What follows from an error: expected, stripped of what the target does not know, tried again, or the end.

use std::mem::take;

use super::{
    super::{
        expected,
        failure::{self, Item},
    },
    Block, Loader,
};
use crate::{
    error::{ErrorKind, StepError},
    op::{Compat, OnError},
    sql::{Filter, Verdict},
};

/// Most errors that `on_error: collect` keeps the words of.
const KEPT_ERRORS: usize = 200;

impl Loader<'_> {
    /// Judges an error: `Some` = try this instead, `None` = it is dealt with and the next statement is due.
    pub(super) async fn failed(
        &mut self,
        item: Item,
        error: &tokio_postgres::Error,
    ) -> Result<Option<Item>, StepError> {
        let dump = self.op.dump.path.display().to_string();
        let told =
            |kept: &Self| failure::describe(&kept.target.session, &kept.target.database, &item, error, kept.cx, &dump);
        let Some(db) = error.as_db_error() else { return Err(told(self)) };
        let object = item.object();
        let message = db.message().lines().next().unwrap_or_default();
        // Inside a block of the dump's own an error undoes what stands around it, too: nobody expects that.
        let in_block = self.block != Block::None;
        if !in_block && let Some(one) = expected::find(&self.op.expected, db.code().code(), message, object.as_deref())
        {
            if !item.again {
                *self.mark.tally.expected.entry(expected::name(one)).or_default() += 1;
            }
            self.mark.failed.remove(&item.offset);
            self.mark.done = self.mark.done.max(item.end);
            self.touched |= self.ensured;
            return Ok(None);
        }
        if let Some(kind) = failure::of_surroundings(db, self.cx.cancel.is_cancelled()) {
            if kind == ErrorKind::Conflict && matches!(db.code().code(), "40P01" | "40001") {
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                return Ok(Some(item));
            }
            return Err(StepError { kind, ..told(self) });
        }
        if let Some(again) = self.stripped(&item, db.message())? {
            return Ok(again);
        }
        let new = failure::unexpected(told(self), message);
        match self.op.on_error {
            OnError::Stop => Err(new),
            OnError::Collect => {
                self.mark.failed.insert(item.offset);
                self.mark.done = self.mark.done.max(item.end);
                self.touched |= self.ensured;
                if self.errors.len() < KEPT_ERRORS {
                    self.errors.push(new);
                } else {
                    self.errors_unkept += 1;
                }
                Ok(None)
            }
        }
    }

    /// Takes out of a statement what the target has just said it does not know: `Some(None)` = nothing is left.
    fn stripped(&mut self, item: &Item, message: &str) -> Result<Option<Option<Item>>, StepError> {
        if self.op.compat != Compat::Strip {
            return Ok(None);
        }
        let between = |before: &str| message.strip_prefix(before)?.strip_suffix('"').map(str::to_owned);
        if let Some(option) = between("unrecognized parameter \"") {
            self.mark.unknown.options.insert(option);
        } else if let Some(setting) = between("unrecognized configuration parameter \"") {
            self.mark.unknown.settings.insert(setting);
        } else {
            return Ok(None);
        }
        self.learn_marked()?;
        Ok(match self.judged_again(item) {
            // It cannot be taken out of this statement: the error stands.
            Some(same) if same.text == item.text => None,
            Some(rewritten) => Some(Some(rewritten)),
            None => {
                self.mark.done = self.mark.done.max(item.end);
                Some(None)
            }
        })
    }

    /// Applies the filter, which may know more by now, to a statement once more; `None` when nothing is left.
    fn judged_again(&mut self, item: &Item) -> Option<Item> {
        let statement = item.statement();
        let verdict = self.filter.judge(&statement);
        self.report.note(&statement, &verdict);
        match verdict {
            Verdict::Keep => Some(item.clone()),
            Verdict::Drop { .. } => None,
            // The filter cuts at tokens: what is left of UTF-8 is UTF-8.
            Verdict::Rewrite { text, .. } => {
                Some(Item { text: String::from_utf8_lossy(&text).into_owned(), ..item.clone() })
            }
        }
    }

    /// Applies what the filter has learnt to statements that wait behind the one that taught it.
    pub(super) fn judge_rest(&mut self, items: &mut Vec<Item>) {
        let last = items.last().map(|item| item.end);
        *items = take(items).iter().filter_map(|item| self.judged_again(item)).collect();
        // The way-mark of the last stays that of all.
        match (items.last_mut(), last) {
            (Some(item), Some(end)) => item.end = end,
            (None, Some(end)) => self.mark.done = self.mark.done.max(end),
            _ => {}
        }
    }

    /// Makes the filter know what the receipt says that the target does not know.
    pub(super) fn learn_marked(&mut self) -> Result<(), StepError> {
        let Some(abilities) = &mut self.rules.target else { return Ok(()) };
        let unknown = &self.mark.unknown;
        let mut more = false;
        let mut add = |list: &mut Vec<String>, name: &String| {
            if !list.contains(name) {
                list.push(name.clone());
                more = true;
            }
        };
        for name in &unknown.options {
            add(&mut abilities.unknown_column_options, name);
            add(&mut abilities.unknown_relation_options, name);
        }
        for name in &unknown.settings {
            add(&mut abilities.unknown_settings, name);
        }
        if more {
            self.filter = Filter::new(self.rules.clone())?;
            self.learnt += 1;
        }
        Ok(())
    }

    /// Returns all unexpected errors as one.
    pub(super) fn together(&mut self) -> StepError {
        let all = take(&mut self.errors);
        let count = all.len() as u64 + self.errors_unkept;
        let mut new = StepError::new(ErrorKind::UnexpectedError, format!("{count} statements failed unexpectedly"));
        // One detail a statement, its cause on a line of its own.
        for error in &all {
            let cause = error.details.iter().filter(|line| line.starts_with("cause: "));
            let cause: String = cause.map(|line| format!("\n  {line}")).collect();
            new.details.push(format!("{}: {}{cause}", error.sqlstate.as_deref().unwrap_or("-----"), error.message));
        }
        if self.errors_unkept > 0 {
            new.details.push(format!("and {} more", self.errors_unkept));
        }
        new.help("mend the causes, then apply again: only the statements that failed are run again")
    }
}
