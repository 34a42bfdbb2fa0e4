//! Operators, aggregates and conversions that 14 has changed.

use super::{ALL, IN_PLACE, RESTORED};
use crate::preflight::rule::{Check, Pairs, Rule, Severity};

/// The array functions that take anycompatible types since 14, as pg_upgrade lists them.
const POLYMORPHIC: &str = "ARRAY['array_append(anyarray,anyelement)', 'array_cat(anyarray,anyarray)', \
    'array_prepend(anyelement,anyarray)', 'array_remove(anyarray,anyelement)', \
    'array_replace(anyarray,anyelement,anyelement)', 'array_position(anyarray,anyelement)', \
    'array_position(anyarray,anyelement,integer)', 'array_positions(anyarray,anyelement)', \
    'width_bucket(anyelement,anyarray)']";

fn polymorphic() -> String {
    format!(
        "WITH old AS (SELECT to_regprocedure(f)::oid AS oid FROM unnest({POLYMORPHIC}) f) \
         SELECT format('aggregate %s', p.oid::regprocedure), NULL, NULL \
         FROM pg_proc p JOIN pg_aggregate a ON a.aggfnoid = p.oid \
         WHERE p.oid >= 16384 AND a.aggtranstype IN ('anyarray'::regtype, 'anyelement'::regtype) \
           AND (a.aggtransfn::oid IN (SELECT oid FROM old) OR a.aggfinalfn::oid IN (SELECT oid FROM old)) \
         UNION ALL \
         SELECT format('operator %s', o.oid::regoperator), NULL, NULL FROM pg_operator o \
         WHERE o.oid >= 16384 AND o.oprcode::oid IN (SELECT oid FROM old) \
           AND o.oprleft IN ('anyarray'::regtype, 'anyelement'::regtype) ORDER BY 1"
    )
}

pub(super) static RULES: &[Rule] = &[
    Rule {
        code: "postfix_operators",
        severity: Severity::Blocker,
        title: "postfix operators",
        pairs: Pairs::Into(14),
        methods: ALL,
        check: Check::Each(|_| {
            Ok("SELECT format('operator %s', oid::regoperator), NULL, \
                       format('DROP OPERATOR %s;', oid::regoperator) \
                FROM pg_operator WHERE oprright = 0 AND oid >= 16384 ORDER BY 1"
                .into())
        }),
        why: "14 has no postfix operators: CREATE OPERATOR fails",
        fix: "drop the operator, and call its function or a prefix operator where it is used",
        link: "https://www.postgresql.org/docs/14/release-14.html",
        untested: None,
    },
    Rule {
        code: "factorial_operators",
        severity: Severity::Blocker,
        title: "views, constraints, defaults and indexes that use `!` or `!!` for a factorial",
        pairs: Pairs::Into(14),
        methods: ALL,
        check: Check::Each(|_| {
            // 388 and 389 were the operators' oids until 13.
            Ok("SELECT format(CASE relkind WHEN 'm' THEN 'materialized view %s' ELSE 'view %s' END, c.oid::regclass), \
                       NULL, NULL FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class \
                WHERE r.oid >= 16384 AND r.ev_action::text ~ ':opno (388|389) ' \
                UNION ALL SELECT format('constraint %I on %s', conname, conrelid::regclass), NULL, NULL \
                FROM pg_constraint WHERE conbin::text ~ ':opno (388|389) ' \
                UNION ALL SELECT format('column %s.%I', a.attrelid::regclass, a.attname), 'its default', NULL \
                FROM pg_attrdef d JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum \
                WHERE d.adbin::text ~ ':opno (388|389) ' \
                UNION ALL SELECT format('index %s', indexrelid::regclass), NULL, NULL FROM pg_index \
                WHERE indexprs::text ~ ':opno (388|389) ' OR indpred::text ~ ':opno (388|389) ' ORDER BY 1"
                .into())
        }),
        why: "14 has removed both operators: the object cannot be restored",
        fix: "use factorial(n) instead",
        link: "https://www.postgresql.org/docs/14/release-14.html",
        untested: None,
    },
    Rule {
        code: "polymorphic_array_functions",
        severity: Severity::Blocker,
        title: "aggregates and operators over array functions whose argument types changed",
        pairs: Pairs::Into(14),
        methods: ALL,
        check: Check::Each(|_| Ok(polymorphic())),
        why: "since 14 array_append and its kin take anycompatiblearray: a definition with anyarray no longer finds them",
        fix: "drop the object, and create it after the upgrade with anycompatiblearray and anycompatible",
        link: "https://www.postgresql.org/docs/14/release-14.html",
        untested: None,
    },
    Rule {
        code: "conversion_functions",
        severity: Severity::Blocker,
        title: "encoding conversions with a function of their own",
        pairs: Pairs::Into(14),
        methods: RESTORED,
        check: Check::Each(|_| {
            Ok("SELECT format('conversion %I.%I', n.nspname, c.conname), c.conproc::regprocedure, \
                       format('DROP CONVERSION %I.%I;', n.nspname, c.conname) \
                FROM pg_conversion c JOIN pg_namespace n ON n.oid = c.connamespace \
                WHERE c.oid >= 16384 AND c.conproc >= 16384 ORDER BY 1"
                .into())
        }),
        why: "14 calls conversion functions with one more argument and wants a number back: CREATE CONVERSION fails",
        fix: "drop the conversion, and create it after the upgrade with a function of the new form",
        link: "https://www.postgresql.org/docs/14/release-14.html",
        untested: None,
    },
    Rule {
        code: "user_conversions",
        severity: Severity::Blocker,
        title: "encoding conversions made by users",
        pairs: Pairs::Into(14),
        methods: IN_PLACE,
        check: Check::Each(|_| {
            Ok("SELECT format('conversion %I.%I', n.nspname, c.conname), NULL, \
                       format('DROP CONVERSION %I.%I;', n.nspname, c.conname) \
                FROM pg_conversion c JOIN pg_namespace n ON n.oid = c.connamespace WHERE c.oid >= 16384 ORDER BY 1"
                .into())
        }),
        why: "pg_upgrade refuses every conversion that users made, since 14 calls them otherwise",
        fix: "drop the conversion, and create it anew after the upgrade",
        link: "https://www.postgresql.org/docs/14/release-14.html",
        untested: None,
    },
];
