//! What the catalogs of a merge's sources and target say: one query per database for all its schemas.

use std::collections::{BTreeMap, BTreeSet};

use serde::de::DeserializeOwned;

use crate::{
    error::{ErrorKind, StepError},
    merge::{Catalog, Relation, Sequence},
    postgres::{
        Session,
        quote::literal,
        rows::{flag, number, rows, text},
    },
};

/// Lists the schemas of a database.
pub(super) async fn schemas(session: &Session) -> Result<Vec<String>, StepError> {
    let sql = "SELECT nspname FROM pg_catalog.pg_namespace WHERE nspname !~ '^pg_' ORDER BY 1";
    let found = rows(session, "list the schemas", sql).await?;
    Ok(found.iter().map(|row| text(row, 0).to_owned()).collect())
}

/// Reads what these schemas hold.
pub(super) async fn read(session: &Session, wanted: &BTreeSet<String>) -> Result<BTreeMap<String, Catalog>, StepError> {
    let there: BTreeSet<String> = schemas(session).await?.into_iter().collect();
    let new = |name: &String| (name.clone(), Catalog { exists: there.contains(name), ..Catalog::default() });
    let mut catalogs: BTreeMap<String, Catalog> = wanted.iter().map(new).collect();
    let names = wanted.iter().map(|name| literal(name)).collect::<Vec<_>>().join(", ");
    for row in rows(session, "read the tables of the merge", &tables_sql(session.server_version_num(), &names)).await? {
        let relation = Relation {
            relkind: text(&row, 2).chars().next().unwrap_or('r'),
            bytes: number(&row, 3).unwrap_or_default(),
            hides_rows: flag(&row, 4),
            columns: json(text(&row, 5))?,
            keys: json(text(&row, 6))?,
            foreign_keys: json(text(&row, 7))?,
            triggers: json(text(&row, 8))?,
            rules: json(text(&row, 9))?,
        };
        if let Some(catalog) = catalogs.get_mut(text(&row, 0)) {
            catalog.tables.insert(text(&row, 1).to_owned(), relation);
        }
    }
    for row in
        rows(session, "read the sequences of the merge", &sequences_sql(session.server_version_num(), &names)).await?
    {
        let feeds = row.get(2).map(|table| (table.to_owned(), text(&row, 3).to_owned()));
        if let Some(catalog) = catalogs.get_mut(text(&row, 0)) {
            catalog.sequences.push(Sequence { name: text(&row, 1).to_owned(), feeds });
        }
    }
    Ok(catalogs)
}

fn json<T: DeserializeOwned>(text: &str) -> Result<T, StepError> {
    serde_json::from_str(text)
        .map_err(|error| StepError::new(ErrorKind::Internal, format!("a catalog's answer cannot be read: {error}")))
}

/// Returns the query for tables: schema, name, kind, bytes, hidden rows, and lists as JSON.
fn tables_sql(version: u32, schemas: &str) -> String {
    let since = |version_num: u32, new: &'static str, old: &'static str| if version >= version_num { new } else { old };
    let generated = since(120_000, "a.attgenerated <> ''", "false");
    let identity = since(100_000, "nullif(a.attidentity::text, '')", "NULL::text");
    let partition = since(100_000, "NOT c.relispartition", "true");
    let width = since(110_000, "i.indnkeyatts", "i.indnatts");
    let nulls = since(150_000, "i.indnullsnotdistinct", "false");
    let parent = since(110_000, "AND o.conparentid = 0", "");
    let columns = format!(
        "SELECT coalesce(json_agg(json_build_object('name', a.attname, \
           'type_name', format_type(a.atttypid, a.atttypmod), \
           'type_schema', tn.nspname, 'type_base', e.typname, 'array', e.oid <> t.oid, 'type_kind', e.typtype, \
           'type_shape', coalesce(CASE e.typtype \
              WHEN 'e' THEN (SELECT string_agg(enumlabel, chr(10) ORDER BY enumsortorder) FROM pg_enum WHERE enumtypid = e.oid) \
              WHEN 'd' THEN format_type(e.typbasetype, e.typtypmod) \
              WHEN 'c' THEN (SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod), chr(10) ORDER BY attnum) \
                             FROM pg_attribute WHERE attrelid = e.typrelid AND attnum > 0 AND NOT attisdropped) END, ''), \
           'not_null', a.attnotnull, 'generated', {generated}, 'identity', {identity}, \
           'default', CASE WHEN NOT ({generated}) THEN pg_get_expr(d.adbin, d.adrelid) END) ORDER BY a.attnum), '[]') \
         FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid \
         JOIN pg_type e ON e.oid = CASE WHEN t.typcategory = 'A' AND t.typelem <> 0 THEN t.typelem ELSE t.oid END \
         JOIN pg_namespace tn ON tn.oid = e.typnamespace \
         LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum \
         WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped"
    );
    let keys = format!(
        "SELECT coalesce(json_agg(json_build_object('name', x.relname, 'primary', i.indisprimary, \
           'parts', (SELECT json_agg(pg_get_indexdef(i.indexrelid, n, false) ORDER BY n) FROM generate_series(1, {width}::int) n), \
           'columns', CASE WHEN NOT (0 = ANY ((i.indkey::int2[])[0:{width} - 1])) THEN \
              (SELECT json_agg(a.attname ORDER BY n) FROM generate_series(0, {width} - 1) n \
               JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[n]) END, \
           'predicate', pg_get_expr(i.indpred, i.indrelid), 'nulls_not_distinct', {nulls}) \
           ORDER BY i.indisprimary DESC, x.relname), '[]') \
         FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid \
         WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid"
    );
    let names = "SELECT json_agg(a.attname ORDER BY n) FROM unnest({keys}) WITH ORDINALITY k(num, n) \
                 JOIN pg_attribute a ON a.attrelid = {rel} AND a.attnum = k.num";
    let of = |keys: &str, rel: &str| names.replace("{keys}", keys).replace("{rel}", rel);
    let foreign_keys = format!(
        "SELECT coalesce(json_agg(json_build_object('name', o.conname, 'columns', ({}), 'to_schema', fn.nspname, \
           'to_table', f.relname, 'to_columns', ({}), 'deferrable', o.condeferrable, \
           'match_full', o.confmatchtype = 'f') ORDER BY o.conname), '[]') \
         FROM pg_constraint o JOIN pg_class f ON f.oid = o.confrelid JOIN pg_namespace fn ON fn.oid = f.relnamespace \
         WHERE o.conrelid = c.oid AND o.contype = 'f' AND o.convalidated {parent}",
        of("o.conkey", "o.conrelid"),
        of("o.confkey", "o.confrelid"),
    );
    format!(
        "SELECT n.nspname, c.relname, c.relkind, pg_total_relation_size(c.oid), row_security_active(c.oid), \
           ({columns}), ({keys}), ({foreign_keys}), \
           (SELECT coalesce(json_agg(json_build_array(tgname, tgenabled) ORDER BY tgname), '[]') \
            FROM pg_trigger WHERE tgrelid = c.oid AND NOT tgisinternal), \
           (SELECT coalesce(json_agg(json_build_array(rulename, ev_enabled) ORDER BY rulename), '[]') \
            FROM pg_rewrite WHERE ev_class = c.oid AND rulename <> '_RETURN') \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE n.nspname IN ({schemas}) AND c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND {partition}"
    )
}

/// Returns the query for sequences: schema, name, and the table and column that one feeds by itself.
fn sequences_sql(version: u32, schemas: &str) -> String {
    let identity = if version >= 100_000 {
        "UNION ALL SELECT d.objid, d.refobjid, d.refobjsubid FROM pg_depend d \
         WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype = 'i'"
    } else {
        ""
    };
    format!(
        "SELECT n.nspname, c.relname, f.relname, a.attname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         LEFT JOIN (SELECT d.refobjid AS seq, ad.adrelid AS rel, ad.adnum AS num FROM pg_depend d \
                    JOIN pg_attrdef ad ON ad.oid = d.objid \
                    WHERE d.classid = 'pg_attrdef'::regclass AND d.refclassid = 'pg_class'::regclass \
                      AND pg_get_expr(ad.adbin, ad.adrelid) ~ '^nextval\\(''.*''::regclass\\)$' {identity}) feed \
           ON feed.seq = c.oid \
         LEFT JOIN pg_class f ON f.oid = feed.rel AND f.relnamespace = n.oid \
         LEFT JOIN pg_attribute a ON a.attrelid = f.oid AND a.attnum = feed.num \
         WHERE n.nspname IN ({schemas}) AND c.relkind = 'S' ORDER BY 1, 2, 3, 4"
    )
}
