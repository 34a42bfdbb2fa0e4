//! The queries behind each aspect: three columns, kind, name and value, the same text for the same thing on every
//! version from 9.6 to 18.
//!
//! What legitimately differs between versions is made alike here:
//! - extension members, the server's own schemas and `pgplan` are left out; extensions count by name, not by version;
//! - predefined roles (`pg_…`) and memberships that 16 grants by itself (the creator's ADMIN of a new role) are left
//!   out; INHERIT and SET of a membership count when both sides are 16 or later;
//! - the MAINTAIN privilege counts when both sides are 17 or later; privileges that were never changed equal their
//!   defaults written out;
//! - owner, privileges and comment of the schema `public` do not count between a side before 15 and one after: 15 gave
//!   it to `pg_database_owner` and took CREATE from PUBLIC, and a dump keeps neither in the way it was;
//! - NOT NULL is a property of the column; that 18 has constraints for it does not count;
//! - locale names are compared without case and hyphens (`C.UTF-8` is `C.utf8`).
//!
//! Names are raw, never quoted: which words need quotes depends on the version.

use crate::op::data::Aspect;

/// Schemas that are the user's.
pub(super) const OURS: &str = "n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'pgplan')";

/// Returns the query for what an aspect says of the cluster; `None` when it says nothing.
pub(super) fn of_cluster(aspect: Aspect, version: u32, lowest: u32) -> Option<String> {
    match aspect {
        Aspect::Roles => Some(roles()),
        Aspect::Memberships => Some(memberships(version, lowest)),
        Aspect::Passwords => Some(passwords()),
        Aspect::Settings => Some(role_settings()),
        Aspect::Comments => Some(role_comments()),
        _ => None,
    }
}

/// Returns the query for what an aspect says of the current database; `None` when it says nothing.
///
/// `version` is the server's, `lowest` the lower of both sides'.
pub(super) fn of_database(aspect: Aspect, version: u32, lowest: u32) -> Option<String> {
    Some(match aspect {
        Aspect::Roles | Aspect::Memberships | Aspect::Passwords => return None,
        Aspect::Settings => settings(),
        Aspect::Locale => locale(),
        Aspect::Objects => objects(version),
        Aspect::Columns => columns(version),
        Aspect::Constraints => constraints(),
        Aspect::Indexes => indexes(),
        Aspect::Triggers => triggers(version),
        Aspect::Functions => functions(version),
        Aspect::Types => types(),
        Aspect::Policies => policies(version),
        Aspect::Owners => owners(version, lowest),
        Aspect::Acls => acls(version, lowest),
        Aspect::Comments => comments(lowest),
    })
}

/// Returns the condition that an object is no part of an extension.
pub(super) fn free(catalog: &str, oid: &str) -> String {
    format!(
        "NOT EXISTS (SELECT FROM pg_depend x WHERE x.classid = '{catalog}'::regclass AND x.objid = {oid} \
         AND x.deptype = 'e')"
    )
}

/// Returns a function's arguments. 14 has procedures with OUT arguments and therefore writes IN before the others.
fn arguments(version: u32) -> &'static str {
    if version >= 140_000 {
        "CASE WHEN prokind = 'p' THEN regexp_replace(pg_get_function_identity_arguments(p.oid), '(^|, )IN ', '\\1', 'g') \
         ELSE pg_get_function_identity_arguments(p.oid) END"
    } else {
        "pg_get_function_identity_arguments(p.oid)"
    }
}

/// The condition that a function was not made by the server with a type: the constructors of a range, and from 14 on
/// those of its multirange. The type is what is compared.
const NO_CONSTRUCTOR: &str = "NOT EXISTS (SELECT FROM pg_depend x WHERE x.classid = 'pg_proc'::regclass AND x.objid = p.oid \
                              AND x.refclassid = 'pg_type'::regclass AND x.deptype = 'i')";

/// Returns the word for a relation of kind `c.relkind`.
pub(super) const RELATION: &str = "CASE c.relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'table' WHEN 'm' THEN 'materialized view' \
                        WHEN 'v' THEN 'view' WHEN 'S' THEN 'sequence' WHEN 'f' THEN 'foreign table' END";

fn roles() -> String {
    "SELECT 'role', rolname, concat_ws(' ', CASE WHEN rolsuper THEN 'SUPERUSER' END, \
            CASE WHEN rolinherit THEN 'INHERIT' END, CASE WHEN rolcreaterole THEN 'CREATEROLE' END, \
            CASE WHEN rolcreatedb THEN 'CREATEDB' END, CASE WHEN rolcanlogin THEN 'LOGIN' END, \
            CASE WHEN rolreplication THEN 'REPLICATION' END, CASE WHEN rolbypassrls THEN 'BYPASSRLS' END, \
            'CONNECTION LIMIT ' || rolconnlimit, 'VALID UNTIL ' || rolvaliduntil) \
     FROM pg_roles WHERE rolname !~ '^pg_'"
        .to_owned()
}

fn memberships(version: u32, lowest: u32) -> String {
    let options = if lowest >= 160_000 {
        "|| CASE WHEN bool_or(inherit_option) THEN ' INHERIT' ELSE '' END \
         || CASE WHEN bool_or(set_option) THEN ' SET' ELSE '' END"
    } else {
        ""
    };
    // The bootstrap superuser gives the creator of a role the right to administer it, and nothing else.
    let automatic =
        if version >= 160_000 { "AND NOT (grantor = 10 AND NOT inherit_option AND NOT set_option)" } else { "" };
    format!(
        "SELECT 'membership', pg_get_userbyid(member) || ' in ' || pg_get_userbyid(roleid), \
                'member' || CASE WHEN bool_or(admin_option) THEN ' ADMIN' ELSE '' END {options} \
         FROM pg_auth_members WHERE pg_get_userbyid(member) !~ '^pg_' {automatic} GROUP BY member, roleid"
    )
}

fn passwords() -> String {
    "SELECT 'role', rolname, coalesce(rolpassword, '') FROM pg_authid WHERE rolname !~ '^pg_'".to_owned()
}

/// Settings of the current database, also those that are for one role only.
fn settings() -> String {
    "SELECT CASE WHEN setrole = 0 THEN 'setting' ELSE 'setting of role' END, \
            CASE WHEN setrole = 0 THEN '' ELSE pg_get_userbyid(setrole) || ' ' END || split_part(one, '=', 1), \
            substr(one, strpos(one, '=') + 1) \
     FROM pg_db_role_setting, unnest(setconfig) one \
     WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())"
        .to_owned()
}

/// Settings of roles, whatever the database.
fn role_settings() -> String {
    "SELECT CASE WHEN setrole = 0 THEN 'setting of all roles' ELSE 'setting of role' END, \
            CASE WHEN setrole = 0 THEN '' ELSE pg_get_userbyid(setrole) || ' ' END || split_part(one, '=', 1), \
            substr(one, strpos(one, '=') + 1) \
     FROM pg_db_role_setting, unnest(setconfig) one WHERE setdatabase = 0"
        .to_owned()
}

fn role_comments() -> String {
    "SELECT 'role', rolname, shobj_description(oid, 'pg_authid') FROM pg_roles \
     WHERE rolname !~ '^pg_' AND shobj_description(oid, 'pg_authid') IS NOT NULL"
        .to_owned()
}

fn locale() -> String {
    "SELECT 'database', '', concat_ws(' ', pg_encoding_to_char(encoding), \
            'collate', replace(lower(datcollate), '-', ''), 'ctype', replace(lower(datctype), '-', '')) \
     FROM pg_database WHERE datname = current_database()"
        .to_owned()
}

fn objects(version: u32) -> String {
    let bound = if version >= 100_000 { "pg_get_expr(c.relpartbound, c.oid)" } else { "NULL" };
    let key = if version >= 100_000 {
        "CASE WHEN c.relkind = 'p' THEN 'PARTITION BY ' || pg_get_partkeydef(c.oid) END"
    } else {
        "NULL"
    };
    let newer = if version >= 100_000 {
        "UNION ALL SELECT 'publication', pubname, '' FROM pg_publication \
         UNION ALL SELECT 'statistics', n.nspname || '.' || stxname, '' \
           FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = stxnamespace"
    } else {
        ""
    };
    format!(
        "SELECT {RELATION}, n.nspname || '.' || c.relname, \
                concat_ws(' ', CASE WHEN c.relpersistence = 'u' THEN 'UNLOGGED' END, {key}, {bound}, \
                CASE WHEN c.relrowsecurity THEN 'ROW SECURITY' END, \
                CASE WHEN c.relforcerowsecurity THEN 'FORCED' END) \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind IN ('r', 'p', 'm', 'v', 'S', 'f') AND c.relpersistence <> 't' AND {OURS} AND {} \
         UNION ALL SELECT 'schema', n.nspname, '' FROM pg_namespace n WHERE {OURS} \
         UNION ALL SELECT 'extension', extname, '' FROM pg_extension \
         UNION ALL SELECT 'foreign server', srvname, '' FROM pg_foreign_server \
         UNION ALL SELECT 'event trigger', evtname, evtenabled::text FROM pg_event_trigger t WHERE {} \
         UNION ALL SELECT 'rule', n.nspname || '.' || c.relname || '.' || rulename, ev_enabled::text \
           FROM pg_rewrite r JOIN pg_class c ON c.oid = ev_class JOIN pg_namespace n ON n.oid = c.relnamespace \
           WHERE rulename <> '_RETURN' AND {OURS} AND {} {newer}",
        free("pg_class", "c.oid"),
        free("pg_event_trigger", "t.oid"),
        free("pg_class", "c.oid"),
    )
}

fn columns(version: u32) -> String {
    let identity = if version >= 100_000 { "nullif(a.attidentity::text, '')" } else { "NULL::text" };
    let generated = if version >= 120_000 { "nullif(a.attgenerated::text, '')" } else { "NULL::text" };
    format!(
        "SELECT 'column', n.nspname || '.' || c.relname || '.' || a.attname, \
                concat_ws(' ', CASE WHEN a.attnotnull THEN 'NOT NULL' ELSE 'NULL' END, \
                'DEFAULT ' || pg_get_expr(d.adbin, d.adrelid), 'IDENTITY ' || {identity}, 'GENERATED ' || {generated}, \
                CASE WHEN a.attcollation <> t.typcollation THEN \
                'COLLATE ' || (SELECT collname FROM pg_collation WHERE oid = a.attcollation) END) \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
         JOIN pg_type t ON t.oid = a.atttypid \
         LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum \
         WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND {OURS} AND {}",
        free("pg_class", "c.oid")
    )
}

fn constraints() -> String {
    format!(
        "SELECT 'constraint', n.nspname || '.' || c.relname || '.' || conname, pg_get_constraintdef(o.oid) \
         FROM pg_constraint o JOIN pg_class c ON c.oid = conrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE contype IN ('c', 'f', 'p', 'u', 'x') AND c.relpersistence <> 't' AND {OURS} AND {}",
        free("pg_class", "c.oid")
    )
}

fn indexes() -> String {
    format!(
        "SELECT 'index', n.nspname || '.' || c.relname, pg_get_indexdef(c.oid) || \
                CASE WHEN i.indisvalid AND i.indisready THEN '' ELSE ' INVALID' END || \
                CASE WHEN i.indisclustered THEN ' CLUSTERED' ELSE '' END || \
                CASE WHEN i.indisreplident THEN ' REPLICA IDENTITY' ELSE '' END \
         FROM pg_index i JOIN pg_class c ON c.oid = indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relpersistence <> 't' AND {OURS} AND {}",
        free("pg_class", "i.indrelid")
    )
}

fn triggers(version: u32) -> String {
    // Those of partitions follow from their parents.
    let own = if version >= 130_000 {
        "AND tgparentid = 0"
    } else if version >= 100_000 {
        "AND NOT c.relispartition"
    } else {
        ""
    };
    format!(
        "SELECT 'trigger', n.nspname || '.' || c.relname || '.' || tgname, \
                pg_get_triggerdef(t.oid) || CASE tgenabled WHEN 'O' THEN '' ELSE ' ENABLED ' || tgenabled::text END \
         FROM pg_trigger t JOIN pg_class c ON c.oid = tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE NOT tgisinternal {own} AND {OURS} AND {}",
        free("pg_class", "c.oid")
    )
}

fn functions(version: u32) -> String {
    let kind = if version >= 110_000 { "p.prokind::text" } else { "CASE WHEN p.proisagg THEN 'a' ELSE 'f' END" };
    let body = if version >= 140_000 { "coalesce(pg_get_function_sqlbody(p.oid), p.prosrc)" } else { "p.prosrc" };
    let arguments = arguments(version);
    format!(
        "SELECT 'function', n.nspname || '.' || proname || '(' || {arguments} || ')', \
                concat_ws(' ', {kind}, l.lanname, provolatile, proparallel, CASE WHEN prosecdef THEN 'SECURITY DEFINER' END, \
                CASE WHEN proisstrict THEN 'STRICT' END, CASE WHEN proleakproof THEN 'LEAKPROOF' END, \
                'RETURNS ' || pg_get_function_result(p.oid), 'SET ' || array_to_string(proconfig, ', '), \
                'body ' || md5({body})) \
         FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace JOIN pg_language l ON l.oid = prolang \
         WHERE {OURS} AND {NO_CONSTRUCTOR} AND {}",
        free("pg_proc", "p.oid")
    )
}

fn types() -> String {
    format!(
        "SELECT 'type', n.nspname || '.' || typname, CASE typtype \
                WHEN 'e' THEN 'ENUM ' || (SELECT string_agg(quote_literal(enumlabel), ', ' ORDER BY enumsortorder) \
                                          FROM pg_enum WHERE enumtypid = t.oid) \
                WHEN 'd' THEN concat_ws(' ', 'DOMAIN', format_type(typbasetype, typtypmod), \
                  CASE WHEN typnotnull THEN 'NOT NULL' END, 'DEFAULT ' || typdefault, \
                  (SELECT string_agg(conname || ' ' || pg_get_constraintdef(oid), ', ' ORDER BY conname COLLATE \"C\") \
                   FROM pg_constraint WHERE contypid = t.oid AND contype = 'c')) \
                WHEN 'c' THEN 'COMPOSITE ' || \
                  coalesce((SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attnum) \
                   FROM pg_attribute WHERE attrelid = typrelid AND attnum > 0 AND NOT attisdropped), '') \
                ELSE typtype::text END \
         FROM pg_type t JOIN pg_namespace n ON n.oid = typnamespace LEFT JOIN pg_class c ON c.oid = typrelid \
         WHERE (typtype IN ('e', 'd', 'r') OR typtype = 'c' AND c.relkind = 'c') AND {OURS} AND {}",
        free("pg_type", "t.oid")
    )
}

fn policies(version: u32) -> String {
    let permissive = if version >= 100_000 { "CASE WHEN polpermissive THEN '' ELSE ' RESTRICTIVE' END" } else { "''" };
    format!(
        "SELECT 'policy', n.nspname || '.' || c.relname || '.' || polname, \
                concat_ws(' ', 'FOR ' || polcmd::text || {permissive}, \
                'TO ' || (SELECT string_agg(CASE WHEN r = 0 THEN 'PUBLIC' ELSE pg_get_userbyid(r) END COLLATE \"C\", ', ' \
                           ORDER BY CASE WHEN r = 0 THEN 'PUBLIC' ELSE pg_get_userbyid(r) END COLLATE \"C\") \
                          FROM unnest(polroles) r), \
                'USING ' || pg_get_expr(polqual, polrelid), 'CHECK ' || pg_get_expr(polwithcheck, polrelid)) \
         FROM pg_policy JOIN pg_class c ON c.oid = polrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {OURS}"
    )
}

/// Every object with an owner and privileges: kind, name, owner, privileges, code for `acldefault`.
fn owned(version: u32, lowest: u32) -> String {
    // 15 gave the schema to another owner and took rights from PUBLIC.
    let public = if lowest < 150_000 { "AND n.nspname <> 'public'" } else { "" };
    let kinds = if version >= 110_000 { "prokind = 'p'" } else { "false" };
    let arguments = arguments(version);
    format!(
        "SELECT {RELATION} AS kind, n.nspname || '.' || c.relname AS name, c.relowner AS owner, c.relacl AS acl, \
                (CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END)::\"char\" AS code \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind IN ('r', 'p', 'm', 'v', 'S', 'f') AND c.relpersistence <> 't' AND {OURS} AND {} \
         UNION ALL SELECT 'schema', n.nspname, n.nspowner, n.nspacl, 'n' FROM pg_namespace n \
           WHERE {OURS} {public} AND {} \
         UNION ALL SELECT CASE WHEN {kinds} THEN 'procedure' ELSE 'function' END, \
             n.nspname || '.' || proname || '(' || {arguments} || ')', \
             proowner, proacl, 'f' FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace \
           WHERE {OURS} AND {NO_CONSTRUCTOR} AND {} \
         UNION ALL SELECT 'type', n.nspname || '.' || typname, typowner, typacl, 'T' \
           FROM pg_type t JOIN pg_namespace n ON n.oid = typnamespace LEFT JOIN pg_class c ON c.oid = typrelid \
           WHERE (typtype IN ('e', 'd', 'r') OR typtype = 'c' AND c.relkind = 'c') AND {OURS} AND {} \
         UNION ALL SELECT 'foreign server', srvname, srvowner, srvacl, 'S' FROM pg_foreign_server \
         UNION ALL SELECT 'foreign data wrapper', fdwname, fdwowner, fdwacl, 'F' FROM pg_foreign_data_wrapper w \
           WHERE {} \
         UNION ALL SELECT 'large object', l.oid::text, lomowner, lomacl, 'L' FROM pg_largeobject_metadata l \
         UNION ALL SELECT 'database', '', datdba, datacl, 'd' FROM pg_database WHERE datname = current_database()",
        free("pg_class", "c.oid"),
        free("pg_namespace", "n.oid"),
        free("pg_proc", "p.oid"),
        free("pg_type", "t.oid"),
        free("pg_foreign_data_wrapper", "w.oid"),
    )
}

fn owners(version: u32, lowest: u32) -> String {
    format!("SELECT kind, name, pg_get_userbyid(owner) FROM ({}) o", owned(version, lowest))
}

/// Returns an expression for privileges as text: `app=SELECT,INSERT*; PUBLIC=SELECT`.
fn privileges(acl: &str, lowest: u32) -> String {
    let maintain = if lowest >= 170_000 { "" } else { "WHERE privilege_type <> 'MAINTAIN'" };
    let who = "(CASE WHEN grantee = 0 THEN 'PUBLIC' ELSE pg_get_userbyid(grantee)::text END) COLLATE \"C\"";
    format!(
        "(SELECT string_agg(who || '=' || rights, '; ' ORDER BY who) FROM \
           (SELECT who, string_agg(privilege || CASE WHEN option THEN '*' ELSE '' END, ',' ORDER BY privilege) AS rights \
            FROM (SELECT {who} AS who, privilege_type COLLATE \"C\" AS privilege, bool_or(is_grantable) AS option \
                  FROM aclexplode({acl}) {maintain} GROUP BY 1, 2) one GROUP BY 1) role)"
    )
}

fn acls(version: u32, lowest: u32) -> String {
    format!(
        "SELECT kind, name, coalesce({}, 'none') FROM ({}) o \
         UNION ALL SELECT 'column', n.nspname || '.' || c.relname || '.' || attname, coalesce({}, 'none') \
           FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
           WHERE attacl IS NOT NULL AND NOT attisdropped AND {OURS} AND {} \
         UNION ALL SELECT 'default privileges', pg_get_userbyid(defaclrole) || ' in ' || \
             coalesce((SELECT nspname FROM pg_namespace WHERE oid = defaclnamespace), 'every schema') || \
             ' on ' || defaclobjtype::text, coalesce({}, 'none') FROM pg_default_acl",
        privileges("coalesce(acl, acldefault(code, owner))", lowest),
        owned(version, lowest),
        privileges("attacl", lowest),
        free("pg_class", "c.oid"),
        privileges("defaclacl", lowest),
    )
}

fn comments(lowest: u32) -> String {
    format!(
        "SELECT a.type, array_to_string(a.object_names, '.') || \
                CASE WHEN a.object_args = '{{}}' THEN '' ELSE '(' || array_to_string(a.object_args, ',') || ')' END, \
                d.description \
         FROM pg_description d, pg_identify_object(d.classoid, d.objoid, d.objsubid) i, \
              pg_identify_object_as_address(d.classoid, d.objoid, d.objsubid) a \
         WHERE d.objoid >= 16384 AND coalesce(i.schema, '') NOT IN ('pgplan', 'information_schema') \
           AND coalesce(i.schema, '') !~ '^pg_' AND i.type <> 'extension' AND NOT (a.type = 'schema' AND a.object_names = '{{pgplan}}') \
           AND NOT EXISTS (SELECT FROM pg_depend x WHERE x.classid = d.classoid AND x.objid = d.objoid \
                           AND x.deptype = 'e') \
         UNION ALL SELECT 'schema', 'public', description FROM pg_description \
           WHERE classoid = 'pg_namespace'::regclass AND {} \
             AND objoid = (SELECT oid FROM pg_namespace WHERE nspname = 'public') AND objoid < 16384 \
         UNION ALL SELECT 'database', '', description FROM pg_shdescription \
           WHERE classoid = 'pg_database'::regclass \
             AND objoid = (SELECT oid FROM pg_database WHERE datname = current_database() AND oid >= 16384)",
        if lowest < 150_000 { "false" } else { "true" }
    )
}
