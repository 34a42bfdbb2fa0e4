//! The connection service file (PostgreSQL manual, 34.17): named sets of settings in INI form.

use std::fs;
use std::path::{Path, PathBuf};

use super::environment::Environment;
use super::parameters::{ConnInfoError, Origin, Parameters, Problem};

/// Folders of the system-wide file when `PGSYSCONFDIR` is not set: a built-in path of each distribution's libpq.
const SYSTEM_FOLDERS: [&str; 2] = ["/etc/postgresql-common", "/etc/sysconfig/pgsql"];

/// Returns the settings of the service `name` from the first file that defines it.
///
/// The user's file (`file`, else `~/.pg_service.conf`) comes before the system's.
pub(super) fn find(name: &str, file: Option<&str>, env: &Environment) -> Result<Parameters, ConnInfoError> {
    let own = file.map(PathBuf::from).or_else(|| env.in_home(".pg_service.conf"));
    let system: Vec<PathBuf> = match env.get("PGSYSCONFDIR") {
        Some(folder) => vec![folder.into()],
        None => SYSTEM_FOLDERS.iter().map(PathBuf::from).collect(),
    };
    for path in own.into_iter().chain(system.into_iter().map(|folder| folder.join("pg_service.conf"))) {
        if let Ok(text) = fs::read_to_string(&path)
            && let Some(found) = section(name, &text, &path)?
        {
            return Ok(found);
        }
    }
    Err(ConnInfoError { problem: Problem::UnknownService(name.to_owned()), origin: Origin::Whole })
}

fn section(name: &str, text: &str, path: &Path) -> Result<Option<Parameters>, ConnInfoError> {
    let mut found: Option<Parameters> = None;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        let origin = Origin::File(path.to_owned(), number + 1);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(header) = line.strip_prefix('[') {
            if found.is_some() {
                break;
            }
            if header.strip_prefix(name).is_some_and(|rest| rest.starts_with(']')) {
                found = Some(Parameters::default());
            }
            continue;
        }
        let Some(parameters) = &mut found else {
            continue;
        };
        if line.starts_with("ldap://") {
            return Err(ConnInfoError { problem: Problem::NestedService, origin });
        }
        let (keyword, value) =
            line.split_once('=').ok_or(ConnInfoError { problem: Problem::ServiceSyntax, origin: origin.clone() })?;
        if matches!(keyword, "service" | "servicefile") {
            return Err(ConnInfoError { problem: Problem::NestedService, origin });
        }
        // The first line of a keyword counts.
        let mut one = Parameters::default();
        one.store(keyword, value.to_owned(), origin)?;
        parameters.fill_from(one);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use super::{Environment, Origin, Problem, find};

    const FILE: &str = "# ours\nhost=ignored\n[other]\nhost=o\nbroken\n\n[mine]\n  host=h\nport=1\nhost=late\n\
                        password=a = b\n[mine]\nuser=second\n[nested]\nservice=mine\n[typo]\nhst=x\n[bad]\nnothing\n";

    #[test]
    fn section_is_read_and_faults_name_the_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".pg_service.conf");
        fs::write(&path, FILE).unwrap();
        let env = Environment { home: Some(dir.path().to_owned()), ..Environment::default() };
        let mine = find("mine", None, &env).unwrap();
        assert_eq!(mine.get("host").unwrap().value(), "h");
        assert_eq!(mine.get("host").unwrap().origin, Origin::File(path.clone(), 8));
        assert_eq!(mine.get("password").unwrap().value(), "a = b");
        assert!(mine.get("user").is_none());
        for (name, problem, line) in [
            ("nested", Problem::NestedService, 15),
            ("typo", Problem::UnknownKeyword(Some("host")), 17),
            ("bad", Problem::ServiceSyntax, 19),
        ] {
            let error = find(name, None, &env).unwrap_err();
            assert_eq!((error.problem, error.origin), (problem, Origin::File(path.clone(), line)), "{name}");
        }
        let missing = find("min", None, &env).unwrap_err();
        assert_eq!(missing.problem, Problem::UnknownService("min".into()));
    }

    #[test]
    fn system_file_comes_after_the_own() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("pg_service.conf"), "[a]\nhost=system\n[b]\nhost=system\n").unwrap();
        let own = dir.path().join("own");
        fs::write(&own, "[a]\nhost=own\n").unwrap();
        let vars = BTreeMap::from([("PGSYSCONFDIR".to_owned(), dir.path().display().to_string())]);
        let env = Environment { vars, ..Environment::default() };
        let host = |name| find(name, own.to_str(), &env).unwrap().get("host").unwrap().value().to_owned();
        assert_eq!((host("a"), host("b")), ("own".into(), "system".into()));
    }
}
