//! Steps that take the body of another as it is written: a trial that filters as the real step will.

use super::steps::Draft;
use crate::{
    diagnostic::{Diagnostic, Problems},
    spelling,
    yaml::NodeValue,
};

/// Puts the bodies of named steps where steps name them.
pub(super) fn put_in(drafts: &mut [Draft], problems: &mut Problems) {
    for at in 0..drafts.len() {
        for (key, kind) in drafts[at].decl.kind.borrows {
            let Some(named) = drafts[at].decl.body.get(key) else { continue };
            let Some(id) = named.as_str().map(str::to_owned) else { continue };
            let place = named.place.clone();
            let Some(lender) = drafts.iter().find(|draft| draft.id == id) else {
                let of_kind = drafts.iter().filter(|draft| draft.decl.kind.name == *kind);
                let help = spelling::did_you_mean(&id, of_kind.map(|draft| draft.id.as_str()));
                let unknown = Diagnostic::error("unknown_step", format!("the plan has no step `{id}`"));
                problems.push(unknown.at(&place, "named here").maybe_help(help));
                continue;
            };
            if lender.decl.kind.name != *kind {
                let wrong = Diagnostic::error("wrong_artifact", format!("the step `{id}` is no `{kind}`"));
                let is = format!("this step is a `{}`", lender.decl.kind.name);
                problems.push(wrong.at(&place, "named here").at(&lender.decl.place, is));
                continue;
            }
            let body = lender.decl.body.clone();
            if let NodeValue::Map(entries) = &mut drafts[at].decl.body.value {
                let own = entries.iter_mut().find(|(name, _)| name.text == *key);
                own.into_iter().for_each(|(_, value)| *value = body.clone());
            }
        }
    }
}
