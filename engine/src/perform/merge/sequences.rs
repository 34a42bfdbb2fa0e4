//! The target's sequences after a merge: past every value that has come, in their own scheme.

use super::Sessions;
use crate::{
    error::{ErrorKind, StepError},
    merge::{Place, Sequence},
    postgres::{
        Session,
        quote::{ident, literal, on_one_line, qualified},
        rows::{first, flag, rows, text},
    },
};

/// A sequence as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    last: i128,
    called: bool,
    start: i128,
    increment: i128,
}

impl State {
    /// Returns the value to set so that the next one is past `reached` and still one of the sequence's own: it keeps its
    /// distance from the start (shards that share numbers by `INCREMENT BY`). `None` when it is past it already.
    fn past(&self, reached: i128) -> Option<i128> {
        let ahead = |value: i128, than: i128| if self.increment > 0 { value >= than } else { value <= than };
        let own = if ahead(self.start, reached) {
            self.start
        } else {
            let distance = reached - self.start;
            let steps = distance.div_euclid(self.increment) + i128::from(distance.rem_euclid(self.increment) != 0);
            self.start + steps * self.increment
        };
        let there = self.called && ahead(self.last, own);
        (!there).then_some(own)
    }
}

/// Advances sequences; returns how many were.
pub(super) async fn advance(
    sessions: &Sessions,
    into: &Place,
    sequences: &[Sequence],
    sources: &[Place],
) -> Result<u64, StepError> {
    let mut advanced = 0;
    let session = &sessions.target;
    for sequence in sequences {
        let state = read(session, &into.schema, &sequence.name).await?;
        let reached = match &sequence.feeds {
            Some((table, column)) => furthest(session, into, table, column, state.increment).await?,
            // What a function does with it only the function knows: it goes on where the furthest source stands.
            None => furthest_source(sessions, into, sources, &sequence.name, state.increment).await?,
        };
        let Some(value) = reached.and_then(|reached| state.past(reached)) else { continue };
        let name = qualified(&into.schema, &sequence.name);
        let sql = format!("SELECT pg_catalog.setval({}, {value})", literal(&name));
        first(session, &format!("advance the sequence {}", on_one_line(&sequence.name)), &sql).await?;
        advanced += 1;
    }
    Ok(advanced)
}

async fn read(session: &Session, schema: &str, name: &str) -> Result<State, StepError> {
    let own = qualified(schema, name);
    let sql = if session.server_version_num() >= 100_000 {
        format!(
            "SELECT s.last_value, s.is_called, p.seqstart, p.seqincrement FROM {own} s, pg_catalog.pg_sequence p \
             WHERE p.seqrelid = {}::pg_catalog.regclass",
            literal(&own)
        )
    } else {
        format!("SELECT last_value, is_called, start_value, increment_by FROM {own}")
    };
    let found = rows(session, "read a sequence", &sql).await?;
    let missing = || StepError::new(ErrorKind::Object, format!("the sequence {} cannot be read", on_one_line(name)));
    let row = found.first().ok_or_else(missing)?;
    let number = |column| text(row, column).parse::<i128>().map_err(|_| missing());
    Ok(State { last: number(0)?, called: flag(row, 1), start: number(2)?, increment: number(3)? })
}

async fn furthest(
    session: &Session,
    into: &Place,
    table: &str,
    column: &str,
    increment: i128,
) -> Result<Option<i128>, StepError> {
    let edge = if increment > 0 { "max" } else { "min" };
    let sql = format!("SELECT pg_catalog.{edge}({}) FROM {}", ident(column), qualified(&into.schema, table));
    Ok(first(session, "look for the furthest value", &sql).await?.and_then(|value| value.parse().ok()))
}

async fn furthest_source(
    sessions: &Sessions,
    into: &Place,
    sources: &[Place],
    name: &str,
    increment: i128,
) -> Result<Option<i128>, StepError> {
    let mut reached: Option<i128> = None;
    for place in sources {
        let session =
            if place.database == into.database { Some(&sessions.target) } else { sessions.others.get(&place.database) };
        let Some(session) = session else { continue };
        let own = qualified(&place.schema, name);
        let there = format!("SELECT pg_catalog.to_regclass({}) IS NOT NULL", literal(&own));
        if first(session, "look for a sequence", &there).await?.as_deref() != Some("t") {
            continue;
        }
        let sql = format!("SELECT last_value FROM {own} WHERE is_called");
        let Some(value) = first(session, "read a sequence", &sql).await? else { continue };
        let value: Option<i128> = value.parse().ok();
        reached = match (reached, value) {
            (Some(one), Some(other)) => Some(if increment > 0 { one.max(other) } else { one.min(other) }),
            (one, other) => one.or(other),
        };
    }
    Ok(reached)
}

#[cfg(test)]
mod tests {
    use super::State;

    #[test]
    fn a_sequence_keeps_its_scheme() {
        let third_of_ten = State { last: 3, called: false, start: 3, increment: 10 };
        for (reached, value) in [(1, Some(3)), (3, Some(3)), (4, Some(13)), (13, Some(13)), (1000, Some(1003))] {
            assert_eq!(third_of_ten.past(reached), value, "{reached}");
        }
        let far = State { last: 2003, called: true, ..third_of_ten };
        assert_eq!(far.past(1000), None);
        let down = State { last: -1, called: true, start: -1, increment: -1 };
        assert_eq!((down.past(-7), down.past(5)), (Some(-7), None));
    }
}
