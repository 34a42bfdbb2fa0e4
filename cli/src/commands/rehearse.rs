use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use pgplan_engine::{
    downtime::Size,
    error::{ErrorKind, StepError},
    event::{Holder, Outcome},
    journal::{Journal, Location},
    plan::Plan,
    quantity::parse_duration,
    rehearsal::{self, Options, is_simulated, leftovers},
    run::{Ending, Run, Stop, Wishes},
    state::{RunState, StepStatus},
    timing::{Machine, TimedServer, Timing},
    world::this_process,
};
use tokio_util::sync::CancellationToken;

use super::{
    apply::new_run_id,
    forecast::{self, Measured, lines, warning},
    journal_failed,
    load::load,
    report,
    session::{listen, run_failed},
    shown::Shown,
    state,
};
use crate::{
    args::PlanArgs,
    exit::Exit,
    report::{now::Now, summary},
    ui::{Tone, Ui, paint},
};

/// Run a plan against throwaway copies of its servers
///
/// Every server that the plan names is copied to a throwaway server of the same major version on this machine (the real
/// ones are only read), and the whole plan is run against the copies. What touches the application, a platform or a
/// person is only simulated: it is printed as "would …". All of it is removed at the end; a report, the journal and how
/// long everything took stay in the folder `rehearsals` beside the runs, and `pgplan plan` predicts the downtime from that.
#[derive(Debug, Args)]
pub(crate) struct Rehearse {
    #[command(flatten)]
    plan: PlanArgs,
    /// Where the real database is, when only a step of the plan tells its address; the password is taken from ~/.pgpass
    /// or PGPASSWORD
    #[arg(long = "address", value_name = "NAME=URL")]
    addresses: Vec<String>,
    /// Fill the copy of this database from a dump file, not from the real server
    #[arg(long = "backup", value_name = "NAME=FILE")]
    backups: Vec<String>,
    /// Copy the server of this database physically, by pg_basebackup; its role must have the attribute REPLICATION
    #[arg(long = "clone", value_name = "NAME")]
    clones: Vec<String>,
    /// Do not look at this database: an empty server of the version in its `expect` takes its place
    #[arg(long, value_name = "NAME")]
    empty: Vec<String>,
    /// Copy only this part of the rows: large tables that no foreign key refers to are read by pages, all others whole
    #[arg(long, value_name = "PERCENT")]
    sample: Option<String>,
    /// How long a simulated step is taken to last, as long as no run of the plan has measured it
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    assume: String,
    /// Start programs that the plan names to look (secret commands, reading an application's scale)
    #[arg(long)]
    allow_programs: bool,
    #[command(flatten)]
    shown: Shown,
}

/// Where runs are kept.
struct Kept {
    /// The folder of the runs' files.
    runs: PathBuf,
    /// The journal.
    location: Option<Location>,
}

/// How a rehearsal went.
struct Rehearsed {
    state: RunState,
    ending: Ending,
    servers: BTreeMap<String, TimedServer>,
    sample: Option<String>,
}

impl Rehearse {
    pub(crate) fn run(&self, ui: &mut Ui, state: Option<&Path>) -> io::Result<Exit> {
        let plan = match load(ui, &self.plan)? {
            Ok(plan) => plan,
            Err(exit) => return Ok(exit),
        };
        let assumed = match self.options(Path::new("")).and_then(|_| self.assumed()) {
            Ok(assumed) => assumed,
            Err(error) => return Ok(failed(ui, &error)),
        };
        // What the rehearsal starts may tell where the journal is, too.
        let (runs, location) = match state::for_look(ui, state, &plan, true)? {
            Ok(found) => found,
            Err(exit) => return Ok(exit),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let result = runtime.block_on(self.whole(ui, &plan, &Kept { runs, location }, assumed));
        runtime.shutdown_timeout(Duration::from_secs(1));
        result
    }

    async fn whole(&self, ui: &mut Ui, plan: &Plan, kept: &Kept, assumed: Duration) -> io::Result<Exit> {
        let runs = &kept.runs;
        let (cleaned, left) = leftovers::remove_dead(&forecast::folder(runs)).await;
        cleaned.iter().for_each(|id| ui.say(format!("removed what the killed rehearsal {id} had left")));
        left.iter().for_each(|line| ui.say(format!("{} {line}", paint("warning:", Tone::Warn))));
        let (id, me) = (new_run_id(), this_process());
        let folder = forecast::folder_of(runs, plan).join(&id);
        let options = match self.options(&folder) {
            Ok(options) => Options { id: id.clone(), ..options },
            Err(error) => return Ok(failed(ui, &error)),
        };
        let alive = match leftovers::begin(&folder, &me) {
            Ok(alive) => alive,
            Err(error) => return Ok(failed(ui, &error)),
        };
        let stop = Stop::default();
        let now = Now::default();
        // Nobody else knows its journal.
        listen(&stop, &now, None, CancellationToken::new())?;
        let rehearsed = Box::pin(self.rehearse(ui, plan, &options, &me, &stop, &now)).await;
        ui.say("removing the throwaway servers");
        let left = leftovers::remove(&id, &folder).await;
        drop(alive);
        left.iter().for_each(|line| ui.say(format!("{} {line}", paint("warning:", Tone::Warn))));
        match rehearsed? {
            Ok(rehearsed) => self.end(ui, plan, kept, &rehearsed, &me, assumed),
            Err(exit) => Ok(exit),
        }
    }

    async fn rehearse(
        &self,
        ui: &mut Ui,
        plan: &Plan,
        options: &Options,
        me: &Holder,
        stop: &Stop,
        now: &Now,
    ) -> io::Result<Result<Rehearsed, Exit>> {
        let vars = crate::args::environment();
        let mut say = |line: String| ui.say(line);
        let prepared = rehearsal::prepare(plan, options, &vars, &stop.politely, &mut say).await;
        let prepared = match prepared {
            Ok(prepared) => prepared,
            Err(error) => return Ok(Err(failed(ui, &error))),
        };
        let mut journal = match Journal::open(&Location::Folder(options.folder.clone())) {
            Ok(journal) => journal,
            Err(error) => return Ok(Err(journal_failed(ui, &error))),
        };
        if let Err(error) = journal.acquire(&plan.name, me) {
            return Ok(Err(journal_failed(ui, &error)));
        }
        let world = std::sync::Arc::new(prepared.world);
        let bars = self.shown.bars(ui);
        let reporters = self.shown.reporters(ui, bars, now)?;
        let wishes = Wishes { run_dir: options.folder.clone(), ..Wishes::default() };
        let ended = match Run::begin(&prepared.plan, &mut journal, &options.id, me.clone(), reporters) {
            Ok(mut run) => Box::pin(run.drive(&world, &wishes, stop)).await.map(|ending| (ending, run.state().clone())),
            Err(error) => Err(error),
        };
        let (ending, state) = match ended {
            Ok(ended) => ended,
            Err(error) => return Ok(Err(run_failed(ui, &error))),
        };
        report::leave(ui, &journal, &options.id, &options.folder, &options.folder, true);
        if let Err(error) = journal.release() {
            return Ok(Err(journal_failed(ui, &error)));
        }
        Ok(Ok(Rehearsed { state, ending, servers: prepared.servers, sample: prepared.sample }))
    }

    /// Tells how it went, keeps the times and predicts the downtime.
    fn end(
        &self,
        ui: &mut Ui,
        plan: &Plan,
        Kept { runs, location }: &Kept,
        rehearsed: &Rehearsed,
        me: &Holder,
        assumed: Duration,
    ) -> io::Result<Exit> {
        let state = &rehearsed.state;
        self.shown.print(ui, state)?;
        ui.say(summary::text(plan, state));
        let mut worst = None;
        for (id, step) in state.steps.iter().filter(|(_, step)| step.status == StepStatus::Failed) {
            if let Some(error) = &step.error {
                ui.say(format!("{} {}", paint("step", Tone::Strong), paint(id, Tone::Strong)));
                ui.error(error);
                worst.get_or_insert(error.kind);
            }
        }
        let simulated = |id: &str| plan.step(id).is_some_and(is_simulated);
        if let Some(timing) = Timing::of(plan, state, Machine::this(me), simulated) {
            let timing = Timing {
                sample: rehearsed.sample.clone(),
                assumed_ms: u64::try_from(assumed.as_millis()).unwrap_or(u64::MAX),
                servers: rehearsed.servers.clone(),
                ..timing
            };
            let file = forecast::folder_of(runs, plan).join(format!("{}.json", state.id));
            if let Err(error) = timing.write(&file) {
                return Ok(failed(ui, &error));
            }
            ui.say(format!("times           {}", file.display()));
        }
        match rehearsed.ending {
            Ending::Interrupted => {
                ui.say(paint("the rehearsal was interrupted; nothing real was changed", Tone::Warn));
                return Ok(Exit::Interrupted);
            }
            Ending::Ended(Outcome::Succeeded) => {}
            Ending::Ended(outcome) => {
                ui.say(paint("the rehearsal failed; nothing real was changed", Tone::Bad));
                return Ok(Exit::of_outcome(outcome, worst));
            }
        }
        ui.say(paint(format!("plan {} was rehearsed; nothing real was changed", plan.name), Tone::Good));
        let measured = Measured::read(ui, plan, runs, location.as_ref());
        let size = |server: &TimedServer| Size { bytes: server.bytes, rows: server.rows };
        let now = rehearsed.servers.iter().map(|(name, server)| (name.clone(), size(server))).collect();
        if let Some(prediction) = measured.forecast(plan, &now).map(|forecast| forecast.whole()) {
            lines(&prediction).iter().for_each(|line| ui.say(line));
            if let Some(warning) = warning(&prediction) {
                ui.say(format!("{} {warning}", paint("warning:", Tone::Warn)));
            }
        }
        Ok(Exit::Done)
    }

    fn assumed(&self) -> Result<Duration, StepError> {
        parse_duration(&self.assume)
            .map_err(|error| wrong(format!("--assume {}: {error}", self.assume), "write 10s or 2m"))
    }

    fn options(&self, folder: &Path) -> Result<Options, StepError> {
        let sample = self.sample.as_deref().map(share).transpose()?;
        Ok(Options {
            id: String::new(),
            folder: folder.to_owned(),
            addresses: pairs("--address", &self.addresses)?,
            backups: pairs("--backup", &self.backups)?
                .into_iter()
                .map(|(name, file)| {
                    Ok((
                        name,
                        std::path::absolute(&file).map_err(|error| StepError::io("find", Path::new(&file), &error))?,
                    ))
                })
                .collect::<Result<BTreeMap<String, PathBuf>, StepError>>()?,
            clones: self.clones.iter().cloned().collect::<BTreeSet<String>>(),
            empty: self.empty.iter().cloned().collect::<BTreeSet<String>>(),
            sample,
            platforms: self.plan.platforms.clone(),
            allow_programs: self.allow_programs,
        })
    }
}

fn wrong(message: String, help: &str) -> StepError {
    StepError::new(ErrorKind::Plan, message).help(help)
}

fn failed(ui: &mut Ui, error: &StepError) -> Exit {
    ui.error(error);
    Exit::of_error(error.kind)
}

fn pairs(option: &str, pairs: &[String]) -> Result<BTreeMap<String, String>, StepError> {
    let pair = |text: &String| {
        let pair = text.split_once('=').filter(|(name, value)| !name.is_empty() && !value.is_empty());
        let pair = pair.map(|(name, value)| (name.to_owned(), value.to_owned()));
        // An address without a name may hold a password.
        pair.ok_or_else(|| wrong(format!("{option}: there is no name and `=`"), "name a database of the plan: NAME=…"))
    };
    pairs.iter().map(pair).collect()
}

/// Reads a part: `10` or `10%`.
fn share(text: &str) -> Result<f64, StepError> {
    let percent =
        text.trim_end_matches('%').trim().parse::<f64>().ok().filter(|percent| *percent > 0.0 && *percent < 100.0);
    let percent = percent
        .ok_or_else(|| wrong(format!("--sample {text}: not a part"), "write a number between 0 and 100: 10%"))?;
    Ok(percent / 100.0)
}
