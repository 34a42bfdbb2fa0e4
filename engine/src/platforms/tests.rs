use super::*;
use crate::secret::Text;

fn platforms() -> Platforms {
    Platforms::built_in().unwrap_or_else(|problems| panic!("{problems:?}"))
}

fn added(text: &str) -> (Platforms, Vec<String>) {
    let (mut platforms, mut problems) = (Platforms::default(), Problems::default());
    platforms.add(&file("mine.yaml", Path::new("."), text), &mut problems);
    (platforms, problems.into_iter().map(|problem| problem.message).collect())
}

fn texts<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, Text> {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), Text::from(value))).collect()
}

fn line(exec: &crate::op::Exec) -> String {
    exec.argv.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

#[test]
fn the_built_in_files_are_right() {
    let names: Vec<String> = platforms().names().map(str::to_owned).collect();
    assert_eq!(names, ["aptible", "compose", "dokku", "habitat", "heroku", "kubernetes", "systemd"]);
}

#[test]
fn commands_are_filled_in_and_optional_words_left_out() {
    let platforms = platforms();
    let aptible = platforms.get("aptible").unwrap();
    let set = &aptible.scale.as_ref().unwrap().set;
    let values = Values::given(aptible, Some(&"shop".into()), &texts([])).unwrap();
    let values = values.with("service", &"we b".into()).count("count", 0);
    assert_eq!(line(&set.exec(aptible, &values).unwrap()), "aptible apps:scale --app shop we b --container-count 0");
    let values = values.with("environment", &"prod".into());
    assert!(line(&set.exec(aptible, &values).unwrap()).ends_with("--container-count 0 --environment prod"));
    let systemd = platforms.get("systemd").unwrap();
    let verb = |count| {
        let values = Values::default().with("service", &"shop.service".into()).count("count", count);
        line(&systemd.scale.as_ref().unwrap().set.exec(systemd, &values).unwrap())
    };
    assert_eq!([verb(0), verb(1)], ["systemctl stop shop.service", "systemctl start shop.service"]);
}

#[test]
fn a_secret_stays_a_marker_and_a_value_one_word() {
    let platforms = platforms();
    let dokku = platforms.get("dokku").unwrap();
    let values = Values::given(dokku, Some(&"shop".into()), &texts([])).unwrap().with("key", &"DB_URL".into());
    let set =
        |value: &Text| dokku.config.as_ref().unwrap().set.exec(dokku, &values.clone().with("value", value)).unwrap();
    let exec = set(&Text::secret("databases.target.url"));
    assert_eq!(line(&exec), "dokku config:set shop DB_URL=<secret databases.target.url>");
    assert!(exec.secret_argv && exec.argv[3].is_tainted());
    let hostile = "x' $(rm) ${{ key }} \"\n--force";
    assert_eq!(set(&hostile.into()).argv.last().unwrap().to_string(), format!("DB_URL={hostile}"));
    assert_eq!(values.plain()["app"], "shop");
    assert!(!values.with("value", &Text::secret("s")).plain().contains_key("value"));
}

#[test]
fn what_is_missing_or_unknown_is_named() {
    let platforms = platforms();
    let aptible = platforms.get("aptible").unwrap();
    let read = &aptible.scale.as_ref().unwrap().read.command;
    let missing = read.exec(aptible, &Values::default()).unwrap_err();
    assert_eq!(missing.message, "the platform `aptible` needs `app`");
    assert_eq!(missing.help.unwrap(), "add `app: …` to the step: the handle of the app");
    let unknown = Values::given(aptible, None, &texts([("enviroment", "x")])).unwrap_err();
    assert_eq!(unknown.message, "the platform `aptible` has no parameter `enviroment`");
    assert_eq!(platforms.get("dokuu").unwrap_err().help.unwrap(), "did you mean `dokku`?");
    let systemd = platforms.get("systemd").unwrap();
    let error = systemd.part(systemd.provision.as_ref(), "provision a database").unwrap_err();
    assert_eq!(error.message, "the platform `systemd` has no command to provision a database");
}

#[test]
fn a_file_of_ones_own_is_added_or_all_its_errors_named() {
    let good = "name: mine\nabout: x\nparams: { app: { about: the app } }\nprovision: { run: [mk, '${{ app }}', '${{ name }}'] }\n";
    let (mine, problems) = added(good);
    assert!(problems.is_empty() && mine.get("mine").is_ok(), "{problems:?}");
    let (none, problems) = added(&good.replace("'${{ app }}'", "'${{ ap }}', '${{ 1 + }}'"));
    assert!(none.get("mine").is_err());
    assert_eq!(problems.len(), 1, "{problems:?}");
    let (_, problems) = added(&good.replace("'${{ app }}'", "'${{ ap }}'"));
    assert_eq!(problems, ["`provision` uses `ap`, which is neither a parameter nor given to it"]);
    let (_, problems) = added("name: mine\nabot: x\nscale: { per: galaxy }\n");
    assert!(problems.len() >= 2, "{problems:?}");
    assert_eq!(added("").1.len(), 1);
}

#[test]
fn documented_output_is_read() {
    // What `dokku git:report` and `postgres:info` print, as their pages show it.
    let report = "=====> happycows git information\n       Git deploy branch:             main\n       Git sha:                       82eeec6fe1\n       Git last updated at:           1696979162\n";
    let info = "=====> db postgres service information\n       Config dir:          /var/lib\n       Dsn:                 postgres://postgres:23d453@dokku-postgres-db:5432/happycows_db\n       Internal ip:         172.17.0.19\n       Version:             postgres:15.2\n";
    let platforms = platforms();
    let read = |read: &Read, text: &str| -> BTreeMap<String, String> {
        let value = |taken: &Taken| crate::perform::parse::read(&taken.parse, text, "").unwrap();
        let texts = read.outputs.iter().filter_map(|(name, taken)| Some((name, value(taken)?)));
        texts.map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned())).collect()
    };
    let dokku = platforms.get("dokku").unwrap();
    let found = read(&dokku.record[0], report);
    assert_eq!((found["git_sha"].as_str(), found["git_last_updated_at"].as_str()), ("82eeec6fe1", "1696979162"));
    let found = read(dokku.database.as_ref().unwrap(), info);
    let wanted = ["happycows_db", "172.17.0.19", "23d453", "postgres", "15.2"];
    assert_eq!(["dbname", "internal_ip", "password", "user", "version"].map(|name| found[name].as_str()), wanted);
    let habitat = platforms.get("habitat").unwrap();
    let table = "package                                     type        desired  state  elapsed (s)  pid     group\nhabitat/builder-api/8473/20190830141422     standalone  down     up     595          28233   builder-api.default\n";
    let state = crate::perform::parse::read(&habitat.scale.as_ref().unwrap().read.parse, table, "").unwrap();
    assert_eq!(state.unwrap(), "up", "the state that is, not the one that is wanted");
    assert_eq!(read(&habitat.record[0], table)["package"], "habitat/builder-api/8473/20190830141422");
    let heroku = platforms.get("heroku").unwrap();
    let counts =
        crate::perform::parse::read(&heroku.scale.as_ref().unwrap().read.parse, "web=1:Basic worker=0:Basic\n", "");
    assert_eq!(counts.unwrap().unwrap(), serde_json::json!({ "web": "1", "worker": "0" }));
}
