//! The address of a database as connection parameters, with secrets still as markers.
//!
//! Reads the two forms of the PostgreSQL manual's chapter 34.1.1: a URL and a list of `key=value`.

use std::collections::BTreeMap;

use crate::secret::{self, Encoding, ExposeSecret, Part, SecretString, Text};

/// The key of an address that is one secret as a whole: the URL that a tunnel or a platform gave.
const WHOLE: &str = "url";

/// Connection parameters by their libpq keyword (`host`, `port`, `user`, `dbname`, `password`, `sslmode`, …).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Address {
    /// The parameters that are set.
    pub params: BTreeMap<String, Text>,
}

impl Address {
    /// Returns the parameters of a URL or a `key=value` list that may hold markers.
    ///
    /// # Errors
    /// A sentence about what is wrong; it never repeats the text.
    pub fn parse(marked: &str) -> Result<Self, String> {
        let text = marked.trim();
        if let Some(whole) = Text::from_marked(text).ok().filter(|text| matches!(text.parts(), [Part::Secret { .. }])) {
            return Ok(Self { params: BTreeMap::from([(WHOLE.to_owned(), whole)]) });
        }
        let params = match text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://")) {
            Some(rest) => url(rest)?,
            None if text.contains("://") => return Err("the address must begin with postgres://".to_owned()),
            None => key_values(text)?,
        };
        Ok(Self { params })
    }

    /// Returns a URL with the password as the marker `databases.NAME.password`, so that it can be put anywhere.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        if self.params.contains_key(WHOLE) {
            return secret::marker(&format!("databases.{database}.url"), Encoding::Raw);
        }
        let part = |key: &str| self.params.get(key).map(encode);
        let mut url = "postgresql://".to_owned();
        let password = self.params.get("password").map(|_| password_marker(database, Encoding::Url));
        if let Some(user) = part("user") {
            url.push_str(&user);
        }
        if let Some(password) = &password {
            url.push(':');
            url.push_str(password);
        }
        if password.is_some() || self.params.contains_key("user") {
            url.push('@');
        }
        let hosts = self.params.get("host").map_or_else(String::new, Text::to_marked);
        let ports = self.params.get("port").map_or_else(String::new, Text::to_marked);
        let ports: Vec<&str> = ports.split(',').collect();
        for (index, host) in hosts.split(',').enumerate() {
            if index > 0 {
                url.push(',');
            }
            let host = Text::from_marked(host).unwrap_or_default();
            let plain = host.as_plain().unwrap_or_default();
            url.push_str(&if plain.contains(':') { format!("[{plain}]") } else { encode(&host) });
            if let Some(port) = ports.get(index).or(ports.last()).filter(|port| !port.is_empty()) {
                url.push(':');
                url.push_str(port);
            }
        }
        if let Some(dbname) = part("dbname") {
            url.push('/');
            url.push_str(&dbname);
        }
        let mut mark = '?';
        for (key, value) in &self.params {
            if !["user", "password", "host", "port", "dbname"].contains(&key.as_str()) {
                url.push(mark);
                url.push_str(&format!("{key}={}", encode(value)));
                mark = '&';
            }
        }
        url
    }

    /// Returns the parameters as a `key='value'` list with the secrets put in, ready for a connection.
    ///
    /// # Errors
    /// Whatever `value` returns for a secret that cannot be had.
    pub fn conninfo<E>(&self, mut value: impl FnMut(&str) -> Result<SecretString, E>) -> Result<SecretString, E> {
        let mut list = String::new();
        if let Some(whole) = self.params.get(WHOLE) {
            let text = whole.reveal(&mut value)?;
            // What cannot be read is reported, without repeating it, by whoever opens the connection.
            let Ok(mut address) = Self::parse(text.expose_secret()) else { return Ok(text) };
            let others = self.params.iter().filter(|(key, _)| *key != WHOLE);
            address.params.extend(others.map(|(key, text)| (key.clone(), text.clone())));
            return address.conninfo(value);
        }
        for (key, text) in &self.params {
            let revealed = text.reveal(&mut value)?;
            let escaped = revealed.expose_secret().replace('\\', "\\\\").replace('\'', "\\'");
            list.push_str(&format!("{key}='{escaped}' "));
        }
        list.truncate(list.trim_end().len());
        Ok(SecretString::from(list))
    }
}

/// Returns the marker for the password of a database of the plan.
pub(super) fn password_marker(database: &str, encoding: Encoding) -> String {
    secret::marker(&format!("databases.{database}.password"), encoding)
}

fn url(rest: &str) -> Result<BTreeMap<String, Text>, String> {
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, dbname) = rest.split_once('/').unwrap_or((rest, ""));
    let mut params = BTreeMap::new();
    let mut set = |key: &str, value: &str| -> Result<(), String> {
        if !value.is_empty() {
            params.insert(decode(key)?.to_string(), decode(value)?);
        }
        Ok(())
    };
    let hosts = match authority.rsplit_once('@') {
        Some((user, hosts)) => {
            let (user, password) = user.split_once(':').unwrap_or((user, ""));
            set("user", user)?;
            set("password", password)?;
            hosts
        }
        None => authority,
    };
    let (mut names, mut ports) = (Vec::new(), Vec::new());
    for host in hosts.split(',') {
        let (name, after) = match host.strip_prefix('[') {
            Some(rest) => rest.split_once(']').ok_or("an IPv6 address lacks its closing bracket")?,
            None => host.split_at(host.find(':').unwrap_or(host.len())),
        };
        names.push(name);
        ports.push(after.strip_prefix(':').unwrap_or(""));
    }
    set("host", &names.join(","))?;
    if ports.iter().any(|port| !port.is_empty()) {
        set("port", &ports.join(","))?;
    }
    set("dbname", dbname)?;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or("a parameter after `?` lacks its `=`")?;
        set(key, value)?;
    }
    Ok(params)
}

fn key_values(text: &str) -> Result<BTreeMap<String, Text>, String> {
    let mut params = BTreeMap::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=').ok_or("the address is neither a URL nor a list of key=value")?;
        let mut chars = after.trim_start().char_indices();
        let after = after.trim_start();
        let quoted = after.starts_with('\'');
        if quoted {
            chars.next();
        }
        let mut value = String::new();
        let mut end = after.len();
        let mut closed = !quoted;
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => value.extend(chars.next().map(|(_, c)| c)),
                '\'' if quoted => {
                    (end, closed) = (at + 1, true);
                    break;
                }
                c if !quoted && c.is_whitespace() => {
                    end = at;
                    break;
                }
                c => value.push(c),
            }
        }
        if !closed {
            return Err("a quoted value of the address is not closed".to_owned());
        }
        let value = Text::from_marked(&value).map_err(|error| error.to_string())?;
        params.insert(key.trim().to_owned(), value);
        rest = after[end..].trim_start();
    }
    Ok(params)
}

/// Percent-decodes the plain parts. Decoding cannot forge a marker: what it gives may not hold their characters.
fn decode(marked: &str) -> Result<Text, String> {
    let text = Text::from_marked(marked).map_err(|error| error.to_string())?;
    let mut out = String::new();
    for part in text.parts() {
        match part {
            Part::Plain(plain) => {
                let decoded = percent_decode(plain).ok_or("the address has a wrong percent escape")?;
                if secret::is_marked(&decoded) {
                    return Err("the characters U+E000 to U+E1FF cannot be used in an address".to_owned());
                }
                out.push_str(&decoded);
            }
            Part::Secret { name, .. } => out.push_str(&secret::marker(name, Encoding::Raw)),
            Part::Unknown { after } => out.push_str(&secret::unknown_marker(after)),
        }
    }
    Text::from_marked(&out).map_err(|error| error.to_string())
}

fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'%' {
            let code = std::str::from_utf8(after.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(code, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

/// Percent-encodes the plain parts and switches secrets to [`Encoding::Url`].
pub(super) fn encode(text: &Text) -> String {
    text.parts()
        .iter()
        .map(|part| match part {
            Part::Plain(plain) => secret::percent_encode(plain),
            Part::Secret { name, .. } => secret::marker(name, Encoding::Url),
            Part::Unknown { after } => secret::unknown_marker(after),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(address: &Address) -> Vec<String> {
        address.params.iter().map(|(key, value)| format!("{key}={value}")).collect()
    }

    #[test]
    fn reads_both_forms() {
        let url = Address::parse("postgres://app:p%40w@[::1]:5433,db2/or%20ders?sslmode=require").unwrap();
        let expected = ["dbname=or ders", "host=::1,db2", "password=p@w", "port=5433,", "sslmode=require", "user=app"];
        assert_eq!(shown(&url), expected);
        let list = Address::parse(r"host = /run/pg user='o\'neil' dbname=a\ b").unwrap();
        assert_eq!(shown(&list), ["dbname=a b", "host=/run/pg", "user=o'neil"]);
        assert_eq!(list.url("x"), "postgresql://o%27neil@%2Frun%2Fpg/a%20b");
        for wrong in ["mysql://h", "host", "host='x", "postgres://[::1/x", "postgres://%zz@h", "postgres://h/%EE%80%80"]
        {
            assert!(Address::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_password_leaves_as_a_marker_only() {
        let inline =
            Address::parse(&format!("postgres://u:{}@h/d", secret::marker("secrets.x", Encoding::Url))).unwrap();
        assert_eq!(inline.params["password"], Text::secret("secrets.x"));
        let url = Text::from_marked(&inline.url("source")).unwrap();
        assert_eq!(url.to_string(), "postgresql://u:<secret databases.source.password>@h/d");
        let conninfo = inline.conninfo(|_| Ok::<_, ()>(SecretString::from(r"p'\w".to_owned()))).unwrap();
        assert_eq!(conninfo.expose_secret(), r"dbname='d' host='h' password='p\'\\w' user='u'");
    }
}
