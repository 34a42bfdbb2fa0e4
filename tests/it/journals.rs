//! The journal over both stores: a file, and a real server.

#![expect(clippy::unwrap_used, reason = "what fails here is the test")]

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};

use pgplan_engine::{
    check,
    event::{Event, EventKind, Holder, Outcome},
    journal::{
        Journal, JournalError, Location,
        sqlite::{next_event, process_start},
    },
    plan::Plan,
    postgres::{ConnInfo, Environment},
    run::{Direction, Ending, MOST_CUTS, Run, Stop, Wishes},
    world::{Consent, Real, Settings, this_process},
};
use tempfile::TempDir;

use crate::cluster::Cluster;

/// Where a journal of a test is.
enum Store {
    File(TempDir),
    Server(Cluster),
}

impl Store {
    fn file() -> Self {
        Self::File(tempfile::tempdir().expect("a temporary folder can be made"))
    }

    fn server() -> Self {
        let server = Cluster::start("15");
        server.psql("postgres", "CREATE DATABASE state; CREATE ROLE mortal LOGIN SUPERUSER");
        Self::Server(server)
    }

    fn location(&self) -> Location {
        match self {
            Self::File(folder) => Location::Folder(folder.path().to_owned()),
            Self::Server(server) => at(&server.url("state")),
        }
    }

    fn open(&self) -> Journal {
        Journal::open(&self.location()).expect("the journal opens")
    }

    /// Opens the journal for a process that [`Store::kill`] then cuts off.
    fn open_mortal(&self) -> Journal {
        match self {
            Self::File(_) => self.open(),
            Self::Server(server) => {
                Journal::open(&at(&server.url("state").replace("postgres@", "mortal@"))).expect("the journal opens")
            }
        }
    }

    /// Ends what a dead process would not have any more.
    fn kill(&self) {
        match self {
            // No lock of a living process can be ended; one on a removed file is seen by nobody.
            Self::File(folder) => fs::remove_file(folder.path().join("state.lock")).expect("a lease has been taken"),
            Self::Server(server) => {
                server.psql("state", "ALTER ROLE mortal NOLOGIN");
                let left =
                    "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity WHERE usename = 'mortal'";
                server.psql("state", left);
            }
        }
    }

    fn revive(&self) {
        if let Self::Server(server) = self {
            server.psql("state", "ALTER ROLE mortal LOGIN");
        }
    }

    /// Makes the journal one of a later pgplan.
    fn age(&self) {
        match self {
            // "Database File Format", 1.3: the user version is at byte 60, big-endian.
            Self::File(folder) => {
                let path = folder.path().join("state.db");
                let mut bytes = fs::read(&path).expect("the file can be read");
                bytes[60..64].copy_from_slice(&99_u32.to_be_bytes());
                fs::write(path, bytes).expect("the file can be written");
            }
            Self::Server(server) => {
                server.psql("state", "UPDATE pgplan_state.format SET version = 99");
            }
        }
    }
}

fn at(url: &str) -> Location {
    Location::Server(Box::new(ConnInfo::parse(url, &Environment::default()).expect("the URL is one")))
}

fn holder(host: &str, pid: u32, started: u64) -> Holder {
    Holder { host: host.to_owned(), pid, started, since: jiff::Timestamp::UNIX_EPOCH, ..this_process() }
}

fn me() -> Holder {
    let pid = std::process::id();
    holder("here", pid, process_start(pid).expect("this process runs"))
}

/// A process of this host that has ended.
fn dead() -> Holder {
    holder("here", 1, 12345)
}

fn warned(last: u64, message: &str) -> Event {
    next_event(last, EventKind::Warned { step: None, message: message.to_owned() })
}

fn messages(journal: &Journal, run: &str) -> Vec<(u64, String)> {
    let text = |event: Event| match event.kind {
        EventKind::Warned { message, .. } => (event.seq, message),
        other => panic!("{other:?}"),
    };
    journal.events(run).expect("it can be read").into_iter().map(text).collect()
}

fn a_lease_is_held_and_given_back(store: &Store) {
    let (mut first, mut second) = (store.open(), store.open());
    assert_eq!(second.holder("p", "here").unwrap(), None);
    first.acquire("p", &me()).unwrap();
    let refused = second.acquire("p", &dead()).unwrap_err();
    assert!(matches!(&refused, JournalError::Held { holder, .. } if **holder == me()), "{refused}");
    assert_eq!(second.holder("p", "here").unwrap(), Some(me()));
    second.acquire("another", &me()).unwrap();
    assert!(matches!(
        second.append("r", &[warned(0, "x")]),
        Err(JournalError::Store { .. } | JournalError::Server { .. })
    ));
    first.release().unwrap();
    assert_eq!(second.holder("p", "here").unwrap(), None);
    assert!(matches!(first.create_run("r", "p"), Err(JournalError::LeaseLost)));
    store.open().acquire("p", &me()).unwrap();
}

fn a_dead_holder_is_replaced_and_can_write_no_more(store: &Store) {
    let mut gone = store.open_mortal();
    gone.acquire("p", &dead()).unwrap();
    gone.create_run("r", "p").unwrap();
    gone.append("r", &[warned(0, "of the first")]).unwrap();
    store.kill();
    let mut next = store.open();
    next.acquire("p", &me()).unwrap();
    next.append("r", &[warned(1, "of the second")]).unwrap();
    store.revive();
    for _ in 0..2 {
        let stale = gone.append("r", &[warned(2, "stale")]).unwrap_err();
        assert!(matches!(stale, JournalError::LeaseLost), "{stale}");
    }
    gone.release().unwrap();
    assert_eq!(next.holder("p", "here").unwrap(), Some(me()), "a stale holder gives back nothing");
    assert_eq!(messages(&next, "r"), [(1, "of the first".to_owned()), (2, "of the second".to_owned())]);
}

fn events_come_back_as_they_went_in(store: &Store) {
    let mut journal = store.open();
    journal.acquire("p", &me()).unwrap();
    for run in ["r2", "r1"] {
        journal.create_run(run, "p").unwrap();
    }
    assert_eq!(journal.runs().unwrap().iter().map(|run| run.id.clone()).collect::<Vec<_>>(), ["r2", "r1"]);
    let hostile = "größe 'x' \" \\ $1 \u{0} \n\u{1F600}";
    let events = [warned(0, hostile), next_event(1, EventKind::RunEnded { outcome: Outcome::Failed })];
    journal.append("r1", &events).unwrap();
    journal.append("r1", &[]).unwrap();
    assert!(journal.append("r1", &[warned(1, "a second one of the same number")]).is_err());
    let back = store.open().events("r1").unwrap();
    assert_eq!(format!("{back:?}"), format!("{events:?}"));
    assert!(store.open().events("r2").unwrap().is_empty());
    assert!(matches!(journal.events("nope"), Err(JournalError::NoSuchRun(_))));
}

fn a_newer_format_is_refused_and_a_missing_journal_is_none(store: &Store) {
    assert!(Journal::open_existing(&store.location()).unwrap().is_none());
    drop(store.open());
    assert!(Journal::open_existing(&store.location()).unwrap().is_some());
    store.age();
    for opened in [Journal::open(&store.location()).map(Some), Journal::open_existing(&store.location())] {
        assert!(matches!(opened, Err(JournalError::Format { found: 99, known: 1 })), "{opened:?}");
    }
}

fn plan() -> Plan {
    let text =
        "version: 1\nname: t\nsteps:\n  - { id: a, approve: { message: m } }\n  - { id: b, approve: { message: m } }\n";
    let checked = check::check_text("t.yaml", PathBuf::from("."), text.to_owned(), &check::Options::default());
    checked.plan.expect("the test's plan is valid")
}

fn go_on(plan: &Arc<Plan>, journal: &mut Journal, id: &str, fresh: bool) -> Ending {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let settings = Settings {
        run_id: id.to_owned(),
        session: 0,
        run_dir: folder.path().to_owned(),
        platforms: Vec::new(),
        consent: Consent::Given,
        allow_programs: false,
        dry_run: false,
        changed_before: [].into(),
        approved: [].into(),
        state: None,
        watch: None,
    };
    runtime.block_on(async {
        let world = Arc::new(Real::new(Arc::clone(plan), settings, [].into()).await.expect("the world is there"));
        let run = match fresh {
            true => Run::begin(plan, journal, id, me(), Vec::new()),
            false => Run::resume(
                plan,
                journal,
                id,
                me(),
                Direction::Forward { most_cuts: MOST_CUTS, rerun: None, accept: false },
                Vec::new(),
            ),
        };
        Box::pin(run.unwrap().drive(&world, &Wishes::default(), &Stop::default())).await.unwrap()
    })
}

fn a_run_cut_at_every_event_goes_on_to_its_end(store: &Store) {
    let (plan, mut journal) = (Arc::new(plan()), store.open());
    journal.acquire("t", &me()).unwrap();
    let end = Ending::Ended(Outcome::Succeeded);
    assert_eq!(go_on(&plan, &mut journal, "whole", true), end);
    let events = journal.events("whole").unwrap();
    let done =
        |events: &[Event]| events.iter().filter(|event| matches!(event.kind, EventKind::ActionFinished { .. })).count();
    for cut in 1..events.len() {
        let id = format!("cut after {cut}");
        journal.create_run(&id, "t").unwrap();
        journal.append(&id, &events[..cut]).unwrap();
        assert_eq!(go_on(&plan, &mut journal, &id, false), end, "{id}");
        let all = journal.events(&id).unwrap();
        assert_eq!(all.iter().map(|event| event.seq).collect::<Vec<_>>(), (1..=all.len() as u64).collect::<Vec<_>>());
        assert_eq!(done(&all), done(&events), "{id}: something was done twice or not at all");
    }
}

/// Runs each of these over both stores.
macro_rules! over_both_stores {
    ($($test:ident),* $(,)?) => {
        mod journal_in_a_file {
            $(#[test] fn $test() { super::$test(&super::Store::file()); })*
        }
        mod journal_in_postgres {
            $(#[test] fn $test() { super::$test(&super::Store::server()); })*
        }
    };
}

over_both_stores!(
    a_lease_is_held_and_given_back,
    a_dead_holder_is_replaced_and_can_write_no_more,
    events_come_back_as_they_went_in,
    a_newer_format_is_refused_and_a_missing_journal_is_none,
    a_run_cut_at_every_event_goes_on_to_its_end,
);

#[test]
fn a_journal_in_a_file_tells_a_living_holder_from_a_dead_one_by_its_lock() {
    let store = Store::file();
    let Store::File(folder) = &store else { unreachable!() };
    // What they say of themselves tells nothing: the first lives and seems dead, the second the other way round.
    for named in [dead(), holder("elsewhere", 1, 12345), me()] {
        let (mut other, mut mine) = (store.open(), store.open());
        other.acquire("p", &named).unwrap();
        let refused = mine.acquire("p", &me()).unwrap_err();
        assert!(matches!(&refused, JournalError::Held { holder, .. } if **holder == named), "{refused}");
        assert_eq!(mine.holder("p", "here").unwrap(), Some(named.clone()));
        // Asking and being refused have taken nothing from it.
        other.create_run(&format!("{named:?}"), "p").unwrap();
        other.acquire("p", &named).unwrap();
        assert_eq!(mine.holder("p", "here").unwrap(), Some(named));
        drop(other);
        assert_eq!(mine.holder("p", "here").unwrap(), None);
        mine.acquire("p", &me()).unwrap();
    }
    let mode = fs::metadata(folder.path().join("state.lock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

/// A run with a budget reads its own journal a second time, for earlier times. Without SQLite's locks, another program that
/// looks at the journal may take itself for the last one and remove the log that the run goes on to write.
#[test]
fn a_journal_that_is_opened_twice_keeps_the_locks_of_sqlite() {
    let store = Store::file();
    let Store::File(folder) = &store else { unreachable!() };
    let first = store.open();
    let inode = fs::metadata(folder.path().join("state.db")).unwrap().ino();
    let (mine, place) = (format!(" {} ", std::process::id()), format!(":{inode} "));
    let locks = || {
        let all = fs::read_to_string("/proc/locks").unwrap();
        all.lines().filter(|line| line.contains(&mine) && line.contains(&place)).count()
    };
    assert_eq!(locks(), 1);
    let second = store.open();
    assert_eq!(locks(), 1);
    drop(second);
    assert_eq!(locks(), 1);
    drop(first);
    assert_eq!(locks(), 0);
}

#[test]
fn a_journal_that_cannot_be_locked_is_not_used() {
    let store = Store::file();
    let Store::File(folder) = &store else { unreachable!() };
    let mut journal = store.open();
    fs::create_dir(folder.path().join("state.lock")).unwrap();
    let refused = journal.acquire("p", &me()).unwrap_err();
    assert!(matches!(&refused, JournalError::Lock { path, .. } if path.ends_with("state.lock")), "{refused}");
    assert!(matches!(journal.create_run("r", "p"), Err(JournalError::LeaseLost)));
}

#[test]
fn a_journal_tells_a_living_holder_elsewhere_from_a_dead_one_by_its_lock() {
    let store = Store::server();
    let Store::Server(server) = &store else { unreachable!() };
    let elsewhere = holder("elsewhere", 1, 12345);
    let mut other = store.open_mortal();
    other.acquire("p", &elsewhere).unwrap();
    let mut mine = store.open();
    let refused = mine.acquire("p", &me()).unwrap_err();
    assert!(refused.to_string().contains("process 1 on elsewhere"), "{refused}");
    assert_eq!(mine.holder("p", "here").unwrap(), Some(elsewhere.clone()));

    // Its connection breaks, and it lives: it takes its lock anew in time.
    server.psql("state", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'mortal'");
    let refused = mine.acquire("p", &me()).unwrap_err();
    assert!(matches!(refused, JournalError::Held { .. }), "{refused}");
    other.create_run("r", "p").unwrap();

    store.kill();
    let began = Instant::now();
    mine.acquire("p", &me()).unwrap();
    assert!(began.elapsed() >= Duration::from_secs(3), "it was looked at twice");
    store.revive();
    assert!(matches!(other.append("r", &[warned(0, "stale")]), Err(JournalError::LeaseLost)));
}

#[test]
fn a_journal_is_durable_whatever_the_server_is_told_by_default() {
    let store = Store::server();
    let Store::Server(server) = &store else { unreachable!() };
    server.psql("postgres", "ALTER DATABASE state SET synchronous_commit = off");
    server.psql(
        "state",
        "CREATE TABLE seen (setting text); CREATE FUNCTION see() RETURNS event_trigger LANGUAGE plpgsql AS \
         $$ BEGIN INSERT INTO public.seen VALUES (pg_catalog.current_setting('synchronous_commit')); END $$; \
         CREATE EVENT TRIGGER see ON ddl_command_end EXECUTE FUNCTION see()",
    );
    drop(store.open());
    assert_eq!(server.psql("state", "SELECT DISTINCT setting FROM seen"), "on");
}

/// Stands between a journal and its server, and cuts connections at a COMMIT when told to.
struct Proxy {
    port: u16,
    cut: Arc<AtomicU8>,
}

const BEFORE: u8 = 1;
const AFTER: u8 = 2;

impl Proxy {
    fn before(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let proxy = Self { port: listener.local_addr().expect("it has a port").port(), cut: Arc::default() };
        let cut = Arc::clone(&proxy.cut);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else { continue };
                let (cut, dead) = (Arc::clone(&cut), Arc::new(AtomicU8::new(0)));
                let (from, to) = (client.try_clone().expect("a socket"), server.try_clone().expect("a socket"));
                let killed = Arc::clone(&dead);
                std::thread::spawn(move || {
                    relay(from, to, |bytes| {
                        let commit = bytes.windows(7).any(|part| part == b"COMMIT\0");
                        let how = if commit { cut.swap(0, Ordering::SeqCst) } else { 0 };
                        killed.store(how, Ordering::SeqCst);
                        how == BEFORE
                    });
                });
                std::thread::spawn(move || relay(server, client, |_| dead.load(Ordering::SeqCst) == AFTER));
            }
        });
        proxy
    }
}

/// Passes on what comes; closes both sides when `stop` says so of a piece, which is not passed on.
fn relay(mut from: TcpStream, mut to: TcpStream, mut stop: impl FnMut(&[u8]) -> bool) {
    let mut buffer = [0; 65536];
    loop {
        let read = from.read(&mut buffer).unwrap_or(0);
        if read == 0 || stop(&buffer[..read]) || to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    for side in [from, to] {
        side.shutdown(Shutdown::Both).ok();
    }
}

#[test]
fn a_journal_writes_once_when_the_answer_to_a_commit_is_lost() {
    let store = Store::server();
    let Store::Server(server) = &store else { unreachable!() };
    let proxy = Proxy::before(server.port);
    let url = server.url("state").replace(&format!(":{}/", server.port), &format!(":{}/", proxy.port));
    let mut journal = Journal::open(&at(&url)).unwrap();
    journal.acquire("p", &me()).unwrap();
    let mut last = 0;
    for (run, how) in [("before", BEFORE), ("after", AFTER)] {
        proxy.cut.store(how, Ordering::SeqCst);
        journal.create_run(run, "p").unwrap();
        assert_eq!(proxy.cut.load(Ordering::SeqCst), 0, "the connection was cut {run} the commit");
        for message in ["one", "two"] {
            proxy.cut.store(how, Ordering::SeqCst);
            journal.append(run, &[warned(last, message), warned(last + 1, message)]).unwrap();
            assert_eq!(proxy.cut.load(Ordering::SeqCst), 0, "the connection was cut {run} the commit");
            last += 2;
        }
        let wanted: Vec<_> = ["one", "one", "two", "two"].map(str::to_owned).into_iter().zip(last - 3..).collect();
        assert_eq!(messages(&journal, run), wanted.into_iter().map(|(text, seq)| (seq, text)).collect::<Vec<_>>());
    }
    let refused = store.open().acquire("p", &dead()).unwrap_err();
    assert!(matches!(refused, JournalError::Held { .. }), "the lock was taken anew: {refused}");
}
