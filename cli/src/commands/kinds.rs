use std::io;

use clap::Args;
use pgplan_engine::{
    kinds::{self, KindEntry},
    schema::{KeyReference, KindReference},
    spelling,
};
use serde_json::json;

use crate::{
    exit::Exit,
    ui::{Tone, Ui, paint},
};

/// List what a step can be, or explain one kind
#[derive(Debug, Args)]
pub(crate) struct Kinds {
    /// The kind to explain
    #[arg(value_name = "KIND")]
    kind: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Kinds {
    pub(crate) fn run(&self, ui: &mut Ui) -> io::Result<Exit> {
        match &self.kind {
            None => self.list(ui),
            Some(name) => match kinds::find(name) {
                Some(kind) => self.explain(ui, kind),
                None => {
                    let help = spelling::did_you_mean(name, kinds::all().iter().map(|kind| kind.name));
                    ui.fail(format!("there is no kind of step called `{name}`"), &help.unwrap_or_default());
                    Ok(Exit::BadInput)
                }
            },
        }
    }

    fn list(&self, ui: &mut Ui) -> io::Result<Exit> {
        if self.json {
            let list: Vec<_> = kinds::all()
                .iter()
                .map(|kind| json!({ "name": kind.name, "group": kind.group, "summary": kind.summary }))
                .collect();
            ui.data(format!("{}\n", serde_json::Value::from(list)))?;
            return Ok(Exit::Done);
        }
        let width = kinds::all().iter().map(|kind| kind.name.len()).max().unwrap_or(0);
        let mut text = String::new();
        let mut groups: Vec<&str> = Vec::new();
        for kind in kinds::all() {
            if !groups.contains(&kind.group) {
                groups.push(kind.group);
            }
        }
        for group in groups {
            text.push_str(&format!("{}\n", paint(group, Tone::Strong)));
            for kind in kinds::all().iter().filter(|kind| kind.group == group) {
                text.push_str(&format!("  {:width$}  {}\n", kind.name, kind.summary));
            }
        }
        ui.data(text)?;
        Ok(Exit::Done)
    }

    fn explain(&self, ui: &mut Ui, kind: &KindEntry) -> io::Result<Exit> {
        let reference = KindReference::of(kind);
        if self.json {
            let value = json!({
                "name": kind.name, "group": kind.group, "summary": kind.summary,
                "description": reference.description, "keys": keys_as_json(&reference.keys), "example": kind.example,
            });
            ui.data(format!("{value}\n"))?;
            return Ok(Exit::Done);
        }
        let mut text = format!("{}\n{}\n", paint(kind.name, Tone::Strong), reference.description);
        if !reference.keys.is_empty() {
            text.push_str(&format!("\n{}\n", paint("Keys", Tone::Strong)));
        }
        write_keys(&mut text, &reference.keys, "  ");
        text.push_str(&format!("\n{}\n", paint("Example", Tone::Strong)));
        for (at, line) in kind.example.trim_end().lines().enumerate() {
            text.push_str(&format!("  {}{line}\n", if at == 0 { "- " } else { "  " }));
        }
        ui.data(text)?;
        Ok(Exit::Done)
    }
}

fn keys_as_json(keys: &[KeyReference]) -> serde_json::Value {
    let one = |key: &KeyReference| {
        let values = key.values.iter().map(|(value, about)| json!({ "value": value, "description": about }));
        json!({
            "key": key.name, "type": key.kind, "required": key.required, "default": key.default,
            "description": key.description, "values": values.collect::<Vec<_>>(), "keys": keys_as_json(&key.keys),
        })
    };
    keys.iter().map(one).collect()
}

fn write_keys(text: &mut String, keys: &[KeyReference], indent: &str) {
    for key in keys {
        let mut about = key.kind.clone();
        if key.required {
            about.push_str(", required");
        }
        if let Some(default) = &key.default {
            about.push_str(&format!(", default {default}"));
        }
        text.push_str(&format!("{indent}{} {}\n", key.name, paint(format!("({about})"), Tone::Dim)));
        for line in key.description.lines() {
            text.push_str(&format!("{indent}    {line}\n"));
        }
        write_keys(text, &key.keys, &format!("{indent}    "));
    }
}
