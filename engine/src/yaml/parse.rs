//! Text → [`Node`]. The only file that knows the YAML crate.

use std::{collections::HashMap, ops::Range, sync::Arc};

use granit_parser::{Event, Parser, ScalarStyle, Span, Tag};

use super::{Key, Node, NodeValue, scalar};
use crate::{
    diagnostic::{Diagnostic, Problems},
    source::{Place, SourceFile},
};

/// How much YAML is accepted.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of one file.
    pub bytes: usize,
    /// Lists and mappings inside each other.
    pub depth: usize,
    /// Values of one file, those that aliases repeat included.
    pub nodes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 16 << 20, depth: 64, nodes: 1_000_000 }
    }
}

/// Returns the one document of a file; `None` for a file without a value.
///
/// Problems that leave a usable tree (a duplicate key) are added to `problems` and reading goes on; after a syntax
/// error nothing can be trusted and `None` is returned.
pub fn parse(file: &Arc<SourceFile>, limits: Limits, problems: &mut Problems) -> Option<Node> {
    if file.text.len() > limits.bytes {
        let limit = limits.bytes >> 20;
        problems.push(
            Diagnostic::error("file_too_large", format!("{} is larger than {limit} MiB", file.name))
                .help("a plan is text written by people; keep data in files that steps refer to"),
        );
        return None;
    }
    if let Some((at, c)) = file.text.char_indices().find(|(_, c)| is_reserved(*c)) {
        problems.push(reserved(&Place::new(file, at..at + c.len_utf8())));
        return None;
    }
    let options = granit_parser::options! {
        emit_comments: false,
        flow_nesting_limit: limits.depth,
        block_nesting_limit: limits.depth,
    };
    let mut reader = Reader { file, limits, problems, anchors: HashMap::new(), nodes: 0, frames: Vec::new() };
    let mut document = None;
    let mut documents = 0;
    for event in Parser::new_from_str_with_options(&file.text, options) {
        let (event, span) = match event {
            Ok(event) => event,
            Err(error) => {
                let at = file.text.floor_char_boundary(error.marker().byte_offset().unwrap_or(0));
                let deep = matches!(error.kind(), granit_parser::ErrorKind::RecursionLimitExceeded);
                let message = error.info();
                problems.push(if deep { too_deep(file, at, limits.depth) } else { syntax(file, at, &message) });
                return None;
            }
        };
        if let Event::DocumentStart(..) = event {
            documents += 1;
            if documents == 2 {
                let place = Place::new(file, reader.range(&span));
                reader.problems.push(
                    Diagnostic::error("several_documents", "a plan file holds one YAML document")
                        .at(&place, "a second document starts here")
                        .help("put the other document in a file of its own and name it under `include`"),
                );
                return None;
            }
        }
        match reader.event(event, &span) {
            Ok(Some(node)) => document = Some(node),
            Ok(None) => {}
            Err(stop) => {
                reader.problems.push(*stop);
                return None;
            }
        }
    }
    document.filter(|node| !matches!(node.value, NodeValue::Null))
}

fn is_reserved(c: char) -> bool {
    ('\u{E000}'..='\u{E1FF}').contains(&c)
}

fn reserved(place: &Place) -> Diagnostic {
    Diagnostic::error("reserved_character", "the characters U+E000 to U+E1FF cannot be used in a plan")
        .at(place, "one of them is here")
        .help("pgplan marks secrets with these private-use characters; leave them out")
}

fn too_deep(file: &Arc<SourceFile>, at: usize, depth: usize) -> Diagnostic {
    Diagnostic::error("too_deep", format!("lists and mappings are nested more than {depth} deep"))
        .at(&Place::new(file, at..at), "here")
}

/// Words a syntax error; the most frequent cause by far is a template without quotes.
fn syntax(file: &Arc<SourceFile>, at: usize, message: &str) -> Diagnostic {
    let place = Place::new(file, at..at);
    if let Some(template) = unquoted_template(&file.text, at) {
        return Diagnostic::error("unquoted_template", "a template must stand in quotes here")
            .at(&Place::new(file, template), "YAML reads these braces as a mapping of its own")
            .help("write \"${{ … }}\" with quotes around the whole value");
    }
    let tab = message.contains("tab") || file.text[at..].starts_with('\t');
    Diagnostic::error("not_yaml", format!("this is not YAML: {message}"))
        .at(&place, "reading stopped here")
        .maybe_help(tab.then_some("indent with spaces; YAML does not allow tabs there"))
}

/// Returns the range of a template outside quotes on the line of `at` or the line before.
fn unquoted_template(text: &str, at: usize) -> Option<Range<usize>> {
    let line_start = |at: usize| text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let this = line_start(at);
    let from = if this == 0 { 0 } else { line_start(this - 1) };
    let to = text[at..].find('\n').map_or(text.len(), |newline| at + newline);
    let mut found = None;
    for line in text[from..to].split_inclusive('\n') {
        let start = line.as_ptr() as usize - text.as_ptr() as usize;
        if let Some(template) = template_outside_quotes(line) {
            found = Some(start + template.start..start + template.end);
        }
    }
    found
}

fn template_outside_quotes(line: &str) -> Option<Range<usize>> {
    let mut quote = None;
    for (at, c) in line.char_indices() {
        match quote {
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if c == '#' && (at == 0 || line[..at].ends_with([' ', '\t'])) => return None,
            None if c == '"' || c == '\'' => quote = Some(c),
            None if line[at..].starts_with("{{") => {
                let start = if line[..at].ends_with('$') { at - 1 } else { at };
                let end = line[at..].find("}}").map_or(line.trim_end().len(), |end| at + end + 2);
                return Some(start..end);
            }
            None => {}
        }
    }
    None
}

/// An unfinished list or mapping.
struct Frame {
    start: Range<usize>,
    anchor: usize,
    first_node: usize,
    value: Open,
}

enum Open {
    Seq(Vec<Node>),
    Map { entries: Vec<(Key, Node)>, seen: HashMap<String, Range<usize>>, key: Option<Key> },
}

struct Reader<'a> {
    file: &'a Arc<SourceFile>,
    limits: Limits,
    problems: &'a mut Problems,
    /// Anchored values, each with the number of nodes in it.
    anchors: HashMap<usize, (Node, usize)>,
    nodes: usize,
    frames: Vec<Frame>,
}

type Stop = Box<Diagnostic>;

impl Reader<'_> {
    fn range(&self, span: &Span) -> Range<usize> {
        let range = span.byte_range().unwrap_or(0..0);
        let end = self.file.text.floor_char_boundary(range.end);
        self.file.text.floor_char_boundary(range.start).min(end)..end
    }

    fn place(&self, range: Range<usize>) -> Place {
        Place::new(self.file, range)
    }

    /// Takes one event; returns the document's root when it is complete.
    fn event(&mut self, event: Event<'_>, span: &Span) -> Result<Option<Node>, Stop> {
        let range = self.range(span);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let place = self.place(range);
                if text.chars().any(is_reserved) {
                    return Err(Box::new(reserved(&place)));
                }
                let value = self.scalar(&text, style, tag.as_deref(), &place);
                let node = Node::new(place, value);
                self.count(1, &node.place)?;
                self.finish(node, anchor, 1)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.open(range, anchor, tag.as_deref(), "seq", Open::Seq(Vec::new()))
            }
            Event::MappingStart(_, anchor, tag) => {
                let open = Open::Map { entries: Vec::new(), seen: HashMap::new(), key: None };
                self.open(range, anchor, tag.as_deref(), "map", open)
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(range),
            Event::Alias(id) => {
                let Some((node, count)) = self.anchors.get(&id) else {
                    let place = self.place(range);
                    return Err(Box::new(
                        Diagnostic::error("bad_alias", "this alias stands inside the value it repeats")
                            .at(&place, "here"),
                    ));
                };
                let (node, count) = (node.clone(), *count);
                self.count(count, &self.place(range))?;
                self.finish(node, 0, count)
            }
            _ => Ok(None),
        }
    }

    fn count(&mut self, nodes: usize, place: &Place) -> Result<(), Stop> {
        self.nodes += nodes;
        if self.nodes <= self.limits.nodes {
            return Ok(());
        }
        let limit = self.limits.nodes;
        Err(Box::new(
            Diagnostic::error("too_many_values", format!("the file has more than {limit} values"))
                .at(place, "the limit is passed here")
                .help("aliases count as often as they are used"),
        ))
    }

    fn open(
        &mut self,
        start: Range<usize>,
        anchor: usize,
        tag: Option<&Tag>,
        core: &str,
        value: Open,
    ) -> Result<Option<Node>, Stop> {
        let place = self.place(start.clone());
        self.count(1, &place)?;
        if self.frames.len() >= self.limits.depth {
            return Err(Box::new(too_deep(self.file, start.start, self.limits.depth)));
        }
        if let Some(tag) = tag
            && tag.core_suffix() != Some(core)
            && tag.to_string() != "!"
        {
            self.unknown_tag(tag, &place);
        }
        self.frames.push(Frame { start, anchor, first_node: self.nodes - 1, value });
        Ok(None)
    }

    fn close(&mut self, end: Range<usize>) -> Result<Option<Node>, Stop> {
        let Some(frame) = self.frames.pop() else { return Ok(None) };
        let end = self.trimmed(frame.start.start, end.end);
        let value = match frame.value {
            Open::Seq(items) => NodeValue::Seq(items),
            Open::Map { entries, .. } => NodeValue::Map(entries),
        };
        let node = Node::new(self.place(frame.start.start..end), value);
        let count = self.nodes - frame.first_node;
        self.finish(node, frame.anchor, count)
    }

    /// Block collections end where the next thing starts; their place should end with their last character.
    fn trimmed(&self, start: usize, end: usize) -> usize {
        let text = &self.file.text[start.min(end)..end];
        let mut kept = text.trim_end();
        while let Some(comment) = kept.rfind('\n').map(|newline| &kept[newline + 1..])
            && comment.trim_start().starts_with('#')
        {
            kept = kept[..kept.len() - comment.len()].trim_end();
        }
        start + kept.len()
    }

    /// Puts a finished node where it belongs.
    fn finish(&mut self, node: Node, anchor: usize, count: usize) -> Result<Option<Node>, Stop> {
        if anchor != 0 {
            self.anchors.insert(anchor, (node.clone(), count));
        }
        let Some(frame) = self.frames.last_mut() else { return Ok(Some(node)) };
        match &mut frame.value {
            Open::Seq(items) => items.push(node),
            Open::Map { key: key @ None, .. } => *key = Some(read_key(self.file, node)?),
            Open::Map { entries, seen, key } => {
                if let Some(key) = key.take() {
                    match seen.get(&key.text) {
                        Some(first) => self.problems.push(
                            Diagnostic::error("duplicate_key", format!("the key `{}` is there twice", key.text))
                                .at(&key.place, "again here")
                                .at(&Place::new(self.file, first.clone()), "first here"),
                        ),
                        None => {
                            seen.insert(key.text.clone(), key.place.span.clone());
                            entries.push((key, node));
                        }
                    }
                }
            }
        }
        Ok(None)
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, tag: Option<&Tag>, place: &Place) -> NodeValue {
        let plain = matches!(style, ScalarStyle::Plain);
        let Some(tag) = tag else {
            return if plain { scalar::resolve(text) } else { NodeValue::Str(text.to_owned()) };
        };
        let resolved = match tag.core_suffix() {
            Some("str") => return NodeValue::Str(text.to_owned()),
            Some("int" | "float" | "bool" | "null") => scalar::resolve(text),
            _ if tag.to_string() == "!" => return NodeValue::Str(text.to_owned()),
            _ => {
                self.unknown_tag(tag, place);
                return NodeValue::Str(text.to_owned());
            }
        };
        let fits = matches!(
            (tag.core_suffix(), &resolved),
            (Some("float"), NodeValue::Int(_) | NodeValue::Float(_))
                | (Some("int"), NodeValue::Int(_))
                | (Some("bool"), NodeValue::Bool(_))
                | (Some("null"), NodeValue::Null)
        );
        if !fits {
            self.problems.push(
                Diagnostic::error("wrong_type", format!("`{text}` is not what its tag `{tag}` says")).at(place, "here"),
            );
        }
        resolved
    }

    fn unknown_tag(&mut self, tag: &Tag, place: &Place) {
        self.problems.push(
            Diagnostic::error("unknown_tag", format!("the tag `{tag}` means nothing here"))
                .at(place, "on this value")
                .help("a plan needs no tags; a value that starts with `!` must be quoted"),
        );
    }
}

/// Returns the key that a node is; keys are text, numbers and booleans as written.
fn read_key(file: &Arc<SourceFile>, node: Node) -> Result<Key, Stop> {
    let written = || file.text[node.place.span.clone()].to_owned();
    let text = match &node.value {
        NodeValue::Str(text) => text.clone(),
        NodeValue::Bool(_) | NodeValue::Int(_) | NodeValue::Float(_) => written(),
        NodeValue::Null if !node.place.span.is_empty() => written(),
        _ if written().starts_with('{') => {
            let start = node.place.span.start.saturating_sub(1);
            let dollar = file.text.get(..start).is_some_and(|before| before.ends_with('$'));
            let start = if dollar { start - 1 } else { start };
            return Err(Box::new(
                Diagnostic::error("unquoted_template", "a template must stand in quotes here")
                    .at(
                        &Place::new(file, start..node.place.span.end),
                        "YAML reads these braces as a mapping of its own",
                    )
                    .help("write \"${{ … }}\" with quotes around the whole value"),
            ));
        }
        _ => {
            return Err(Box::new(
                Diagnostic::error("bad_key", "a key must be text")
                    .at(&node.place, format!("this is {}", node.value.describe())),
            ));
        }
    };
    Ok(Key { text, place: node.place })
}
