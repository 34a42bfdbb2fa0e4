//! The items of a `for_each`: what they are, and which one an action belongs to.

use std::collections::BTreeSet;

use crate::{
    action::Action,
    error::{ErrorKind, StepError},
    lookup::{Lookup, plan_error},
    plan::Step,
    template,
    yaml::{Node, NodeValue},
};

/// Returns the names with `each`, when the action belongs to an item of a `for_each`: the step's `env` may use it.
pub(crate) fn with_item(step: &Step, action: &Action, names: Lookup) -> Result<Lookup, StepError> {
    let Some((wanted, each)) = action.id.split_once('/').map(|(key, _)| key).zip(step.for_each.as_ref()) else {
        return Ok(names);
    };
    let rendered = template::render(&each.items, &names.scope).map_err(|problems| plan_error(&problems))?;
    let found = items_of(&rendered)?.into_iter().enumerate().find(|(_, (key, _))| item_id(key) == wanted);
    Ok(match found {
        Some((index, (key, value))) => Lookup { scope: names.scope.clone().with_each(&key, &value, index), ..names },
        None => names,
    })
}

/// Returns an item's key as the first part of the ids of its actions, which ends at the first `/`.
pub(crate) fn item_id(key: &str) -> String {
    key.replace('%', "%25").replace('/', "%2F")
}

/// Returns the items of a rendered `for_each` with their keys: of a map its keys, of a list its texts or positions.
pub(crate) fn items_of(node: &Node) -> Result<Vec<(String, Node)>, StepError> {
    match &node.value {
        NodeValue::Map(entries) => Ok(entries.iter().map(|(key, value)| (key.text.clone(), value.clone())).collect()),
        NodeValue::Seq(items) => Ok(keys_of(items).into_iter().zip(items.iter().cloned()).collect()),
        NodeValue::Unknown { .. } => Ok(Vec::new()),
        other => {
            let message = format!("{}: `for_each` needs a list or a map, not {}", node.place, other.describe());
            Err(StepError::new(ErrorKind::Plan, message))
        }
    }
}

/// Returns the keys of the items of a list: their texts, and their positions where they have none or one is repeated.
pub(crate) fn keys_of(items: &[Node]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let key = |(index, item): (usize, &Node)| {
        let name = item.as_str().map_or_else(|| index.to_string(), str::to_owned);
        if seen.insert(name.clone()) { name } else { format!("{name}#{index}") }
    };
    items.iter().enumerate().map(key).collect()
}
