use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use serde_json::json;

use super::*;
use crate::{
    action::{OutputValue, Outputs},
    plan::{Database, Expect},
    source::SourceFile,
};

fn node(text: &str) -> Node {
    let file = SourceFile { name: "t".to_owned(), folder: PathBuf::new(), text: text.to_owned() };
    Node::new(Place::new(&Arc::new(file), 0..text.len()), NodeValue::Str(text.to_owned()))
}

fn scope() -> Scope {
    let vars = BTreeMap::from([
        ("app".to_owned(), json!("orders")),
        ("jobs".to_owned(), json!(4)),
        ("list".to_owned(), json!(["a", "b"])),
        ("forged".to_owned(), json!(secret::marker("secrets.old", secret::Encoding::Raw))),
    ]);
    let database = |url: &str| Database {
        url: url.to_owned(),
        params: BTreeMap::new(),
        password: Some("${{ secrets.old }}".to_owned()),
        expect: Expect::default(),
        protect: false,
        after: Vec::new(),
        place: node(url).place,
    };
    let databases = BTreeMap::from([
        ("target".to_owned(), database("postgres://app@${{ vars.app }}.internal/db")),
        ("late".to_owned(), database("${{ steps.tunnel.outputs.url }}")),
    ]);
    let mut scope = Scope::new("plan", "/plans")
        .with_vars(&vars)
        .with_secrets(["old".to_owned()])
        .with_databases(databases)
        .with_steps(["tunnel".to_owned(), "record".to_owned()]);
    let outputs: Outputs =
        [("sha".to_owned(), json!("abc").into()), ("key".to_owned(), OutputValue::Secret(None))].into();
    scope.finish("record", &outputs);
    scope
}

fn shown(text: &str) -> String {
    match render(&node(text), &scope()) {
        Ok(Node { value: value @ NodeValue::Unknown { .. }, place }) => {
            format!("unknown {}", Node::new(place, value).to_json().as_str().unwrap())
        }
        Ok(node) => node.to_json().to_string(),
        Err(problems) => problems.iter().map(|problem| problem.code).collect::<Vec<_>>().join(" "),
    }
}

#[test]
fn values_keep_their_type_and_text_joins() {
    assert_eq!(shown("${{ vars.jobs }}"), "4");
    assert_eq!(shown("${{ vars.jobs * 2 }} jobs"), "\"8 jobs\"");
    assert_eq!(shown("${{ vars.list }}"), r#"["a","b"]"#);
    assert_eq!(shown("${{ vars.list | join('-') }}/${{ vars['app'] | upper }}"), "\"a-b/ORDERS\"");
    assert_eq!(shown("$${{ vars.app }} ${HOME}"), "\"${{ vars.app }} ${HOME}\"");
    assert_eq!(shown("${{ {'k': vars.jobs > 3} }}"), r#"{"k":true}"#);
    assert_eq!(shown("${{ plan.name }}:${{ steps.record.outputs.sha }}"), "\"plan:abc\"");
}

#[test]
fn every_undefined_name_is_reported() {
    assert_eq!(shown("${{ vars.ap ~ secrets.new ~ databases.x.url ~ app ~ steps.y.outputs.z }}"), {
        "undefined_variable undefined_secret unknown_database undefined_name unknown_step"
    });
    assert_eq!(shown("${{ steps.record.outputs.sah }} ${{ each.key }}"), "unknown_output undefined_name");
    assert_eq!(shown("${{ vars.list.size.x }} ${{ steps[vars.app].outputs.x }}"), "undefined_name dynamic_reference");
    assert_eq!(shown("${{ vars.app | uper }}"), "bad_expression");
    assert_eq!(shown("${{ vars.app + }}"), "bad_expression");
    assert_eq!(shown("${{ vars.app"), "bad_template");
    assert_eq!(shown("x ${{ vars.list }}"), "wrong_type");
    assert_eq!(shown("${{ range(1000000) | length }}"), "expression_failed");
    let null = &render(&node("x ${{ none }}"), &scope()).unwrap_err()[0];
    assert_eq!(null.help.as_deref(), Some("say what stands for null: `| default('', true)`"));
    assert_eq!(shown("x ${{ none | default('', true) }}"), "\"x \"");
    let problem = &render(&node("a ${{ vars.app }} ${{ vars.ap }}"), &scope()).unwrap_err()[0];
    assert_eq!(problem.place().unwrap().span, 22..29);
    assert_eq!(problem.help.as_deref(), Some("did you mean `app`?"));
}

#[test]
fn secrets_stay_named_and_whole() {
    assert_eq!(shown("x ${{ secrets.old | urlencode }}"), "\"x <secret secrets.old>\"");
    let target = "\"postgresql://app:<secret databases.target.password>@orders.internal/db\"";
    assert_eq!(shown("${{ databases.target.url }}"), target);
    assert_eq!(shown("${{ databases.target.host }}:${{ databases.target.port }}"), "\"orders.internal:5432\"");
    assert_eq!(shown("${{ secrets.old if vars.jobs > 3 else 'none' }}"), "\"<secret secrets.old>\"");
    for wrong in
        ["secrets.old | upper", "secrets.old == 'x'", "'a' in secrets.old", "steps.record.outputs.key | length"]
    {
        assert_eq!(shown(&format!("${{{{ {wrong} }}}}")), "secret_changed", "{wrong}");
    }
    assert_eq!(shown("${{ (secrets.old)[1:] }}"), "secret_changed");
    assert!(shown("${{ vars.forged }}").contains('\u{FFFD}'), "outside values cannot forge a marker");
}

#[test]
fn what_is_not_known_yet_stays_so() {
    assert_eq!(shown("${{ steps.tunnel.outputs.port + 1 }}"), "unknown <known after tunnel>");
    assert_eq!(shown("h:${{ steps.tunnel.outputs.port }}"), "unknown h:<known after tunnel>");
    assert_eq!(shown("${{ databases.late.host }}"), "unknown <known after tunnel>");
    assert_eq!(shown("${{ run.id }}"), "unknown <known after start>");
}

#[test]
fn conditions() {
    let truth = |text: &str| match eval_bool(&node(text), &scope()) {
        Ok(known) => format!("{known:?}"),
        Err(problems) => problems[0].code.to_owned(),
    };
    assert_eq!(truth("vars.jobs == 4 and plan.name != 'x'"), "Now(true)");
    assert_eq!(truth("${{ vars.app == 'x' }}"), "Now(false)");
    assert_eq!(truth("steps.tunnel.outputs.port > 1"), "After(\"tunnel\")");
    assert_eq!(truth("vars.jobs"), "not_a_condition");
}
