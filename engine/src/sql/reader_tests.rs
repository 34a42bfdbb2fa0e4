use proptest::prelude::*;

use super::*;

const CLUSTER: &[u8] = include_bytes!("samples/cluster_15.sql");
const VERBOSE: &[u8] = include_bytes!("samples/database_15_verbose.sql");

/// What a test compares: adjacent blanks and adjacent rows count as one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    what: &'static str,
    line: u64,
    offset: u64,
    entry: Option<String>,
    text: Vec<u8>,
}

fn read_with(input: &[u8], options: ReadOptions, mut size: impl FnMut() -> usize) -> (Vec<Part>, Option<ReadError>) {
    let (mut reader, mut parts, mut rest) = (Reader::new(options), Vec::<Part>::new(), input);
    loop {
        loop {
            let piece = match reader.piece() {
                Ok(Some(piece)) => piece,
                Ok(None) => break,
                Err(error) => return (parts, Some(error)),
            };
            let plain = |what| (what, 0, 0, None);
            let full = |what, s: &Statement<'_>| (what, s.line, s.offset, s.entry.map(ToString::to_string));
            let (what, line, offset, entry) = match &piece {
                Piece::Blank(_) => plain("blank"),
                Piece::CopyData(_) => plain("rows"),
                Piece::CopyEnd(_) => plain("end"),
                Piece::Statement(statement) => full("statement", statement),
                Piece::CopyStart(statement) => full("copy", statement),
                Piece::Meta(meta) => ("meta", meta.line, meta.offset, None),
            };
            match parts.last_mut() {
                Some(last) if last.what == what && matches!(what, "blank" | "rows") => {
                    last.text.extend_from_slice(piece.bytes());
                }
                _ => parts.push(Part { what, line, offset, entry, text: piece.bytes().to_vec() }),
            }
        }
        if rest.is_empty() {
            if reader.last {
                return (parts, None);
            }
            reader.finish();
        } else {
            let (chunk, more) = rest.split_at(size().clamp(1, rest.len()));
            reader.push(chunk);
            rest = more;
        }
    }
}

fn read(input: &[u8]) -> (Vec<Part>, Option<ReadError>) {
    read_with(input, ReadOptions::default(), || usize::MAX)
}

fn texts(input: &[u8]) -> Vec<String> {
    let (parts, error) = read(input);
    assert_eq!(error, None);
    let kept = parts.iter().filter(|part| part.what != "blank");
    kept.map(|part| String::from_utf8_lossy(&part.text).into_owned()).collect()
}

fn problem(input: &[u8]) -> (Problem, u64) {
    let error = read(input).1.unwrap();
    (error.problem, error.line)
}

#[test]
fn whole_dumps_come_back_byte_by_byte() {
    for dump in [CLUSTER, VERBOSE] {
        let (whole, error) = read(dump);
        assert_eq!(error, None);
        assert_eq!(whole.iter().flat_map(|part| part.text.clone()).collect::<Vec<_>>(), dump);
        for size in [1, 7, 100] {
            assert_eq!(read_with(dump, ReadOptions::default(), || size), (whole.clone(), None));
        }
        let mut place = (0, 1);
        for part in &whole {
            if part.line > 0 {
                assert_eq!((part.offset, part.line), place);
            }
            place = (place.0 + part.text.len() as u64, place.1 + newlines(&part.text));
        }
    }
}

#[test]
fn a_cluster_dump_by_its_statements() {
    let (parts, _) = read(CLUSTER);
    let mut listing = String::new();
    for part in parts.iter().filter(|part| !matches!(part.what, "blank" | "end")) {
        let statement = Statement::new(&part.text);
        let about = match part.what {
            "rows" => format!("{} lines", newlines(&part.text)),
            "meta" => String::from_utf8_lossy(&part.text).split(' ').next().unwrap().to_owned(),
            _ => format!("{:?} {}", statement.kind(), statement.object().unwrap_or_default()),
        };
        let entry = part.entry.as_deref().map(|entry| format!(" [{entry}]")).unwrap_or_default();
        listing += &format!("{}: {} {}{}\n", part.line, part.what, about.trim_end(), entry);
    }
    insta::assert_snapshot!(listing);
}

#[test]
fn facts_of_a_dump() {
    let mut reader = Reader::default();
    reader.push(CLUSTER);
    reader.finish();
    while reader.piece().unwrap().is_some() {}
    let facts = reader.facts();
    assert_eq!(facts.server_version.as_deref(), Some("15.18 (Debian 15.18-0+deb12u1)"));
    assert_eq!(facts.encoding.as_deref(), Some("UTF8"));
    assert_eq!((facts.databases, facts.databases_complete, facts.cluster_complete), (4, 4, true));
    assert!(!facts.is_truncated());
    assert_eq!(reader.entry(), None);
}

#[test]
fn a_dump_cut_anywhere_is_noticed() {
    let trailer = CLUSTER.windows(30).rposition(|w| w.starts_with(b"-- PostgreSQL database cluster")).unwrap();
    for cut in (1..trailer).step_by(61) {
        let mut reader = Reader::default();
        reader.push(&CLUSTER[..cut]);
        reader.finish();
        let outcome = loop {
            match reader.piece() {
                Ok(Some(_)) => {}
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        assert!(outcome.is_err() || reader.facts().is_truncated() || cut < 40, "{cut}");
    }
}

#[test]
fn semicolons_that_end_nothing() {
    for sql in [
        "SELECT 'a;''b' || E'c\\';' || $x$;$$;$x$ || \"d;\"\"e\" -- f;\n /* g; /* ; */ ; */;",
        "CREATE RULE r AS ON INSERT TO v DO INSTEAD (INSERT INTO t VALUES (1); DELETE FROM t);",
        "create or replace procedure p() begin atomic select case when a then case b when 1 then 2 end end; \
         select x as end, \"end\", t.end; end;",
        "CREATE FUNCTION f(begin int) RETURNS int LANGUAGE sql AS 'SELECT 1;';",
        "CREATE FUNCTION f() RETURNS int RETURN CASE WHEN true THEN 1 END;",
        "CREATE TABLE begin (atomic int);",
        "SELECT a$b$, 1 AS c$d;",
        "SELECT E'a'\n  'b\\';c', 2;",
        "SELECT $1, $2 FROM $a1$;$a1$;",
        "SELECT U&'d\\0061;t' UESCAPE '!', B'1;', X'F;', n';';",
        "SELECT '\\';",
    ] {
        assert_eq!(texts(sql.as_bytes()), [sql]);
    }
    assert_eq!(texts(b"SELECT 1;;BEGIN; END; CREATE VIEW begin AS SELECT begin atomic FROM t;SELECT 2;").len(), 6);
}

#[test]
fn backslashes_follow_standard_conforming_strings() {
    let off = "SET standard_conforming_strings = off;";
    assert_eq!(texts(format!("{off}SELECT 'a\\';';").as_bytes()), [off, "SELECT 'a\\';';"]);
    let call = "SELECT pg_catalog.set_config('standard_conforming_strings', 'off', false);";
    assert_eq!(texts(format!("{call}SELECT 'a\\';';").as_bytes()).len(), 2);
    let back = format!("{off}\n\\connect db\nSELECT 'a\\';SELECT 2;");
    assert_eq!(texts(back.as_bytes()).len(), 4);
    // In SJIS the second byte of 0x83 0x5C is no backslash.
    let sjis = b"SET client_encoding = 'SJIS';SET standard_conforming_strings = off;SELECT '\x83\x5c';SELECT 2;";
    assert_eq!(texts(sjis).len(), 4);
}

#[test]
fn copy_blocks_end_at_their_marker_only() {
    let rows = "ALTER ROLE aptible PASSWORD 'x';\n\\\\.\n\\.x\n a\\.\n'\n\\connect evil\n-- no comment\n";
    let dump = format!("COPY t (a) FROM stdin;\n{rows}\\.\n\nSELECT 1;\n");
    assert_eq!(texts(dump.as_bytes()), ["COPY t (a) FROM stdin;", rows, "\\.\n", "SELECT 1;"]);
    assert_eq!(texts(b"COPY t FROM stdin WITH (FORMAT csv);\n\\.\r\nSELECT 1;").len(), 3);
    assert_eq!(texts(b"COPY t FROM stdin;\n1\n\\.").len(), 3);
    assert_eq!(texts(b"COPY t FROM 'stdin';COPY t TO stdout;COPY (SELECT a FROM stdin) TO 'x';").len(), 3);
    assert_eq!(problem(b"COPY t FROM stdin; SELECT 1;\n"), (Problem::BehindCopy, 1));
    assert_eq!(problem(b"COPY t FROM stdin;\n1\n2\n\\"), (Problem::Unfinished("a COPY block"), 4));
    assert_eq!(problem(b"COPY t FROM stdin;"), (Problem::Unfinished("a COPY block"), 1));
}

#[test]
fn long_rows_leave_in_parts() {
    let mut reader = Reader::default();
    reader.push(b"COPY t FROM stdin;\n");
    while reader.piece().unwrap().is_some() {}
    for _ in 0..100 {
        reader.push(&[b'x'; 30_000]);
        while reader.piece().unwrap().is_some() {}
        assert!(reader.pending().len() <= LONG_LINE);
    }
    reader.push(b"\n\\.\n");
    let mut last = None;
    while let Some(piece) = reader.piece().unwrap() {
        last = Some(matches!(piece, Piece::CopyEnd(_)));
    }
    assert_eq!((last, reader.line()), (Some(true), 4));
}

#[test]
fn what_is_unfinished_is_named_with_its_line() {
    assert_eq!(problem(b"SELECT 1;\nSELECT\n 'abc\n\n"), (Problem::Unfinished("a string"), 3));
    assert_eq!(problem(b"SELECT \"a"), (Problem::Unfinished("a quoted identifier"), 1));
    assert_eq!(problem(b"\n/* /* */"), (Problem::Unfinished("a comment"), 2));
    assert_eq!(problem(b"\nSELECT $a$ $b$"), (Problem::Unfinished("a dollar-quoted string"), 2));
    assert_eq!(problem(b"\n\nSELECT\n1\n"), (Problem::Unfinished("a statement"), 3));
    assert_eq!(problem(b"SELECT (;\nSELECT 1;"), (Problem::Unfinished("a statement"), 1));
    let open_end = ReadOptions { open_end: true, ..ReadOptions::default() };
    let (parts, error) = read_with(b"SELECT 1; SELECT 2", open_end, || 3);
    assert_eq!((parts.len(), error), (3, None));
}

#[test]
fn commands_of_psql() {
    assert_eq!(texts(b"\\restrict aB1\nSELECT 1;\n\\unrestrict aB1\n\\connect db\n").len(), 4);
    let restricted = |word: &str| (Problem::Restricted(word.to_owned()), 2);
    assert_eq!(problem(b"\\restrict a\n\\connect db\n"), restricted("\\connect"));
    assert_eq!(problem(b"\\restrict a\n\\unrestrict b\n"), restricted("\\unrestrict"));
    assert_eq!(problem(b"SELECT 1;\n\\! id\n"), (Problem::Command("\\!".into()), 2));
    assert_eq!(problem(b"SELECT 1 \\gexec\n"), (Problem::CommandInside, 1));
}

#[test]
fn a_statement_beyond_the_limit_is_refused() {
    let options = ReadOptions { statement_limit: 20, open_end: false };
    for size in [1, 5, 1000] {
        let (parts, error) = read_with(b"SELECT 1;\nSELECT '12345678901234567890';", options, || size);
        assert_eq!((parts.len(), error.unwrap().problem), (2, Problem::TooLong(20)));
    }
}

const FRAGMENTS: &[&str] = &[
    "SELECT 1;",
    "\n",
    " ",
    "-- it's; a comment\n",
    "/* a; /* 'b */ c */",
    "SELECT 'it''s;';",
    "SELECT E'a\\'b;';",
    "SELECT E'a'\n'\\';';",
    "SELECT E'a' '\\';",
    "SELECT $$a;b$$;",
    "SELECT $q$ $$ ; $q $q$;",
    "SELECT a$b$;",
    "SELECT \"a;\"\"b\";",
    "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN a THEN b END; SELECT 1; END;",
    "CREATE RULE r AS ON INSERT TO v DO (SELECT 1; SELECT 2);",
    "COPY t FROM stdin;\n1\t\\N\n\\\\.\n\\.\n",
    "COPY \"from\" (stdin) FROM stdin;\n\\.\n",
    "SET standard_conforming_strings = off;",
    "SELECT 'a\\';';",
    "SET standard_conforming_strings = on;",
    "SELECT 'a\\';",
    "\n\\connect db\n",
    "\n\\restrict k\n",
    "\n\\unrestrict k\n",
    "-- Name: t; Type: TABLE; Schema: s; Owner: o\n",
    "SELECT 1 - 2 / 3 -- x\n;",
    "SELECT 1.5e3, $1;",
    ";",
    "SELECT",
    "'",
    "\"",
    "$",
    "$$",
    "/*",
    "--",
    "\\",
    "e'",
    "(",
    "é",
    "SELECT '\\\\';",
    "BEGIN",
    "END",
    "SET client_encoding = 'GBK';",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn chunks_change_nothing(
        picks in prop::collection::vec(0..FRAGMENTS.len(), 0..25),
        sizes in prop::collection::vec(1_usize..12, 1..20),
    ) {
        let input: String = picks.iter().map(|&pick| FRAGMENTS[pick]).collect();
        let (whole, error) = read(input.as_bytes());
        let got: Vec<u8> = whole.iter().flat_map(|part| part.text.clone()).collect();
        if error.is_none() {
            prop_assert_eq!(&got, input.as_bytes());
        } else {
            prop_assert!(input.as_bytes().starts_with(&got));
        }
        let mut sizes = sizes.iter().cycle();
        let again = read_with(input.as_bytes(), ReadOptions::default(), || *sizes.next().unwrap());
        let strip = |(mut parts, error): (Vec<Part>, Option<ReadError>)| {
            // Before an error, rows and blanks may have left or not.
            if error.is_some() && parts.last().is_some_and(|part| matches!(part.what, "rows" | "blank")) {
                parts.pop();
            }
            (parts, error)
        };
        prop_assert_eq!(strip((whole, error)), strip(again));
    }
}
