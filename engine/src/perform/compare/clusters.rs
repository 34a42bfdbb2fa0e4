//! Comparing what belongs to no database.

use std::collections::BTreeSet;

use super::{
    Piece, Sides,
    catalog::{Lines, both, differences},
    catalog_sql::of_cluster,
};
use crate::{
    error::StepError,
    op::data::{Aspect, CompareClusters, Pair},
    perform::PerformCx,
    postgres::{
        Session,
        quote::on_one_line,
        rows::{flag, rows, text},
    },
    survey,
};

pub(super) async fn compare(op: &CompareClusters, cx: &PerformCx) -> Result<Piece, StepError> {
    let mut piece = Piece::default();
    let pair = Pair {
        left: op.left.clone(),
        left_dbname: entrance(&op.left, cx).await?,
        right: op.right.clone(),
        right_dbname: entrance(&op.right, cx).await?,
    };
    let sides = Sides::open(&pair, cx).await?;
    sides.during(cx, async |sides| compare_between(op, sides, &mut piece).await).await?;
    Ok(piece)
}

/// Returns a database of the server that exists: the plan's own, or a maintenance database.
async fn entrance(database: &str, cx: &PerformCx) -> Result<String, StepError> {
    let session = survey::connect_anywhere(&cx.databases.conninfo(database)?).await?;
    let found = rows(&session, "ask for the database's name", "SELECT current_database()").await;
    session.close().await;
    Ok(found?.first().map(|row| text(row, 0).to_owned()).unwrap_or_default())
}

async fn compare_between(op: &CompareClusters, sides: &Sides, piece: &mut Piece) -> Result<(), StepError> {
    if op.same_databases {
        let (left, right) = tokio::try_join!(databases(&sides.left), databases(&sides.right))?;
        piece.objects += left.union(&right).count() as u64;
        for name in left.difference(&right) {
            piece.find(format!("database {}", on_one_line(name)), "existence", "there", "missing");
        }
        for name in right.difference(&left) {
            piece.find(format!("database {}", on_one_line(name)), "existence", "missing", "there");
        }
    }
    for aspect in &op.aspects {
        if *aspect == Aspect::Passwords && !passwords_visible(sides, piece).await? {
            continue;
        }
        let Some((mut left, mut right)) = both(sides, *aspect, of_cluster).await? else { continue };
        if *aspect == Aspect::Passwords {
            hide(&mut left, &mut right);
        }
        // A role that is missing is told once.
        let exists = |role: &str| left.keys().chain(right.keys()).filter(|(_, name)| name == role).count() == 2;
        let wanted = |_: &str, name: &str| *aspect != Aspect::Passwords || exists(name);
        differences(*aspect, "", &left, &right, wanted, piece);
    }
    Ok(())
}

async fn databases(session: &Session) -> Result<BTreeSet<String>, StepError> {
    let sql = "SELECT datname FROM pg_database WHERE NOT datistemplate";
    let found = rows(session, "list the databases", sql).await?;
    Ok(found.iter().map(|row| text(row, 0).to_owned()).collect())
}

async fn passwords_visible(sides: &Sides, piece: &mut Piece) -> Result<bool, StepError> {
    let sql = "SELECT has_table_privilege('pg_catalog.pg_authid', 'SELECT')";
    let mut all = true;
    for (side, session) in [("left", &sides.left), ("right", &sides.right)] {
        if !rows(session, "ask for a privilege", sql).await?.first().is_some_and(|row| flag(row, 0)) {
            piece.note(format!("passwords were not compared: the role on the {side} may not read pg_authid"));
            all = false;
        }
    }
    Ok(all)
}

/// Replaces verifiers by their method and a digest under a key that is forgotten at once: enough to tell them apart.
fn hide(left: &mut Lines, right: &mut Lines) {
    let key: [u8; 32] = std::array::from_fn(|_| {
        use std::hash::{BuildHasher as _, Hasher as _, RandomState};
        RandomState::new().build_hasher().finish().to_le_bytes()[0]
    });
    for verifier in left.values_mut().chain(right.values_mut()) {
        let method = match verifier.as_str() {
            "" => continue,
            text if text.starts_with("SCRAM-SHA-256$") => "SCRAM-SHA-256",
            text if text.starts_with("md5") => "MD5",
            _ => "other",
        };
        let digest = blake3::keyed_hash(&key, verifier.as_bytes()).to_hex();
        *verifier = format!("{method} verifier #{}", &digest[..8]);
    }
}
