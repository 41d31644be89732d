//! Path patterns (`/users/{id}`) and the templates that name what they match (`user:{id}`).
//!
//! A template turns the parameters of a matched path into a cache key or a tag, and must never turn two different
//! sets of values into the same text: that would hand one client's answer to another. Hence two invariants, which
//! parsing establishes and rendering relies on:
//!
//! * a rendered value holds only the bytes of `is_value_byte` and percent-encoded triplets, literal text holds no `%`;
//! * between two parameters stands at least one byte that no rendered value can hold, such as `:` or `/`.

use std::fmt;
use std::ops::Range;

/// The most parameters a [`Pattern`] can have.
pub const MAX_PARAMS: usize = 8;

/// The longest text, in bytes, that a [`Template`] or a [`Pattern`] may be written with.
pub const MAX_TEXT: usize = 512;

/// A path pattern: literal text with parameters, such as `/users/{id}/posts/{post}` or `/files/{*rest}`.
///
/// A parameter stands for a non-empty part of one path segment; `{*rest}`, at the end only, for all that is left of
/// the path, even nothing. `{{` and `}}` stand for literal braces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    shape: String,
    params: Vec<String>,
    catch_all: bool,
}

/// Text with the parameters of a route's pattern in it, rendered once for each request: a cache key or a tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    text: String,
    parts: Vec<Part>,
}

/// A piece of a [`Template`].
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    /// The index of a parameter among those of the pattern.
    Param(usize),
}

/// What is wrong with the text of a pattern or template, and where in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateError {
    /// The byte range of the text that is at fault; empty where something is missing.
    pub at: Range<usize>,
    /// What is wrong.
    pub message: String,
    /// What to write instead, if there is more to say than the message does.
    pub help: Option<String>,
}

impl Pattern {
    /// Parses a path pattern.
    pub fn parse(text: &str) -> Result<Pattern, TemplateError> {
        check_foreign(text)?;
        if !text.starts_with('/') {
            let help = format!("write \"/{text}\"");
            return Err(TemplateError::new(0..0, "a path pattern starts with '/'").help(help));
        }
        let mut pattern = Pattern { text: text.to_owned(), shape: String::new(), params: Vec::new(), catch_all: false };
        let pieces = split(text, |byte| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#'), PATTERN_LITERAL)?;
        for piece in &pieces {
            match piece {
                Piece::Literal(text) => {
                    pattern.shape.push_str(&text.replace('{', "{{").replace('}', "}}"));
                }
                Piece::Param { name, at } => pattern.push_param(name, at.clone())?,
            }
        }
        check_segments(text, &pieces)?;
        // The router has the last word on what it can hold.
        matchit::Router::new()
            .insert(text, ())
            .map_err(|error| TemplateError::new(0..text.len(), lower_first(&error.to_string())))?;
        Ok(pattern)
    }

    /// The pattern `/{*rest}`, which every path matches.
    pub fn everything() -> Pattern {
        Pattern {
            text: "/{*rest}".to_owned(),
            shape: "/{*}".to_owned(),
            params: vec!["rest".to_owned()],
            catch_all: true,
        }
    }

    fn push_param(&mut self, name: &str, at: Range<usize>) -> Result<(), TemplateError> {
        let bare = match name.strip_prefix('*') {
            Some(bare) => {
                if at.end != self.text.len() {
                    return Err(TemplateError::new(at, format!("{{{name}}} can only be the end of the pattern"))
                        .help("a parameter without '*' stands for one path segment"));
                }
                self.catch_all = true;
                bare
            }
            None => name,
        };
        check_name(bare, &at)?;
        if self.params.iter().any(|known| known == bare) {
            return Err(TemplateError::new(at, format!("the parameter `{bare}` is there twice"))
                .help("give each parameter a name of its own"));
        }
        if self.params.len() == MAX_PARAMS {
            return Err(TemplateError::new(at, format!("a pattern can have at most {MAX_PARAMS} parameters")));
        }
        self.shape.push_str(if self.catch_all { "{*}" } else { "{}" });
        self.params.push(bare.to_owned());
        Ok(())
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The names of its parameters, in order, without the `*`.
    pub fn params(&self) -> &[String] {
        &self.params
    }

    /// The pattern without the parameters' names: two patterns of one shape match the same paths.
    pub fn shape(&self) -> &str {
        &self.shape
    }

    /// Whether it ends in `{*name}`.
    pub fn is_catch_all(&self) -> bool {
        self.catch_all
    }

    /// Whether every path matches.
    pub fn matches_everything(&self) -> bool {
        self.shape == "/{*}"
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Template {
    /// Parses a template that may name the parameters `known`, those of a route's pattern, in their order.
    pub fn parse(text: &str, known: &[String]) -> Result<Template, TemplateError> {
        if text.is_empty() {
            return Err(TemplateError::new(0..0, "a template can't be empty"));
        }
        if let Some(at) = text.find("//") {
            return Err(TemplateError::new(at..at + 2, "`//` can't be in a template")
                .help("the keys of routes without a template begin with it, and must not meet this one's"));
        }
        let allowed = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#' | b'%');
        let mut parts = Vec::new();
        // Whether a byte that no value can hold has been seen since the last parameter.
        let mut separated = true;
        for piece in split(text, allowed, TEMPLATE_LITERAL)? {
            match piece {
                Piece::Literal(text) => {
                    separated |= !text.bytes().all(is_value_byte);
                    parts.push(Part::Literal(text));
                }
                Piece::Param { name, at } => {
                    if !separated {
                        return Err(TemplateError::new(at, format!("nothing tells where `{{{name}}}` begins"))
                            .help("put ':' or '/' between two parameters: values can't hold those unencoded"));
                    }
                    separated = false;
                    parts.push(Part::Param(find_param(&name, known, at)?));
                }
            }
        }
        Ok(Template { text: text.to_owned(), parts })
    }

    /// The template as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Appends the text for `params`, the values of the pattern's parameters in order, to `out`.
    ///
    /// Injective: different values of the parameters that the template names give different texts. Bytes other than
    /// letters, digits and `-._~@!$'*+,=` are percent-encoded. A value that is missing counts as empty.
    pub fn render(&self, params: &[&str], out: &mut String) {
        for part in &self.parts {
            match part {
                Part::Literal(text) => out.push_str(text),
                Part::Param(index) => push_value(params.get(*index).copied().unwrap_or(""), out),
            }
        }
    }

    /// Whether it names no parameter at all.
    pub fn is_constant(&self) -> bool {
        !self.parts.iter().any(|part| matches!(part, Part::Param(_)))
    }

    /// Whether both have the same literal text around their parameters, so that one can render what the other does.
    pub fn same_shape(&self, other: &Template) -> bool {
        self.parts.len() == other.parts.len()
            && self.parts.iter().zip(&other.parts).all(|pair| match pair {
                (Part::Literal(a), Part::Literal(b)) => a == b,
                (Part::Param(_), Part::Param(_)) => true,
                _ => false,
            })
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl TemplateError {
    fn new(at: Range<usize>, message: impl Into<String>) -> Self {
        TemplateError { at, message: message.into(), help: None }
    }

    fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (at byte {})", self.message, self.at.start)?;
        match &self.help {
            Some(help) => write!(f, "; {help}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for TemplateError {}

const PATTERN_LITERAL: &str = "write it percent-encoded, as clients send it; a pattern has no query or fragment";
const TEMPLATE_LITERAL: &str = "literal text is printable ASCII except '?', '#', '%' and the space";

/// A piece of the text of a pattern or template; `at` is where a parameter stands, braces included.
enum Piece {
    Literal(String),
    Param { name: String, at: Range<usize> },
}

/// Splits text into literals and parameters, resolving `{{` and `}}`.
fn split(text: &str, literal: impl Fn(u8) -> bool, literal_help: &str) -> Result<Vec<Piece>, TemplateError> {
    if text.len() > MAX_TEXT {
        return Err(TemplateError::new(0..text.len(), format!("longer than {MAX_TEXT} bytes")));
    }
    let mut pieces = Vec::new();
    let mut run = String::new();
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at..];
        if rest.starts_with("{{") || rest.starts_with("}}") {
            run.push(c);
            at += 2;
        } else if c == '}' {
            return Err(TemplateError::new(at..at + 1, "a '}' without a '{'").help("a literal one is written '}}'"));
        } else if c == '{' {
            let Some(length) = rest.find('}') else {
                return Err(TemplateError::new(at..at + 1, "a '{' without a '}'").help("a literal one is written '{{'"));
            };
            if !run.is_empty() {
                pieces.push(Piece::Literal(std::mem::take(&mut run)));
            }
            let end = at + length + 1;
            pieces.push(Piece::Param { name: text[at + 1..end - 1].to_owned(), at: at..end });
            at = end;
        } else if c.is_ascii() && literal(c as u8) {
            run.push(c);
            at += 1;
        } else {
            let message = format!("the character {c:?} can't be here");
            return Err(TemplateError::new(at..at + c.len_utf8(), message).help(literal_help));
        }
    }
    if !run.is_empty() {
        pieces.push(Piece::Literal(run));
    }
    Ok(pieces)
}

/// The forms in which other routers write patterns, which would be literal text here that no path has.
fn check_foreign(text: &str) -> Result<(), TemplateError> {
    if let Some(at) = find_regex(text) {
        return Err(TemplateError::new(at..at + 1, "patterns are no regular expressions")
            .help("{id} stands for one segment or part of one, {*rest} at the end for all that is left"));
    }
    let mut start = 0;
    for segment in text.split('/') {
        let (at, last) = (start..start + segment.len(), start + segment.len() == text.len());
        start = at.end + 1;
        let help = match segment {
            "*" | "**" if last => "did you mean `{*rest}`? {id} is one segment".to_owned(),
            "*" => "did you mean `{id}`?".to_owned(),
            "**" => "did you mean `{id}`? {*rest} can only be the end".to_owned(),
            _ => {
                let named = segment.strip_prefix(':');
                let framed = segment.strip_prefix('<').and_then(|rest| rest.strip_suffix('>'));
                // Some say the kind before the name, as in `<int:id>`.
                let Some(inner) = named.or(framed.map(|inner| inner.rsplit(':').next().unwrap_or(inner))) else {
                    continue;
                };
                let end = inner.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(inner.len());
                let (name, rest) = inner.split_at(end);
                let name = if check_name(name, &at).is_ok() { name } else { "id" };
                format!("did you mean `{{{name}}}{}`?", rest.trim_end_matches('?'))
            }
        };
        return Err(TemplateError::new(at, format!("`{segment}` would be literal text")).help(help));
    }
    Ok(())
}

/// Where a regular expression shows. A `$` before a name and parentheses around arguments are text that paths do have,
/// as in `/Patient/{id}/$everything` and `/Users('a')`.
fn find_regex(text: &str) -> Option<usize> {
    if text.starts_with('^') {
        return Some(0);
    }
    let argument = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'\'' | b'{' | b')' | b'@' | b'-');
    let bytes = text.as_bytes();
    (0..bytes.len()).find(|&at| {
        let next = bytes.get(at + 1);
        match bytes[at] {
            b'[' | b'\\' => true,
            b'$' => !next.is_some_and(u8::is_ascii_alphabetic),
            b'(' => {
                !next.is_some_and(argument) || text[at..].split(')').next().is_some_and(|group| group.contains('|'))
            }
            _ => false,
        }
    })
}

/// A path segment can hold one parameter only, and a catch-all must be a segment of its own.
fn check_segments(text: &str, pieces: &[Piece]) -> Result<(), TemplateError> {
    let mut taken = false;
    for piece in pieces {
        match piece {
            Piece::Literal(text) => taken &= !text.contains('/'),
            Piece::Param { at, .. } if taken => {
                return Err(TemplateError::new(at.clone(), "a path segment can have one parameter only")
                    .help("put a '/' between the two"));
            }
            Piece::Param { name, at } => {
                if name.starts_with('*') && !text[..at.start].ends_with('/') {
                    return Err(TemplateError::new(at.clone(), format!("{{{name}}} must follow a '/'")));
                }
                taken = true;
            }
        }
    }
    Ok(())
}

fn check_name(name: &str, at: &Range<usize>) -> Result<(), TemplateError> {
    let well_formed = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && name.bytes().next().is_some_and(|byte| !byte.is_ascii_digit());
    if well_formed {
        return Ok(());
    }
    Err(TemplateError::new(at.clone(), format!("`{name}` is no name for a parameter"))
        .help("a name is letters, digits and '_', and does not begin with a digit, as in {id}"))
}

fn find_param(name: &str, known: &[String], at: Range<usize>) -> Result<usize, TemplateError> {
    if let Some(index) = known.iter().position(|param| param == name) {
        return Ok(index);
    }
    if name.is_empty() {
        return Err(
            TemplateError::new(at, "a parameter without a name").help("literal braces are written '{{' and '}}'")
        );
    }
    let close = known
        .iter()
        .map(|param| (strsim::osa_distance(name.trim_start_matches('*'), param), param))
        .filter(|(distance, _)| *distance <= 2)
        .min();
    let help = match (close, known) {
        (Some((_, param)), _) => format!("did you mean `{{{param}}}`? {}", listed(known)),
        (None, []) => "the route's `match` has no parameters".to_owned(),
        (None, _) => listed(known),
    };
    Err(TemplateError::new(at, format!("unknown parameter `{{{name}}}`")).help(help))
}

fn listed(known: &[String]) -> String {
    let names: Vec<String> = known.iter().map(|name| format!("{{{name}}}")).collect();
    format!("the route's `match` has {}", names.join(", "))
}

/// Whether a byte stands for itself in a rendered value.
fn is_value_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'@' | b'!' | b'$' | b'\'' | b'*' | b'+' | b',' | b'=')
}

fn push_value(value: &str, out: &mut String) {
    if value.is_empty() {
        // No escaped value is a `%` alone; nothing at all could bring two slashes of the template together.
        out.push('%');
    }
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    out.reserve(value.len());
    let mut rest = value;
    while let Some(at) = rest.bytes().position(|byte| !is_value_byte(byte)) {
        out.push_str(&rest[..at]);
        // A character of several bytes is encoded whole, so that `rest` begins at a character again.
        let end = at + rest[at..].chars().next().map_or(1, char::len_utf8);
        for byte in rest[at..end].bytes() {
            out.push('%');
            out.push(HEX[usize::from(byte >> 4)] as char);
            out.push(HEX[usize::from(byte & 15)] as char);
        }
        rest = &rest[end..];
    }
    out.push_str(rest);
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn rendered(template: &str, known: &[&str], values: &[&str]) -> String {
        let mut out = String::new();
        Template::parse(template, &names(known)).unwrap().render(values, &mut out);
        out
    }

    #[test]
    fn a_template_puts_the_values_where_their_names_stand() {
        assert_eq!(rendered("user:{id}", &["id"], &["123"]), "user:123");
        assert_eq!(rendered("{b}/{a}", &["a", "b"], &["1", "2"]), "2/1");
        assert_eq!(rendered("{{{a}}}", &["a"], &["x"]), "{x}");
        assert_eq!(rendered("user:{id}", &["id"], &[""]), "user:%");
    }

    #[test]
    fn values_are_encoded_so_that_they_cannot_pass_for_literal_text() {
        assert_eq!(rendered("f:{rest}", &["rest"], &["a/b:c%41 ü"]), "f:a%2Fb%3Ac%2541%20%C3%BC");
        assert_eq!(rendered("f:{rest}", &["rest"], &["-._~@!$'*+,="]), "f:-._~@!$'*+,=");
    }

    #[test]
    fn different_values_never_render_alike() {
        let alphabet = ["", "a", ":", "%", "%3A", "-", "/", "a:", ":a", "{", "%25", "ü", "a-b", "::"];
        for template in ["{a}:{b}", "x{a}/{b}y", "{b}-:-{a}", "{a}::{b}", "%b{a}:{b}"] {
            let Ok(template) = Template::parse(template, &names(&["a", "b"])) else {
                continue;
            };
            let mut seen = std::collections::HashMap::new();
            for a in alphabet {
                for b in alphabet {
                    let mut out = String::new();
                    template.render(&[a, b], &mut out);
                    assert_eq!(seen.insert(out, (a, b)), None, "{template}: {a:?} {b:?}");
                }
            }
        }
    }

    #[test]
    fn parameters_that_nothing_separates_are_refused() {
        for (text, at) in [("{a}{b}", 3), ("{a}-{b}", 4), ("x{a}1{b}", 5)] {
            let error = Template::parse(text, &names(&["a", "b"])).unwrap_err();
            assert_eq!(error.at.start, at, "{text}");
            assert!(error.message.contains("nothing tells where `{b}` begins"), "{error}");
        }
    }

    #[test]
    fn an_unknown_parameter_is_refused_with_a_suggestion_and_the_known_ones() {
        let error = Template::parse("user:{ident}", &names(&["id", "idents"])).unwrap_err();
        assert_eq!(error.at, 5..12);
        assert_eq!(
            error.to_string(),
            "unknown parameter `{ident}` (at byte 5); did you mean `{idents}`? the route's `match` has {id}, {idents}"
        );
        let error = Template::parse("user:{id}", &[]).unwrap_err();
        assert_eq!(error.help.as_deref(), Some("the route's `match` has no parameters"));
    }

    #[test]
    fn malformed_templates_are_refused_where_they_go_wrong() {
        for (text, at) in [("", 0), ("a b", 1), ("a?b", 1), ("a%b", 1), ("ü", 0), ("a{id", 1), ("a}b", 1), ("a{}", 1)]
        {
            assert_eq!(Template::parse(text, &names(&["id"])).unwrap_err().at.start, at, "{text}");
        }
        assert!(Template::parse(&"x".repeat(MAX_TEXT), &[]).is_ok());
        assert!(Template::parse(&"x".repeat(MAX_TEXT + 1), &[]).is_err());
    }

    #[test]
    fn templates_of_one_shape_are_told_apart_from_others() {
        let known = names(&["a", "b"]);
        let parse = |text: &str| Template::parse(text, &known).unwrap();
        assert!(parse("u:{a}").same_shape(&parse("u:{b}")));
        assert!(!parse("u:{a}").same_shape(&parse("v:{a}")));
        assert!(!parse("u:{a}").same_shape(&parse("u:{a}/")));
        assert!(parse("users").is_constant());
    }

    #[test]
    fn a_pattern_knows_its_parameters_and_its_shape() {
        let pattern = Pattern::parse("/users/{id}/files/{*rest}").unwrap();
        assert_eq!(pattern.params(), ["id", "rest"]);
        assert_eq!(pattern.shape(), "/users/{}/files/{*}");
        assert!(pattern.is_catch_all());
        assert!(Pattern::parse("/{*any}").unwrap().matches_everything());
        assert_eq!(Pattern::parse("/{*rest}").unwrap(), Pattern::everything());
        assert!(Pattern::parse("/v1-{id}.json").is_ok());
    }

    #[test]
    fn malformed_patterns_are_refused_where_they_go_wrong() {
        let cases = [
            ("users", 0, "starts with '/'"),
            ("/a/{*rest}/b", 3, "end of the pattern"),
            ("/a{*rest}", 2, "must follow a '/'"),
            ("/{a}-{b}", 5, "one parameter only"),
            ("/{a}/{a}", 5, "twice"),
            ("/{1a}", 1, "no name for a parameter"),
            ("/a?x=1", 2, "can't be here"),
            ("/ü", 1, "can't be here"),
            ("/{a}/{b}/{c}/{d}/{e}/{f}/{g}/{h}/{i}", 33, "at most 8 parameters"),
        ];
        for (text, at, message) in cases {
            let error = Pattern::parse(text).unwrap_err();
            assert_eq!(error.at.start, at, "{text}: {error}");
            assert!(error.message.contains(message), "{text}: {error}");
        }
    }

    #[test]
    fn the_forms_of_other_routers_are_refused_with_the_form_that_is_meant() {
        let cases = [
            ("/users/:id", 7..10, "did you mean `{id}`?"),
            ("/users/:id/posts", 7..10, "did you mean `{id}`?"),
            ("/users/:user_id.json", 7..20, "did you mean `{user_id}.json`?"),
            ("/users/:id?", 7..11, "did you mean `{id}`?"),
            ("/users/<id>", 7..11, "did you mean `{id}`?"),
            ("/users/<int:id>", 7..15, "did you mean `{id}`?"),
            ("/users/<>/a", 7..9, "did you mean `{id}`?"),
            ("/users/*/posts", 7..8, "did you mean `{id}`?"),
            ("/users/*", 7..8, "did you mean `{*rest}`? {id} is one segment"),
            ("/**", 1..3, "did you mean `{*rest}`?"),
            ("/a/**/b", 3..5, "did you mean `{id}`? {*rest} can only be the end"),
        ];
        for (text, at, help) in cases {
            let error = Pattern::parse(text).unwrap_err();
            assert_eq!(error.at, at, "{text}: {error}");
            assert!(error.help.as_ref().is_some_and(|told| told.starts_with(help)), "{text}: {error}");
        }
        assert!(Pattern::parse("/v1/{name}:cancel").is_ok());
        assert!(Pattern::parse("/a*b/c<d").is_ok());
    }

    #[test]
    fn regular_expressions_are_refused_with_the_forms_that_exist() {
        for (text, at) in [
            ("^/users/", 0),
            ("/users/[0-9]+", 7),
            ("/users/\\d+", 7),
            ("/users/(\\d+)", 7),
            ("/users/(.*)", 7),
            ("/(a|b)/c", 1),
            ("/(?<id>a)", 1),
            ("/users/{id:[0-9]+}", 11),
            ("/users$", 6),
        ] {
            let error = Pattern::parse(text).unwrap_err();
            assert_eq!((error.at.start, error.message.as_str()), (at, "patterns are no regular expressions"), "{text}");
            assert!(error.help.is_some_and(|help| help.contains("{id}") && help.contains("{*rest}")), "{text}");
        }
    }

    #[test]
    fn paths_with_a_dollar_or_parentheses_of_their_own_can_be_matched() {
        for text in ["/Patient/{id}/$everything", "/$metadata", "/Users({id})", "/Users('a')/Name", "/Nearest()"] {
            assert!(Pattern::parse(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn nothing_that_a_template_renders_holds_the_two_slashes_that_other_keys_begin_with() {
        assert!(Template::parse("a//b", &[]).is_err());
        let template = Template::parse("/{a}/{b}", &["a".to_owned(), "b".to_owned()]).unwrap();
        for values in [["", ""], ["", "x"], ["/", "/"], ["%", ""]] {
            let mut out = String::new();
            template.render(&values, &mut out);
            assert!(!out.contains("//"), "{out}");
        }
    }
}
