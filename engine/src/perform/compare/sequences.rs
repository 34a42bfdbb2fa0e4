//! Comparing sequences' states and large objects.

use std::collections::BTreeMap;

use super::{Piece, Sides, columns::Name, objects::excluded};
use crate::{
    digest::{LineDigest, Rows},
    error::StepError,
    op::data::CompareObjects,
    postgres::{
        Session,
        quote::{literal, on_one_line, qualified},
        rows::{flag, number, rows, text},
    },
};

/// How many sequences are read by one query.
const AT_ONCE: usize = 500;

/// Compares the next values of sequences that both sides have.
pub(super) async fn compare(
    op: &CompareObjects,
    sides: &Sides,
    prefix: &str,
    piece: &mut Piece,
) -> Result<(), StepError> {
    let (left, right) = tokio::try_join!(states(&sides.left), states(&sides.right))?;
    for ((schema, name), state) in &left {
        let full = format!("{schema}.{name}");
        let Some(other) = right.get(&(schema.clone(), name.clone())) else { continue };
        if excluded(&op.exclude, "sequence", &full) {
            continue;
        }
        piece.objects += 1;
        if state != other {
            piece.find(format!("sequence {prefix}{}", on_one_line(&full)), "last value", state, other);
        }
    }
    Ok(())
}

async fn states(session: &Session) -> Result<BTreeMap<Name, String>, StepError> {
    let doing = "read the sequences";
    let list = "SELECT n.nspname, c.relname, has_table_privilege(c.oid, 'SELECT') \
                FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                WHERE c.relkind = 'S' AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' \
                  AND n.nspname NOT IN ('information_schema', 'pgplan') \
                  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass \
                                  AND d.objid = c.oid AND d.deptype = 'e')";
    let found = rows(session, doing, list).await?;
    let readable: Vec<Name> =
        found.iter().filter(|row| flag(row, 2)).map(|row| (text(row, 0).to_owned(), text(row, 1).to_owned())).collect();
    let mut states = BTreeMap::new();
    for chunk in readable.chunks(AT_ONCE) {
        let select = |(schema, name): &Name| {
            format!(
                "SELECT {}, {}, last_value, is_called FROM {}",
                literal(schema),
                literal(name),
                qualified(schema, name)
            )
        };
        let sql = chunk.iter().map(select).collect::<Vec<_>>().join(" UNION ALL ");
        for row in rows(session, doing, &sql).await? {
            let called = if flag(&row, 3) { "" } else { " (not used yet)" };
            let name = (text(&row, 0).to_owned(), text(&row, 1).to_owned());
            states.insert(name, format!("{}{called}", text(&row, 2)));
        }
    }
    Ok(states)
}

/// Compares large objects by number, size and content; without the right to read them all, only how many there are.
///
/// Pages of zeros count as holes, which they are to a reader: a dump fills holes.
pub(super) async fn large_objects(sides: &Sides, dbname: &str, piece: &mut Piece) -> Result<(), StepError> {
    let sql = "SELECT count(*), has_table_privilege('pg_catalog.pg_largeobject', 'SELECT') \
               FROM pg_largeobject_metadata";
    let doing = "count the large objects";
    let (left, right) = tokio::try_join!(rows(&sides.left, doing, sql), rows(&sides.right, doing, sql))?;
    let seen = |found: &[tokio_postgres::SimpleQueryRow]| {
        let row = found.first();
        (row.and_then(|row| number(row, 0)).unwrap_or_default(), row.is_some_and(|row| flag(row, 1)))
    };
    let ((left, left_may), (right, right_may)) = (seen(&left), seen(&right));
    let object = format!("large objects of {}", on_one_line(dbname));
    piece.objects += left.max(right);
    if left != right {
        piece.find(object, "number", left.to_string(), right.to_string());
        return Ok(());
    }
    if left == 0 {
        return Ok(());
    }
    if !left_may || !right_may {
        let note = "a role may not read pg_largeobject; only their number was compared";
        piece.note(format!("{object}: {note}"));
        return Ok(());
    }
    let (left, right) = tokio::try_join!(large_digest(&sides.left), large_digest(&sides.right))?;
    if left != right {
        let brief = |rows: &Rows| format!("digest {}", &rows.digest.to_string()[..12]);
        piece.find(object, "contents", brief(&left), brief(&right));
    }
    Ok(())
}

async fn large_digest(session: &Session) -> Result<Rows, StepError> {
    // The digits of a page without the zeros at its end name the page's content whatever its stored length.
    let copy = "COPY (SELECT loid, pageno::bigint, rtrim(encode(data, 'hex'), '0') FROM pg_catalog.pg_largeobject \
                      WHERE rtrim(encode(data, 'hex'), '0') <> '' \
                      UNION ALL SELECT m.oid, -1, coalesce(max(pageno * 2048::bigint + length(data)), 0)::text \
                      FROM pg_catalog.pg_largeobject_metadata m LEFT JOIN pg_catalog.pg_largeobject l ON l.loid = m.oid \
                      GROUP BY 1) TO STDOUT";
    use futures_util::TryStreamExt as _;
    let wrong = |error| session.error("read the large objects", &error);
    let stream = session.client().copy_out(copy).await.map_err(wrong)?;
    let add = async |mut digest: LineDigest, piece: bytes::Bytes| {
        digest.push(&piece);
        Ok(digest)
    };
    let digest = stream.try_fold(LineDigest::default(), add).await.map_err(wrong)?;
    Ok(digest.finish())
}
