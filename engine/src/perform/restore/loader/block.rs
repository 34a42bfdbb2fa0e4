//! Transaction blocks of the dump's own: large objects are written inside of one.

use super::{
    super::{
        failure::{self, Item},
        target::Ran,
    },
    Block, Loader, joined,
};
use crate::error::StepError;

impl Loader<'_> {
    pub(super) async fn begin(&mut self, item: &Item) -> Result<(), StepError> {
        self.flush().await?;
        self.block = Block::Skip;
        if !self.is_done(item.offset) {
            self.ensure().await?;
            self.target.must("begin a transaction", &item.text).await?;
            self.block = Block::Open(item.offset);
        }
        Ok(())
    }

    /// Runs statements inside the dump's own transaction block; an error undoes all of the block, as it would in psql.
    pub(super) async fn in_block(&mut self, from: u64, mut items: Vec<Item>) -> Result<(), StepError> {
        match self.target.run(&joined(&items)).await? {
            Ran::Well => self.mark.tally.statements += items.len() as u64,
            Ran::Cut(at, error) => {
                if let Some(lost) = self.target.lost(&error) {
                    return Err(lost);
                }
                self.target.rollback().await?;
                self.block = Block::Skip;
                let mut culprit = items.swap_remove(at.min(items.len() - 1));
                culprit.offset = from;
                self.block_failed(culprit, &error).await?;
            }
        }
        Ok(())
    }

    /// Judges an error that undid a whole block: there is nothing to try in the place of one statement.
    async fn block_failed(&mut self, item: Item, error: &tokio_postgres::Error) -> Result<(), StepError> {
        self.block = Block::Skip;
        let dump = self.op.dump.path.display().to_string();
        match self.failed(item, error).await? {
            None => Ok(()),
            Some(item) => {
                Err(failure::describe(&self.target.session, &self.target.database, &item, error, self.cx, &dump))
            }
        }
    }

    pub(super) async fn end_block(&mut self, item: Item, commit: bool) -> Result<(), StepError> {
        self.flush_batch().await?;
        if let Block::Open(from) = self.block {
            if commit {
                self.mark.failed.remove(&from);
                self.mark.done = self.mark.done.max(item.end);
                let sql = format!("{};\n{}", self.receipt(None)?, item.text);
                self.touched = true;
                if let Ran::Cut(_, error) = self.target.run(&sql).await? {
                    if let Some(lost) = self.target.lost(&error) {
                        return Err(lost);
                    }
                    self.target.rollback().await?;
                    self.block_failed(Item { offset: from, ..item }, &error).await?;
                }
            } else {
                self.target.must("roll back", &item.text).await?;
            }
        }
        self.block = Block::None;
        Ok(())
    }
}
