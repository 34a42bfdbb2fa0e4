//! Comparing the objects of two databases, their sequences and large objects.

use super::{
    Piece, Sides,
    catalog::{both, differences},
    catalog_sql::of_database,
    no_such_database, sequences,
};
use crate::{
    error::StepError,
    op::data::CompareObjects,
    pattern::any_matches,
    perform::PerformCx,
    postgres::{connect::execute, quote::on_one_line},
};

/// Kinds of objects that are relations, which `exclude` is about, and those whose names begin with a relation's.
const RELATIONS: [&str; 6] = ["table", "materialized view", "view", "sequence", "foreign table", "index"];
const PARTS: [&str; 5] = ["column", "constraint", "trigger", "policy", "rule"];

pub(super) async fn compare(op: &CompareObjects, cx: &PerformCx) -> Result<Piece, StepError> {
    let mut piece = Piece::default();
    let sides = match Sides::open(&op.pair, cx).await {
        Ok(sides) => sides,
        Err(error) if no_such_database(&error) => {
            missing_database(op, cx, &mut piece).await?;
            return Ok(piece);
        }
        Err(error) => return Err(error),
    };
    sides.during(cx, async |sides| compare_between(op, sides, &mut piece).await).await?;
    Ok(piece)
}

/// Finds out which side does not have the database.
async fn missing_database(op: &CompareObjects, cx: &PerformCx, piece: &mut Piece) -> Result<(), StepError> {
    let mut there = Vec::new();
    for (database, dbname) in [(&op.pair.left, &op.pair.left_dbname), (&op.pair.right, &op.pair.right_dbname)] {
        match cx.connect_read_only(database, Some(dbname)).await {
            Ok(session) => {
                session.close().await;
                there.push("there");
            }
            Err(error) if no_such_database(&error) => there.push("missing"),
            Err(error) => return Err(error),
        }
    }
    piece.find(format!("database {}", on_one_line(&op.pair.left_dbname)), "existence", there[0], there[1]);
    Ok(())
}

async fn compare_between(op: &CompareObjects, sides: &Sides, piece: &mut Piece) -> Result<(), StepError> {
    for session in [&sides.left, &sides.right] {
        // Which words need quotes depends on the version.
        execute(session, "prepare to compare", "SET LOCAL quote_all_identifiers = on").await?;
    }
    let prefix = format!("{}:", on_one_line(&op.pair.left_dbname));
    for aspect in &op.aspects {
        let Some((left, right)) = both(sides, *aspect, of_database).await? else { continue };
        let wanted = |kind: &str, name: &str| !excluded(&op.exclude, kind, name);
        differences(*aspect, &prefix, &left, &right, wanted, piece);
    }
    if op.sequences {
        sequences::compare(op, sides, &prefix, piece).await?;
    }
    if op.large_objects {
        sequences::large_objects(sides, &op.pair.left_dbname, piece).await?;
    }
    Ok(())
}

/// Returns whether a relation, or what belongs to it, is excluded.
pub(super) fn excluded(patterns: &[String], kind: &str, name: &str) -> bool {
    if patterns.is_empty() {
        return false;
    }
    if RELATIONS.contains(&kind) {
        return any_matches(patterns, name);
    }
    let owner = name.rsplit_once('.').map(|(relation, _)| relation);
    PARTS.contains(&kind) && owner.is_some_and(|relation| any_matches(patterns, relation))
}
