use std::{fs::OpenOptions, io, io::Write as _, path::PathBuf};

use clap::Args;
use pgplan_engine::spelling;

use crate::{
    exit::Exit,
    ui::{Tone, Ui, paint},
};

/// A plan to begin with.
struct Template {
    name: &'static str,
    summary: &'static str,
    text: &'static str,
}

/// The plans of `plans/`, each run by a test on real servers.
const TEMPLATES: [Template; 9] = [
    Template {
        name: "version-upgrade",
        summary: "A whole server to a newer major version",
        text: include_str!("../../../plans/version-upgrade.yaml"),
    },
    Template {
        name: "merge-shards",
        summary: "Many schemas of a database into one",
        text: include_str!("../../../plans/merge-shards.yaml"),
    },
    Template {
        name: "merge-tenants",
        summary: "Databases whose keys meet into one",
        text: include_str!("../../../plans/merge-tenants.yaml"),
    },
    Template {
        name: "aptible-upgrade",
        summary: "A new major version on Aptible",
        text: include_str!("../../../plans/aptible-upgrade.yaml"),
    },
    Template {
        name: "dokku-restore-practice",
        summary: "Practise a restore on Dokku",
        text: include_str!("../../../plans/dokku-restore-practice.yaml"),
    },
    Template {
        name: "habitat-backup",
        summary: "Back up Habitat Builder",
        text: include_str!("../../../plans/habitat-backup.yaml"),
    },
    Template {
        name: "habitat-restore",
        summary: "Bring Habitat Builder back",
        text: include_str!("../../../plans/habitat-restore.yaml"),
    },
    Template {
        name: "habitat-merge-shards",
        summary: "Merge the shards of Habitat Builder",
        text: include_str!("../../../plans/habitat-merge-shards.yaml"),
    },
    Template {
        name: "habitat-merge-databases",
        summary: "Merge the databases of Habitat Builder",
        text: include_str!("../../../plans/habitat-merge-databases.yaml"),
    },
];

/// Where an editor finds the schema in this repository, and where beside a plan of one's own.
const MODELINE: (&str, &str) = ("$schema=../schemas/plan.v1.json", "$schema=plan.v1.json");

/// Write a plan to begin with, from a template; without one, list the templates
#[derive(Debug, Args)]
pub(crate) struct Init {
    /// The template
    #[arg(value_name = "TEMPLATE")]
    template: Option<String>,
    /// Where to write the plan; default: TEMPLATE.yaml
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Replace a file that is there
    #[arg(long)]
    force: bool,
}

impl Init {
    pub(crate) fn run(&self, ui: &mut Ui) -> io::Result<Exit> {
        let Some(name) = &self.template else { return list(ui) };
        let Some(template) = TEMPLATES.iter().find(|template| template.name == name) else {
            let near = spelling::did_you_mean(name, TEMPLATES.iter().map(|template| template.name));
            let help = near.unwrap_or_else(|| "`pgplan init` lists the templates".to_owned());
            ui.fail(format!("there is no template called `{name}`"), &help);
            return Ok(Exit::BadInput);
        };
        let path = self.out.clone().unwrap_or_else(|| PathBuf::from(format!("{name}.yaml")));
        let mut open = OpenOptions::new();
        open.write(true).create(self.force).truncate(self.force).create_new(!self.force);
        let written = open.open(&path).and_then(|mut file| {
            file.write_all(template.text.replacen(MODELINE.0, MODELINE.1, 1).as_bytes())?;
            file.sync_all()
        });
        match written {
            Ok(()) => {
                let shown = path.display();
                ui.say(format!("wrote {shown}; read it, set its variables, then: pgplan check {shown}"));
                ui.say("for completion in an editor: pgplan schema > plan.v1.json");
                Ok(Exit::Done)
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let help = "choose another file with --out, or replace it with --force";
                ui.fail(format!("{} is there already", path.display()), help);
                Ok(Exit::BadInput)
            }
            Err(error) => {
                ui.fail(format!("cannot write {}: {error}", path.display()), "check the folder and its rights");
                Ok(Exit::BadInput)
            }
        }
    }
}

fn list(ui: &mut Ui) -> io::Result<Exit> {
    let width = TEMPLATES.iter().map(|template| template.name.len()).max().unwrap_or(0);
    let line = |template: &Template| {
        format!(
            "{}{}  {}\n",
            paint(template.name, Tone::Strong),
            " ".repeat(width - template.name.len()),
            template.summary
        )
    };
    ui.data(TEMPLATES.iter().map(line).collect::<String>())?;
    Ok(Exit::Done)
}
