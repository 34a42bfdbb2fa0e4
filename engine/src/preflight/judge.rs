//! Applying the waivers of a plan to what was found.

use jiff::civil::Date;

use super::{
    find,
    report::{Finding, Report, Unchecked, Waived},
};
use crate::{
    op::preflight::Waiver,
    pattern::{any_matches, matches},
};

/// Moves what waivers cover from the findings to what is waived, and says which waivers have expired or cover nothing.
///
/// `today` is the day in UTC. An expired waiver covers nothing. Blockers come first afterwards.
#[must_use]
pub fn judge(mut report: Report, waivers: &[Waiver], today: Date) -> Report {
    for waiver in waivers {
        let Waiver { code, until, .. } = waiver;
        if until.parse::<Date>().map_or(true, |until| until < today) {
            report.waiver_errors.push(format!("the waiver of `{code}` has expired: it was until {until}"));
            continue;
        }
        let mut covered = false;
        let mut unused: Vec<&String> = waiver.objects.iter().collect();
        for finding in report.findings.iter_mut().filter(|finding| finding.code == *code) {
            unused.retain(|pattern| !finding.objects.iter().any(|object| matches(pattern, &object.full_name())));
            let (waived, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut finding.objects)
                .into_iter()
                .partition(|object| waiver.objects.is_empty() || any_matches(&waiver.objects, &object.full_name()));
            finding.objects = kept;
            if !waived.is_empty() {
                covered = true;
                let finding = Finding { objects: waived, ..finding.clone() };
                report.waived.push(Waived { finding, by: waiver.clone() });
            }
        }
        if !covered && waiver.objects.is_empty() && !report.unchecked.iter().any(|one| may_hide(one, code, None)) {
            report.waiver_errors.push(format!("the waiver of `{code}` is not used: nothing was found"));
        }
        unused.retain(|pattern| !report.unchecked.iter().any(|one| may_hide(one, code, Some(pattern))));
        for pattern in unused {
            report.waiver_errors.push(format!("the waiver of `{code}` is not used: no object `{pattern}` was found"));
        }
    }
    report.findings.retain(|finding| !finding.objects.is_empty());
    report.findings.sort_by_key(|finding| finding.severity);
    report
}

/// Returns whether what a waiver covers (all of a rule, or objects of a pattern) may be where nothing was looked at: for
/// lack of a right, or because there is no target yet.
fn may_hide(one: &Unchecked, code: &str, pattern: Option<&str>) -> bool {
    let of_rule = one.code.as_ref().is_none_or(|unchecked| unchecked == code);
    let there = match (&one.database, pattern) {
        (Some(database), Some(pattern)) => pattern.starts_with('*') || pattern.starts_with(&format!("{database}: ")),
        _ => true,
    };
    of_rule && there
}

/// Returns what is wrong with a waiver as it is written: the key, the problem's code, the message.
#[must_use]
pub fn waiver_problem(waiver: &Waiver) -> Option<(&'static str, &'static str, String)> {
    let Waiver { code, reason, until, .. } = waiver;
    if find(code).is_none() {
        return Some(("code", "unknown_rule", format!("there is no preflight rule `{code}`")));
    }
    if reason.trim().is_empty() {
        return Some(("reason", "waiver_without_reason", format!("the waiver of `{code}` gives no reason")));
    }
    if until.parse::<Date>().is_err() {
        return Some(("until", "bad_date", format!("`{until}` is no date such as 2027-01-31")));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{judge, waiver_problem};
    use crate::{
        op::preflight::Waiver,
        preflight::{
            report::{Finding, Object, Report, Unchecked},
            rule::Severity,
        },
    };

    fn finding(code: &str, severity: Severity, objects: &[&str]) -> Finding {
        let object = |name: &&str| Object { database: Some("db".into()), ..Object::named(*name, "") };
        Finding {
            code: code.into(),
            severity,
            title: String::new(),
            why: String::new(),
            fix: String::new(),
            link: String::new(),
            objects: objects.iter().map(object).collect(),
        }
    }

    fn waiver(code: &str, objects: &[&str], until: &str) -> Waiver {
        let objects = objects.iter().map(|name| (*name).to_owned()).collect();
        Waiver { code: code.into(), objects, reason: "known".into(), until: until.into() }
    }

    #[test]
    fn waivers_cover_objects_until_their_day() {
        let found = || Report {
            findings: vec![
                finding("large_objects", Severity::Note, &["large objects"]),
                finding("prepared_transactions", Severity::Blocker, &["transaction a", "transaction b"]),
            ],
            ..Report::default()
        };
        let today = jiff::civil::date(2026, 11, 25);
        let judged = judge(found(), &[waiver("prepared_transactions", &["db: transaction a"], "2026-11-25")], today);
        assert!(judged.waiver_errors.is_empty() && !judged.is_clear(), "{judged:?}");
        assert_eq!(judged.findings[0].objects[0].name, "transaction b");
        assert_eq!(judged.numbers(), "1 blocker, no warnings, 1 note");

        let judged = judge(found(), &[waiver("prepared_transactions", &[], "2026-11-25")], today);
        assert!(judged.is_clear() && judged.waived.len() == 1, "{judged:?}");

        let old = judge(found(), &[waiver("prepared_transactions", &[], "2026-11-24")], today);
        assert!(!old.is_clear() && old.waiver_errors[0].contains("expired"), "{old:?}");
        let unused = judge(Report::default(), &[waiver("prepared_transactions", &[], "2026-11-25")], today);
        assert!(!unused.is_clear() && unused.waiver_errors[0].contains("not used"), "{unused:?}");

        let both = waiver("prepared_transactions", &["db: transaction a", "db: transaction c"], "2026-11-25");
        let judged = judge(found(), &[both], today);
        let said = ["the waiver of `prepared_transactions` is not used: no object `db: transaction c` was found"];
        assert_eq!(judged.waiver_errors, said);
    }

    #[test]
    fn a_waiver_of_what_could_not_be_looked_at_is_not_unused() {
        let today = jiff::civil::date(2026, 11, 25);
        let waivers = [waiver("prepared_transactions", &[], "2026-11-25")];
        let unchecked = |code: &str| Report {
            unchecked: vec![Unchecked { code: Some(code.into()), database: None, reason: "no right".into() }],
            ..Report::default()
        };
        assert!(judge(unchecked("prepared_transactions"), &waivers, today).waiver_errors.is_empty());
        assert_eq!(judge(unchecked("large_objects"), &waivers, today).waiver_errors.len(), 1);
    }

    #[test]
    fn a_waiver_is_checked_as_it_is_written() {
        assert_eq!(waiver_problem(&waiver("prepared_transactions", &[], "2027-01-31")), None);
        let code = |waiver: &Waiver| waiver_problem(waiver).map(|(_, code, _)| code);
        assert_eq!(code(&waiver("nonsense", &[], "2027-01-31")), Some("unknown_rule"));
        assert_eq!(code(&waiver("prepared_transactions", &[], "2027-02-31")), Some("bad_date"));
        let mute = Waiver { reason: " ".into(), ..waiver("prepared_transactions", &[], "2027-01-31") };
        assert_eq!(code(&mute), Some("waiver_without_reason"));
    }
}
