//! Applying the waivers of a plan to what was found.

use jiff::civil::Date;

use super::{
    find,
    report::{Finding, Report, Waived},
};
use crate::{op::preflight::Waiver, pattern::any_matches};

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
        for finding in &mut report.findings {
            if finding.code != *code {
                continue;
            }
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
        if !covered {
            let what = if waiver.objects.is_empty() { "nothing" } else { "no such object" };
            report.waiver_errors.push(format!("the waiver of `{code}` is not used: {what} was found"));
        }
    }
    report.findings.retain(|finding| !finding.objects.is_empty());
    report.findings.sort_by_key(|finding| finding.severity);
    report
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
            report::{Finding, Object, Report},
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
