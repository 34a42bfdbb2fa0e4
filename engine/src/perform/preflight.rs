//! Asking servers for the hazards of the catalogue, read-only.

use futures_util::future::join_all;
use jiff::{Timestamp, tz::TimeZone};
use tokio_postgres::SimpleQueryRow;

use super::{PerformCx, compare::write_json, session::unless_stopped};
use crate::{
    action::Output,
    error::{ErrorKind, StepError},
    facts::{Depth, ServerFacts},
    op::preflight::Preflight,
    postgres::{
        ConnInfo, Session,
        connect::{connect_read_only, execute},
        pooler,
        quote::on_one_line,
        rows::{rows, text},
    },
    preflight::{
        all, judge,
        report::{Finding, Object, Report, Unchecked},
        rule::{Check, Pair, Query, Rule, Severity},
    },
    survey::{self, APPLICATION_NAME},
};

mod target;

/// How many queries of one session are under way at once.
const PIPELINED: usize = 16;
/// What every session begins with: names of users stand in front of nothing, backslashes in patterns mean themselves
/// whatever the server says, and no lock is waited for long.
const PREPARE: &str = "SET search_path = pg_catalog; SET standard_conforming_strings = on; SET lock_timeout = '2s'";

/// Looks for hazards; keeps what was found as JSON in the run's folder.
///
/// Outputs: `blockers`, `warnings`, `notes`, `report`.
///
/// # Errors
/// [`ErrorKind::Verification`] when a blocker is not waived or a waiver does not hold; what the servers said.
pub async fn preflight(op: &Preflight, cx: &PerformCx) -> Result<Output, StepError> {
    let report = unless_stopped(&cx.cancel, Box::pin(judged(op, cx))).await?;
    let path = cx.run_dir.join(&cx.step).join("preflight.json");
    write_json(&path, &report)?;
    if let Some(failure) = report.failure() {
        return Err(failure.detail(format!("all of it is in {}", path.display())));
    }
    let count = |severity| report.of(severity).count();
    let mut output = Output::said(format!("{} rules: {}", report.rules, report.numbers()))
        .with("blockers", count(Severity::Blocker))
        .with("warnings", count(Severity::Warning))
        .with("notes", count(Severity::Note))
        .with("report", path.display().to_string());
    let line = |finding: &Finding| match finding.objects.as_slice() {
        [one] => format!("{}: {}: {}", finding.code, finding.title, one.line()),
        many => format!("{}: {}: {} objects", finding.code, finding.title, many.len()),
    };
    output.warnings.extend(report.of(Severity::Warning).map(line));
    output.warnings.extend(
        report
            .waived
            .iter()
            .map(|waived| format!("waived until {}: {} ({})", waived.by.until, waived.finding.code, waived.by.reason)),
    );
    output.warnings.extend(report.unchecked.iter().map(|one| format!("not checked: {one}")));
    Ok(output)
}

/// Looks for hazards and applies the plan's waivers.
///
/// # Errors
/// What the servers said, as far as no look is possible; what a role may not ask is in the report.
pub async fn judged(op: &Preflight, cx: &PerformCx) -> Result<Report, StepError> {
    let today = Timestamp::now().to_zoned(TimeZone::UTC).date();
    Ok(judge(Box::pin(look(op, cx)).await?, &op.waive, today))
}

async fn look(op: &Preflight, cx: &PerformCx) -> Result<Report, StepError> {
    let source_info = cx.databases.conninfo(&op.source)?;
    let source = survey::server(&source_info, Depth::Server).await?;
    let target_info = op.target.as_ref().map(|name| cx.databases.conninfo(name)).transpose()?;
    let target = match &target_info {
        Some(info) => Some(survey::server(info, Depth::Server).await?),
        None => None,
    };
    let to = target.as_ref().map(ServerFacts::major).or(op.to_version);
    let to = to.ok_or_else(|| StepError::new(ErrorKind::Plan, "the preflight has neither a target nor a version"))?;
    let databases = databases(op, &source)?;
    let mut pair = Pair {
        source: &source,
        target: target.as_ref(),
        to,
        method: op.method,
        databases: &databases,
        settings: None,
        all_settings: false,
        extensions: None,
        collations: None,
        locales: None,
        tablespaces: None,
        becomes: None,
        bootstrap: None,
        dumpers: dumpers(cx),
        space: super::disk::free_space(&cx.run_dir),
        poolers: Vec::new(),
    };
    let mut hunt = Hunt::default();
    for info in std::iter::once(&source_info).chain(&target_info) {
        pair.poolers.extend(hunt.pooler(info).await?);
    }
    if let Some(info) = &target_info
        && pair.poolers.is_empty()
    {
        target::learn(info, &mut pair, &mut hunt).await?;
    }
    let rules: Vec<&'static Rule> = all().iter().copied().filter(|rule| rule.matters(&pair)).collect();
    hunt.known(&rules, &pair);
    if pair.poolers.is_empty() {
        hunt.servers(&rules, &pair, &source_info, target_info.as_ref()).await?;
    } else {
        hunt.cannot(None, None, "settings of a session do not hold behind a transaction pooler");
    }
    Ok(hunt.report(&rules, &pair))
}

/// Returns the databases of the source that are meant.
fn databases(op: &Preflight, source: &ServerFacts) -> Result<Vec<String>, StepError> {
    let Some(names) = &op.databases else {
        return Ok(source.user_databases().map(|database| database.name.clone()).collect());
    };
    if let Some(missing) = names.iter().find(|name| source.database(name).is_none()) {
        let message = format!("{} has no database {missing}", op.source);
        return Err(StepError::new(ErrorKind::Object, message).detail(format!("server: {}", source.label)));
    }
    Ok(names.clone())
}

fn dumpers(cx: &PerformCx) -> Vec<u32> {
    let having = cx.clients.found.iter().filter(|client| client.programs.contains("pg_dump"));
    having.map(|client| client.version_num / 10_000).collect()
}

/// What was found so far.
#[derive(Default)]
struct Hunt {
    found: Vec<(&'static str, Vec<Object>)>,
    unchecked: Vec<Unchecked>,
    queries: usize,
}

impl Hunt {
    fn cannot(&mut self, code: Option<&str>, database: Option<&str>, reason: impl Into<String>) {
        let (code, database) = (code.map(str::to_owned), database.map(str::to_owned));
        self.unchecked.push(Unchecked { code, database, reason: reason.into() });
    }

    /// Returns the address if a transaction pooler answers there.
    async fn pooler(&mut self, info: &ConnInfo) -> Result<Option<String>, StepError> {
        self.queries += 3;
        let (first, second) = (survey::connect_anywhere(info).await?, survey::connect_anywhere(info).await?);
        let told = pooler::refuse(&first, second).await;
        first.close().await;
        match told {
            Ok(()) => Ok(None),
            Err(error) if error.kind == ErrorKind::Refused => Ok(Some(info.label())),
            Err(error) => Err(error),
        }
    }

    fn known(&mut self, rules: &[&'static Rule], pair: &Pair<'_>) {
        for rule in rules {
            let Check::Known(find) = rule.check else { continue };
            match find(pair) {
                Ok(objects) => self.found.push((rule.code, objects)),
                Err(reason) => self.cannot(Some(rule.code), None, reason),
            }
        }
    }

    async fn servers(
        &mut self,
        rules: &[&'static Rule],
        pair: &Pair<'_>,
        source: &ConnInfo,
        target: Option<&ConnInfo>,
    ) -> Result<(), StepError> {
        let of = |pick: fn(&Check) -> Option<Query>| {
            let chosen = rules.iter().filter_map(move |rule| Some((*rule, pick(&rule.check)?)));
            chosen.collect::<Vec<_>>()
        };
        let cluster = of(|check| if let Check::Source(ask) = check { Some(*ask) } else { None });
        self.ask_server(&cluster, pair, source).await?;
        let each = of(|check| if let Check::Each(ask) = check { Some(*ask) } else { None });
        for name in pair.databases {
            self.ask_database(&each, pair, &source.with_dbname(name), name).await?;
        }
        let Some(target) = target else { return Ok(()) };
        let cluster = of(|check| if let Check::Target(ask) = check { Some(*ask) } else { None });
        self.ask_server(&cluster, pair, target).await?;
        let each = of(|check| if let Check::TargetEach(ask) = check { Some(*ask) } else { None });
        for name in target_databases(pair) {
            self.ask_database(&each, pair, &target.with_dbname(&name), &name).await?;
        }
        let template = of(|check| if let Check::Template(ask) = check { Some(*ask) } else { None });
        self.ask_database(&template, pair, &target.with_dbname("template1"), "template1").await
    }

    async fn ask_server(&mut self, asks: &Asks, pair: &Pair<'_>, info: &ConnInfo) -> Result<(), StepError> {
        if asks.is_empty() {
            return Ok(());
        }
        let session = survey::connect_anywhere(info).await?;
        let asked = self.ask_all(asks, pair, &session, None).await;
        session.close().await;
        asked
    }

    async fn ask_database(
        &mut self,
        asks: &Asks,
        pair: &Pair<'_>,
        info: &ConnInfo,
        name: &str,
    ) -> Result<(), StepError> {
        if asks.is_empty() {
            return Ok(());
        }
        let session = match connect_read_only(info, APPLICATION_NAME).await {
            Ok(session) => session,
            Err(error) if error.kind != ErrorKind::Connection && error.sqlstate.is_some() => {
                // This database alone refuses: closed, cut, of an encoding or locale that is not to be had, no right.
                self.cannot(None, Some(name), error.message);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let asked = self.ask_all(asks, pair, &session, Some(name)).await;
        session.close().await;
        asked
    }

    async fn ask_all(
        &mut self,
        asks: &Asks,
        pair: &Pair<'_>,
        session: &Session,
        database: Option<&str>,
    ) -> Result<(), StepError> {
        execute(session, "prepare the preflight", PREPARE).await?;
        self.queries += 1;
        let mut queries = Vec::new();
        for (rule, ask) in asks {
            match ask(pair) {
                Ok(sql) if sql.is_empty() => {}
                Ok(sql) => queries.push((rule.code, sql)),
                Err(reason) => self.cannot(Some(rule.code), database, reason),
            }
        }
        self.queries += queries.len();
        let mut answers = Vec::new();
        for some in queries.chunks(PIPELINED) {
            answers.extend(join_all(some.iter().map(|(code, sql)| answer(session, code, sql))).await);
        }
        for (code, answer) in answers {
            match answer {
                Ok(rows) => {
                    let object = |row| Object {
                        database: database.map(str::to_owned),
                        name: on_one_line(text(row, 0)),
                        detail: on_one_line(text(row, 1)),
                        fix: text(row, 2).to_owned(),
                    };
                    self.found.push((code, rows.iter().map(object).collect()));
                }
                Err(error) if error.kind == ErrorKind::Connection => return Err(error),
                Err(error) => {
                    let sqlstate = error.sqlstate.map(|code| format!(" ({code})")).unwrap_or_default();
                    self.cannot(Some(code), database, format!("{}{sqlstate}", error.message));
                }
            }
        }
        Ok(())
    }

    fn report(mut self, rules: &[&'static Rule], pair: &Pair<'_>) -> Report {
        let mut findings = Vec::new();
        for rule in rules {
            let (own, rest): (Vec<_>, Vec<_>) = self.found.drain(..).partition(|(code, _)| *code == rule.code);
            self.found = rest;
            let objects: Vec<Object> = own.into_iter().flat_map(|(_, objects)| objects).collect();
            if !objects.is_empty() {
                findings.push(Finding {
                    code: rule.code.to_owned(),
                    severity: rule.severity,
                    title: rule.title.to_owned(),
                    why: rule.why.to_owned(),
                    fix: rule.fix.to_owned(),
                    link: rule.link.to_owned(),
                    objects,
                });
            }
        }
        self.unchecked.sort();
        Report {
            source: pair.source.label.clone(),
            source_version: pair.source.version.clone(),
            target: pair.target.map(|target| target.label.clone()),
            target_version: pair.target.map_or(pair.to.to_string(), |target| target.version.clone()),
            method: pair.method,
            databases: pair.databases.to_vec(),
            rules: rules.len(),
            queries: self.queries,
            findings,
            waived: Vec::new(),
            unchecked: self.unchecked,
            waiver_errors: Vec::new(),
        }
    }
}

async fn answer(
    session: &Session,
    code: &'static str,
    sql: &str,
) -> (&'static str, Result<Vec<SimpleQueryRow>, StepError>) {
    (code, rows(session, &format!("look for {code}"), sql).await)
}

type Asks = [(&'static Rule, Query)];

/// Returns the databases of the target that a restore of the source's would meet.
fn target_databases(pair: &Pair<'_>) -> Vec<String> {
    let Some(target) = pair.target else { return Vec::new() };
    let there = |name: &&String| target.database(name).is_some_and(|database| database.allows_connections);
    // One database may go into one of another name.
    if pair.databases == [pair.source.dbname.clone()] {
        return Some(&target.dbname).filter(there).cloned().into_iter().collect();
    }
    pair.databases.iter().filter(there).cloned().collect()
}
