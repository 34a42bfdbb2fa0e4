//! What a step asks to be looked at, before its actions are listed.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use super::Real;
use crate::{
    downtime::Size,
    error::{ErrorKind, StepError},
    facts::{Depth, Facts, Look, MergeFacts},
    lookup::{Lookup, plan_error},
    merge,
    op::preflight::Preflight,
    perform::{self, PerformCx, Progress, session::unless_stopped},
    plan::Step,
    preflight::report::Report,
    preview::Server,
    survey, template,
    template::Known,
    yaml::NodeValue,
};

impl Real {
    /// Looks at what a kind asks for.
    pub(super) async fn look(&self, looks: &[Look], names: &Lookup, cx: &PerformCx) -> Result<Facts, StepError> {
        let mut facts = Facts::default();
        for look in looks {
            match look {
                Look::Server { database, depth } => match names.connection(database)? {
                    Known::Now(info) => {
                        let depth = if self.must_be_empty(database) { Depth::Tables.max(*depth) } else { *depth };
                        let server = unless_stopped(&cx.cancel, Box::pin(survey::server(&info, depth))).await?;
                        self.expect(database, &server)?;
                        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                        let mut now = Server::from(&server);
                        // A look that went less far does not take back what is known.
                        now.rows = now.rows.or_else(|| seen.get(database)?.rows);
                        seen.insert(database.clone(), now);
                        drop(seen);
                        facts.servers.insert(database.clone(), server);
                    }
                    Known::After(step) => {
                        facts.servers_known_after.insert(database.clone(), step);
                    }
                },
                Look::Program { key, exec } if self.settings.allow_programs => {
                    let found = perform::exec::look(exec, cx).await?;
                    facts.programs.insert(key.clone(), found);
                }
                Look::Program { .. } => {}
                Look::Merge(spec) => {
                    facts.merge =
                        unless_stopped(&cx.cancel, Box::pin(self.look_at_merge(&cx.step, spec, names))).await?;
                }
                Look::Preflight(op) => self.look_for_hazards(op, names, cx, &mut facts).await?,
                Look::Dump { file } if self.settings.dry_run && !file.exists() => {}
                Look::Dump { file } => {
                    facts.dumps.insert(file.clone(), perform::existing_dump::look(file, cx).await?);
                }
            }
        }
        Ok(facts)
    }

    /// Looks at a merge when all its databases can be reached now.
    async fn look_at_merge(
        &self,
        step: &str,
        spec: &merge::Spec,
        names: &Lookup,
    ) -> Result<Option<MergeFacts>, StepError> {
        let mut infos = BTreeMap::new();
        for database in spec.read_databases().into_iter().chain([spec.into.database.clone()]) {
            let Known::Now(info) = names.connection(&database)? else { return Ok(None) };
            infos.insert(database, info);
        }
        let doing = Mutex::new(String::new());
        let tell = |what| *doing.lock().unwrap_or_else(PoisonError::into_inner) = what;
        let look = survey::merge::look(spec, &infos, &tell);
        match &self.settings.watch {
            Some(watch) => watch.during(step, &doing, look).await.map(Some),
            None => look.await.map(Some),
        }
    }

    /// Looks for hazards, as far as the servers are there by now.
    async fn look_for_hazards(
        &self,
        op: &Preflight,
        names: &Lookup,
        cx: &PerformCx,
        facts: &mut Facts,
    ) -> Result<(), StepError> {
        let mut op = op.clone();
        if let Known::After(step) = names.connection(&op.source)? {
            facts.servers_known_after.insert(op.source, step);
            return Ok(());
        }
        if let Some(target) = op.target.clone()
            && let Known::After(step) = names.connection(&target)?
        {
            if op.to_version.is_none() {
                facts.servers_known_after.insert(target, step);
                return Ok(());
            }
            op.target = None;
        }
        let report = unless_stopped(&cx.cancel, Box::pin(perform::preflight::judged(&op, cx))).await?;
        let mut reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        reports.entry(cx.step.clone()).or_default().push(report.clone());
        drop(reports);
        facts.preflight = Some(report);
        Ok(())
    }

    /// Looks at the databases of the plan that are wanted and can be reached now, for how large their data is.
    ///
    /// One that does not answer yet (behind a tunnel, or made by a step) is left out: the step that looks at it first tells.
    pub async fn sizes_now(&self, wanted: impl Fn(&str) -> bool) -> BTreeMap<String, Size> {
        let names = self.names_at_start();
        let databases = self.plan.databases.keys().filter(|name| wanted(name));
        let looks = databases.filter_map(|name| match names.connection(name) {
            // As far as a rehearsal looks, which knows the rows of all tables.
            Ok(Known::Now(info)) => Some(async move { (name, survey::server(&info, Depth::AllTables).await) }),
            Ok(Known::After(_)) | Err(_) => None,
        });
        let mut sizes = BTreeMap::new();
        for (name, looked) in join_all(looks.collect::<Vec<_>>()).await {
            match looked.as_ref().map(Server::from) {
                Ok(server) => drop(sizes.insert(name.clone(), Size { bytes: server.bytes, rows: server.rows })),
                Err(error) => tracing::debug!("how large {name} is cannot be seen yet: {error}"),
            }
        }
        sizes
    }

    /// Returns what the preflights of a step found so far; in a dry run only.
    #[must_use]
    pub fn reports_of(&self, step: &str) -> Vec<Report> {
        let reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        reports.get(step).cloned().unwrap_or_default()
    }

    /// Looks for hazards on the way of each dump that the plan restores, for a plan that has no preflight of its own.
    ///
    /// # Errors
    /// The plan restores nothing that it dumps, or a server is not there yet; what the servers said.
    pub async fn implied_preflights(&self) -> Result<Vec<Report>, StepError> {
        let names = self.names_at_start();
        let mut ways: Vec<(Preflight, &Step)> = Vec::new();
        for restore in self.plan.steps.iter().filter(|step| step.kind == "restore") {
            let mut made = restore.inputs.get("from").and_then(|id| self.plan.step(id));
            while let Some(step) = made.filter(|step| step.kind != "dump") {
                made = step.inputs.get("from").and_then(|id| self.plan.step(id));
            }
            let database = |step: &Step| step.declared.databases.first().map(|(name, ..)| name.clone());
            let (Some(dump), Some(target)) = (made, database(restore)) else { continue };
            let Some(source) = database(dump) else { continue };
            let databases = self.dumped_alone(dump, &source, &names)?;
            let way = Preflight { source, target: Some(target), databases, ..Preflight::default() };
            if !ways.iter().any(|(known, _)| *known == way) {
                ways.push((way, restore));
            }
        }
        if ways.is_empty() {
            let message = "the plan has no `preflight` step, and restores nothing that it dumps";
            return Err(StepError::new(ErrorKind::Plan, message)
                .help("add a step such as `preflight: { source: source, target: target }`"));
        }
        let mut reports = Vec::new();
        for (way, restore) in ways {
            let cx = self.perform_cx(restore, "look", 0, &names, CancellationToken::new(), Progress::silent())?;
            let mut facts = Facts::default();
            self.look_for_hazards(&way, &names, &cx, &mut facts).await?;
            if let Some((database, step)) = facts.servers_known_after.pop_first() {
                let message = format!("where `{database}` is, is known after the step `{step}`");
                return Err(StepError::new(ErrorKind::Plan, message)
                    .help("add a `preflight` step with `to_version`, which needs no target yet"));
            }
            reports.extend(facts.preflight);
        }
        Ok(reports)
    }

    /// Returns the one database that a dump step dumps; `None` when it dumps the whole server.
    fn dumped_alone(&self, dump: &Step, source: &str, names: &Lookup) -> Result<Option<Vec<String>>, StepError> {
        let body = template::render(&dump.body, &names.scope).map_err(|problems| plan_error(&problems))?;
        let whole =
            matches!(body.get("scope").map(|node| &node.value), Some(NodeValue::Str(scope)) if scope == "cluster");
        Ok(match names.connection(source)? {
            Known::Now(info) if !whole => Some(vec![info.dbname]),
            Known::Now(_) | Known::After(_) => None,
        })
    }
}
