//! Whether the target holds just what a merge would give.

use super::{Sessions, Tell, at};
use crate::{
    digest::Rows,
    error::StepError,
    merge::{Layout, Spec},
    postgres::{
        copy::digest,
        quote::{ident_list, qualified},
    },
};

/// Compares the contents of every table with what its sources would give.
pub(super) async fn is_same(
    spec: &Spec,
    layout: &Layout,
    sessions: &Sessions,
    tell: Tell<'_>,
) -> Result<bool, StepError> {
    for table in layout.tables() {
        let columns = &table.common;
        if columns.is_empty() {
            continue;
        }
        tell(at(layout, table, "whether the target holds its rows already"));
        let mut given = Rows::default();
        for part in &table.parts {
            let copy = format!("COPY ({}) TO STDOUT", part.select(columns));
            given += digest(sessions.of(&part.place.database)?, &copy).await?;
        }
        let own = qualified(&spec.into.schema, &table.name);
        let copy = format!("COPY (SELECT {} FROM {own}) TO STDOUT", ident_list(columns));
        if digest(sessions.of(&spec.into.database)?, &copy).await? != given {
            return Ok(false);
        }
    }
    Ok(true)
}
